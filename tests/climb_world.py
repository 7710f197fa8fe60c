"""A control plane with every seam in memory but the engine's state files: real reconcile, client, engine, ledger."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.memory_git import MemoryRemote, MemoryStore
from runpod_memory import MemoryRunPod

from infra.clouds.runpod.client import RunPod
from infra.clouds.wire import Limits
from infra.engine_embedded import EmbeddedEngine
from infra.launch import make_launch
from infra.simulator.state import PodOrder
from pushtrain.claim import claim
from pushtrain.control import Control
from pushtrain.desired import Desired, Job
from pushtrain.errors import LedgerUnavailable, PushtrainError
from pushtrain.events import Event, EventDraft
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.policy.file import NO_POLICY
from pushtrain.provisioned import record_pod
from pushtrain.reconcile import Tick, run_of, tick
from pushtrain.run import Run
from pushtrain.rungs import Rung
from pushtrain.settings import Settings
from pushtrain.spec.file import loads

COMMIT = "0123456789abcdef0123456789abcdef01234567"
JOB = """\
version: 1
name: {name}
model: {{id: demo/base}}
data: {{path: data/rows.jsonl}}
compute: {{gpus: [{gpus}], volume: {{{volume}}}, {more}}}
budget: {{max_hours: {max_hours}, max_usd: {max_usd}}}
publish: {{repo: demo/{name}}}
"""


class Checkout:
    """A member of `pushtrain.source.Source`: one commit, and the specs in it."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.policy = NO_POLICY

    def desired(self) -> Desired:
        return Desired(commit=COMMIT, jobs=self.jobs, named=frozenset(self.jobs), problems=(), policy=self.policy)

    def lock_digest(self) -> str | None:
        return None

    def committed_epoch_s(self, commit: str) -> int:
        return 0

    def descends(self, commit: str, ancestor: str) -> bool:
        return True

    def head(self) -> str | None:
        return COMMIT

    def lacks(self, commit: str) -> bool:
        return False


@dataclass(kw_only=True)
class World:
    """One account, one ledger, one clock that only waiting moves."""

    folder: Path
    runpod: MemoryRunPod = field(default_factory=MemoryRunPod)
    remote: MemoryRemote = field(default_factory=MemoryRemote)
    checkout: Checkout = field(default_factory=Checkout)
    said: list[str] = field(default_factory=list)
    machines: int = 0
    pushes_refused: bool = False

    def control(self) -> Control:
        """A control plane on a machine of its own: it knows what ledger and cloud say, nothing else."""
        self.machines += 1
        here = self.folder / f"machine{self.machines}"
        settings = Settings(
            root=here,
            ledger_url="https://git.example/me/runs.git",
            source_url="https://git.example/me/jobs.git",
            state_dir=here,
            ledger_token=None,
        )
        clock, sleep = self.now_s, self.sleep
        cloud = RunPod(
            "key",
            environ={},
            limits=Limits(jitter=lambda: 0.0),
            sleep=sleep,
            clock=clock,
            transport=self.runpod,
        )
        return Control(
            settings=settings,
            source=self.checkout,
            ledger=Ledger(
                settings.ledger_url,
                cache_dir=here / "ledger",
                environ={},
                clock=clock,
                sleep=sleep,
                store=MemoryStore(self.remote, self._to_remote),
            ),
            cloud=cloud,
            engine=EmbeddedEngine(here / "stacks", lambda name: cloud),
            launch=make_launch(settings, {}),
            say=self.said.append,
            clock=clock,
            sleep=sleep,
        )

    def _to_remote(self, verb: str, carry_out: Callable[[], Any]) -> Any:
        if verb == "push" and self.pushes_refused:
            raise LedgerUnavailable("git push took longer than 60 s")
        return carry_out()

    def now_s(self) -> float:
        return self.runpod.now_s

    def sleep(self, seconds: float) -> None:
        self.runpod.now_s += seconds

    def job(
        self,
        name: str = "job",
        *,
        gpus: str = "NVIDIA A40",
        more: str = "",
        volume: str = "size_gb: 10",
        **budget: float,
    ) -> None:
        budget = {"max_hours": 10.0, "max_usd": 10.0, **budget}
        text = JOB.format(name=name, gpus=gpus, more=more, volume=volume, **budget).encode()
        path = f"jobs/{name}.yaml"
        self.checkout.jobs[name] = Job(spec=loads(text, path), spec_path=path, text=text, commit=COMMIT)

    def running(self, control: Control, name: str) -> None:
        """A job whose pod is already at work, without the engine's part in it."""
        self.job(name)
        job = self.checkout.jobs[name]
        run = job.run(control.settings.ledger_url)
        claim(control, job, [], trigger="push")
        pod = self.runpod.account.create_pod(
            PodOrder(name=run.pod_name(1), image="x", gpu="NVIDIA A40"), self.runpod.now_s
        )
        rung = Rung(
            gpu=pod.gpu,
            data_center=pod.data_center,
            tier="SECURE",
            usd_per_hour=0.4,
            volume_usd_per_hour=0.0,
            deadline_epoch_s=self.runpod.now_s + 3600,
            reserve_s=60.0,
        )
        record_pod(control, run, rung, 1, {"pod_id": pod.id})

    def tick(self, control: Control | None = None) -> Tick:
        return tick(control or self.control())

    def record(self, name: str = "job") -> RunRecord:
        ledger = self.control().ledger
        records = ledger.read_all(ledger.refs()).values()
        (mine,) = [record for record in records if record.run["job"] == name]
        return mine

    def run(self, name: str = "job") -> Run:
        return run_of(self.record(name), "https://git.example/me/runs.git")

    def say(self, state: str, *, name: str = "job", attempt: int = 1, **data: Any) -> None:
        """A word of the pod in the ledger."""
        draft = EventDraft(state=state, writer="pod", attempt=attempt, data=data)
        self.control().ledger.append(self.record(name).run_id, events=[draft])

    def events(self, state: str, name: str = "job") -> list[Event]:
        return [event for event in self.record(name).events if event.state == state]

    def requests(self, act: Callable[[], object]) -> int:
        """How many requests `act` sends to the cloud."""
        before = self.runpod.requests()
        act()
        return self.runpod.requests() - before

    def fails(self, kind: type[PushtrainError], control: Control | None = None) -> PushtrainError:
        """A tick whose one failure is of this kind."""
        (failure,) = self.tick(control).failures
        assert type(failure) is kind, failure
        return failure

"""Control plane processes: the real code with every seam in memory, and witnesses beside ledger and cloud."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from infra.engine_embedded import EmbeddedEngine
from infra.launch import make_launch
from infra.operations import PodOperations, VolumeOperations
from infra.state_file import StackState, StateFile
from pushtrain.clock import CloudClock
from pushtrain.cloud import Cloud
from pushtrain.control import Control
from pushtrain.errors import PushtrainError
from pushtrain.events import EventDraft
from pushtrain.fleet import Fleet, cloud_of
from pushtrain.ledger import Ledger
from pushtrain.settings import Settings

from .boards import Boards, LedgerLink
from .cloud import VirtualService, Wire
from .fault import Fault
from .figures import LEDGER_URL, Listed
from .memory_git import MemoryStore
from .promises import Promises
from .rentals import BASE_URL, Seams
from .source import Checkout, Repository
from .virtual import Died, Process, Scheduler

TICK_S = 60.0
ENVIRON = {
    "PUSHTRAIN_POD_TICK_S": "5",
    "PUSHTRAIN_SHIP_EVERY_S": "60",
    "PUSHTRAIN_GRACE_S": "30",
}


class WatchedLedger(Ledger):
    """The ledger, and a witness of what it said had landed."""

    def __init__(self, promises: Promises, who: str, listed: Mapping[str, Listed], **options: Any) -> None:
        super().__init__(LEDGER_URL, cache_dir=Path("/nonexistent"), environ={}, **options)
        self._promises, self._who, self._listed = promises, who, listed

    def claim(self, run_id: str, *, files: Mapping[str, bytes], event: EventDraft) -> str:
        tip = super().claim(run_id, files=files, event=event)
        self._promises.landed(run_id, [event], self._who)
        return tip

    def append(self, run_id: str, *, events: Sequence[EventDraft] = (), **more: Any) -> str:
        tip = super().append(run_id, events=events, **more)
        has_receipt = "receipt.json" in (more.get("files") or {})
        if has_receipt and not self._is_mine(run_id, more["files"]["receipt.json"]):
            return tip  # another reconcile's receipt stands; nothing of this append was wanted any more
        if has_receipt:
            cloud = cloud_of(self.read(run_id))
            self._promises.receipt_landed(run_id, json.loads(more["files"]["receipt.json"]), self._listed[cloud])
        self._promises.landed(run_id, events, self._who)
        return tip

    def append_at(self, run_id: str, tip: str, event: EventDraft, timeout_s: float = 60.0) -> str:
        tip = super().append_at(run_id, tip, event, timeout_s)
        self._promises.landed(run_id, [event], self._who)
        return tip

    def _is_mine(self, run_id: str, receipt: bytes) -> bool:
        remote = self._promises.remote
        files = remote.commits[remote.refs[f"refs/heads/runs/{run_id}"]].files
        return remote.blobs[files["receipt.json"]] == receipt


class WatchedWire(Wire):
    """Notes when the cloud was asked for everything, and from when to when it refused to answer."""

    def __init__(self, listed: Listed, shift: "Shift", *args: Any) -> None:
        super().__init__(*args)
        self._listed = listed
        self._refused = shift.refused.setdefault(self._service.rental.name, [])
        self._is_refused = False

    def _carry_out(self, request: Any) -> Any:
        answer = super()._carry_out(request)
        rental = self._service.rental
        refused = answer is None or rental.is_refused(answer.status, answer.body)
        if refused and not self._is_refused:
            self._refused.append([self._scheduler.now, float("inf")])
        elif self._is_refused and not refused:
            self._refused[-1][1] = self._scheduler.now
        self._is_refused = refused
        if request.method == "GET" and answer is not None and answer.status == 200:
            for kind in rental.lists.get(request.url.path, ()):
                self._listed.page(kind, self._scheduler.now, rental.more_pages not in request.url.params)
        return answer


class VirtualState(StateFile):
    """A moment to die before and after each write."""

    process: Process

    def save(self, state: StackState) -> None:
        self.process.point()
        super().save(state)
        self.process.point()


class VirtualEngine(EmbeddedEngine):
    def __init__(self, process: Process, state_dir: Path, clouds: Mapping[str, Cloud]) -> None:
        operations = {"NetworkVolume": VolumeOperations(process.sleep), "Pod": PodOperations()}
        super().__init__(state_dir, clouds.__getitem__, operations.__getitem__)  # type: ignore[arg-type]
        self._process = process

    def _file(self, stack: str) -> StateFile:
        file = VirtualState(self.state_dir, stack)
        file.process = self._process
        return file


@dataclass(kw_only=True)
class Shift:
    """When one control plane was at work, and within that when each cloud refused it: from, to the next answer.

    Its clock is `skew_s` ahead of the truth.
    """

    who: str
    skew_s: float
    since: float
    until: float = float("inf")
    refused: dict[str, list[list[float]]] = field(default_factory=dict)

    def can_act(self, moment: float, clouds: Iterable[str]) -> bool:
        """At all of these clouds."""
        spans = (span for cloud in clouds for span in self.refused.get(cloud, ()))
        away = any(since <= moment < until for since, until in spans)
        return self.since <= moment < self.until and not away

    def moments(self) -> list[float]:
        return [self.since, self.until, *(it for spans in self.refused.values() for span in spans for it in span)]


@dataclass(kw_only=True)
class Office:
    """What all control planes of one schedule share. `fates`: by number, when each of them dies and how wrong its
    clock is."""

    scheduler: Scheduler
    boards: Boards
    promises: Promises
    repository: Repository
    services: Mapping[str, VirtualService]
    folder: Path
    max_minutes: float
    keeps_state: bool
    kill_at: dict[int, Fault] = field(default_factory=dict)
    skewed: dict[int, Fault] = field(default_factory=dict)
    lost_state: dict[int, Fault] = field(default_factory=dict)
    shifts: list["Shift"] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def start(self, name: str, work: Callable[[Control], object], checkout: Checkout, state: str) -> Process:
        """One control plane process. `state` names its state folder."""
        number = len(self.shifts)
        state_dir = self.folder / state
        fatal, skewed, lost = self.kill_at.get(number), self.skewed.get(number), self.lost_state.get(number)
        if lost is not None and state_dir.exists():
            self.boards.hit(lost)
            shutil.rmtree(state_dir)
        if skewed is not None:
            self.boards.hit(skewed)
        skew_s = skewed.amount if skewed is not None else 0.0
        shift = Shift(who=f"{name} {number}", skew_s=skew_s, since=self.scheduler.now)
        self.shifts.append(shift)

        def prepare(process: Process) -> None:
            process.kill_at = int(fatal.amount) if fatal is not None else None

        def body(process: Process) -> None:
            try:
                work(self._control(process, shift, checkout, state_dir))
            except PushtrainError as failure:
                self._say(name, f"{failure.reason}: {failure}")
            except (KeyboardInterrupt, Died):
                self._say(name, "ended from outside")
            finally:
                shift.until = self.scheduler.now
                if fatal is not None and process.points >= int(fatal.amount):
                    self.boards.hit(fatal)

        return self.scheduler.start(name, body, prepare)

    def _control(self, process: Process, shift: Shift, checkout: Checkout, state_dir: Path) -> Control:
        who, boards = shift.who, self.boards
        settings = Settings(
            root=self.folder,
            ledger_url=LEDGER_URL,
            source_url="https://git.example/o/source.git",
            state_dir=state_dir,
            ledger_token=None,
            tick_s=TICK_S,
        )
        scheduler, listed = self.scheduler, {name: Listed() for name in self.services}
        clouds, environ = dict[str, Cloud](), dict(ENVIRON)
        for name, service in self.services.items():
            wire = WatchedWire(listed[name], shift, who, process, scheduler, service)
            clouds[name] = service.rental.client(
                Seams(
                    process=process,
                    clock=lambda: scheduler.now,
                    wall=lambda: scheduler.now + shift.skew_s,
                    asked_time=partial(self._time_at, name),
                    transport=wire,
                )
            )
            environ |= service.rental.environ
        first = next(iter(clouds))

        clock = CloudClock(
            BASE_URL,
            partial(self._say, who),
            local=lambda: scheduler.now + shift.skew_s,
            ask=partial(self._time_at, first),
        )
        store = MemoryStore(self.promises.remote, LedgerLink(process, scheduler, boards, "control", who))
        return Control(
            settings=settings,
            source=checkout,
            ledger=WatchedLedger(self.promises, who, listed, store=store, clock=clock, sleep=process.sleep),
            cloud=clouds[first] if len(clouds) == 1 else Fleet(clouds),
            engine=VirtualEngine(process, state_dir / "stacks", clouds),
            launch=make_launch(settings, environ),
            say=partial(self._say, who),
            clock=clock,
            sleep=process.sleep,
        )

    def _time_at(self, cloud: str, url: str, patience_s: float) -> float | None:
        return self.scheduler.now if self.boards.ways[cloud].is_open() else None

    def _say(self, who: str, text: str) -> None:
        self.said.append(f"{self.scheduler.now - 1.8e9:9.1f}  {who}: {text}")

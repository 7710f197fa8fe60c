"""A pod on the bench: the real start command, real git remotes, and a loopback API that writes down its calls."""

import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

from infra.simulator import processes
from infra.simulator.loopback import Listener, Reply, Request
from infra.start import pod_env, start_args
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.pod.context import Context, read_context
from pushtrain.run import Run

ROOT = Path(__file__).resolve().parent.parent
POD_KEY = "canary-secret-pod-key"
HF_TOKEN = "canary-secret-hub-token"
LEDGER_TOKEN = "canary-secret-ledger-token"
# Times in which several processes have to start are for an idle machine; a busy one needs more.
BUSY = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1) / 2)
PATIENCE_S = 150.0
# Of a grace the trainer has two thirds; in the rest a slow machine has to commit and push the pod's last word.
GRACE_S = 12.0

CONTEXT_ENV = {
    "PUSHTRAIN_RUN_ID": "fake-aaaaaaaa-bbbbbbbb",
    "PUSHTRAIN_ATTEMPT": "1",
    "PUSHTRAIN_COMMIT": "a" * 40,
    "PUSHTRAIN_SPEC_PATH": "jobs/fake.yaml",
    "PUSHTRAIN_SOURCE_URL": "https://host/o/r.git",
    "PUSHTRAIN_LEDGER_URL": "https://host/o/r.git",
    "PUSHTRAIN_DEADLINE_EPOCH_S": "11000",
    "PUSHTRAIN_STALL_S": "600",
}

# A trainer without torch: carries out the steps listed in the spec, one a line, "verb argument".
FAKE_TRAINER = """
import json, os, signal, sys, time
from pathlib import Path

spec, run_dir, attempt = sys.argv[1], Path(sys.argv[3]), int(sys.argv[5])
here = run_dir / f"attempt-{attempt}"

def note(name, **row):
    with (here / name).open("a") as file:
        file.write(json.dumps({"time": time.time(), **row}) + "\\n")

def save_and_leave(*_):
    (run_dir / "saved").touch()
    print("saved a checkpoint", flush=True)
    sys.exit(75)

signal.signal(signal.SIGTERM, save_and_leave)
print("trainer pid", os.getpid(), flush=True)
for line in Path(spec).read_text().splitlines():
    verb, _, argument = line.partition(" ")
    if verb == "say":
        print(os.path.expandvars(argument), flush=True)
    elif verb == "event":
        note("events.jsonl", state=argument, message="with " + os.environ.get("HF_TOKEN", ""), data={"x": 1})
    elif verb == "metric":
        note("metrics.jsonl", step=int(argument), loss=float("nan"))
    elif verb == "sleep":
        time.sleep(float(argument))
    elif verb == "talk":
        end = time.time() + float(argument)
        while time.time() < end:
            print("still here", flush=True)
            time.sleep(0.05)
    elif verb == "tap":
        end = time.time() + float(argument)
        while time.time() < end:
            (here / "step").write_text("1")
            time.sleep(0.1)
    elif verb == "train":
        last, pause = argument.split()
        saved = [int(path.parent.name[11:]) for path in run_dir.glob("checkpoints/*/COMPLETE.json")]
        print("from step", max(saved, default=0), flush=True)
        for step in range(max(saved, default=0) + 1, int(last) + 1):
            time.sleep(float(pause))
            note("metrics.jsonl", step=step, loss=1.0 / step)
            (run_dir / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
            (run_dir / "checkpoints" / f"checkpoint-{step}" / "COMPLETE.json").touch()
    elif verb == "leave":
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
            for _ in range(int(argument)):
                os.posix_spawn("/bin/sleep", ["sleep", "600"], os.environ, file_actions=null, setsid=True)
            os._exit(0)
        os.wait()
        print("left", argument, flush=True)
    elif verb == "flood":
        for _ in range(int(argument)):
            sys.stdout.write("x" * 1_000_000)
        sys.stdout.flush()
    elif verb == "write":
        end = time.time() + float(argument)
        while time.time() < end:
            (run_dir / "silent").write_bytes(b"x" * 2_000_000)
            time.sleep(0.05)
    elif verb == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif verb == "fail":
        failure = {"reason": os.path.expandvars(argument), "message": "it went wrong"}
        (here / "failure.json").write_text(json.dumps(failure))
        sys.exit(1)
    elif verb == "exit":
        sys.exit(int(argument))
    elif verb == "result":
        (here / "result.json").write_text(json.dumps({"adapter": None, "metrics": {"eval_loss": 1.5}, "samples": []}))
"""


class Api:
    """Records (method, path, body, user agent, authorization) of every request; answers `status`, by a clock that is
    `ahead_s` off, and nothing at all while `is_open` is not set."""

    def __init__(
        self,
        port: int = 0,
        statuses: Callable[[int], int] = lambda number: 204,
        *,
        ahead_s: float = 0.0,
        answer: bytes = b"",
        location: str = "",
    ) -> None:
        self.is_open = threading.Event()
        self.is_open.set()
        self.calls: list[tuple[str, str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self._said = Reply(headers={"Location": location} if location else {}, body=answer)
        self._statuses, self._ahead_s = statuses, ahead_s
        self._listener = Listener(self._answer, port)
        self.port, self.url, self.wrap = self._listener.port, self._listener.url, self._listener.wrap

    def close(self) -> None:
        self.is_open.set()
        self._listener.close()

    def _answer(self, request: Request) -> Reply:
        self.is_open.wait(60)
        headers = {"Date": formatdate(time.time() + self._ahead_s, usegmt=True), **self._said.headers}
        if request.method == "HEAD":
            return Reply(status=405, headers=headers)
        self.times.append(time.time())
        self.headers.append(dict(request.headers))
        self.calls.append((request.method, request.target, request.body.decode()))
        return replace(self._said, status=self._statuses(len(self.calls)), headers=headers)


class Bench:
    """One run: a source remote with a fake trainer, a ledger remote, a volume, and containers.

    `close` kills every process of its containers.
    """

    def __init__(self, folder: Path, steps: str, *, deadline_s: float = 60.0, stall_s: float = 60.0) -> None:
        self.folder = folder
        deadline_s, stall_s = (it * BUSY if 0 < it < 60 else it for it in (deadline_s, stall_s))
        self.pod_id = f"pod{uuid.uuid4().hex[:12]}"
        self.api = Api()
        self.ledger_dir, self.workspace = folder / "ledger.git", folder / "volume"
        self.log = folder / "container.log"
        self.git_env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        (folder / "home").mkdir()
        (folder / "tmp").mkdir()
        source, commit = make_source(folder / "source", steps, self.git_env)
        self.git("init", "-q", "--bare", str(self.ledger_dir))
        self.deadline = time.time() + deadline_s
        self.run = Run(job="fake", commit=commit, spec_digest="ab" * 32, ledger_url=f"file://{self.ledger_dir}")
        self.env = self.git_env | pod_env(
            self.run,
            attempt=1,
            spec_path="jobs/fake.yaml",
            source_url=f"file://{source}",
            deadline_epoch_s=self.deadline + 1,
            stall_s=stall_s,
            environ={"RUNPOD_API_BASE_URL": self.api.url},
        )
        self.env |= {
            "PUSHTRAIN_DEADLINE_EPOCH_S": f"{self.deadline:.3f}",
            "PUSHTRAIN_STALL_S": f"{stall_s:.3f}",
            "PUSHTRAIN_WORKSPACE": str(self.workspace),
            "PUSHTRAIN_TRAINER_PYTHON": sys.executable,
            "PUSHTRAIN_POD_TICK_S": "0.05",
            "PUSHTRAIN_GRACE_S": f"{GRACE_S * BUSY:.3f}",
            "RUNPOD_POD_ID": self.pod_id,
            "RUNPOD_API_KEY": POD_KEY,
            "HF_TOKEN": HF_TOKEN,
            "PUSHTRAIN_LEDGER_TOKEN": LEDGER_TOKEN,
            "TMPDIR": str(folder / "tmp"),
        }

    @property
    def attempt_dir(self) -> Path:
        return self.workspace / "runs" / self.run.id / "attempt-1"

    def git(self, *args: str) -> str:
        return run_git(*args, env=self.git_env)

    def start(self, *, before: tuple[str, ...] = (), **env: str) -> "subprocess.Popen[bytes]":
        """The first process of a container, as a cloud would start it; `before`: a command that runs it."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*before, *shlex.split(start_args())],
                env=self.env | env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, ready: Callable[[], object], what: str) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while not ready():
            assert time.monotonic() < give_up, f"no {what} in {PATIENCE_S} s; container log:\n{self.log.read_text()}"
            time.sleep(0.02)

    def wait_until_terminated(self) -> None:
        self.wait(lambda: self.terminations, "request to terminate the pod")

    @property
    def terminations(self) -> list[float]:
        """Times of the requests that would end the pod."""
        wanted = ("POST", f"/v2/pods/{self.pod_id}/action", '{"action": "terminate"}')
        return [at for at, call in zip(self.api.times, self.api.calls, strict=False) if call == wanted]

    def said(self, text: str) -> bool:
        return self.log.exists() and text in self.log.read_text()

    def record(self) -> RunRecord:
        return self.ledger().read(self.run.id)

    def ledger(self) -> Ledger:
        return Ledger(self.run.ledger_url, cache_dir=self.folder / "cache", environ=self.git_env)

    def states(self) -> list[str]:
        """States in the ledger, none while it has no word of the run."""
        ledger = self.ledger()
        if self.run.id not in ledger.refs():
            return []
        return [event.state for event in ledger.read(self.run.id).events]

    def ledger_text(self, folder: str) -> str:
        return self.ledger().text(self.record(), folder)[0].decode()

    def processes(self) -> dict[int, str]:
        """pid → command line of every process of this pod."""
        marker = f"RUNPOD_POD_ID={self.pod_id}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and marker in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return {pid: line for pid, line in found.items() if line}

    def pid_of(self, part: str) -> int:
        """The process whose command line holds `part`; waits for it."""
        self.wait(lambda: any(part in line for line in self.processes().values()), f"process {part}")
        return next(pid for pid, line in sorted(self.processes().items()) if part in line)

    def kill_container(self) -> None:
        """As when a container is restarted: every process is gone at once."""
        assert not processes.stop(self.pod_id, 0.0, limit_s=PATIENCE_S)

    def close(self) -> None:
        self.kill_container()
        self.api.close()


def make_source(folder: Path, steps: str, env: dict[str, str]) -> tuple[Path, str]:
    """A bare remote whose one commit holds this pushtrain, a fake trainer and a job; returns it and the commit."""
    work, bare = folder / "work", folder / "source.git"
    shutil.copytree(
        ROOT / "pushtrain" / "pod", work / "pushtrain" / "pod", ignore=shutil.ignore_patterns("__pycache__")
    )
    for module in (ROOT / "pushtrain").glob("*.py"):
        shutil.copy(module, work / "pushtrain")
    (work / "trainer").mkdir()
    (work / "trainer" / "__init__.py").touch()
    (work / "jobs").mkdir()
    (work / "trainer" / "__main__.py").write_text(FAKE_TRAINER)
    (work / "jobs" / "fake.yaml").write_text(steps)
    run_git("init", "-q", str(work), env=env)
    run_git("-C", str(work), "add", ".", env=env)
    run_git("-C", str(work), "commit", "-q", "-m", "a job", env=env)
    run_git("clone", "-q", "--bare", str(work), str(bare), env=env)
    return bare, run_git("-C", str(work), "rev-parse", "HEAD", env=env)


def run_git(*args: str, env: dict[str, str]) -> str:
    done = subprocess.run(["git", *args], env=env, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def context_of(**changes: Any) -> Context:
    """What a pod would read from its environment, with fields changed."""
    return replace(read_context(CONTEXT_ENV), **changes)


def wait_for(ready: Any) -> None:
    give_up = time.monotonic() + 150
    while not ready():
        assert time.monotonic() < give_up
        time.sleep(0.005)

"""What the control plane told this pod: the environment variables of docs/architecture.md, read once, and the paths.

Besides the documented ones, all optional:
PUSHTRAIN_GRACE_S (30)         seconds a SIGTERM leaves for saving and reporting before the SIGKILL
PUSHTRAIN_SHIP_EVERY_S (60)    seconds between two pushes of logs and metrics
PUSHTRAIN_POD_TICK_S (1)       seconds between two looks; every retry pace is a multiple, so that tests run fast
PUSHTRAIN_LIMIT_BOOT_S (600), PUSHTRAIN_LIMIT_ENVIRONMENT_S (1800), PUSHTRAIN_LIMIT_FIRST_STEP_S (3600),
PUSHTRAIN_LIMIT_STEP_GAP_S (1800), PUSHTRAIN_LIMIT_UPLOAD_S (3600)
                               longest time in a phase (`pushtrain.pod.phase`), in training between two steps
PUSHTRAIN_SOURCE_TOKEN         reads a private PUSHTRAIN_SOURCE_URL where the ledger's token may not
PUSHTRAIN_STOP_FILE            set by the watchdog for the agent: holds why the watchdog sent SIGTERM
PUSHTRAIN_FIRST_PID            set by the start command for the watchdog: who wants to hear that it still looks
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pushtrain.errors import PushtrainError

SOURCE_TOKEN = "PUSHTRAIN_SOURCE_TOKEN"
LEDGER_TOKEN = "PUSHTRAIN_LEDGER_TOKEN"
STOP_FILE = "PUSHTRAIN_STOP_FILE"
FIRST_PID = "PUSHTRAIN_FIRST_PID"

# Exit codes along the process chain: boot's own failure, an attempt that is another pod's, and the trainer's "resume
# me", which the agent hands on.
EXIT_BOOT_FAILED = 69
EXIT_TWIN = 70
EXIT_PREEMPTED = 75
# Of the grace a SIGTERM leaves, what the trainer has for its last save; the rest is for the ledger.
SAVING_SHARE = 2 / 3


@dataclass(frozen=True, kw_only=True)
class Context:
    """One attempt of one run on this pod. `task` is its job spec's, `extras` what it needs installed besides. Times are
    seconds; `deadline_epoch_s` is when the pod has to be gone. `is_shared`: other runs work on this volume, too."""

    run_id: str
    attempt: int
    commit: str
    task: str
    extras: tuple[str, ...]
    spec_path: str
    source_url: str
    ledger_url: str
    deadline_epoch_s: float
    stall_s: float
    limit_boot_s: float
    limit_environment_s: float
    limit_first_step_s: float
    limit_step_gap_s: float
    limit_upload_s: float
    workspace: Path
    is_shared: bool
    trainer_python: str | None
    stop_file: Path | None
    grace_s: float
    ship_every_s: float
    tick_s: float

    @property
    def checkout(self) -> Path:
        """On a shared volume below the run: two runs of one commit must not write the same files."""
        return (self.run_dir if self.is_shared else self.workspace) / "source" / self.commit

    @property
    def run_dir(self) -> Path:
        return self.workspace / "runs" / self.run_id

    @property
    def attempt_dir(self) -> Path:
        return self.run_dir / f"attempt-{self.attempt}"

    @property
    def heartbeat(self) -> Path:
        return self.attempt_dir / "heartbeat"

    @property
    def starts(self) -> Path:
        """A line for each container of this attempt: the step of the furthest whole checkpoint when it started."""
        return self.attempt_dir / "starts"

    @property
    def owner(self) -> Path:
        """The id of the pod that came first: a second one of the same attempt must not train beside it."""
        return self.attempt_dir / "pod"

    @property
    def ended(self) -> Path:
        """Says that this attempt is over: a restarted container must not train again. On the volume, since the
        container's own disk does not survive a restart."""
        return self.attempt_dir / "ended.json"


def read_context(environ: Mapping[str, str]) -> Context:
    """The attempt `environ` describes. Raises PushtrainError naming the variable that is missing or wrong."""
    return Context(
        run_id=_matching(environ, "PUSHTRAIN_RUN_ID", r"[a-z0-9][a-z0-9-]{0,80}"),
        attempt=int(_matching(environ, "PUSHTRAIN_ATTEMPT", r"[1-9][0-9]{0,3}")),
        commit=_matching(environ, "PUSHTRAIN_COMMIT", r"[0-9a-f]{40}"),
        task=environ.get("PUSHTRAIN_TASK") or "sft",
        extras=tuple(re.findall(r"[a-z0-9-]+", environ.get("PUSHTRAIN_EXTRAS", ""))),
        spec_path=_inside(environ, "PUSHTRAIN_SPEC_PATH"),
        source_url=_matching(environ, "PUSHTRAIN_SOURCE_URL", r"[^-\s]\S*"),
        ledger_url=_matching(environ, "PUSHTRAIN_LEDGER_URL", r"[^-\s]\S*"),
        deadline_epoch_s=_number(environ, "PUSHTRAIN_DEADLINE_EPOCH_S"),
        stall_s=_number(environ, "PUSHTRAIN_STALL_S"),
        limit_boot_s=_number(environ, "PUSHTRAIN_LIMIT_BOOT_S", 600.0),
        limit_environment_s=_number(environ, "PUSHTRAIN_LIMIT_ENVIRONMENT_S", 1800.0),
        limit_first_step_s=_number(environ, "PUSHTRAIN_LIMIT_FIRST_STEP_S", 3600.0),
        limit_step_gap_s=_number(environ, "PUSHTRAIN_LIMIT_STEP_GAP_S", 1800.0),
        limit_upload_s=_number(environ, "PUSHTRAIN_LIMIT_UPLOAD_S", 3600.0),
        workspace=Path(environ.get("PUSHTRAIN_WORKSPACE") or "/workspace"),
        is_shared=environ.get("PUSHTRAIN_VOLUME_SHARED") == "1",
        trainer_python=environ.get("PUSHTRAIN_TRAINER_PYTHON") or None,
        stop_file=Path(environ[STOP_FILE]) if environ.get(STOP_FILE) else None,
        grace_s=_number(environ, "PUSHTRAIN_GRACE_S", 30.0),
        ship_every_s=_number(environ, "PUSHTRAIN_SHIP_EVERY_S", 60.0),
        tick_s=tick_s(environ),
    )


def tick_s(environ: Mapping[str, str]) -> float:
    """Readable on its own, because a pod with a broken environment still has to terminate itself."""
    return _number(environ, "PUSHTRAIN_POD_TICK_S", 1.0)


def _matching(environ: Mapping[str, str], name: str, pattern: str) -> str:
    value = environ.get(name, "")
    if not re.fullmatch(pattern, value):
        raise PushtrainError(f"environment variable {name} is missing or malformed", reason="BadPodEnvironment")
    return value


def _inside(environ: Mapping[str, str], name: str) -> str:
    value = _matching(environ, name, r"[A-Za-z0-9._/-]+")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or value.startswith("-"):
        raise PushtrainError(f"environment variable {name} points outside the checkout", reason="BadPodEnvironment")
    return value


def _number(environ: Mapping[str, str], name: str, default: float | None = None) -> float:
    if default is not None and not environ.get(name):
        return default
    return float(_matching(environ, name, r"[0-9]{1,12}(\.[0-9]{1,9})?"))

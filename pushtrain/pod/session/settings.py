"""What a session is told by its environment, and what of it reaches the shells of its people."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pushtrain.errors import PushtrainError
from pushtrain.pod.context import Context
from pushtrain.redact import SECRET_NAMES

VARIABLE = "PUSHTRAIN_SESSION"
# Of our own variables these mean something to people.
_KEPT = ("PUSHTRAIN_RUN_ID", "PUSHTRAIN_ATTEMPT", "PUSHTRAIN_COMMIT", "PUSHTRAIN_DEADLINE_EPOCH_S")
_OURS = ("PYTHONPATH", "PYTHONHASHSEED", "PYTHONUNBUFFERED", "VIRTUAL_ENV", "HF_HUB_DISABLE_XET")


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """`session` of the job spec, as `infra.launch.session_env` writes it; seconds."""

    idle_s: float
    autosave_s: float
    branch: str
    start: tuple[str, ...]
    tensorboard: bool
    secrets: tuple[str, ...]


def read_settings(environ: Mapping[str, str]) -> SessionSettings:
    """Raises PushtrainError where the variable is missing or malformed."""
    try:
        told = json.loads(environ.get(VARIABLE, ""))
        return SessionSettings(
            idle_s=float(told["idle_s"]),
            autosave_s=float(told["autosave_s"]),
            branch=str(told["branch"]),
            start=tuple(str(word) for word in told["start"]),
            tensorboard=bool(told["tensorboard"]),
            secrets=tuple(str(name) for name in told["secrets"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        message = f"environment variable {VARIABLE} is missing or malformed"
        raise PushtrainError(message, reason="BadPodEnvironment") from error


def work_dir(context: Context) -> Path:
    """The work tree, on the volume."""
    return context.run_dir / "work"


def files_dir(context: Context) -> Path:
    """PUSHTRAIN_RUN_DIR: what is kept over attempts, and TensorBoard looks at."""
    return context.run_dir / "files"


def places(context: Context) -> dict[str, str]:
    """Variables of every shell, in tmux and by ssh."""
    return {"PUSHTRAIN_RUN_DIR": str(files_dir(context)), "PUSHTRAIN_WORK": str(work_dir(context))}


def shell_env(
    context: Context, settings: SessionSettings, environ: Mapping[str, str], *, first: Path, last: Path
) -> dict[str, str]:
    """The image's environment for people's shells; `first` and `last` are folders of their PATH. No secret is in it but
    those the spec names."""
    dropped = {*SECRET_NAMES, *_OURS}
    kept = {
        name: value
        for name, value in environ.items()
        if name in _KEPT or not (name in dropped or name.startswith(("PUSHTRAIN_", "UV_")))
    }
    given = {name: environ[name] for name in settings.secrets if environ.get(name)}
    path = f"{first}:{environ.get('PATH', '/usr/local/bin:/usr/bin:/bin')}:{last}"
    return {**kept, **given, "PATH": path, **places(context)}

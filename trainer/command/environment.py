"""What a command gets as environment: the image's own, a home, where it may keep things, and what its spec says."""

from collections.abc import Mapping
from pathlib import Path

from pushtrain.pod.context import SAVING_SHARE
from pushtrain.redact import SECRET_NAMES
from pushtrain.spec.command import Command

# Ours, or of the environment this process runs in: the command brings its own interpreter and libraries.
_NOT_FOR_COMMANDS = (
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONHASHSEED",
    "HF_HOME",
    "HF_HUB_DISABLE_XET",
    "HF_HUB_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_PROGRESS_BARS",
    "RUNPOD_API_KEY",
)
# Of our own variables these mean something to it.
_KEPT = ("PUSHTRAIN_RUN_ID", "PUSHTRAIN_ATTEMPT", "PUSHTRAIN_COMMIT", "PUSHTRAIN_DEADLINE_EPOCH_S")
# What is left of the grace after the command's share is for ending what did not obey.
_COMMAND_SHARE = 0.9


def command_env(command: Command, environ: Mapping[str, str], files: Path) -> dict[str, str]:
    """`files` is the run's folder, kept over attempts. No secret is in it but those the spec names."""
    env = {name: value for name, value in environ.items() if _is_the_images(name)}
    env |= {name: environ[name] for name in _KEPT if name in environ}
    env |= {"PUSHTRAIN_RUN_DIR": str(files), "PUSHTRAIN_GRACE_S": f"{grace_s(environ):g}", "PYTHONUNBUFFERED": "1"}
    if command.home == "volume":
        env["HOME"] = str(files / "home")
    env |= {name: environ[name] for name in command.secrets if environ.get(name)}
    return env | command.env


def grace_s(environ: Mapping[str, str]) -> float:
    """Seconds between SIGTERM and SIGKILL for the command: before the agent kills this process for being late."""
    return float(environ.get("PUSHTRAIN_GRACE_S") or 30.0) * SAVING_SHARE * _COMMAND_SHARE


def _is_the_images(name: str) -> bool:
    return not (name in _NOT_FOR_COMMANDS or name in SECRET_NAMES or name.startswith(("PUSHTRAIN_", "UV_")))

"""The trainer's interpreter: the locked environment, installed by uv on the container's disk."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pushtrain.errors import RunFailed
from pushtrain.pod.context import LEDGER_TOKEN, SOURCE_TOKEN, Context
from pushtrain.pod.place import KEYS
from pushtrain.pod.tool import tool_folder
from pushtrain.redact import SECRET_NAMES

TRIES = 3
# One import of the trainer's libraries makes about 105,000 file operations: the environment lives on the container's
# disk, compiled; only uv's download cache is on the volume, where the next attempt finds it.
SYNC = ("sync", "--frozen", "--no-dev", "--no-install-project", "--compile-bytecode")
TRAINING = ("--extra", "trainer")
PRIVATE = (LEDGER_TOKEN, SOURCE_TOKEN, *KEYS, "PUSHTRAIN_BOOT")
RunTool = Callable[[Sequence[str], Mapping[str, str]], int]


def prepare_environment(
    context: Context, environ: Mapping[str, str], run: RunTool, *, disk: Path = Path("/opt")
) -> str:
    """Path of a Python that can run the trainer's part for this task. `run(argv, env)` runs a tool and returns its exit
    code.

    `disk` is a folder on the container's own disk; HOME stands in where it cannot be written.

    Raises RunFailed (EnvironmentFailed) after 3 tries.
    """
    if context.trainer_python:
        return context.trainer_python
    home = _writable(disk, environ)
    venv = home / "pushtrain-venv"
    env = {name: value for name, value in environ.items() if name not in (*PRIVATE, *SECRET_NAMES, "PYTHONPATH")}
    env |= {
        "UV_PROJECT_ENVIRONMENT": str(venv),
        "UV_CACHE_DIR": str(context.workspace / ".cache" / "uv"),
        "UV_LINK_MODE": "copy",
        "UV_NO_PROGRESS": "1",
    }
    tool = tool_folder(context.checkout)
    at = () if tool == context.checkout else ("--project", str(tool))
    # A command brings its own libraries: what reads its spec and uploads its files is without any extra. So do people.
    extra = (
        *(() if context.task in ("command", "session") else TRAINING),
        *(f"--extra={name}" for name in context.extras),
    )
    for attempt in range(TRIES):
        uv = shutil.which("uv") or _install_uv(home / "pushtrain-uv", env, run)
        if uv and run([uv, *SYNC, *at, *extra], env) == 0:
            return str(venv / "bin" / "python")
        time.sleep(context.tick_s * 2**attempt)
    raise RunFailed(
        f"the trainer's environment could not be installed in {TRIES} tries",
        hint=f"the log shows uv's words; run 'uv {' '.join([*SYNC[:2], *extra])}' on a clean machine",
        reason="EnvironmentFailed",
    )


def programs(context: Context, environ: Mapping[str, str], *, disk: Path = Path("/opt")) -> Path:
    """The folder of the environment's programs, installed or about to be."""
    if context.trainer_python:
        return Path(context.trainer_python).parent
    return _writable(disk, environ) / "pushtrain-venv" / "bin"


def trainer_env(context: Context, environ: Mapping[str, str]) -> dict[str, str]:
    """The image's environment plus what makes a training repeatable and quiet, less every secret but HF_TOKEN."""
    env = {name: value for name, value in environ.items() if name not in PRIVATE}
    own = context.run_dir if context.is_shared else context.workspace
    if context.is_shared:
        # Made in place, under names that two runs may share; of the Hub's files each is made under a name of its own.
        env |= {
            "HF_DATASETS_CACHE": str(own / ".cache" / "datasets"),
            "HF_MODULES_CACHE": str(own / ".cache" / "modules"),
        }
    return env | {
        "PYTHONPATH": str(tool_folder(context.checkout)),
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "HF_HOME": str(context.workspace / ".cache" / "huggingface"),
        # Kernels that are compiled on the pod: the next attempt finds them.
        "TRITON_CACHE_DIR": str(own / ".cache" / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(own / ".cache" / "inductor"),
        "CUDA_CACHE_PATH": str(own / ".cache" / "cuda"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def _install_uv(folder: Path, env: Mapping[str, str], run: RunTool) -> str | None:
    """uv by pip into a plain folder: needs no ensurepip, and images that protect their own packages allow it."""
    uv = folder / "bin" / "uv"
    if not uv.exists():
        run([sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), "uv"], env)
    return str(uv) if uv.exists() else None


def _writable(preferred: Path, environ: Mapping[str, str]) -> Path:
    if os.access(preferred, os.W_OK):
        return preferred
    return Path(environ.get("HOME") or "/tmp") / ".pushtrain"

"""Tokens on the volume, so that the second start of a run, or a run that changes only the learning rate, makes none.

    $WORKSPACE/.cache/pushtrain/tokens/DIGEST/    (~/.cache/… on a machine of one's own)
        train.arrow  held_out.arrow               columns of token ids, 32 bits each
        prepared.json                             form, counts, questions; size and SHA-256 of the files. Written last

An entry is made in a folder of its own name and renamed when whole. One that is not whole, or whose files are not those
that were written, is thrown away and made again.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants

import pushtrain.rows
from pushtrain.run import spec_digest
from trainer.job import Job, file_sha256, read_json
from trainer.report import say, sync, write_whole

if TYPE_CHECKING:
    from datasets import Dataset

META = "prepared.json"
KEPT_ENTRIES = 8
# On a volume that other runs use, too, an entry read within this may be mapped by one of them.
IN_USE_S = 7 * 86400.0
# Above this a file is mapped, not read: rows are drawn in random order, which a network volume answers slowly.
IN_MEMORY_BYTES = 2 * 1024**3

_LIBRARIES = ("tokenizers", "transformers", "trl", "jinja2", "datasets", "pyarrow")


def entry(job: Job) -> Path:
    """The folder that holds, or will hold, the tokens of this job. Needs no torch."""
    return Path(constants.HF_HOME).parent / "pushtrain" / "tokens" / _digest(job)[:40]


def is_there(job: Job) -> bool:
    """Whether an entry seems whole, without a look into its files."""
    return (entry(job) / META).is_file()


def read(folder: Path) -> dict[str, Any] | None:
    """What `write` was given for a whole entry; None where there is none. What is broken is removed, and said."""
    if not folder.is_dir():
        return None
    fault = _fault(folder)
    if fault is not None:
        say(f"data: the tokens kept in {folder} are made again: {fault}")
        shutil.rmtree(folder, ignore_errors=True)
        return None
    (folder / META).touch()  # when it was used last
    return read_json(folder / META)


def datasets(folder: Path) -> dict[str, "Dataset"]:
    """The Arrow files of an entry by their names without ending."""
    from datasets import Dataset

    return {
        path.stem: Dataset.from_file(str(path), in_memory=path.stat().st_size <= IN_MEMORY_BYTES)
        for path in sorted(folder.glob("*.arrow"))
    }


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` when the block ends well. Several entries at most are kept."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name[:8]}-", dir=folder.parent))
    try:
        yield part
        _put(part, folder)
        sync(folder.parent)
        _forget_old(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def finish(folder: Path, meta: dict[str, Any]) -> None:
    """Vouch for the Arrow files of a folder that is being made."""
    files = {}
    for path in sorted(folder.glob("*.arrow")):
        sync(path)
        files[path.name] = {"size": path.stat().st_size, "sha256": file_sha256(path)}
    write_whole(folder / META, json.dumps({**meta, "files": files}, ensure_ascii=False) + "\n")


@contextmanager
def alone() -> Iterator[None]:
    """Of several processes on this machine one at a time: the first makes the entry, the others find it."""
    with (Path(tempfile.gettempdir()) / f"pushtrain-tokens-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(job: Job) -> str:
    """SHA-256 of everything the tokens depend on: rows, tokenizer, recipe, libraries, and our own code."""
    spec, inputs = job.spec, job.inputs
    recipe = spec.model_dump(mode="json", include={"task", "data", "train", "seq2seq"})
    recipe["train"] = {name: recipe["train"][name] for name in sorted(_OF_TOKENS & recipe["train"].keys())}
    recipe["processes"] = job.processes
    return spec_digest(
        {
            "recipe": recipe,
            "data": inputs.data_version,
            "tokenizer": [spec.model.id, inputs.model_sha, inputs.template_sha256],
            "libraries": {name: version(name) for name in _LIBRARIES},
            "code": _code(),
        }
    )


# What of `train` reaches the tokens; the batch sizes and steps by the layout, which counts optimizer steps.
_OF_TOKENS = {
    "assistant_only_loss",
    "chat_template_path",
    "completion_only_loss",
    "epochs",
    "gradient_accumulation_steps",
    "max_length",
    "max_steps",
    "packing",
    "padding_free",
    "per_device_train_batch_size",
    "seed",
}


def _code() -> str:
    ours = [*Path(__file__).parent.glob("*.py"), *Path(pushtrain.rows.__file__).parent.glob("*.py")]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(ours))).hexdigest()


def _fault(folder: Path) -> str | None:
    try:
        meta: dict[str, Any] = read_json(folder / META)
        files = meta.get("files")
        if not isinstance(files, dict) or "train.arrow" not in files:
            return "they are not whole"
        for name, expected in files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != expected["size"]:
                return f"{name} is missing or cut off"
            if file_sha256(path) != expected["sha256"]:
                return f"{name} does not have the bytes that were written"
    except (OSError, ValueError) as error:
        return f"they cannot be read: {error}"
    return None


def _put(part: Path, folder: Path) -> None:
    """What a pod beside this one has finished meanwhile stays: it may be reading it."""
    if (folder / META).is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        part.rename(folder)
    except OSError:
        if not (folder / META).is_file():
            raise


def _forget_old(root: Path) -> None:
    """A volume that is kept over many runs must not fill with what nobody asks for again."""
    unused_s = time.time() - (IN_USE_S if os.environ.get("PUSHTRAIN_VOLUME_SHARED") == "1" else 0.0)
    entries = [path for path in root.iterdir() if (path / META).is_file()]
    for path in sorted(entries, key=lambda path: (path / META).stat().st_mtime)[:-KEPT_ENTRIES]:
        if (path / META).stat().st_mtime <= unused_s:
            shutil.rmtree(path, ignore_errors=True)

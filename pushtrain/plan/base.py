"""What changed against a base commit: read from git's objects, bounded, and never executed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from git import Blob, GitError, Repo

from pushtrain import differences
from pushtrain.differences import Difference
from pushtrain.errors import PushtrainError, SpecError
from pushtrain.prices.snapshot import PRICED, Snapshot, file_of, packaged, parse
from pushtrain.spec import JobSpec
from pushtrain.spec.file import MAX_BYTES, loads

_LINK_MODE = 0o120000


@dataclass(frozen=True, kw_only=True)
class Base:
    """Job specs of a commit by path; None for a file that is there and cannot be read as a spec. Prices by cloud."""

    ref: str
    specs: Mapping[str, JobSpec | None]
    prices: Mapping[str, Snapshot]


def read_base(root: Path, ref: str) -> Base:
    """The job specs and the prices at `ref`. Raises PushtrainError for a ref this clone does not have."""
    try:
        with Repo(root, search_parent_directories=True) as repo:
            if ref.startswith("-"):
                raise ValueError("is no ref")
            tree = repo.commit(ref).tree
            blobs = {
                str(item.path): item for item in _children(tree, "jobs") if str(item.path).endswith((".yaml", ".yml"))
            }
            specs = {path: _spec(blob, path) for path, blob in blobs.items()}
            files = {str(item.path): item for item in tree.blobs if item.mode != _LINK_MODE}
            return Base(ref=ref, specs=specs, prices={cloud: _prices(files, ref, cloud) for cloud in PRICED})
    except (GitError, ValueError, IndexError, OSError) as error:
        hint = "git fetch the base branch first; in an Action, actions/checkout with fetch-depth: 0 has it"
        raise PushtrainError(f"no commit {ascii(ref)[:80]} here: {type(error).__name__}", hint=hint) from None


def changed(before: JobSpec, after: JobSpec) -> tuple[Difference, ...]:
    """Every key with another value, defaults included: a default that is written down changes nothing."""
    return tuple(differences.differences(before.model_dump(mode="json"), after.model_dump(mode="json")))


def same_but_name(one: JobSpec, other: JobSpec) -> bool:
    """Whether a job was only given another name."""
    return one.model_dump(exclude={"name"}) == other.model_dump(exclude={"name"})


def _children(tree: object, name: str) -> list[Blob]:
    folder = next((item for item in getattr(tree, "trees", ()) if item.path == name), None)
    return [blob for blob in folder.blobs if blob.mode != _LINK_MODE] if folder is not None else []


def _prices(files: Mapping[str, Blob], ref: str, cloud: str) -> Snapshot:
    blob = files.get(file_of(cloud))
    return parse(blob.data_stream.read(), f"{file_of(cloud)} at {ref}", cloud) if blob else packaged(cloud)


def _spec(blob: Blob, path: str) -> JobSpec | None:
    if blob.size > MAX_BYTES:
        return None
    try:
        return loads(blob.data_stream.read(), path)
    except SpecError:
        return None

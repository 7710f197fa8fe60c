"""What all parts of a spec share: the strict base class, and names that reach URLs, refs and shells."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

# Hub ids, revisions and image references reach URLs and git: only characters that mean nothing to a shell, and no "..".
_HUB_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
HubId = Annotated[str, StringConstraints(pattern=rf"^{_HUB_NAME}(/{_HUB_NAME})?$")]
# What is stored in a bucket: no query, no user, no "..".
BUCKET_URL = r"(s3|gs)://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_=+-][A-Za-z0-9_.=+-]{0,200}){1,20}"
DatasetUrl = Annotated[
    str,
    StringConstraints(
        pattern=rf"^(hf://datasets/{_HUB_NAME}(/{_HUB_NAME})?|{BUCKET_URL}\.(jsonl|csv|tsv|parquet))$", max_length=500
    ),
]
# Where copies go: a bucket, and what all names in it begin with.
CopiesUrl = Annotated[
    str,
    StringConstraints(
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_=+-][A-Za-z0-9_.=+-]{0,200}){0,20}$",
        max_length=500,
    ),
]
HubRepo = Annotated[str, StringConstraints(pattern=rf"^{_HUB_NAME}/{_HUB_NAME}$")]
Revision = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*$", max_length=100)
]


def inside(path: str, place: str = "the repository") -> str:
    """`path` itself; raises ValueError where it is not relative or leads out of the folder it counts from."""
    parts = path.replace("\\", "/").split("/")
    if path.startswith(("/", "~")) or ".." in parts or ":" in parts[0] or not path.isprintable():
        raise ValueError(f"must be a relative path inside {place}")
    return path


CommitPath = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(inside)]
Positive = Annotated[int, Field(gt=0)]


class WrongAt(ValueError):
    """Two parts of a spec do not suit each other: where to point, from the validated part on, and what to do."""

    def __init__(self, message: str, path: tuple[str, ...], hint: str) -> None:
        super().__init__(message)
        self.path, self.hint = path, hint


class Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

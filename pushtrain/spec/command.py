"""`command` of a spec: a program of the commit, how it tells how far it is, and which of its files are kept."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, field_validator

from pushtrain.pod.context import EXIT_PREEMPTED
from pushtrain.redact import SECRET_NAMES, redact
from pushtrain.spec.names import CommitPath, Part, Positive, inside

# What a command may ask for by name, of what the control plane has. The ledger's token is not, and never will be.
Secret = Literal["HF_TOKEN", "WANDB_API_KEY"]
# Ours to say, or RunPod's; HOME has a key of its own.
_RESERVED = re.compile(r"(PUSHTRAIN|RUNPOD)_.*|HOME")
_LIKE_A_SECRET = re.compile(r"(?i)(.*_)?(token|secret|password|passwd|api_?key|access_key(_id)?|credentials?)")


def _checked(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"must be a regular expression: {error}") from None
    if groups != 1:
        raise ValueError(f"must have one group ( ) around the number and has {groups}; (?: ) is no group")
    return pattern


def _inside_the_run(path: str) -> str:
    return inside(path, "the run's folder")


Word = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
FilePattern = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_inside_the_run)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
VariableValue = Annotated[str, StringConstraints(max_length=4096, pattern=r"^[^\x00]*$")]
FigureName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
Pattern = Annotated[
    str,
    StringConstraints(min_length=1, max_length=500),
    AfterValidator(_checked),
    Field(json_schema_extra={"format": "regex"}),
]
ExitCode = Annotated[int, Field(ge=0, le=255)]


class Progress(Part):
    """How the output tells how far the command is: regular expressions, each with one group around the number."""

    step: Pattern
    r"""The step a line tells of, e.g. 'step (\d+)'; `limits` counts from one to the next."""
    total_steps: Positive | Pattern | None = None
    """How many steps there are: the number, or where a line tells it."""
    loss: Pattern | None = None
    """The loss of that step, on its line or on a later one."""
    metrics: dict[FigureName, Pattern] = {}
    r"""Further figures by name, e.g. tokens_per_s: 'tok/sec: ([\d,]+)'."""

    @field_validator("metrics")
    @classmethod
    def _names_of_their_own(cls, patterns: dict[str, str]) -> dict[str, str]:
        for name in patterns.keys() & {"time", *cls.model_fields}:
            raise ValueError(f"cannot name a figure {name!r}, which has a meaning of its own")
        return patterns


class Command(Part):
    """What is run in place of a training."""

    run: CommitPath | Annotated[list[Word], Field(min_length=1, max_length=200)]
    """A script of the commit, executable and with a #! line; or a list, the program and its arguments. No shell."""
    workdir: CommitPath = "."
    """The folder of the commit it starts in."""
    env: Annotated[dict[VariableName, VariableValue], Field(max_length=100)] = {}
    """Environment variables beside the image's own; no secrets."""
    secrets: list[Secret] = []
    """Secrets of the control plane that it gets as variables, by name: HF_TOKEN, WANDB_API_KEY."""
    home: Literal["volume", "image"] = "volume"
    """HOME: `home` in the run's folder, which attempts share; or the image's own, which is faster and lost with it."""
    progress: Progress | None = None
    """How far it is. Left out, there are no steps, and only silence and the budget limit it."""
    silence_minutes: Annotated[float, Field(gt=0, le=1440)] = 30
    """Minutes without a line and without a megabyte read or written after which it counts as hung."""
    restart: bool = True
    """False: it is started once, whatever happens to its pod; for what must not be done twice."""
    success_exit_codes: Annotated[list[ExitCode], Field(min_length=1, max_length=20)] = [0]
    """Exit codes that are a success; 75 asks for another attempt."""
    artifacts: Annotated[list[FilePattern], Field(max_length=100)] = []
    """Patterns of files to keep, from the run's folder on; each has to match. `publish.repo` gets them."""
    artifacts_max_gb: Annotated[float, Field(gt=0, le=500)] = 20
    """What they may have together."""

    @field_validator("env")
    @classmethod
    def _nothing_secret(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            if name in SECRET_NAMES or _LIKE_A_SECRET.fullmatch(name) or redact(value, {}) != value:
                raise ValueError(f"has {name}, which looks like a secret: whoever reads the repository would have it")
            if _RESERVED.fullmatch(name):
                raise ValueError(f"cannot set {name}")
        return env

    @field_validator("success_exit_codes")
    @classmethod
    def _not_the_one_for_again(cls, codes: list[int]) -> list[int]:
        if EXIT_PREEMPTED in codes:
            raise ValueError(f"cannot have {EXIT_PREEMPTED}, which asks for another attempt")
        return codes

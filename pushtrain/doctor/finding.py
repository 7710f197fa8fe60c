"""What one look found: the words of a line, for people and for machines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pushtrain.desired import Desired
from pushtrain.settings import Settings
from pushtrain.spec import JobSpec

# warning: works, and could be safer. unknown: nobody here can tell, and `fix` says who can.
Verdict = Literal["ok", "warning", "wrong", "unknown"]
SPEC, SERVICE = 2, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """`fix` is a command or a page, empty where nothing is to be done. `exit_code` counts where something is wrong."""

    check: str
    verdict: Verdict
    message: str
    fix: str = ""
    exit_code: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Place:
    """What every check may look at. `environ` holds secrets: they are used, never shown."""

    settings: Settings
    environ: Mapping[str, str]
    wanted: Desired | None
    """None where HEAD cannot be read; the check of the job specs says why."""

    @property
    def root(self) -> Path:
        return self.settings.root

    @property
    def specs(self) -> list[JobSpec]:
        """The jobs that may start."""
        return [job.spec for job in self.wanted.jobs.values() if not job.spec.suspend] if self.wanted else []


class Check:
    """Makes the findings of one check."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ok(self, message: str) -> Finding:
        return Finding(check=self.name, verdict="ok", message=message)

    def warning(self, message: str, fix: str) -> Finding:
        return Finding(check=self.name, verdict="warning", message=message, fix=fix)

    def wrong(self, message: str, fix: str, exit_code: int = SERVICE) -> Finding:
        return Finding(check=self.name, verdict="wrong", message=message, fix=fix, exit_code=exit_code)

    def unknown(self, message: str, fix: str = "") -> Finding:
        return Finding(check=self.name, verdict="unknown", message=message, fix=fix)


def text_of(findings: Sequence[Finding]) -> Iterator[str]:
    """A line for each finding, and one below it with what to do."""
    width = max((len(it.check) for it in findings), default=0)
    for it in findings:
        yield f"{it.verdict:<8}{it.check:<{width}}  {it.message}"
        if it.fix:
            yield f"{'':<8}{'':<{width}}  fix: {it.fix}"


def exit_code(findings: Sequence[Finding]) -> int:
    """0, or the largest of what is wrong."""
    return max((it.exit_code for it in findings if it.verdict == "wrong"), default=0)

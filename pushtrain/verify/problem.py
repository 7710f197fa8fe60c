"""One thing about a run's branch that is not as it was written."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is not as it was written. `file` is a path of the branch, or the branch itself."""

    file: str
    what: str
    expected: str = ""
    found: str = ""

    def __str__(self) -> str:
        difference = f" (expected {self.expected}, found {self.found})" if self.expected or self.found else ""
        return f"{self.file}: {self.what}{difference}"

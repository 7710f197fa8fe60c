"""The repository that holds jobs/, in memory: a line of commits, and checkouts of it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from pushtrain.desired import Desired, Job
from pushtrain.spec import JobSpec
from pushtrain.spec.file import loads

from .boards import Windows

JOB = """\
version: 1
name: {name}
task: sft
model: {{id: demo/base}}
data: {{path: data/rows.jsonl}}
compute: {{gpus: [{gpus}], data_centers: [{data_centers}], volume: {{size_gb: {volume_gb}}}}}
budget: {{max_hours: {max_hours}, max_usd: {max_usd}}}
publish: {{repo: demo/{name}}}
train: {{seed: {seed}}}
"""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """One commit on the default branch; `jobs` maps names to the text of their specs."""

    sha: str
    epoch_s: float
    jobs: Mapping[str, str]


class Repository:
    """Commits in their order; the last one is the head of the default branch."""

    def __init__(self, away: Windows) -> None:
        self.commits: list[Pushed] = []
        self.away = away

    def push(self, now: float, jobs: Mapping[str, str]) -> None:
        said = repr((len(self.commits), sorted(jobs.items()))).encode()
        sha = hashlib.sha1(said, usedforsecurity=False).hexdigest()
        self.commits.append(Pushed(sha=sha, epoch_s=now, jobs=dict(jobs)))

    def checkout(self, back: int = 0) -> "Checkout":
        """Of the head, or of a commit so many before it."""
        return Checkout(self, max(0, len(self.commits) - 1 - back))


class Checkout:
    """A member of `pushtrain.source.Source`."""

    def __init__(self, repository: Repository, index: int) -> None:
        self._repository, self._index = repository, index

    def desired(self) -> Desired:
        at = self._repository.commits[self._index]
        jobs = {
            name: Job(spec=_parsed(text, name), spec_path=f"jobs/{name}.yaml", text=text.encode(), commit=at.sha)
            for name, text in at.jobs.items()
        }
        return Desired(commit=at.sha, jobs=jobs, named=frozenset(jobs), problems=())

    def lock_digest(self) -> str | None:
        return None

    def committed_epoch_s(self, commit: str) -> int:
        return int(self._at(commit).epoch_s)

    def descends(self, commit: str, ancestor: str) -> bool:
        return self._number(commit) >= self._number(ancestor) >= 0

    def head(self) -> str | None:
        return None if self._repository.away else self._repository.commits[-1].sha

    def lacks(self, commit: str) -> bool:
        return False

    def _at(self, commit: str) -> Pushed:
        return self._repository.commits[self._number(commit)]

    def _number(self, commit: str) -> int:
        return next((index for index, it in enumerate(self._repository.commits) if it.sha == commit), -1)


@lru_cache(maxsize=4096)
def _parsed(text: str, name: str) -> JobSpec:
    return loads(text.encode(), f"jobs/{name}.yaml")

"""Does a run's branch still say what was written? Whatever was tampered with is named: where, what belongs there, what
is there.

Three things hold a branch together: each event carries the digest of the one before; git's commits only ever add files;
and the spec's claim points into the branch, at its first commit and, once the run is over, at its last file's. Who can
move both branches at will can still forge a whole run, but not before a machine that has seen the old tip.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pushtrain.errors import PushtrainError
from pushtrain.ledger import Ledger
from pushtrain.record import Evidence
from pushtrain.run import RUN_ID
from pushtrain.verify import chain, documents
from pushtrain.verify.problem import Problem

_CHECKS = (
    chain.history,
    chain.anchors,
    chain.events,
    chain.chunks,
    documents.identity,
    documents.result,
    documents.receipt,
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    run_id: str
    tip: str
    events: int
    commits: int
    problems: tuple[Problem, ...]

    def as_json(self) -> dict[str, Any]:
        return {"ok": not self.problems, **asdict(self)}

    def as_text(self) -> str:
        state = "TAMPERED" if self.problems else "ok"
        first = f"{self.run_id}: {state}, {self.events} events in {self.commits} commits"
        return "\n".join([first, *(f"  {problem}" for problem in self.problems)])


def verify(ledger: Ledger, name: str | None) -> list[Verdict]:
    """Verdicts on the runs of that name (a run id, its beginning, or a job), or on all of them.

    Raises PushtrainError when no run is called so, LedgerUnavailable when the remote cannot be reached.
    """
    run_ids = sorted(ledger.refs())
    chosen = run_ids if name is None else _named(run_ids, name)
    if not chosen and name is not None:
        known = ", ".join(run_ids[:5]) or "none"
        raise PushtrainError(f"no run '{name}' in the ledger", hint=f"known runs: {known}", reason="UnknownRun")
    verdicts = [examine(evidence) for evidence in ledger.evidence(chosen)]
    for verdict in verdicts:
        if not verdict.problems:
            ledger.witness(verdict.run_id, verdict.tip)
    return verdicts


def examine(evidence: Evidence) -> Verdict:
    """Everything that is wrong with one run. Pure."""
    problems = tuple(problem for check in _CHECKS for problem in check(evidence))
    count = sum(path.startswith("events/") for path in evidence.paths)
    return Verdict(
        run_id=evidence.run_id, tip=evidence.tip, events=count, commits=len(evidence.commits), problems=problems
    )


def _named(run_ids: Sequence[str], name: str) -> list[str]:
    if name in run_ids:
        return [name]
    of_job = [run_id for run_id in run_ids if (match := RUN_ID.fullmatch(run_id)) and match["job"] == name]
    return of_job or [run_id for run_id in run_ids if name and run_id.startswith(name)]

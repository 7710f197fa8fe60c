"""The branches of a ledger: how they are called, and what one look at their tips says. Standard library only.

A claim points at the commit that claimed the spec; the push that closes a run moves it, forward, to the receipt's
commit. So a look at the tips alone tells which runs are over, and nobody has to fetch those again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pushtrain.run import RUN_ID

RUNS = "refs/heads/runs/"
CLAIMS = "refs/heads/claims/"


@dataclass(frozen=True, kw_only=True)
class Look:
    """The remote's branches at one moment: `runs` is run id → tip, `claims` is claim → commit (see `claim_of`)."""

    runs: Mapping[str, str]
    claims: Mapping[str, str]

    @property
    def claimed(self) -> set[str]:
        """Every spec that a run has, or has had, also where a remote kept but half of a claim."""
        return {*self.claims, *(claim_of(run_id) for run_id in self.runs)}

    @property
    def unborn(self) -> set[str]:
        """Claims without a run: somebody deleted the run's branch, or a remote kept but half of a claim."""
        return set(self.claims) - {claim_of(run_id) for run_id in self.runs}

    @property
    def open_runs(self) -> dict[str, str]:
        """Run id → tip of every run whose branch has to be read to know how it stands."""
        return {run_id: tip for run_id, tip in self.runs.items() if self.claims.get(claim_of(run_id)) != tip}


def look(refs: Mapping[str, str]) -> Look:
    """Sorts a remote's refs (ref → commit); whatever is no branch of a run is left out."""
    runs = {ref[len(RUNS) :]: sha for ref, sha in refs.items() if ref.startswith(RUNS)}
    claims = {ref[len(CLAIMS) :]: sha for ref, sha in refs.items() if ref.startswith(CLAIMS)}
    return Look(runs={name: sha for name, sha in runs.items() if RUN_ID.fullmatch(name)}, claims=claims)


def claim_of(run_id: str) -> str:
    """The name under which a run's spec is claimed, whatever the commit: `<job>-<spec8>`, and for a retry of it
    `<job>-<spec8>-r2` and so on. Raises ValueError when it is no run id."""
    match = RUN_ID.fullmatch(run_id)
    if match is None:
        raise ValueError(f"not a run id: {run_id!r}")
    again = f"-r{match['retry']}" if match["retry"] else ""
    return f"{match['job']}-{match['spec']}{again}"


def runs_of_spec(runs: Mapping[str, str], job: str, spec8: str) -> list[str]:
    """Ids of every run of one spec, the first one first and the newest retry last."""
    found = [(match, run_id) for run_id in runs if (match := RUN_ID.fullmatch(run_id))]
    mine = [(int(it["retry"] or 1), run_id) for it, run_id in found if (it["job"], it["spec"]) == (job, spec8)]
    return [run_id for _, run_id in sorted(mine)]

"""One job at every cloud: what each offers, what it would cost there, how long, and what is missing.

Memory, hours and dollars are the plan's (`pushtrain.plan.build.place_of`); this adds nothing to them but other places.

    rows.py       a spec and the plan's sources → rows, the cheapest first
    missing.py    what a cloud lacks of what the spec asks, and of what is had elsewhere; pure
    boots.py      how long pods took to their first word, by cloud, as the ledger has it
    table.py, document.py, svg.py show it
"""

from collections.abc import Mapping
from pathlib import Path

from pushtrain.check import check
from pushtrain.compare.rows import Comparison, Row, comparison
from pushtrain.errors import SpecError
from pushtrain.plan.sources import open_sources

__all__ = ["Comparison", "Row", "compare", "comparison"]


def compare(path: Path, root: Path, environ: Mapping[str, str]) -> tuple[Comparison | None, list[SpecError]]:
    """The comparison of one spec, None where it cannot be read as one, and its problems as `check` has them.

    Raises PushtrainError for prices that cannot be read. Blocking: asks the Hub, each cloud whose key is set, and the
    ledger where PUSHTRAIN_LEDGER_URL names one.
    """
    found = check([path], root)
    specs = (*found.specs, *found.refused)
    if not specs:
        return None, list(found.problems)
    return comparison(specs[0], open_sources(root, environ)), list(found.problems)

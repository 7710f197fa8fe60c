"""A comparison as JSON. Its shape is stable (docs/plan.md): keys are added, never renamed; `format` counts what
breaks."""

from typing import Any

from pushtrain.compare.rows import Comparison, Row
from pushtrain.plan.document import place_document

FORMAT = 1


def document(found: Comparison) -> dict[str, Any]:
    """A row is the plan's place (docs/plan.md) and what only a comparison says."""
    memory = found.memory
    return {
        "format": FORMAT,
        "name": found.spec.name,
        "digest": found.spec.digest,
        "task": found.spec.task,
        "budget": {"max_usd": found.spec.budget.max_usd, "max_hours": found.spec.budget.max_hours},
        "memory": None
        if memory is None
        else {"need_gb": round(memory.need_gb, 3), "floor_gb": round(memory.floor_gb, 3)},
        "prices": {
            cloud: {"said": said, "is_live": found.days[cloud] is None, "asked": found.days[cloud]}
            for cloud, said in found.prices.items()
        },
        "rows": [_row(row) for row in found.rows],
        "notes": list(found.notes),
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        **place_document(row.place),
        "title": row.title,
        "boot_s": None if row.boot_s is None else round(row.boot_s, 1),
        "missing": list(row.missing),
        "goes_there": row.goes_there,
    }

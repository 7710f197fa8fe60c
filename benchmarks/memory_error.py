"""The memory estimate beside published peaks: the closed form, what a card should have, what it must.

    python benchmarks/memory_error.py

A peak published as G or GB is read as 10^9 bytes. Rows that did what pushtrain does not do are shown and not counted.
The table and its sources: benchmarks/published.json.
"""

import json
import statistics
from pathlib import Path
from typing import Any

from pushtrain.estimate.config import shape_of
from pushtrain.estimate.known import known_shape
from pushtrain.estimate.memory import GIB, MemoryEstimate, memory
from pushtrain.estimate.recipe import Recipe
from pushtrain.estimate.shape import ModelShape

PUBLISHED: dict[str, Any] = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
UNITS = {"G": 1e9, "GB": 1e9, "GiB": GIB, "card": GIB}


def main() -> None:
    counted: list[tuple[float, bool, bool]] = []
    print(f"{'model':26} {'recipe':30} {'peak':>7} {'closed':>7} {'need':>7} {'floor':>7}  closed is off by  (GiB)")
    for row in PUBLISHED["memory"]:
        found, peak = estimate(row), row["peak"] * UNITS[row["unit"]]
        error = found.closed_bytes / peak - 1
        mark = f"  not counted: {row['other']}" if "other" in row else ""
        sizes = (peak, found.closed_bytes, found.need_bytes, found.floor_bytes)
        figures = " ".join(f"{size / GIB:7.2f}" for size in sizes)
        print(f"{row['model']:26} {told(row['recipe']):30} {figures}  {error:+7.1%}{mark}")
        if not mark:
            counted.append((error, found.need_bytes >= peak, found.floor_bytes <= peak))
    errors = [error for error, _, _ in counted]
    print(
        f"{len(counted)} rows: closed form off by {min(errors):+.1%} to {max(errors):+.1%}, median "
        f"{statistics.median(errors):+.1%}; need covers {sum(it[1] for it in counted)}, floor is below the peak in "
        f"{sum(it[2] for it in counted)}"
    )


def estimate(row: dict[str, Any]) -> MemoryEstimate:
    return memory(shape(row["model"]), recipe(row["recipe"]))


def shape(model: str) -> ModelShape:
    if model in PUBLISHED["configs"]:
        return shape_of(PUBLISHED["configs"][model])
    known = known_shape(model)
    assert known is not None, model
    return known[0]


def recipe(written: dict[str, Any]) -> Recipe:
    modules = written.get("target_modules")
    return Recipe(**{**written, "target_modules": tuple(modules) if modules else None})


def told(written: dict[str, Any]) -> str:
    kind = "full" if written.get("is_full") else f"{'qlora' if written.get('bits') == 4 else 'lora'} r{written['rank']}"
    kept = "" if written["checkpointing"] else ", all kept"
    return f"{kind}, {written['micro_batch']} × {written['length']}{kept}"


if __name__ == "__main__":
    main()

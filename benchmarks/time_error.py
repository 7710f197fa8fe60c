"""The estimated tokens per second beside published ones, and the share of the card's peak that each comes to.

    python benchmarks/time_error.py

Rows that cannot be compared are shown with the reason and not counted. Sources: benchmarks/published.json.
"""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from memory_error import PUBLISHED, recipe, shape

from pushtrain.estimate.cards import card
from pushtrain.estimate.speed import flops_per_token, kind_of, speed


def main() -> None:
    ratios: dict[bool, list[float]] = {False: [], True: []}
    head = f"{'model':26} {'kind':5} {'card':24} {'published':>9} {'estimate':>9} {'error':>6}"
    print(f"{head}  share of the peak, published")
    for row in PUBLISHED["speed"]:
        asked, sizes, count = recipe(row["recipe"]), shape(row["model"]), row.get("count", 1)
        found, known = speed(sizes, asked, row["gpu"], count), card(row["gpu"])
        assert found is not None and known is not None
        reached = row["tokens_per_s"] / count * flops_per_token(sizes, asked) / (known.bf16_tflops * 1e12)
        error = found.tokens_per_s / row["tokens_per_s"] - 1
        figures = f"{row['tokens_per_s']:9.0f} {found.tokens_per_s:9.0f} {error:+6.0%}  {reached:.2f}"
        said = f", not counted: {row['other']}" if "other" in row else ", compiled" if row.get("compiled") else ""
        print(f"{row['model']:26} {kind_of(asked):5} {row['gpu'].removeprefix('NVIDIA '):24} {figures}{said}")
        if "other" not in row:
            ratios[bool(row.get("compiled"))].append(error)
    for is_compiled, errors in ratios.items():
        print(
            f"{len(errors)} rows {'with' if is_compiled else 'without'} torch.compile: off by {min(errors):+.0%} to "
            f"{max(errors):+.0%}, median {statistics.median(errors):+.0%}, median size "
            f"{statistics.median(abs(it) for it in errors):.0%}"
        )


if __name__ == "__main__":
    main()

"""Golden loss curves, one for each task and method: the same code, seed and data give the same losses, step by step.

`make golden` writes them anew, on purpose, after a change that is meant to move them.
"""

import json
import os
from pathlib import Path

import pytest
from tiny_model import Bench

FILE = Path(__file__).parent / "golden" / "losses.json"
# fp32 on another CPU sums in another order; NF4 through another kernel rounds bf16.
TOLERANCE = 1e-4
NF4_TOLERANCE = 2e-3


def follows_golden_curve(bench: Bench, name: str) -> None:
    """Compares the losses of attempt 1, or with PUSHTRAIN_UPDATE_GOLDEN set writes them."""
    losses = [round(record["loss"], 7) for record in bench.file("metrics.jsonl") if "loss" in record]
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    if os.environ.get("PUSHTRAIN_UPDATE_GOLDEN"):
        FILE.write_text(json.dumps(dict(sorted({**known, name: losses}.items())), indent=1) + "\n")
        return
    tolerance = NF4_TOLERANCE if name.partition("-")[2].startswith("q") else TOLERANCE
    assert losses == pytest.approx(known[name], rel=tolerance), f"{name}: make golden, if that was meant"

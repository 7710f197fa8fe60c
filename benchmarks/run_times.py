"""Where the seconds of a run go: read from the ledger of the last `make demo` (or of a git URL given as argument).

Prints each span and its share of the whole. A demo is run first when there is none.
"""

import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from pushtrain.events import parse_time
from pushtrain.ledger import Ledger, RunRecord

DEMO = Path(".pushtrain/demo/run/remote.git").absolute()


def main() -> None:
    if len(sys.argv) < 2 and not DEMO.exists():
        subprocess.run([sys.executable, "-m", "pushtrain", "demo"], check=True)
    url = sys.argv[1] if len(sys.argv) > 1 else f"file://{DEMO}"
    with tempfile.TemporaryDirectory() as cache:
        ledger = Ledger(url, cache_dir=Path(cache))
        for record in ledger.read_all(ledger.refs()).values():
            raw, _ = ledger.text(record, "metrics")
            report(record, [json.loads(line) for line in raw.splitlines()])


def report(record: RunRecord, metrics: list[dict[str, float]]) -> None:
    """Spans between the moments that a person pays for, or waits for."""
    at = {event.state: event.epoch_s for event in record.events}
    steps = [row["time"] for row in metrics if row.get("loss") is not None]
    proof = (record.receipt or {}).get("proof", {}).get("asked_at", [])
    moments = [
        ("claimed", at.get("claimed")),
        ("pod created", at.get("provisioned")),
        ("pod's first word", at.get("booting")),
        ("trainer starts", at.get("preparing")),
        ("first optimizer step", min(steps, default=None)),
        ("last optimizer step", max(steps, default=None)),
        ("trainer's end", at.get("finished")),
        ("seen by the control plane", at.get("destroying")),
        ("cloud lists nothing", parse_time(proof[0]) if proof else None),
        ("receipt", at.get("closed")),
    ]
    known = [(name, when) for name, when in moments if when is not None]
    whole = known[-1][1] - known[0][1]
    print(f"{record.run_id}: {whole:.1f} s from claim to receipt")
    for (_, before), (name, when) in itertools.pairwise(known):
        print(f"  {when - before:7.1f} s  {100 * (when - before) / whole:5.1f} %  until {name}")


if __name__ == "__main__":
    main()

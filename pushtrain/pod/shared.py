"""On a volume that runs share, the next pod takes away what finished runs left: it knows of them by the ledger."""

import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from pushtrain.errors import LedgerError
from pushtrain.ledger import Ledger
from pushtrain.pod.console import clean
from pushtrain.pod.context import LEDGER_TOKEN, Context
from pushtrain.refs import Look


def clear_finished(context: Context, environ: Mapping[str, str]) -> threading.Thread | None:
    """Removes in the background the folders of runs that are over; None where the volume is the run's own.

    A ledger that does not answer costs the clearing: the next pod tries again.
    """
    if not context.is_shared:
        return None
    # It ends with this process: half a folder is taken away by the next pod.
    thread = threading.Thread(target=_clear, args=(context, environ), name="clear-finished", daemon=True)
    thread.start()
    return thread


def left_by_finished(runs: Path, look: Look, own: str) -> list[Path]:
    """Folders of runs that the ledger knows and to which nothing more will come. What it does not know stays."""
    over = look.runs.keys() - look.open_runs.keys() - {own}
    return sorted(path for path in runs.iterdir() if path.name in over) if runs.is_dir() else []


def _clear(context: Context, environ: Mapping[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix="pushtrain-ledger-") as cache:
        token = environ.get(LEDGER_TOKEN)
        ledger = Ledger(context.ledger_url, cache_dir=Path(cache) / "git", token=token, environ=environ)
        try:
            left = left_by_finished(context.workspace / "runs", ledger.look(), context.run_id)
        except (LedgerError, OSError) as failure:
            print(clean(f"pushtrain: finished runs stay on the volume for now: {failure}", environ), flush=True)
            return
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            print(f"pushtrain: cleared runs/{folder.name}: that run is over", flush=True)

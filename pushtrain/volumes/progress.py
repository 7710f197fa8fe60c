"""How far a transfer is, as a line every few seconds: the same in a terminal and in an Action's log."""

import threading
from collections.abc import Callable

from pushtrain.volumes.transfer import Progress

EVERY_S = 5.0


def progress_lines(say: Callable[[str], None], clock: Callable[[], float], every_s: float = EVERY_S) -> Progress:
    """Says path, share and speed at most once in `every_s`. What takes less says nothing."""
    lock, told_s, seen = threading.Lock(), clock(), {"": 0}

    def progress(path: str, done: int, size: int) -> None:
        nonlocal told_s
        with lock:
            before = seen.get(path)
            if before is None:
                seen.clear()
                seen[path] = before = 0
            now_s = clock()
            if now_s - told_s < every_s or done <= before:
                return
            rate = (done - before) / (now_s - told_s) / 1e6
            say(f"{path}: {done / max(size, 1):.0%} of {size / 1e9:.2f} GB, {rate:.1f} MB/s")
            told_s, seen[path] = now_s, done

    return progress

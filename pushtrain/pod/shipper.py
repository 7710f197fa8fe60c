"""Sends what the attempt says to the ledger, from a thread of its own: an outage never stops or slows the training."""

import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from pushtrain.events import EventDraft
from pushtrain.gitcmd import REFUSED
from pushtrain.pod.console import clean
from pushtrain.pod.spool import Batch, Spool

LONGEST_PAUSE_TICKS = 60
LONGEST_LAST_PAUSE_TICKS = 5
# After so many refusals by a rule of the remote a batch goes without log and metrics, after twice as many with its
# texts cut short: what a scan for secrets or a size limit dislikes must not hold up everything behind it.
PATIENT_REFUSALS = 5
# A push each `every_s` for so many of them, then ever more slowly: ten days at 60 s are 3,700 pushes, not 14,400, and
# a branch's size grows with the square of them.
PUSHES_AT_FULL_PACE = 1000


class Append(Protocol):
    """`Ledger.append` for one run. Raises when the batch may not have landed; then it is called again unchanged."""

    def __call__(
        self,
        *,
        events: tuple[EventDraft, ...],
        log: bytes,
        metrics: bytes,
        files: Mapping[str, bytes],
    ) -> str: ...


class Shipper:
    """Events go at once, with the logs and metrics gathered so far; those alone at most every `every_s` seconds."""

    def __init__(
        self,
        spool: Spool,
        append: Append,
        *,
        every_s: float,
        tick_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool, self._append, self._clock = spool, append, clock
        self._every_s, self._tick_s = every_s, tick_s
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._done = False
        self._began_s = clock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def say(self, draft: EventDraft) -> None:
        with self._lock:
            self._spool.say(draft)
        self._wake.set()

    def finish(self, draft: EventDraft, files: Mapping[str, bytes], *, timeout_s: float) -> bool:
        """The last event and everything before it, tried for `timeout_s`; False when the ledger did not take it all."""
        with self._lock:
            self._spool.say(draft, files, is_last=True)
            self._closing = True
        self._wake.set()
        self._thread.join(timeout_s)
        return self._done

    def _run(self) -> None:
        due_s = self._clock() + self._every_s
        said = ""
        while not self._done:
            try:
                batch = self._next(self._clock() >= due_s)
            except Exception as error:  # noqa: BLE001 — a volume that cannot be read may be read later
                batch, trouble = None, clean(f"spool: {type(error).__name__}: {error}; trying again")
                if trouble != said:
                    print(trouble, flush=True)
                said = trouble
            if batch is not None:
                self._push(batch)
                now_s = self._clock()
                due_s = now_s + pause_s(self._every_s, now_s - self._began_s)
            elif not self._done:
                self._wake.wait(self._tick_s)
                self._wake.clear()

    def _next(self, due: bool) -> Batch | None:
        with self._lock:
            closing = self._closing
            if not (closing or due or self._spool.has_events()):
                return None
            batch = self._spool.gather(at_end=closing)
            self._done = closing and batch is None
            return batch

    def _push(self, batch: Batch) -> None:
        """Until it has landed: the ledger recognises a batch it already has only when it is the same one."""
        failures = refusals = 0
        while True:
            try:
                self._append(events=batch.events, log=batch.log, metrics=batch.metrics, files=batch.files)
                break
            except Exception as error:  # noqa: BLE001 — nothing the ledger does may end this thread under the training
                print(clean(f"ledger: {type(error).__name__}: {error}; trying again"), flush=True)
                if getattr(error, "reason", "") == REFUSED:
                    refusals += 1
                    batch = self._lighter(batch, refusals, str(error))
            failures += 1
            longest = LONGEST_LAST_PAUSE_TICKS if self._closing else LONGEST_PAUSE_TICKS
            # Full jitter, so that many pods do not come back to a remote at the same moment.
            self._wake.wait(self._tick_s * min(longest, 2**failures) * random.uniform(0.5, 1.0))
            self._wake.clear()
        try:
            with self._lock:
                self._spool.landed(batch)
        except OSError as error:
            print(f"shipped.json: {error.strerror}", flush=True)

    def _lighter(self, batch: Batch, refusals: int, why: str) -> Batch:
        """What to try next. A refusal is certain: an earlier try that had no answer was looked for before it."""
        if refusals not in (PATIENT_REFUSALS, 2 * PATIENT_REFUSALS):
            return batch
        try:
            with self._lock:
                return self._spool.lighter(batch, why, is_last_resort=refusals > PATIENT_REFUSALS)
        except OSError as error:
            print(f"spool: {error.strerror}", flush=True)
            return batch


def pause_s(every_s: float, elapsed_s: float) -> float:
    """Seconds from one push of logs and metrics to the next, `elapsed_s` after the first."""
    return max(every_s, elapsed_s / PUSHES_AT_FULL_PACE)

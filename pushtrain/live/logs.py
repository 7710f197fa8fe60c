"""`pushtrain logs -f`: events and log from the ledger, and between its pushes the cloud's own stream of the pod."""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pushtrain.cloud import Cloud, LogLine
from pushtrain.errors import CloudError, LedgerUnavailable, PushtrainError
from pushtrain.fleet import cloud_of
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.listing import event_text, log_texts
from pushtrain.live.once import Once
from pushtrain.lookup import newest_run

# A stream is asked for so long at a time; the cloud may hold it twice as long when it falls silent.
STREAM_S = 30.0
_AGAIN_S, _LOOK_S = 5.0, 0.2


@dataclass
class Stream:
    """The log of one pod as its cloud tells it, read in a thread of its own. `lines` fill up; `close` lets it go."""

    open_cloud: Callable[[], Cloud]
    pod_id: str
    say: Callable[[str], None]
    lines: "queue.Queue[LogLine]" = field(default_factory=queue.Queue)
    _closed: threading.Event = field(default_factory=threading.Event)

    def start(self) -> "Stream":
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def close(self) -> None:
        self._closed.set()

    def drain(self) -> Iterator[LogLine]:
        while True:
            try:
                yield self.lines.get_nowait()
            except queue.Empty:
                return

    def _read(self) -> None:
        last, told = None, ""
        try:
            cloud = self.open_cloud()
        except PushtrainError as error:
            self.say(f"from the ledger alone: {error}")
            return
        while not self._closed.is_set():
            try:
                for line in cloud.logs(self.pod_id, last, STREAM_S):
                    last = line.event_id
                    self.lines.put(line)
            except CloudError as error:
                if str(error) != told:
                    self.say(f"the cloud's log: {error}; the ledger goes on")
                told = str(error)
            self._closed.wait(_AGAIN_S if told else _LOOK_S)


class Follower:
    """One run from now to its end. `stream(cloud, pod_id)` opens the log of a pod at its cloud."""

    def __init__(self, ledger: Ledger, name: str, stream: Callable[[str, str], Stream], *, as_json: bool) -> None:
        self._ledger, self._stream, self._as_json = ledger, stream, as_json
        self._run_id = newest_run(ledger, name).run_id
        self._tip, self._seen, self._chunk = "", 0, 0
        self._open: Stream | None = None
        self._once = Once()
        self.is_over = False

    def from_ledger(self) -> Iterator[str]:
        """What is new in the ledger. Raises PushtrainError for a branch that was deleted, LedgerUnavailable."""
        tip = self._ledger.refs().get(self._run_id)
        if tip is None:
            raise PushtrainError(f"the branch of run {self._run_id} was deleted", reason="UnknownRun")
        if tip == self._tip:
            return
        record = self._ledger.read(self._run_id, tip)
        raw, chunk = self._ledger.text(record, "logs", self._chunk)
        for event in record.events[self._seen :]:
            yield event_text(event, self._as_json)
        lines = raw.decode(errors="replace").removesuffix("\n").split("\n") if raw else []
        kept = [f"{line}\n" for line in lines if self._once.is_new("ledger", line)]
        yield from log_texts("".join(kept), self._as_json)
        self._tip, self._seen, self._chunk, self.is_over = tip, len(record.events), chunk, record.is_over
        self._follow_pod(record)

    def from_cloud(self) -> Iterator[str]:
        """What the pod's stream has brought since."""
        for line in self._open.drain() if self._open is not None else ():
            if line.source == "system":
                yield self._told("system", f"── {line.time} [cloud] {line.line}\n", line.line)
            elif self._once.is_new("cloud", line.line):
                yield self._told("log", line.line + "\n", line.line + "\n")

    def close(self) -> None:
        if self._open is not None:
            self._open.close()

    def _told(self, kind: str, text: str, plain: str) -> str:
        return json.dumps({kind: plain}) + "\n" if self._as_json else text

    def _follow_pod(self, record: RunRecord) -> None:
        pods = [str(event.data.get("pod_id") or "") for event in record.events if event.state == "provisioned"]
        pod_id = "" if record.is_over or not pods or record.last.state == "destroying" else pods[-1]
        if pod_id and (self._open is None or self._open.pod_id != pod_id):
            self.close()
            self._open = self._stream(cloud_of(record), pod_id)


def follow_logs(
    ledger: Ledger,
    name: str,
    stream: Callable[[str, str], Stream],
    *,
    as_json: bool,
    tick_s: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """Everything so far, then everything as it comes, until the run is over; no line twice.

    A ledger that cannot be reached is waited for while the cloud's stream goes on. Raises PushtrainError for an unknown
    run, LedgerUnavailable where the first look fails.
    """
    follower = Follower(ledger, name, stream, as_json=as_json)
    looked_s = float("-inf")
    try:
        while not follower.is_over:
            yield from follower.from_cloud()
            if time.monotonic() - looked_s >= tick_s:
                try:
                    yield from follower.from_ledger()
                except LedgerUnavailable:
                    if looked_s == float("-inf"):
                        raise
                looked_s = time.monotonic()
            if not follower.is_over:
                sleep(_LOOK_S)
    finally:
        follower.close()

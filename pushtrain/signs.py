"""Signs of life of a pod that do not come by way of the ledger: what its cloud still has of the container's log."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pushtrain.cloud import Cloud, LogLine, Pod
from pushtrain.errors import CloudError
from pushtrain.events import parse_time
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.redact import redact

# RunPod's system log is not documented; these words are its own and those of the container engine below it. What is
# missed here is found by the boot limit.
_STARTED = re.compile(r"(?i)\b(start container|(failed to|error) (start|creat)\w* container|error starting container)")
_LOOK_S = 3.0
_TAIL_LINES, _LINE_CHARS = 5, 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Signs:
    """`heard_s`: time of the container log's last line by the cloud's clock, None when there was none or the cloud did
    not answer; `answered` tells which. `starts`: how often the container was started, as far as anybody saw.
    `stepped_s`: time of the last step the ledger has, by the pod's clock."""

    answered: bool
    heard_s: float | None = None
    starts: int = 0
    lines: tuple[str, ...] = ()
    stepped_s: float | None = None

    def is_silent(self, now_s: float, for_s: float) -> bool:
        """An unanswered question never counts as silence."""
        return self.answered and (self.heard_s is None or now_s - self.heard_s > for_s)


class Uptimes:
    """Containers seen to have been restarted: their uptime went backwards between two listings of one process. By cloud
    and id: two clouds may give one id to two pods."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], int] = {}
        self._restarts: Counter[tuple[str, str]] = Counter()

    def note(self, cloud: str, pods: Iterable[Pod]) -> None:
        """`pods` are all that this cloud lists."""
        for pod in pods:
            if pod.uptime_s is None:
                continue
            key = cloud, pod.id
            self._restarts[key] += pod.uptime_s < self._last.get(key, 0)
            self._last[key] = pod.uptime_s

    def restarts(self, cloud: str, pod_id: str) -> int:
        return self._restarts[cloud, pod_id]


def look(cloud: Cloud, pod_id: str, *, restarts: int = 0, stepped_s: float | None = None) -> Signs:
    """Ask the cloud for the pod's log; takes about three seconds, because the cloud keeps the stream open.

    `restarts` that were seen otherwise count where the log tells of fewer.
    """
    try:
        signs = read_signs(cloud.logs(pod_id, timeout_s=_LOOK_S), stepped_s=stepped_s)
    except CloudError:
        signs = Signs(answered=False, stepped_s=stepped_s)
    return replace(signs, starts=max(signs.starts, restarts + 1 if restarts else 0))


def read_signs(log: Iterable[LogLine], *, stepped_s: float | None = None) -> Signs:
    heard_s, starts, lines, timed = None, 0, list[str](), True
    for line in log:
        if line.source == "system":
            starts += bool(_STARTED.search(line.line))
        else:
            heard_s, timed = max(heard_s or 0.0, _epoch_s(line.time)), timed and bool(line.time)
        lines = [*lines[1 - _TAIL_LINES :], f"{line.source}: {line.line[:_LINE_CHARS]}"]
    # A log without times (Vast.ai) cannot tell that it fell silent.
    return Signs(answered=timed, heard_s=heard_s, starts=starts, lines=tuple(lines), stepped_s=stepped_s)


def last_step_s(ledger: Ledger, record: RunRecord) -> float | None:
    """When the last step the ledger knows of was logged, by the pod's clock; reads one chunk."""
    last = max((int(path[8:14]) for path in record.paths if re.match(r"metrics/\d{6}", path)), default=0)
    raw, _ = ledger.text(record, "metrics", last - 1) if last else (b"", 0)
    for line in reversed(raw.splitlines()):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row and isinstance(row.get("time"), int | float):
            return float(row["time"])
    return None


def tail(signs: Signs | None) -> str:
    """The last lines of the log as the end of a sentence; they are the pod's words and pass `redact`."""
    return f"; its log ends: {redact(' | '.join(signs.lines))}" if signs and signs.lines else ""


def _epoch_s(text: str) -> float:
    try:
        return parse_time(text)
    except ValueError:
        return 0.0

"""Everything a run ever rented, as its branch has it: what the bill is asked for.

Events name the pods that were meant to be. Of what came to be besides (a twin, a pod on no recorded rung, the volume of
a climb that was cut short) a file is left, `rented/pod-ID` or `rented/volume-ID`, before it is ended: `{"ended": epoch
seconds, "usd": what it cost by then}`, which the budget counts.
"""

from collections.abc import Iterable

from pushtrain.cloud import Pod
from pushtrain.control import Control
from pushtrain.errors import LedgerError
from pushtrain.events import parse_time
from pushtrain.fleet import cloud_of
from pushtrain.jsontext import json_bytes
from pushtrain.ledger import RunRecord
from pushtrain.record import RENTED
from pushtrain.redact import redact

_POD, _VOLUME = f"{RENTED}pod-", f"{RENTED}volume-"


def note(control: Control, run_id: str, *, pods: Iterable[Pod] = (), volumes: Iterable[str] = ()) -> None:
    """Leave what is ended now for budget and receipt. A ledger that is away costs the note, never the ending.

    A volume, empty and minutes old, counts nothing.
    """
    now_s = control.clock()
    costs = {_POD + pod.id: cost_usd(pod, now_s) for pod in pods} | {_VOLUME + it: 0.0 for it in volumes}
    try:
        where = control.cloud.name
        files = {name: json_bytes({"ended": now_s, "usd": usd, "cloud": where}) for name, usd in costs.items()}
        control.ledger.append(run_id, files=files)
    except LedgerError as failure:
        control.say(f"{run_id}: not noted for the bill: {', '.join(costs)}: {redact(str(failure))}")


def cost_usd(pod: Pod, now_s: float) -> float:
    """Dollars since the cloud says that it was created; 0 where it does not say."""
    if pod.created_at is None:
        return 0.0
    return round(max(0.0, now_s - parse_time(pod.created_at)) / 3600 * pod.usd_per_hour, 6)


def rented(record: RunRecord) -> tuple[list[str], list[str]]:
    """Ids of every pod and volume the run's branch knows of, whoever said so, at the cloud where the run is."""
    here = [path for path in record.paths if _is_at(record, path)]
    pods = {path.removeprefix(_POD) for path in here if path.startswith(_POD)}
    volumes = {path.removeprefix(_VOLUME) for path in here if path.startswith(_VOLUME)}
    for event in record.events:
        if event.state == "provisioned":
            pods.add(str(event.data["pod_id"]))
            volumes.add(str(event.data["volume_id"]))
        elif event.state == "destroying":
            pods.update(event.data.get("pods") or ())
            volumes.update(event.data.get("volumes") or ())
        elif event.state == "booting":
            pods.add(str(event.data.get("pod") or ""))
    return sorted(pods - {""}), sorted(volumes - {""})


def elsewhere_usd(record: RunRecord) -> float:
    """What was noted at other clouds than the run's own: on no bill that its own can tell."""
    return sum(float(note.get("usd", 0.0)) for path, note in record.rented.items() if not _is_at(record, path))


def _is_at(record: RunRecord, path: str) -> bool:
    """Whether a note is of the run's own cloud: another one's ids mean nothing to its bill."""
    return path.startswith(RENTED) and record.rented.get(path, {}).get("cloud") in (None, cloud_of(record))

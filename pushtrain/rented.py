"""Everything a run ever rented, as its branch has it: what the bill is asked for.

Events name the pods that were meant to be. Of what came to be besides (a twin, a pod on no recorded rung, the volume of
a climb that was cut short) a file is left, `rented/pod-ID` or `rented/volume-ID`, before it is ended: `{"ended": epoch
seconds, "usd": what it cost by then}`, which the budget counts. So it counts what a twin cost before it went on in the
place of the pod that an event names.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import takewhile

from pushtrain.cloud import Pod
from pushtrain.control import Control
from pushtrain.errors import CloudError, LedgerError
from pushtrain.events import now_text, parse_time
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
    ended, now_s = list(pods), control.clock()
    names = [_POD + pod.id for pod in ended] + [_VOLUME + it for it in volumes]
    try:
        record = control.ledger.read(run_id)
        costs = {_POD + it.id: _cost_usd(control, record, it, now_s, until_s=now_s) for it in ended}
        _write(control, run_id, dict.fromkeys(names, 0.0) | costs, now_s)
    except LedgerError as failure:
        control.say(f"{run_id}: not noted for the bill: {', '.join(names)}: {redact(str(failure))}")


def note_unnamed(control: Control, run_id: str, named: Collection[str], pods: Sequence[Pod]) -> None:
    """Note those of an attempt's `pods`, which are ended now, that no event names. Where the `named` one is not among
    them the oldest went on in its place."""
    unnamed = sorted((pod for pod in pods if pod.id not in named), key=lambda pod: pod.age_key)
    if unnamed and len(unnamed) == len(pods):
        note_head_start(control, run_id, unnamed.pop(0))
    if unnamed:
        note(control, run_id, pods=unnamed)


def note_head_start(control: Control, run_id: str, pod: Pod) -> None:
    """Count what a pod cost before the attempt's `provisioned`, which names a twin of it: the pod goes on in its place,
    and the attempt's hours are counted from that event on."""
    try:
        record, now_s = control.ledger.read(run_id), control.clock()
        named = next((event for event in reversed(record.events) if event.state == "provisioned"), None)
        if named is not None and named.data["pod_id"] != pod.id:
            usd = _cost_usd(control, record, pod, now_s, until_s=named.epoch_s)
            _write(control, run_id, {_POD + pod.id: usd}, now_s)
    except LedgerError as failure:
        control.say(f"{run_id}: not noted for the bill: pod {pod.id}: {redact(str(failure))}")


def made_s(control: Control, record: RunRecord, pod: Pod, now_s: float) -> float | None:
    """Since when a pod of the newest attempt is billed, in epoch seconds: as its cloud says; where it does not say, by
    what it has cost; where it does not say that either, since it was first asked for. None where that is nowhere."""
    try:
        if pod.created_at:
            return parse_time(pod.created_at)
    except ValueError:
        control.say(f"{record.run_id}: pod {pod.id}: nobody can read when it was made: {redact(str(pod.created_at))}")
    try:
        bill = control.cloud.bill([pod.id], [], now_text(record.events[0].epoch_s))
        if bill.is_told and pod.usd_per_hour > 0:
            return now_s - bill.pods_usd / pod.usd_per_hour * 3600
    except CloudError as failure:
        control.say(f"{record.run_id}: pod {pod.id}: what it cost is not told: {failure.reason}: {failure}")
    return _asked_since(record)


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


def _write(control: Control, run_id: str, costs: Mapping[str, float], now_s: float) -> None:
    about = {"ended": now_s, "cloud": control.cloud.name}
    control.ledger.append(run_id, files={name: json_bytes({**about, "usd": usd}) for name, usd in costs.items()})


def _cost_usd(control: Control, record: RunRecord, pod: Pod, now_s: float, *, until_s: float) -> float:
    began_s = made_s(control, record, pod, now_s)
    return 0.0 if began_s is None else round(max(0.0, until_s - began_s) / 3600 * pod.usd_per_hour, 6)


def _asked_since(record: RunRecord) -> float | None:
    """When the newest attempt was first planned since a climb last came to its end without a pod (`waiting`)."""
    newest = max(event.attempt for event in record.events)
    mine = [it for it in record.events if it.attempt == newest and it.state in ("provisioning", "waiting")]
    planned = list(takewhile(lambda event: event.state == "provisioning", reversed(mine)))
    return planned[-1].epoch_s if planned else None

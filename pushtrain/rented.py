"""Everything a run ever rented, as its branch has it: what the bill is asked for.

Events name the pods that were meant to be. Of what came to be besides (a twin, a pod on no recorded rung, the volume of
a climb that was cut short) a file is left, `rented/pod-ID` or `rented/volume-ID`, before it is ended.
"""

from collections.abc import Iterable

from pushtrain.control import Control
from pushtrain.errors import LedgerError
from pushtrain.ledger import RunRecord
from pushtrain.redact import redact

_POD, _VOLUME = "rented/pod-", "rented/volume-"


def note(control: Control, run_id: str, *, pods: Iterable[str] = (), volumes: Iterable[str] = ()) -> None:
    """Leave ids for the receipt. A ledger that is away costs the note, never the ending."""
    names = [*(_POD + it for it in pods), *(_VOLUME + it for it in volumes)]
    try:
        control.ledger.append(run_id, files={name: b"\n" for name in names})
    except LedgerError as failure:
        control.say(f"{run_id}: not noted for the bill: {', '.join(names)}: {redact(str(failure))}")


def rented(record: RunRecord) -> tuple[list[str], list[str]]:
    """Ids of every pod and volume the run's branch knows of, whoever said so."""
    pods = {path.removeprefix(_POD) for path in record.paths if path.startswith(_POD)}
    volumes = {path.removeprefix(_VOLUME) for path in record.paths if path.startswith(_VOLUME)}
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

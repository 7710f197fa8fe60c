"""The volume a spec with `compute.volume.keep` names: shared by the runs of one ledger, made by the first to need it.

It is in no run's stack and in no budget. Nothing here deletes one: `pushtrain volumes delete` alone does, by hand.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD
from pushtrain.cloud import Cloud, Volume, VolumeKind, VolumeRequest
from pushtrain.errors import SpecError
from pushtrain.ledger import Ledger
from pushtrain.lookup import read_each
from pushtrain.placement import Candidate
from pushtrain.prices import storage_usd_per_month
from pushtrain.run import kept_prefix, kept_volume_name
from pushtrain.spec import JobSpec

ON_PURPOSE = "kept on purpose"


def kept_name(spec: JobSpec, ledger_url: str) -> str | None:
    """What the cloud calls the kept volume of a spec; None for a spec whose volume goes with the run."""
    volume = spec.compute.volume
    return kept_volume_name(volume.name, ledger_url) if volume.keep and volume.name else None


def first_of(volumes: Sequence[Volume], name: str, given: Collection[str] = ()) -> Volume | None:
    """The volume of exactly that name. Should there be several, everybody takes the first by id of those that runs were
    `given`: a create that the cloud carries out minutes late leaves an empty one beside it."""
    same = (it for it in volumes if it.name == name)
    return min(same, key=lambda it: (it.id not in given, it.id), default=None)


def given_ids(ledger: Ledger) -> frozenset[str]:
    """Ids of the kept volumes that any run, over or not, was given. Reads every run. Raises LedgerError."""
    records, _ = read_each(ledger, ledger.refs())
    said = (event.data.get("kept_volume_id") for record in records.values() for event in record.events)
    return frozenset(str(volume_id) for volume_id in said if volume_id)


def kept_of(volumes: Sequence[Volume], ledger_url: str) -> tuple[Volume, ...]:
    """Those that this ledger's runs share."""
    return tuple(volume for volume in volumes if volume.name.startswith(kept_prefix(ledger_url)))


def spare_kept(volumes: Sequence[Volume], ledger: Ledger) -> tuple[tuple[Volume, Volume], ...]:
    """Each of the ledger's kept volumes that stands beside the one of its name that runs use, with that one. The runs
    are read only where there are any. Raises LedgerError."""
    kept = kept_of(volumes, ledger.url)
    several = [name for name, many in Counter(it.name for it in kept).items() if many > 1]
    ids = given_ids(ledger) if several else ()
    pairs = [(it, used) for it in kept if it.name in several and (used := first_of(kept, it.name, ids))]
    return tuple((it, used) for it, used in pairs if it.id != used.id)


def kept_volume(
    cloud: Cloud, spec: JobSpec, ledger_url: str, given: Callable[[], Collection[str]] = tuple
) -> Volume | None:
    """The kept volume of a spec as it is now; None where the spec keeps none, or it has yet to be made. `given` tells
    which ids runs were given, and is asked only if there are several of the name.

    Raises SpecError (VolumeElsewhere) where the spec allows only other data centers: no wait would help there.
    """
    name = kept_name(spec, ledger_url)
    same = [it for it in cloud.volumes() if it.name == name] if name else []
    found = first_of(same, same[0].name, given() if len(same) > 1 else ()) if same else None
    if found is not None and spec.compute.data_centers and found.data_center not in spec.compute.data_centers:
        allowed = ", ".join(spec.compute.data_centers)
        raise SpecError(
            f"compute.data_centers is {allowed}, and the kept volume {spec.compute.volume.name} is in "
            f"{found.data_center}: a volume cannot leave its data center",
            hint=f"name {found.data_center} there, or copy it under another name: "
            f"`pushtrain volumes copy {spec.compute.volume.name} {spec.compute.data_centers[0]}`",
            reason="VolumeElsewhere",
        )
    return found


def in_one_place(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """The rungs in the first one's data center: that is where the volume is, or is going to be made."""
    return [it for it in candidates if it.data_center == candidates[0].data_center]


def make_kept(
    cloud: Cloud, spec: JobSpec, candidate: Candidate, ledger_url: str, there: Volume | None
) -> Volume | None:
    """The kept volume, made in the candidate's data center where there is none, and at least as large as the spec asks
    for; None for a spec that keeps none. `there` is the one that `kept_volume` has just found. Raises CloudError."""
    name = kept_name(spec, ledger_url)
    if name is None:
        return None
    assert candidate.data_center is not None, "a community machine takes no network volume, and the spec refuses it"
    size_gb = spec.compute.volume.size_gb
    wanted = VolumeRequest(name=name, size_gb=size_gb, data_center=candidate.data_center, kind=candidate.volume_kind)
    is_here = there is not None and there.data_center == candidate.data_center
    found = there if there is not None and is_here else cloud.create_volume(wanted)
    return found if found.size_gb >= size_gb else cloud.grow_volume(found.id, size_gb)


def usd_per_month(size_gb: int, kind: VolumeKind | None, cloud: str) -> float | None:
    """By the cloud's list, which a bill may differ from; None where what is on it is billed, and nobody says how much
    that is."""
    if not size_gb and not CLOUDS[cloud].has_sized_volumes:
        return None
    return storage_usd_per_month(kind or "STANDARD", size_gb, cloud)


def told(volume: Volume, cloud: str) -> dict[str, Any]:
    """For a receipt, and for --json."""
    usd = usd_per_month(volume.size_gb, volume.kind, cloud)
    return {
        "cloud": cloud,
        "id": volume.id,
        "name": volume.name,
        "size_gb": volume.size_gb,
        "data_center": volume.data_center,
        "kind": volume.kind,
        "usd_per_month": None if usd is None else round(usd, 2),
    }


def in_words(volume: Volume, cloud: str) -> str:
    can = CLOUDS[cloud]
    size = f"{volume.size_gb} GB " if volume.size_gb else ""
    place = f"in {volume.data_center}" if can.has_data_centers else ""
    at = f"{'at ' if not place else ' at '}{can.title}" if cloud != DEFAULT_CLOUD else ""
    return f"{volume.name} ({size}{place}{at}, {month_in_words(volume.size_gb, volume.kind, cloud)})"


def month_in_words(size_gb: int, kind: VolumeKind | None, cloud: str) -> str:
    usd = usd_per_month(size_gb, kind, cloud)
    if usd is None:
        return f"${storage_usd_per_month('STANDARD', 1, cloud):.2f} a month for each GB on it"
    return f"${usd:.2f} a month" + ("" if CLOUDS[cloud].has_sized_volumes else " for what is on it")

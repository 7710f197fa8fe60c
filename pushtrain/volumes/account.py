"""What `pushtrain volumes` shows of the account, and does: list, create, grow, delete. Its name says whose one is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD
from pushtrain.cloud import Cloud, Live, Pod, Volume, VolumeRequest
from pushtrain.errors import LedgerError, RequestRejected, UsageError
from pushtrain.fleet import listing, member, members
from pushtrain.ledger import Ledger
from pushtrain.lookup import read_each
from pushtrain.run import KEPT_NAME, RESOURCE_PREFIX, is_kept, kept_prefix, kept_volume_name, ledger_prefix
from pushtrain.run import resource_prefix as resources_of
from pushtrain.volumes.kept import in_words, spare_kept, told, usd_per_month

Whose = Literal["kept", "run", "orphan", "other ledger", "not pushtrain's"]
# How long a delete asks whether the volume is gone.
GONE_WITHIN_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One volume, at a `cloud`. `name` is what specs and verbs call it; `runs` are active ones, None where the ledger
    does not answer."""

    cloud: str
    volume: Volume
    whose: Whose
    name: str
    pods: tuple[Pod, ...]
    runs: tuple[str, ...] | None

    def as_json(self) -> dict[str, Any]:
        return {
            **told(self.volume, self.cloud),
            "short_name": self.name,
            "whose": self.whose,
            "pods": [{"id": pod.id, "name": pod.name} for pod in self.pods],
            "runs": None if self.runs is None else list(self.runs),
        }

    @property
    def users(self) -> list[str]:
        """For people: runs, then pods that belong to none of them."""
        runs = list(self.runs or ())
        return runs + [f"pod {pod.name} ({pod.id})" for pod in self.pods]


@dataclass(frozen=True, kw_only=True)
class Account:
    """The volumes of every cloud in `cloud` as this ledger's people may handle them. `say` prints a line for people."""

    cloud: Cloud
    ledger: Ledger
    say: Callable[[str], None]

    def rows(self) -> list[Row]:
        """Every volume, kept ones first. A ledger that is away is said, and costs the runs; a cloud that is, costs its
        volumes. Raises CloudError where none answers."""
        told = listing(self.cloud, "")
        for name, failure in told.away.items():
            self.say(f"what {CLOUDS[name].title} has is not known: {failure}")
        runs, found = self._runs(), list[Row]()
        for name, live in told.by_cloud.items():
            spare = self._spare(live.volumes)
            found += [self._row(name, volume, live, runs, spare) for volume in live.volumes]
        order = ["kept", "run", "orphan", "other ledger", "not pushtrain's"]
        return sorted(found, key=lambda row: (order.index(row.whose), row.name, row.volume.id))

    def one(self, text: str) -> Row:
        """The volume of that short name, id, name in the cloud, or run. Raises UsageError for none, or several."""
        rows = self.rows()
        for fits in (
            lambda row: row.volume.id == text,
            lambda row: row.whose == "kept" and row.name == text,
            lambda row: text in (row.volume.name, row.name),
        ):
            if found := [row for row in rows if fits(row)]:
                break
        else:
            names = ", ".join(row.name for row in rows if row.whose == "kept") or "none"
            raise UsageError(
                f"no volume {text!r} in {self._accounts}", hint=f"kept ones: {names}", reason="UnknownVolume"
            )
        if len(found) > 1:
            ids = ", ".join(row.volume.id for row in found)
            raise UsageError(f"{text!r} is several volumes", hint=f"say which: {ids}", reason="SeveralVolumes")
        return found[0]

    def ours(self, text: str, verb: str) -> Row:
        """The volume that this ledger's people may change. Raises RequestRejected (NotOurs)."""
        row = self.one(text)
        if row.whose in ("other ledger", "not pushtrain's"):
            owner = "belongs to another ledger" if row.whose == "other ledger" else "was not made by pushtrain"
            raise RequestRejected(
                f"{row.volume.name} ({row.volume.id}) {owner}: this ledger does not {verb} it",
                hint=f"use the repository it belongs to, or {CLOUDS[row.cloud].console}",
                reason="NotOurs",
            )
        return row

    def create(self, name: str, size_gb: int, data_center: str, cloud: str = "") -> Volume:
        """A kept volume; one that is there in that data center is what is meant. Without `cloud` it is made at RunPod,
        or where RunPod's key is not set at the one cloud that has volumes. Raises UsageError for a name, size or place
        that cannot be, CloudError."""
        at = self._at(cloud)
        can = CLOUDS[at.name]
        if not KEPT_NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name for a volume", hint="small letters, digits and hyphens, at most 31")
        least, most = can.volume_gb
        if can.has_sized_volumes and not least <= size_gb <= most:
            raise UsageError(f"{size_gb} GB cannot be had", hint=f"{can.title} makes volumes of {least} to {most} GB")
        data_center = _place(at, data_center)
        kinds = {kind for it in at.offers() if it.data_center == data_center for kind in it.volume_kinds}
        wanted = VolumeRequest(
            name=kept_volume_name(name, self.ledger.url),
            size_gb=size_gb,
            data_center=data_center,
            kind="STANDARD" if "STANDARD" in kinds else None,
        )
        made = at.create_volume(wanted)
        if can.has_sized_volumes and made.size_gb < size_gb:
            made = at.grow_volume(made.id, size_gb)
        self.say(f"kept until `pushtrain volumes delete {name} --yes`: {in_words(made, at.name)}")
        return made

    def grow(self, text: str, size_gb: int) -> Volume:
        """Raises UsageError for a smaller size, RequestRejected for what is not this ledger's."""
        row = self.ours(text, "grow")
        if not CLOUDS[row.cloud].has_sized_volumes:
            raise RequestRejected(
                f"{row.name} is at {CLOUDS[row.cloud].title}, where a volume is as large as what is on it",
                hint="there is nothing to grow, and what is on it is billed",
                reason="NoSize",
            )
        if size_gb < row.volume.size_gb:
            raise UsageError(
                f"{row.name} has {row.volume.size_gb} GB, and a network volume cannot shrink",
                hint="make a smaller one, copy what is needed there, and delete this one",
                reason="CannotShrink",
            )
        grown = member(self.cloud, row.cloud).grow_volume(row.volume.id, size_gb)
        before, now = (usd_per_month(it.size_gb, it.kind, row.cloud) or 0.0 for it in (row.volume, grown))
        self.say(f"{in_words(grown, row.cloud)}: ${now - before:.2f} a month more than before")
        return grown

    def delete(self, text: str, *, yes: bool, wait: Callable[[], bool]) -> None:
        """Deletes a volume nobody uses, and asks until it is gone. `wait()` pauses; False when it is time to give up.

        Raises RequestRejected: InUse, NeedsYes, and for what is not this ledger's; LedgerError while nobody can tell
        who uses it; CloudError.
        """
        row = self.ours(text, "delete")
        if row.runs is None:
            raise LedgerError(
                f"{row.name}: nobody can tell which runs use it", hint="try again when the ledger answers"
            )
        if row.users:
            raise RequestRejected(
                f"{row.name} is in use by {', '.join(row.users)}",
                hint="`pushtrain cancel RUN`, or wait for its end, then delete it",
                reason="InUse",
            )
        if not yes:
            raise RequestRejected(
                f"{in_words(row.volume, row.cloud)} is deleted with everything on it only with --yes",
                hint=f"pushtrain volumes delete {row.name} --yes",
                reason="NeedsYes",
            )
        at, said = member(self.cloud, row.cloud), in_words(row.volume, row.cloud)
        at.delete_volume(row.volume.id)
        while at.read_volume(row.volume.id) is not None:
            if not wait():
                raise RequestRejected(f"{said} was deleted and is still listed", reason="StillThere")
        self.say(f"deleted: {said}")

    @property
    def _accounts(self) -> str:
        return " or ".join(f"the account at {CLOUDS[name].title}" for name in members(self.cloud))

    def _at(self, cloud: str) -> Cloud:
        """The client that a new volume is made at. Raises UsageError, CloudAuthFailed."""
        there = [name for name in members(self.cloud) if CLOUDS[name].volume_tiers]
        if cloud and not CLOUDS[cloud].volume_tiers:
            some = ", ".join(name for name, can in CLOUDS.items() if can.volume_tiers)
            raise UsageError(f"{CLOUDS[cloud].title} has no volume that outlives a pod", hint=f"clouds: {some}")
        if cloud:
            return member(self.cloud, cloud)
        if DEFAULT_CLOUD in there or len(there) == 1:
            return member(self.cloud, DEFAULT_CLOUD if DEFAULT_CLOUD in there else there[0])
        raise UsageError("which cloud is not said", hint=f"--cloud {' or '.join(there or [DEFAULT_CLOUD])}")

    def _spare(self, volumes: Sequence[Volume]) -> set[str]:
        """Ids of kept volumes beside the one that runs use. A create that the cloud carried out late leaves one; only a
        person can tell that it is empty."""
        try:
            pairs = spare_kept(volumes, self.ledger)
        except LedgerError as failure:
            self.say(f"there are several of one name, and which of them runs use is not known: {failure}")
            return set()
        for it, used in pairs:
            self.say(f"{it.name} is there more than once, each billed: runs use {used.id}; delete {it.id} by its id")
        return {it.id for it, _ in pairs}

    def _runs(self) -> dict[str, str] | None:
        """Active runs: id → the kept volume it names, or an empty string; None where nobody can tell."""
        try:
            records, unreadable = read_each(self.ledger, self.ledger.look().open_runs)
        except LedgerError as failure:
            self.say(f"who uses them is not known: {failure}")
            return None
        active = {it.run_id: str(it.run.get("kept_volume") or "") for it in records.values() if not it.is_over}
        return active | dict.fromkeys(unreadable, "")

    def _row(self, cloud: str, volume: Volume, live: Live, runs: dict[str, str] | None, spare: set[str]) -> Row:
        url, name = self.ledger.url, volume.name
        owners = [it for it in runs or () if name.startswith(resources_of(it, url) + "-")]
        whose: Whose
        if name.startswith(kept_prefix(url)):
            whose, name = "kept", name.removeprefix(kept_prefix(url))
            is_spare = volume.id in spare
            owners = [run_id for run_id, kept in (runs or {}).items() if kept == volume.name and not is_spare]
        elif name.startswith(ledger_prefix(url)):
            whose = "run" if owners or runs is None else "orphan"
        else:
            ours = is_kept(name) or name.startswith(RESOURCE_PREFIX)
            whose = "other ledger" if ours else "not pushtrain's"
        mounted = tuple(pod for pod in live.pods if pod.volume_id == volume.id)
        return Row(
            cloud=cloud,
            volume=volume,
            whose=whose,
            name=name,
            pods=mounted,
            runs=None if runs is None else tuple(sorted(owners)),
        )


def _place(cloud: Cloud, data_center: str) -> str:
    """Where a volume is made: at a cloud without data centers the one place that it has. Raises UsageError."""
    if data_center and CLOUDS[cloud.name].has_data_centers:
        return data_center
    places = sorted({it.data_center for it in cloud.offers() if it.volume_kinds and it.data_center})
    if len(places) == 1 and not data_center:
        return places[0]
    title = CLOUDS[cloud.name].title
    if not data_center:
        raise UsageError(f"where at {title} is not said", hint=f"DATA_CENTER is one of {', '.join(places)}")
    raise UsageError(f"{title} has no data centers to choose from, not {data_center}", hint="leave it out")

"""The rungs of a run's ladder, as the ledger has them: places with a price and the deadline a pod there would have."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pushtrain.budget import Left, pod_seconds
from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import Pod, Tier, Volume
from pushtrain.control import Control
from pushtrain.events import Event, EventDraft
from pushtrain.fleet import named_cloud
from pushtrain.ledger import RunRecord
from pushtrain.placement import AS_SPOT, Candidate, hourly_usd, volume_usd_per_hour, where
from pushtrain.pod.watchdog import TOLERATED_SKEW_S
from pushtrain.run import Run
from pushtrain.spec import JobSpec
from pushtrain.traffic import brought_usd

# A recorded deadline is used again while that costs the attempt no more than this of its time: a run that waits for
# capacity all night then fills neither its branch nor loses the night.
STALE_SHARE, STALE_MOST_S = 0.05, 600.0
_CENT_OF_A_CENT = 1e-4
# Clocks differ by so much before anybody corrects them, and clouds round when a pod was made, or what it has cost.
_INEXACT_S = TOLERATED_SKEW_S + 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """A candidate with what is left of the budget on it: `usd_per_hour` is with storage, the deadline is `reserve_s`
    before the first of the two caps is reached, with the dollars of the attempt's known traffic kept. On a community
    machine `data_center` is None, and there is no network volume."""

    gpu: str
    data_center: str | None
    tier: Tier
    usd_per_hour: float
    volume_usd_per_hour: float
    deadline_epoch_s: float
    reserve_s: float
    is_spot: bool = False

    @property
    def key(self) -> tuple[str, str | None, str, bool]:
        return self.gpu, self.data_center, self.tier, self.is_spot

    @property
    def place(self) -> str:
        """For people."""
        return f"{self.gpu} {where(self.data_center, self.tier)}{AS_SPOT if self.is_spot else ''}"

    @classmethod
    def of(cls, spec: JobSpec, candidate: Candidate, rest: Left, now_s: float) -> "Rung":
        rate, volume = hourly_usd(candidate, spec), volume_usd_per_hour(spec, candidate)
        rest = replace(rest, usd=rest.usd - brought_usd(candidate.cloud, spec))
        seconds, reserve_s = pod_seconds(rest, usd_per_hour=rate, volume_usd_per_hour=volume)
        return cls(
            gpu=candidate.gpu,
            data_center=candidate.data_center,
            tier=candidate.tier,
            usd_per_hour=round(rate, 6),
            volume_usd_per_hour=round(volume, 6),
            deadline_epoch_s=round(now_s + seconds, 3),
            reserve_s=round(reserve_s, 3),
            is_spot=candidate.is_spot,
        )


def rungs_in(planned: Event) -> list[Rung]:
    """The rungs a `provisioning` event recorded."""
    rungs: list[Mapping[str, Any]] = planned.data.get("rungs") or []
    return [Rung(**rung) for rung in rungs]


def rung_of(control: Control, rungs: Sequence[Rung], pod: Pod | None, volume: Volume | None) -> Rung | None:
    """The rung on which a pod is, by what the cloud lists of it; None when it is on none of them. Where machines have
    prices of their own, one that became dearer before it was taken is on none: its deadline would be too late.

    Of a pod that has already come and gone only the volume tells: a secure pod had one.
    """
    if pod is not None:
        rungs = [rung for rung in rungs if not is_dearer(control, pod.usd_per_hour, rung)]
    if pod is None:
        here = [rung for rung in rungs if volume is None or rung.data_center == volume.data_center]
        local = [rung for rung in here if volume is None and rung.data_center is None]
        return next(iter(local + here), None)
    place = pod.data_center or (volume.data_center if volume else None)
    return next(
        (
            rung
            for rung in rungs
            if (rung.gpu, rung.tier) == (pod.gpu, pod.tier)
            and pod.is_spot in (None, rung.is_spot)
            and (rung.data_center is None or place in (None, rung.data_center))
        ),
        None,
    )


def is_dearer(control: Control, usd_per_hour: float, rung: Rung) -> bool:
    """Whether a pod at that price would use up the budget before the deadline of its rung. Only where machines have
    prices of their own: elsewhere the price of a rung is the one that is billed."""
    return CLOUDS[control.cloud.name].has_own_prices and usd_per_hour > rung.usd_per_hour + _CENT_OF_A_CENT


def recorded_rungs(control: Control, run: Run, record: RunRecord, fresh: Sequence[Rung], *, attempt: int) -> list[Rung]:
    """`fresh`, or what was recorded of the same places and is still good; in the ledger when this returns.

    Of a run that may go to several clouds it names the one that is asked now: raises LedgerMoved where another
    reconcile wrote since `record` was read, and may have named another one.
    """
    now_s = control.clock()
    planned = planned_here(control, record, attempt)
    is_here = planned is not None and named_cloud(record, attempt) in ("", control.cloud.name)
    known = {rung.key: rung for rung in (rungs_in(planned) if planned and is_here else ())}
    if all(rung.key in known and _still_good(known[rung.key], rung, now_s) for rung in fresh):
        return [known[rung.key] for rung in fresh]
    shown = ", ".join(f"{rung.place} (${rung.usd_per_hour:.2f}/h)" for rung in fresh[:3])
    message = f"{len(fresh)} candidates: {shown}"
    data: dict[str, Any] = {"rungs": [asdict(rung) for rung in fresh]}
    data |= {"cloud": cloud} if (cloud := _said_cloud(control, record)) else {}
    draft = EventDraft(state="provisioning", writer="control", attempt=attempt, message=message, data=data)
    if cloud:
        control.ledger.append_at(run.id, record.tip, draft)
    else:
        control.ledger.append(run.id, events=[draft])
    control.say(f"{run.id}: provisioning, {message}")
    return list(fresh)


def planned_here(control: Control, record: RunRecord, attempt: int) -> Event | None:
    """The newest plan of an attempt for the cloud that the control plane works at."""
    return plan_at(control, record, attempt, float("inf"))


def plan_at(control: Control, record: RunRecord, attempt: int, made_s: float) -> Event | None:
    """The plan of an attempt, for the cloud that the control plane works at, under which a pod was asked for that was
    made then: its deadline is in the pod's environment. The oldest one where it seems to be older than all."""
    mine = [it for it in record.events if (it.state, it.attempt) == ("provisioning", attempt)]
    here = [it for it in mine if it.data.get("cloud") == _said_cloud(control, record)]
    return next((it for it in reversed(here) if it.epoch_s <= made_s + _INEXACT_S), here[0] if here else None)


def _said_cloud(control: Control, record: RunRecord) -> str | None:
    """What events say of the cloud: nothing where the run can be at one alone."""
    return control.cloud.name if record.run.get("clouds") else None


def _still_good(old: Rung, new: Rung, now_s: float) -> bool:
    slack_s = min(STALE_MOST_S, STALE_SHARE * (new.deadline_epoch_s - now_s))
    late_s = new.deadline_epoch_s - old.deadline_epoch_s
    return old.usd_per_hour == new.usd_per_hour and -0.01 <= late_s <= slack_s

"""What every run cost by the simulator's billing clock, against the caps of its budget.

    overshoot   dollars that fell due after the run's first cap was reached: `max_usd` counts pods, disks and volume,
                `max_hours` counts pods alone
    excused     the part of it during which nobody could have ended it: the cloud refused or answered nobody, or had the
                pod in no list yet; or there was neither a watchdog of the pod running nor a control plane that the
                ledger answered

What is not excused may be one tick of the control plane at the run's rate, and no more. A pod's watchdog counts where
`pushtrain.capabilities` says that a pod of its cloud can end its own bill.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from infra.simulator import billing
from infra.simulator.state import Pod, Volume
from pushtrain.capabilities import CLOUDS
from pushtrain.ledger import RUNS

from .boards import Boards, Windows
from .office import TICK_S

if TYPE_CHECKING:
    from .world import World


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of time in which nothing changed. `guarded`: somebody was there who could end what cost money."""

    start: float
    end: float
    pods_usd: float
    volumes_usd: float
    pods: int
    guarded: bool

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def usd(self) -> float:
        return self.pods_usd + self.volumes_usd


def check_money(world: "World") -> None:
    remote, figures = world.promises.remote, world.promises.figures
    for ref, tip in remote.refs.items():
        if not ref.startswith(RUNS):
            continue
        run_id = ref[len(RUNS) :]
        budget = json.loads(remote.blobs[remote.commits[tip].files["run.json"]])["budget"]
        late = beyond(stretches(world, run_id), float(budget["max_usd"]), float(budget["max_hours"]))
        over_usd = sum(it.usd for it in late)
        mine_usd = sum(it.usd for it in late if it.guarded)
        rate = max((it.usd / it.seconds for it in late if it.guarded and it.seconds > 0), default=0.0)
        figures.overshoot_usd = max(figures.overshoot_usd, mine_usd)
        figures.overshoot_share = max(figures.overshoot_share, mine_usd / float(budget["max_usd"]))
        figures.excused_usd = max(figures.excused_usd, over_usd - mine_usd)
        one_tick_s = TICK_S + max(it.rental.tick_s for it in world.services.values())
        if mine_usd > rate * one_tick_s + 1e-9:
            seconds = sum(it.seconds for it in late if it.guarded)
            world.promises.breaks("cap", f"{run_id}: ${mine_usd:.4f} beyond its caps in {seconds:.0f} s {budget}")


def stretches(world: "World", run_id: str) -> list[Stretch]:
    """Everything the run ever paid for, cut at every change."""
    its = Rented(*world.promises.rented(run_id))
    now = world.scheduler.now
    moments = {now, *_moments(world, now)}
    moments |= {at for it in its.all for span in it.spans for at in (span.start, span.end or now)}
    first = min((it.spans[0].start for it in its.all), default=now)
    cut = sorted(at for at in moments if first <= at <= now)
    return [it for start, end in pairwise(cut) if (it := _stretch(world, its, start, end)).usd > 0]


def beyond(all_of_it: Iterable[Stretch], max_usd: float, max_hours: float) -> list[Stretch]:
    """The stretches after the first cap was reached; the one that reached it is cut there."""
    spent_usd, spent_s, late = 0.0, 0.0, []
    for it in all_of_it:
        share_usd = max(0.0, min(1.0, (spent_usd + it.usd - max_usd) / it.usd))
        share_s = 0.0
        if it.pods:
            share_s = max(0.0, min(1.0, (spent_s + it.seconds - max_hours * 3600) / it.seconds))
        spent_usd, spent_s = spent_usd + it.usd, spent_s + (it.seconds if it.pods else 0.0)
        share = max(share_usd, share_s)
        if share > 0:
            start = it.end - share * it.seconds
            late.append(Stretch(start, it.end, it.pods_usd * share, it.volumes_usd * share, it.pods, it.guarded))
    return late


@dataclass(frozen=True, slots=True)
class Rented:
    """Everything that a run ever had, each with its cloud."""

    pods: Sequence[tuple[str, Pod]]
    volumes: Sequence[tuple[str, Volume]]

    @property
    def all(self) -> list[Pod | Volume]:
        return [it for _, it in (*self.pods, *self.volumes)]

    def clouds(self, start: float, end: float) -> set[str]:
        """Where something of it is billed within this stretch."""
        there = (*self.pods, *self.volumes)
        return {name for name, it in there if any(span.start < end and start < (span.end or end) for span in it.spans)}


def _stretch(world: "World", its: Rented, start: float, end: float) -> Stretch:
    """A pod that cannot end its own bill guards nothing of it: there a control plane alone can."""
    middle, boards = (start + end) / 2, world.boards
    live = [(name, pod) for name, pod in its.pods if _runs(pod, middle, end)]
    there = its.clouds(start, end)
    unread = any(away.seconds_within(start, end) > 0 for away in _ledger_outages(boards))
    at_work = not unread and any(shift.can_act(middle, there) for shift in world.office.shifts)
    watched = bool(live) and all(
        CLOUDS[name].ends_own_bill and _covers(world.machines.ran(pod.id), middle) for name, pod in live
    )
    ways = [boards.ways[name] for name in there]
    reachable = not any(away.seconds_within(start, end) > 0 for way in ways for away in (way.away, way.refusing))
    refused = any(_covers(world.machines.refused(pod.id), middle) for _, pod in live)
    unseen = any(middle < _listed_s(world, name, pod) for name, pod in live)
    return Stretch(
        start,
        end,
        sum(billing.pod_cost(pod, start, end).total for _, pod in its.pods),
        sum(billing.volume_cost(volume, start, end) for _, volume in its.volumes),
        len(live),
        reachable and not refused and not unseen and (at_work or watched),
    )


def _listed_s(world: "World", cloud: str, pod: Pod) -> float:
    """From when on a list has a pod, where that is once it has started."""
    within_s = CLOUDS[cloud].listed_within_s
    return min([pod.created_at + within_s, *(since for since, _ in world.machines.ran(pod.id))]) if within_s else 0.0


def _runs(pod: Pod, moment: float, end: float) -> bool:
    return any(it.start <= moment < (it.end or end) and it.running for it in pod.spans)


def _moments(world: "World", now: float) -> Iterable[float]:
    """Whenever somebody came or went."""
    for shift in world.office.shifts:
        yield from (min(moment, now) for moment in shift.moments())
    for pod_id in world.machines.pods:
        for since, until in (*world.machines.ran(pod_id), *world.machines.refused(pod_id)):
            yield from (since, min(until, now))
    for name, account in world.promises.accounts.items():
        yield from (min(_listed_s(world, name, pod), now) for pod in account.pods.values())
    boards = world.boards
    ways = [away for way in boards.ways.values() for away in (way.away, way.refusing)]
    for away in (*ways, *_ledger_outages(boards)):
        yield from away.moments()


def _ledger_outages(boards: Boards) -> tuple[Windows, ...]:
    return boards.ledger["control"], boards.hanging_ledger, boards.waiting_for_push


def _covers(spans: Iterable[Sequence[float]], moment: float) -> bool:
    return any(since <= moment < until for since, until in spans)

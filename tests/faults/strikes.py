"""What each kind of fault does to a world when its time comes. Those of pods are in store for them: `fates`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from infra.simulator.catalog import GpuModel
from infra.simulator.faults import Kind
from infra.simulator.state import Pod

from . import people
from .container import Fate
from .fault import Fault
from .figures import MARK
from .schedule import Schedule

if TYPE_CHECKING:
    from .cloud import VirtualService
    from .world import World

Strike = Callable[["World", Fault], None]
BLOWS = {
    "container_restart": "container_restart",
    "lost_pod": "lost_pod",
    "preemption": "preemption",
    "killed_trainer": "kill_trainer",
    "killed_agent": "kill_agent",
    "killed_watchdog": "kill_watchdog",
    "hanging_trainer": "trainer_hangs",
    "failing_trainer": "trainer_fails",
}


def fates(schedule: Schedule) -> dict[int, Fate]:
    """What is in store for each pod, by its number."""
    found: dict[int, Fate] = {}
    for fault in schedule.faults:
        fate = found.setdefault(fault.who, Fate())
        match fault.kind:
            case "never_starts":
                fate.never_starts = fault
            case "crash_loop":
                fate.crash_loop = fault
            case "killed_pod_process":
                fate.killed_at_point = fault
            case "skewed_pod":
                fate.skewed = fault
            case kind if kind in BLOWS:
                fate.blows.append((fault, BLOWS[kind]))
    return found


def _times(world: "World", fault: Fault) -> None:
    for service in world.struck_by(fault):
        what = service.rental.ends if fault.what == "pod_action" else fault.what
        match = {"operation": f"{what}*"} if what else {}
        service.arm(cast(Kind, fault.kind), int(fault.amount), match, 1.0, fault)


def _too_many(world: "World", fault: Fault) -> None:
    for service in world.struck_by(fault):
        service.arm("http_429", int(fault.amount), {}, float(fault.what), fault)


def _slow(world: "World", fault: Fault) -> None:
    for service in world.struck_by(fault):
        world.boards.ways[service.rental.name].slow.append(fault)


def _no_balance(world: "World", fault: Fault) -> None:
    world.for_a_while("http_402", fault, {"operation": "create_*"})


def _balance_gone(world: "World", fault: Fault) -> None:
    """RunPod stops what runs when the money is gone; volumes stay, and cost."""
    _no_balance(world, fault)
    for service in world.struck_by(fault):
        if service.rental.stops_unpaid:
            _stop_all(world, service, fault)


def _stop_all(world: "World", service: "VirtualService", fault: Fault) -> None:
    for pod in service.account.live_pods():
        if pod.name.startswith(MARK) and pod.status == "RUNNING":
            world.hit(fault)
            service.pause(pod.id)


def _refused_key(world: "World", fault: Fault) -> None:
    for service in world.struck_by(fault):
        world.boards.ways[service.rental.name].refusing.add(fault)
    world.for_a_while(cast(Kind, fault.kind), fault, {})


def _no_room(world: "World", fault: Fault) -> None:
    world.for_a_while(cast(Kind, fault.kind), fault, {"gpu": fault.what})


def _cloud_down(world: "World", fault: Fault) -> None:
    for service in world.struck_by(fault):
        world.boards.ways[service.rental.name].away.add(fault)


def _list_behind(world: "World", fault: Fault) -> None:
    """For ten minutes a list of pods does not show those of the last seconds."""
    scheduler, until = world.scheduler, world.scheduler.now + 600.0

    def hides(pod: Pod) -> bool:
        is_hidden = scheduler.now < until and pod.created_at > scheduler.now - fault.amount
        if is_hidden:
            world.hit(fault)
        return is_hidden

    for service in world.struck_by(fault):
        service.api.hides = hides


def _offer_taken(world: "World", fault: Fault) -> None:
    for service in world.struck_by(fault):
        service.arm("no_capacity", int(fault.amount), {"operation": "create_pod"}, 1.0, fault)


def _dearer(world: "World", fault: Fault) -> None:
    """From now on, for everybody: what runs keeps its price."""
    world.hit(fault)
    for account in [it.account for it in world.struck_by(fault)]:
        gpus = {name: replace(gpu, **_times_as_dear(gpu, fault.amount)) for name, gpu in account.catalog.gpus.items()}
        account.catalog = replace(account.catalog, gpus=gpus)


def _times_as_dear(gpu: GpuModel, factor: float) -> dict[str, float]:
    prices = {"secure_usd": gpu.secure_usd, "community_usd": gpu.community_usd}
    return {name: round(usd * factor, 2) for name, usd in prices.items() if usd is not None}


def _stopped_by_host(world: "World", fault: Fault) -> None:
    for service in world.struck_by(fault):
        if service.rental.stops_unpaid:
            _stop_all(world, service, fault)


def _dropped_hour(world: "World", fault: Fault) -> None:
    world.actions.dropped.append(fault)


def _ledger_down(world: "World", fault: Fault) -> None:
    for name, windows in world.boards.ledger.items():
        if fault.what in (name, "all"):
            windows.add(fault)


def _ledger_hangs(world: "World", fault: Fault) -> None:
    world.boards.hanging_ledger.add(fault)


def _cut_push(world: "World", fault: Fault) -> None:
    world.boards.cut_pushes += [fault] * int(fault.amount)


def _late_push(world: "World", fault: Fault) -> None:
    world.boards.late_pushes.append(fault)


def _hub_down(world: "World", fault: Fault) -> None:
    world.boards.hub.add(fault)


def _source_down(world: "World", fault: Fault) -> None:
    world.boards.source.add(fault)


def _kill_control(world: "World", fault: Fault) -> None:
    world.office.kill_at[fault.who] = fault


def _skewed_control(world: "World", fault: Fault) -> None:
    world.office.skewed[fault.who] = fault


def _lost_state(world: "World", fault: Fault) -> None:
    world.office.lost_state[fault.who] = fault


def _cancelled_action(world: "World", fault: Fault) -> None:
    if world.actions.cancel():
        world.hit(fault)


def _second_reconcile(world: "World", fault: Fault) -> None:
    world.hit(fault)
    people.reconcile_by_hand(world.office, fault.amount, fault.what, back=0)


def _stale_reconcile(world: "World", fault: Fault) -> None:
    world.hit(fault)
    people.reconcile_by_hand(world.office, fault.amount, fault.what, back=1)


def _sweep_by_hand(world: "World", fault: Fault) -> None:
    world.hit(fault)
    people.sweep_by_hand(world.office)


def _cancelled_by_hand(world: "World", fault: Fault) -> None:
    world.hit(fault)
    people.cancel_by_hand(world.office)


def _retried(world: "World", fault: Fault) -> None:
    world.hit(fault)
    people.retry_by_hand(world.office)


def _run_by_hand(world: "World", fault: Fault) -> None:
    world.hit(fault)
    people.run_by_hand(world.office, fault.amount)


def _suspended(world: "World", fault: Fault) -> None:
    world.hit(fault)
    jobs = world.jobs()
    text = jobs.get("job", world.scenario.jobs["job"])
    world.push(jobs | {"job": text.replace("suspend: true\n", "") + "suspend: true\n"})


def _spec_deleted(world: "World", fault: Fault) -> None:
    world.hit(fault)
    world.push({name: text for name, text in world.jobs().items() if name != "job"})


def _spec_changed(world: "World", fault: Fault) -> None:
    world.hit(fault)
    text = world.scenario.jobs["job"].replace("seed: 1", f"seed: {int(fault.at_s) + 2}")
    world.push(world.jobs() | {"job": text})


def _in_store(world: "World", fault: Fault) -> None:
    """The pod has it in its fate."""


STRIKES: Mapping[str, Strike] = {
    "kill_control": _kill_control,
    "cancelled_action": _cancelled_action,
    "lost_state": _lost_state,
    "second_reconcile": _second_reconcile,
    "stale_reconcile": _stale_reconcile,
    "sweep_by_hand": _sweep_by_hand,
    "skewed_control": _skewed_control,
    "error_after_create": _times,
    "lost_answer": _times,
    "slow_answer": _slow,
    "late_create": _slow,
    "http_429": _too_many,
    "http_402": _no_balance,
    "http_403": _refused_key,
    "http_401": _refused_key,
    "http_500": _times,
    "http_502": _times,
    "cloud_down": _cloud_down,
    "list_behind": _list_behind,
    "refused_but_rented": _times,
    "offer_taken": _offer_taken,
    "dearer": _dearer,
    "stopped_by_host": _stopped_by_host,
    "dropped_hour": _dropped_hour,
    "no_capacity": _no_room,
    "no_stock": _no_room,
    "volume_busy": _times,
    "balance_gone": _balance_gone,
    "never_starts": _in_store,
    "crash_loop": _in_store,
    "killed_pod_process": _in_store,
    "skewed_pod": _in_store,
    **dict.fromkeys(BLOWS, _in_store),
    "ledger_down": _ledger_down,
    "ledger_hangs": _ledger_hangs,
    "cut_push": _cut_push,
    "late_push": _late_push,
    "hub_down": _hub_down,
    "source_down": _source_down,
    "suspended": _suspended,
    "spec_deleted": _spec_deleted,
    "spec_changed": _spec_changed,
    "cancelled_by_hand": _cancelled_by_hand,
    "retried_by_hand": _retried,
    "run_by_hand": _run_by_hand,
}

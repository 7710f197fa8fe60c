"""The promises once more when all is at rest: nothing left, a receipt for every run, what was said is in the ledger."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from infra.simulator.state import Account
from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD
from pushtrain.events import Event, broken_links
from pushtrain.run import is_kept

from .cloud import VirtualService
from .figures import IDLE, MARK, OTHERS
from .machines import Machines
from .promises import Promises, key
from .rentals import RENTALS

# A pod has this long after its deadline to be gone by its cloud's own hand, or to have ended its work: less than a
# control plane's tick.
AFTER_DEADLINE_S = 45.0


def check_rest(promises: Promises, services: Mapping[str, VirtualService], now: float) -> None:
    """`now` is the time, in epoch seconds."""
    for account in promises.accounts.values():
        left = [it.name for it in [*account.live_pods(), *account.live_volumes()] if it.name.startswith(MARK)]
        if left:
            promises.figures.leaks += len(left)
            promises.breaks("nothing left", ", ".join(left))
    for run_id in promises.run_of.values():
        _check_run(promises, run_id)
    for name, account in promises.accounts.items():
        _check_kept(promises, name, account)
    for name, service in services.items():
        if left := [it for it in service.rental.left_over(service) if it.startswith(MARK)]:
            promises.breaks("nothing left", f"at {name} {', '.join(left)}")
    _check_landed(promises)
    if promises.doubles:
        promises.breaks("one pod", f"two pods of {sorted(promises.doubles)} to the end")
    for run_id, closed in promises.receipts.items():
        for _, it in (found for kind in promises.rented(run_id) for found in kind):
            orphan_s = (it.spans[-1].end or now) - max(it.spans[0].start, closed)
            promises.figures.longest_orphan_s = max(promises.figures.longest_orphan_s, orphan_s)


def check_deadlines(promises: Promises, machines: Machines) -> None:
    """Where the cloud itself ends a pod after its deadline, no pod lives longer, whoever is dead; a create that was
    carried out late is that much longer there."""
    for name, account in promises.accounts.items():
        after_s = CLOUDS[name].ends_after_s
        for pod in account.pods.values() if after_s is not None else ():
            machine = machines.pods.get(pod.id)
            if machine is None or after_s is None:
                continue
            ends_s = machine.deadline_s + after_s + machine.service.rental.late_s(machine.service, pod.id)
            late_s = (pod.ended_at or float("inf")) - ends_s
            if late_s > AFTER_DEADLINE_S:
                promises.breaks("the cloud ends it", f"{pod.name} lived {late_s:.0f} s longer than {name} lets it")


def _check_run(promises: Promises, run_id: str) -> None:
    events = promises.events(run_id)
    if run_id not in promises.receipts:
        promises.breaks("receipt", f"{run_id} ends with {events[-1].state} and no receipt")
    if problems := broken_links(events):
        promises.breaks("events", f"{run_id}: {problems[0]}")
    run = promises.run_json(run_id)
    for event in (it for it in events if it.state == "provisioned"):
        cloud = str(event.data.get("cloud") or run.get("cloud", DEFAULT_CLOUD))
        if CLOUDS[cloud].has_own_prices:
            _check_price(promises, run_id, cloud, event)


def _check_price(promises: Promises, run_id: str, cloud: str, provisioned: Event) -> None:
    """No pod is a run's that became dearer than what its deadline was counted with."""
    pods = {RENTALS[cloud].pod_id(it.id): it for it in promises.accounts[cloud].pods.values()}
    pod, counted_usd = pods.get(str(provisioned.data["pod_id"])), float(provisioned.data["usd_per_hour"])
    if pod is None:  # one that came and went unseen, at a cloud whose pods are not told their ids
        return
    if pod.usd_per_hour > counted_usd + 1e-3:
        promises.breaks("price", f"{run_id}: pod {pod.id} at ${pod.usd_per_hour}, counted with ${counted_usd}")


def _check_kept(promises: Promises, cloud: str, account: Account) -> None:
    """What a run worked on, and what was there before all of it, is there still; of each name one."""
    live = [it for it in account.live_volumes() if is_kept(it.name)]
    names = Counter(it.name for it in live)
    promises.figures.kept += len(live)
    if twice := [name for name, many in names.items() if many > 1]:
        promises.breaks("kept", f"{twice[0]} is there {names[twice[0]]} times")
    ids = {RENTALS[cloud].volume_id(it) for it in live}
    for run_id in promises.run_of.values():
        run = promises.run_json(run_id)
        for event in (it for it in promises.events(run_id) if it.state == "provisioned"):
            used, where = event.data.get("kept_volume_id"), event.data.get("cloud") or run.get("cloud", DEFAULT_CLOUD)
            if used and where == cloud and used not in ids:
                promises.breaks("kept", f"{run_id} worked on {used}, which is gone")
    if missing := {IDLE, OTHERS} - names.keys():
        promises.breaks("kept", f"{sorted(missing)} are gone")


def _check_landed(promises: Promises) -> None:
    final = {run_id: [key(event) for event in promises.events(run_id)] for run_id in promises.run_of.values()}
    wanted: dict[str, Counter[str]] = defaultdict(Counter)
    by_writer: dict[tuple[str, str], list[str]] = defaultdict(list)
    for run_id, who, keys in promises.appended:
        wanted[run_id].update(keys)
        by_writer[run_id, who] += keys
    for run_id, counts in wanted.items():
        if missing := counts - Counter(final.get(run_id, ())):
            promises.figures.lost_events += missing.total()
            promises.breaks("events", f"{run_id}: lost {next(iter(missing))[:120]}")
    for (run_id, who), keys in by_writer.items():
        if not _in_order(keys, final.get(run_id, ())):
            promises.figures.lost_events += 1
            promises.breaks("events", f"{run_id}: what {who} said is not in its order")


def _in_order(keys: Sequence[str], final: Iterable[str]) -> bool:
    rest = iter(final)
    return all(key in rest for key in keys)

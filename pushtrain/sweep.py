"""The sweep: what carries this ledger's mark in the cloud, and which of it no active run owns.

The cloud is listed first, then the ledger read: a claim stands in the ledger before anything of its run exists, so what
is listed and not claimed afterwards is unowned, however young. Everything without the mark is never touched.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pushtrain.cloud import Live, Volume
from pushtrain.control import Control
from pushtrain.errors import CloudError, LeakError, LedgerError
from pushtrain.lookup import read_each
from pushtrain.run import RESOURCE_PREFIX, ledger_prefix, resource_prefix
from pushtrain.teardown import names, remove
from pushtrain.volumes.kept import in_words, kept_of, spare_kept


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Everything of this ledger that may be billed. Without an answer of the ledger (`failure`) nobody knows whose it
    is, and all of it is `owned`: what may be at work is never removed."""

    owned: Live
    orphans: Live
    failure: LedgerError | None = None
    kept: tuple[Volume, ...] = ()
    """What is kept on purpose, whoever uses it: never removed by a sweep."""


def of_ledger(control: Control, live: Live) -> Live:
    """The part of `live` that carries this ledger's mark. A kept volume does not."""
    mark = ledger_prefix(control.settings.ledger_url)
    return Live(
        pods=tuple(pod for pod in live.pods if pod.name.startswith(mark)),
        volumes=tuple(volume for volume in live.volumes if volume.name.startswith(mark)),
        scripts=tuple(name for name in live.scripts if name.startswith(mark)),
    )


def survey(control: Control) -> Survey:
    """Works without any state of an engine, and while the ledger is away. Raises CloudError."""
    there = control.cloud.find(RESOURCE_PREFIX)
    live, kept = of_ledger(control, there), kept_of(there.volumes, control.settings.ledger_url)
    nothing = Live(pods=(), volumes=())
    if not live:
        return Survey(owned=nothing, orphans=nothing, kept=kept)
    try:
        records, unreadable = read_each(control.ledger, control.ledger.look().open_runs)
    except LedgerError as failure:
        return Survey(owned=live, orphans=nothing, failure=failure, kept=kept)
    active = [record.run_id for record in records.values() if not record.is_over]
    orphans = unowned(control, live, [*active, *unreadable])
    owned = Live(
        pods=tuple(pod for pod in live.pods if pod not in orphans.pods),
        volumes=tuple(volume for volume in live.volumes if volume not in orphans.volumes),
        scripts=tuple(name for name in live.scripts if name not in orphans.scripts),
    )
    return Survey(owned=owned, orphans=orphans, kept=kept)


def unowned(control: Control, live: Live, owners: Iterable[str]) -> Live:
    """The part of `live` that no run in `owners` has a claim to. Everything else of the account is never touched."""
    mark = ledger_prefix(control.settings.ledger_url)
    kept = tuple(resource_prefix(run_id, control.settings.ledger_url) + "-" for run_id in owners)

    def is_orphan(name: str) -> bool:
        return name.startswith(mark) and not name.startswith(kept)

    return Live(
        pods=tuple(pod for pod in live.pods if is_orphan(pod.name)),
        volumes=tuple(volume for volume in live.volumes if is_orphan(volume.name)),
        scripts=tuple(name for name in live.scripts if is_orphan(name)),
    )


def remove_orphans(control: Control, left: Live, *, wait_s: float) -> list[str]:
    """Terminate the pods, delete the volumes and start scripts, ask until they are gone; returns one line for each.

    Raises LeakError, naming what is still there after `wait_s`.
    """
    lines = [f"pod {pod.name} ({pod.id})" for pod in left.pods]
    lines += [f"network volume {volume.name} ({volume.id})" for volume in left.volumes]
    lines += [f"start script {name}" for name in left.scripts]
    give_up_s = control.clock() + wait_s
    while left:
        remove(control, left)
        left = _still_there(control, left)
        if left and control.clock() > give_up_s:
            raise LeakError(
                f"may still be billed, and no run owns it: {names(left)}", hint=f"look at {control.console}"
            )
        if left:
            control.sleep(1.0)
    for line in lines:
        control.say(f"swept: {line}: no active run owns it")
    return lines


def tell_spare(control: Control, volumes: Sequence[Volume]) -> None:
    """Raises LeakError (KeptTwice) where a kept volume of this ledger is there twice among the `volumes` of one
    cloud: a create that it carried out minutes after everybody gave it up. No machine deletes a kept volume, so a
    person is told, by every tick. Raises LedgerError."""
    if spare := spare_kept(volumes, control.ledger):
        twice = "; ".join(
            f"{in_words(it, control.cloud.name)}, {it.id}, beside {used.id}, which runs use" for it, used in spare
        )
        commands = " and ".join(f"`pushtrain volumes delete {it.id} --yes`" for it, _ in spare)
        raise LeakError(
            f"a kept volume is there more than once, and each is billed: {twice}",
            hint=f"look that nobody put files there by hand, then {commands}",
            reason="KeptTwice",
        )


def _still_there(control: Control, left: Live) -> Live:
    """An unanswered question never counts as gone."""
    try:
        live = control.cloud.find(ledger_prefix(control.settings.ledger_url))
    except CloudError as failure:
        control.say(f"cannot ask the cloud: {failure}")
        return left
    pods, volumes = {pod.id for pod in left.pods}, {volume.id for volume in left.volumes}
    return Live(
        pods=tuple(pod for pod in live.pods if pod.id in pods),
        volumes=tuple(volume for volume in live.volumes if volume.id in volumes),
        scripts=tuple(name for name in live.scripts if name in left.scripts),
    )

"""The end of a run: destroy the stack, ASK THE CLOUD that nothing is left, write the receipt."""

from collections.abc import Mapping, Sequence
from typing import Any

from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import LISTS_BEHIND_S, KeepsScripts, Live
from pushtrain.control import Control
from pushtrain.deployment import NAME, deployment_file
from pushtrain.errors import CloudError, EngineError, LeakError, LedgerError, StackLocked
from pushtrain.events import EventDraft, now_text
from pushtrain.fleet import cloud_of, clouds_asked, members
from pushtrain.jsontext import json_bytes
from pushtrain.ledger import RunRecord
from pushtrain.lifecycle import Step
from pushtrain.receipt import cost_said, make_receipt
from pushtrain.rented import note, rented
from pushtrain.run import Run, is_kept
from pushtrain.volumes.kept import ON_PURPOSE


def destroy(control: Control, run: Run, record: RunRecord, step: Step) -> str:
    """Bring one run to its receipt; returns its outcome, nothing where the next tick has to ask again.

    What the engine says does not count: truth is what the cloud lists, twice, once it lists whatever was asked for.
    Raises LeakError (and writes `leak`) when something is still listed after `teardown_wait_s`; the next tick tries
    again.
    """
    outcome = step.outcome or "failed"
    record = control.ledger.read(run.id)
    if record.is_over:
        return str((record.receipt or {}).get("outcome", ""))
    if is_news := not any(event.state == "destroying" for event in record.events):
        _announce(control, run, record, step, outcome)
        record = control.ledger.read(run.id)
    complaint = _destroy_stack(control, run)
    if control.clock() < (until_s := _all_listed_s(record)):
        if is_news:
            said = f"what it may have made is looked for until {now_text(until_s)}"
            control.say(f"{run.id}: no pod of its last create is known; {said}: a list may have it late")
        for place in _places(control, record):
            _remove_found(place, run, place.cloud.find(run.resource_prefix + "-"), set(rented(record)[0]))
        return ""
    proof = _prove_empty(control, run, record, step, complaint)
    if complaint:  # nothing is left that could refuse: now the engine may forget the stack, too
        _destroy_stack(control, run)
    record = control.ledger.read(run.id)
    if record.is_over:  # another reconcile was here at the same time; its receipt stands
        return str((record.receipt or {}).get("outcome", ""))
    receipt = make_receipt(control, run, record, outcome, proof)
    closed = EventDraft(
        state="closed",
        writer="control",
        attempt=step.attempt,
        reason=step.reason,
        message=f"{outcome}; pods 0, volumes 0; {cost_said(receipt)}{_kept(receipt)}",
        data={"outcome": outcome},
    )
    control.ledger.append(
        run.id,
        events=[closed],
        files={"receipt.json": json_bytes(receipt)},
        more_to_come=not receipt["billed_is_final"],
    )
    control.say(f"{run.id}: {closed.message}")
    return outcome


def may_be_unlisted_s(record: RunRecord) -> float:
    """How long a cloud may list nothing of what it made for a climb that named no pod: one that was cut short and,
    where pods are listed late, one that was refused: it may have made one all the same. 0 where there was none."""
    newest = max(event.attempt for event in record.events)
    said = [event.state for event in record.events if event.attempt == newest]
    came_to = [state for state in said if state in ("provisioning", "waiting", "failed")]
    if "provisioning" not in said or "provisioned" in said or came_to[-1] == "waiting":
        return 0.0
    late_s = max(CLOUDS[name].listed_within_s for name in clouds_asked(record) or [cloud_of(record)])
    return max(LISTS_BEHIND_S, late_s) if came_to[-1] == "provisioning" else late_s


def remove_late(control: Control, run: Run) -> None:
    """What came into being while another reconcile closed the run: gone again, or the next sweep finds it."""
    _destroy_stack(control, run)
    remove(control, control.cloud.find(run.resource_prefix + "-"))


def _all_listed_s(record: RunRecord) -> float:
    """From when on what is not listed is not there, in epoch seconds. Nobody began a create after `destroying`."""
    since = next(event for event in record.events if event.state == "destroying")
    wait_s = may_be_unlisted_s(record)
    return since.epoch_s + wait_s if wait_s else 0.0


def _announce(control: Control, run: Run, record: RunRecord, step: Step, outcome: str) -> None:
    """Write `destroying` with what is there. Where the ledger takes no push, that is removed all the same: the decision
    stands, and what is billed does not wait. Then raises LedgerError."""
    there = control.cloud.find(run.resource_prefix + "-")
    draft = EventDraft(
        state="destroying",
        writer="control",
        attempt=step.attempt,
        reason=step.reason,
        message=step.message,
        data={
            "outcome": outcome,
            "pods": [pod.id for pod in there.pods],
            "volumes": [volume.id for volume in there.volumes],
        },
    )
    files = _deployment(control, run, record)
    try:
        control.ledger.append(run.id, events=[draft], files=files)
    except LedgerError:
        remove(control, there)
        raise
    if there.pods:  # one that the engine knows nothing of would be billed for as long as it holds the volume
        mine = control.engine.outputs(run.stack).get("pod_id")
        remove(control, Live(pods=tuple(pod for pod in there.pods if pod.id != mine), volumes=()))


def _deployment(control: Control, run: Run, record: RunRecord) -> dict[str, bytes]:
    """The stack as the engine knows it, for the ledger, before it is gone. What cannot be had is said, and no reason to
    stop: the run is destroyed all the same."""
    others = {str(event.data["engine"]) for event in record.events if event.data.get("engine")} - {control.engine.name}
    if others:
        control.say(
            f"{run.id}: provisioned by engine {' and '.join(sorted(others))}, destroyed by {control.engine.name}, "
            f"which has no state of it: what the cloud lists is removed by name; stack {run.stack} of the other stays"
        )
    try:
        exported = control.engine.export(run.stack)
        return {} if exported is None else {NAME: deployment_file(control.engine.name, run.stack, exported)}
    except (EngineError, CloudError) as failure:
        control.say(f"{run.id}: no {NAME}: {failure}")
        return {}


def _destroy_stack(control: Control, run: Run) -> str:
    """The engine's complaint, if it had one: only a warning as long as the cloud lists nothing.

    Raises StackLocked while another process works on the stack: what is billed goes at once, the rest at the next tick.
    """
    try:
        control.engine.destroy(run.stack)
    except (EngineError, CloudError) as failure:
        if isinstance(failure, StackLocked) and failure.passing:
            remove(control, control.cloud.find(run.resource_prefix + "-"))
            raise
        control.say(f"{run.id}: destroy: {failure}")
        return str(failure)
    control.stacks.pop(run.id, None)
    return ""


def _prove_empty(control: Control, run: Run, record: RunRecord, step: Step, complaint: str) -> dict[str, object]:
    """Ask until two answers in a row say nothing is left, removing by id whatever is still there: wherever the run was
    asked for, since a climb that was cut short may have left its volume there."""
    give_up_s = control.clock() + control.settings.teardown_wait_s
    places, known = _places(control, record), set(rented(record)[0])
    empty_at: list[str] = []
    while len(empty_at) < 2:
        found = [(place, _listed(place, run)) for place in places]
        if all(left is not None and not left for _, left in found):
            empty_at.append(now_text(control.clock()))
            continue
        empty_at.clear()
        if control.clock() > give_up_s:
            raise _leak(control, run, step, _together([left for _, left in found]), complaint)
        for place, left in found:
            if left:
                _remove_found(place, run, left, known)
        control.sleep(1.0)
    scripts = {"scripts": 0} if isinstance(control.cloud, KeepsScripts) else {}
    return {"pods": 0, "volumes": 0, **scripts, "asked_at": empty_at, "engine_complaint": complaint}


def _remove_found(control: Control, run: Run, left: Live, known: set[str]) -> None:
    """A pod that nobody knew of until now was billed, too: it is noted once, and `known` from then on."""
    if unnamed := [pod for pod in left.pods if pod.id not in known]:
        note(control, run.id, pods=unnamed)
        known |= {pod.id for pod in unnamed}
    remove(control, left)


def _places(control: Control, record: RunRecord) -> list[Control]:
    """The control plane at every cloud where the run was asked for, as far as there is a key for it."""
    asked = [name for name in clouds_asked(record) if name in members(control.everywhere)]
    return [control.at(name) for name in asked] or [control]


def _listed(control: Control, run: Run) -> Live | None:
    """What is left; None while the cloud does not answer, which never counts as nothing."""
    try:
        return control.cloud.find(run.resource_prefix + "-")
    except CloudError as failure:
        control.say(f"{run.id}: cannot ask the cloud: {failure}")
        return None


def _together(found: Sequence[Live | None]) -> Live | None:
    """None where nothing was found, and some cloud did not answer."""
    lives = [left for left in found if left]
    if not lives and None in found:
        return None
    return Live(
        pods=tuple(pod for left in lives for pod in left.pods),
        volumes=tuple(volume for left in lives for volume in left.volumes),
        scripts=tuple(name for left in lives for name in left.scripts),
    )


def remove(control: Control, left: Live) -> None:
    """Pods, then volumes. What is refused is said, and keeps nothing else: a volume is let go seconds after its pod.
    Start scripts once nothing else is left, since by them the names of the others are known.

    Never a kept volume, however it came to be among them.
    """
    cloud, is_bare = control.cloud, not left.pods and not left.volumes
    scripts = left.scripts if is_bare and isinstance(cloud, KeepsScripts) else ()
    for delete, resource_id in [
        *((cloud.terminate, pod.id) for pod in left.pods),
        *((cloud.delete_volume, volume.id) for volume in left.volumes if not is_kept(volume.name)),
        *((cloud.delete_script, name) for name in scripts if isinstance(cloud, KeepsScripts)),
    ]:
        try:
            delete(resource_id)
        except CloudError as failure:
            control.say(f"not removed yet: {failure}")


def _kept(receipt: Mapping[str, Any]) -> str:
    """What outlives the run, in words; empty without."""
    return "".join(f"; {ON_PURPOSE}: {said}" for it in receipt.get("kept", ()) if (said := it.get("said")))


def _leak(control: Control, run: Run, step: Step, left: Live | None, complaint: str) -> LeakError:
    what = "the cloud does not answer; it may hold anything" if left is None else names(left)
    waited = f"still there {control.settings.teardown_wait_s:.0f} s after it was told to go (PUSHTRAIN_TEARDOWN_WAIT_S)"
    message = f"{run.id}: {what}" if left is None else f"{run.id}: {what}: {waited}"
    draft = EventDraft(
        state="leak",
        writer="control",
        attempt=step.attempt,
        reason=step.reason,
        message=f"{message}. {complaint}".strip(),
        data={"outcome": step.outcome or "failed"},
    )
    control.ledger.append(run.id, events=[draft])
    return LeakError(
        f"may still be billed: {message}", hint=f"run `pushtrain sweep --yes`, then look at {control.console}"
    )


def names(left: Live) -> str:
    """Ids and names in one line."""
    return ", ".join(listed(left))


def listed(left: Live) -> list[str]:
    """Ids and names, for people who look for them in the console."""
    pods = [f"pod {pod.id} ({pod.name})" for pod in left.pods]
    volumes = [f"network volume {volume.id} ({volume.name})" for volume in left.volumes]
    return pods + volumes + [f"start script {name}, with the tokens of its run" for name in left.scripts]

"""One climb of the ladder: rung after rung is asked for a pod until one has it.

Every rung's price and deadline stand in the ledger before anything is asked for, so that whoever goes on after a crash
finds the same pod under the same deadline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pushtrain.budget import Left
from pushtrain.cloud import Live, Volume
from pushtrain.control import Control
from pushtrain.errors import (
    ACCESS_DENIED,
    API_RETIRED,
    INVALID_REQUEST,
    UNKNOWN_TEMPLATE,
    CloudAuthFailed,
    CloudError,
    CloudUnavailable,
    EngineError,
    NoBalance,
    NoCapacity,
    RequestRejected,
)
from pushtrain.events import now_text
from pushtrain.gpus import MIN_CUDA_VERSION
from pushtrain.ledger import RunRecord
from pushtrain.placement import Candidate, ladder
from pushtrain.provisioned import record_pod
from pushtrain.rented import made_s, note
from pushtrain.run import Run
from pushtrain.rungs import Rung, is_dearer, plan_at, recorded_rungs, rung_of, rungs_in
from pushtrain.soldout import remember, sold_out
from pushtrain.spec import JobSpec
from pushtrain.spot import affordable
from pushtrain.twins import attempt_of, end_one, end_unnamed, keep_one, make_way
from pushtrain.volumes.kept import given_ids, in_one_place, kept_volume, make_kept

# Below this a pod could not even boot: nothing is rented for it.
LEAST_USEFUL_S = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One try to place an attempt: its number, what the budget still has, and the places to ask at the cloud that is
    asked; None: the ladder as of now."""

    attempt: int
    rest: Left
    places: Sequence[Candidate] | None = None


def climb(control: Control, run: Run, spec: JobSpec, record: RunRecord, turn: Turn, *, live: Live) -> bool:
    """At the cloud that the control plane works at. True with a pod (its `provisioned` is written); False when no rung
    can be paid for any more.

    `live` is what the cloud listed of the run before the ledger was read. Raises NoCapacity when nothing has capacity,
    SpecError for a GPU the cloud does not know, RequestRejected or CloudAuthFailed when every rung, or one for all,
    said so, NoBalance, CloudUnavailable. What was made for a rung that refused is gone again.
    """
    attempt, candidates = turn.attempt, turn.places
    make_way(control, run, attempt, live)
    kept = kept_volume(control.cloud, spec, control.settings.ledger_url, lambda: given_ids(control.ledger))
    if candidates is None or kept:
        candidates = ladder(
            spec,
            control.cloud.offers(spec.compute.count, MIN_CUDA_VERSION),
            cloud=control.cloud.name,
            known_gpus=control.cloud.gpu_names(),
            volume_data_center=kept.data_center if kept else pinned_data_center(record),
        )
    pinned = pinned_data_center(record) is not None
    if spec.compute.volume.keep:
        candidates = in_one_place(candidates)
    elif not pinned:
        candidates = _volume_first(control, run, record, candidates, live)
    candidates = affordable(spec, record.events, candidates)
    if not candidates:
        raise NoCapacity(
            f"{run.id}: no more spot machines are asked for (compute.spot.interruptions), and on demand is sold out",
            hint="more GPUs or data centers in compute widen the ladder",
        )
    now_s = control.clock()
    fresh = [Rung.of(spec, candidate, turn.rest, now_s) for candidate in candidates]
    rungs = recorded_rungs(control, run, record, fresh, attempt=attempt)
    given = _Given(attempt=attempt, is_pinned=pinned, kept=kept)
    refusals: list[CloudError] = []
    for candidate, rung in zip(candidates, rungs, strict=True):
        if rung.deadline_epoch_s < control.clock() + LEAST_USEFUL_S:
            continue
        refusal = sold_out(control, spec, candidate) or _ask(control, run, spec, candidate, rung, given)
        if refusal is None:
            return True
        refusals.append(refusal)
    if refusals:
        raise worst(refusals)
    return False


def volume_of(run: Run, live: Live) -> Volume | None:
    return next((volume for volume in live.volumes if volume.name == run.volume_name), None)


def pinned_data_center(record: RunRecord) -> str | None:
    """The data center of the run's volume, once a pod of it ran there: checkpoints may be on it."""
    places = (event.data.get("data_center") for event in reversed(record.events) if event.state == "provisioned")
    return next((str(place) for place in places if place), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Given:
    """What all rungs of one climb have in common. `is_pinned`: checkpoints may be on the run's volume; `kept` is the
    kept volume as the climb found it."""

    attempt: int
    is_pinned: bool
    kept: Volume | None


def _ask(
    control: Control, run: Run, spec: JobSpec, candidate: Candidate, rung: Rung, given: _Given
) -> CloudError | None:
    """None with a pod, else the refusal that is about this rung alone. Raises one that is for all rungs."""
    control.stacks[run.id] = run
    began_s = control.clock()  # billed from the create on, so counted from before it
    try:
        kept = make_kept(control.cloud, spec, candidate, control.ledger.url, given.kept)
        program = control.launch(
            run,
            spec,
            candidate,
            attempt=given.attempt,
            deadline_epoch_s=rung.deadline_epoch_s,
            kept_id=kept.id if kept else None,
        )
        outputs = {**control.engine.up(run.stack, program), "kept_volume_id": kept.id if kept else None}
    except (NoCapacity, CloudAuthFailed, RequestRejected, NoBalance) as refusal:
        control.say(f"{run.id}: {rung.place}: {refusal.reason}: {refusal}")
        remember(control, spec, candidate, refusal)
        for_all = _is_for_all(refusal)
        if not given.is_pinned:
            _take_back(control, run, must=not for_all)
        if for_all:
            raise
        return refusal
    remember(control, spec, candidate, None)
    _settle(control, run, given.attempt, rung, outputs, began_s)
    return None


def _is_for_all(refusal: CloudError) -> bool:
    """A broken rule and a denied request may be about one candidate; no balance, a body that breaks the API's contract
    and a wrong key are the same for all of them."""
    if isinstance(refusal, RequestRejected):
        return refusal.reason in (INVALID_REQUEST, API_RETIRED, UNKNOWN_TEMPLATE)
    return not isinstance(refusal, NoCapacity) and refusal.reason != ACCESS_DENIED


def _take_back(control: Control, run: Run, *, must: bool) -> None:
    """Remove the volume just made: it would be billed while the run waits, and pin the next rung to its data center.

    It is in this engine's state, adopted ones too: the cloud need not be asked.
    """
    try:
        control.engine.destroy(run.stack)
    except (CloudError, EngineError) as failure:
        if must:
            raise
        control.say(f"{run.id}: the volume stays until the next tick: {failure}")


def _settle(control: Control, run: Run, attempt: int, asked: Rung, outputs: Mapping[str, Any], began_s: float) -> None:
    """Look again after the create, leave one pod, and write it down as what it is.

    Raises CloudUnavailable when that is not what the recorded rungs know: its deadline and price would be a guess.
    """
    live = _listed(control, run)
    pod = keep_one(control, run, attempt, live.pods)
    if pod is None and any(attempt_of(run, other) > attempt for other in live.pods):
        raise CloudUnavailable(f"{run.id}: a later attempt has a pod already", hint="the next tick reads on")
    if pod is None:  # a list may be behind, or refused
        if is_dearer(control, float(outputs.get("usd_per_hour") or 0.0), asked):
            end_one(control, run, str(outputs["pod_id"]))
            raise _no_longer(run, str(outputs["pod_id"]), "dearer than what was asked for")
        return record_pod(control, run, asked, attempt, outputs, time=now_text(began_s), is_listed=False)
    record, volume = control.ledger.read(run.id), volume_of(run, live)
    began_s = min(began_s, made_s(control, record, pod, control.clock()) or began_s)
    rung = rung_of(control, _rungs_of_its_time(control, record, attempt, asked, began_s), pod, volume)
    if rung is None:
        end_unnamed(control, run, pod)
        raise _no_longer(run, pod.id, "on no recorded rung")
    record_pod(control, run, rung, attempt, {**outputs, "pod_id": pod.id}, time=now_text(began_s))


def _listed(control: Control, run: Run) -> Live:
    """Nothing where nobody may look just now: what was made is written down all the same, or nobody would know it."""
    try:
        return control.cloud.find(run.resource_prefix + "-")
    except CloudError as failure:
        control.say(f"{run.id}: not looked at again after the create: {failure.reason}: {failure}")
        return Live(pods=(), volumes=())


def _no_longer(run: Run, pod_id: str, why: str) -> CloudUnavailable:
    return CloudUnavailable(f"{run.id}: pod {pod_id} is {why}: terminated", hint="the next tick asks again")


def _rungs_of_its_time(control: Control, record: RunRecord, attempt: int, asked: Rung, made_s: float) -> Sequence[Rung]:
    """Where a pod may be that was made then, the rung just asked first: one that was adopted was asked for by somebody
    who died, or on another rung, and has the deadline of that time."""
    plan = plan_at(control, record, attempt, made_s)
    rungs = rungs_in(plan) if plan else []
    return [asked, *rungs] if asked in rungs else rungs


def worst(refusals: Sequence[CloudError]) -> CloudError:
    """What to say when no rung took the pod: capacity comes back by itself, anything else only if all said so.

    Not every cloud has a code for 'no capacity': a refusal whose text nobody knows is the next candidate's turn, and
    when every candidate gets one, the last text is read as a fault of the request.
    """
    if any(isinstance(refusal, NoCapacity) for refusal in refusals):
        texts = "; ".join(str(refusal) for refusal in refusals)
        return NoCapacity(texts, hint="more GPUs or data centers in compute widen the ladder")
    return next((refusal for refusal in refusals if isinstance(refusal, CloudAuthFailed)), refusals[-1])


def _volume_first(
    control: Control, run: Run, record: RunRecord, candidates: Sequence[Candidate], live: Live
) -> Sequence[Candidate]:
    """Rungs in the data center where a climb that was cut short left the (empty) volume come first; a volume where no
    rung is goes."""
    volume = volume_of(run, live)
    if volume is None:
        if any(event.state == "provisioning" for event in record.events):
            control.engine.destroy(run.stack)  # what its state still remembers is not there any more, or elsewhere
        return candidates
    if all(candidate.data_center != volume.data_center for candidate in candidates):
        note(control, run.id, volumes=[volume.id])
        remove_volume(control, run)
    return sorted(candidates, key=lambda candidate: candidate.data_center != volume.data_center)


def remove_volume(control: Control, run: Run) -> None:
    """By the engine, then by name: a volume that another machine's engine made is in no state here."""
    control.engine.destroy(run.stack)
    for volume in control.cloud.find(run.volume_name).volumes:
        control.cloud.delete_volume(volume.id)

"""What a reviewer should see before saying yes, and what a run starts from. Pure."""

import re
from collections.abc import Iterator

from pushtrain.capabilities import CLOUDS, losing, machine
from pushtrain.estimate.tokens import packs
from pushtrain.plan.hub import DatasetFacts, ModelFacts
from pushtrain.plan.model import Caution, Place, Plan, Revision
from pushtrain.spec import CommandSpec, JobSpec, SessionSpec, TrainingSpec
from pushtrain.spec.compute import Spot
from pushtrain.spec.unmet import outlived
from pushtrain.traffic import beyond_cap

_COMMIT = re.compile(r"[0-9a-f]{40}")
# Licences that let a fine-tuned model be used and passed on without asking; others are named, not judged.
_FREE = {"apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc0-1.0", "cc-by-4.0", "unlicense", "isc", "odc-by"}
# Rows beyond the length lose their end: of more than this share a reviewer is told.
MUCH_CUT = 0.05


def revisions(spec: JobSpec, model: ModelFacts | None, dataset: DatasetFacts | None) -> tuple[Revision, ...]:
    """What the run starts from, beside the commit itself."""
    image = spec.compute.image_in_words
    found = [
        Revision(what=f"image {image}", revision=image.partition("@")[2] or "a tag", is_pinned="@sha256:" in image)
    ]
    if isinstance(spec, TrainingSpec):
        commit = model.commit if model else None
        found.insert(0, _revision(f"model {spec.model.id}", spec.model.revision, commit))
        if spec.data.is_on_hub:
            name = str(spec.data.source).removeprefix("hf://datasets/")
            found.insert(1, _revision(f"dataset {name}", spec.data.revision, dataset.commit if dataset else None))
    return tuple(found)


def cautions(plan: Plan, model: ModelFacts | None, dataset: DatasetFacts | None) -> tuple[Caution, ...]:
    spec = plan.spec
    found = [*_of_any(plan), *_of_clouds(spec)]
    if isinstance(spec, TrainingSpec):
        found += _of_training(spec, plan, model, dataset)
    if isinstance(spec, CommandSpec | SessionSpec) and spec.compute.ports:
        found.append(Caution(reason="OpenPorts", message=f"the whole internet reaches {', '.join(spec.compute.ports)}"))
    return tuple(found)


def _of_bids(spot: Spot) -> str:
    times = "once" if spot.interruptions == 1 else f"{spot.interruptions} times"
    return (
        f"pays at most {spot.max_share:.0%} of the on-demand price, and loses the machine to who pays more: each time "
        f"what was trained since the last checkpoint, and a start. Lost {times}, the rest is on demand; the budget "
        "holds over all of it"
    )


def _of_any(plan: Plan) -> Iterator[Caution]:
    spec = plan.spec
    if spec.compute.template is not None:
        yield Caution(reason="Template", message=_of_the_template(spec))
    elif spec.compute.asked_image is None:
        yield Caution(reason="ImageWithoutDigest", message=f"{spec.compute.image_in_words} has no digest to pin it by")
    elif "@sha256:" not in spec.compute.image:
        yield Caution(
            reason="ImageWithoutDigest",
            message=f"compute.image {spec.compute.image} is a tag: what it means may change; pin it with @sha256:…",
        )
    if isinstance(spec, TrainingSpec | CommandSpec) and spec.publish is not None and not spec.publish.private:
        yield Caution(reason="PublishedOpenly", message=f"{spec.publish.repo} is created for everybody to see")
    if lost := losing(spec.compute.clouds, spec.compute.tiers):
        goes_on = "goes on from what was pushed" if isinstance(spec, SessionSpec) else "starts from step 0"
        goes_on = f"goes on from the checkpoint {spec.copies_to}" if spec.copies_to else goes_on
        clouds = [CLOUDS[it].title for it in spec.compute.clouds if losing(it, spec.compute.tiers)]
        at = f" ({' and '.join(clouds)})" if len(spec.compute.clouds) > 1 else ""
        message = f"on a {machine(lost[0])}{at} nothing survives a lost pod: the next attempt {goes_on}"
        yield Caution(reason="CommunityMachine", message=message)
    if spec.compute.spot is not None:
        yield Caution(reason="Interruptible", message=_of_bids(spec.compute.spot))
    first = plan.first
    if first is not None and first.money is not None and first.hours is not None:
        yield from _of_the_budget(spec, first)
    for place in plan.places:
        if place.verdict == "too large" and plan.fits:
            message = f"it does not fit on {place.gpu} and would fail there: take it out of compute.gpus"
            yield Caution(reason="CannotRunThere", message=message)
        elif place.verdict == "tight":
            assert plan.memory is not None
            need = f"{plan.memory.need_gb:.1f} GB would be safe, {place.usable_gb:.1f} are there"
            message = f"on {place.gpu} nobody can tell: {need}"
            yield Caution(reason="TightMemory", message=message)


def _of_clouds(spec: JobSpec) -> Iterator[Caution]:
    restart = not isinstance(spec, CommandSpec) or spec.command.restart
    for cloud in spec.compute.clouds:
        if said := outlived(cloud, max_hours=spec.budget.max_hours, restart=restart):
            yield Caution(reason="LifetimeOver", message=said)
        if said := beyond_cap(cloud, spec):
            yield Caution(reason="TrafficBeyondCap", message=said)


def _of_the_bucket(spec: TrainingSpec, plan: Plan) -> str:
    reckoned = "hours and dollars are at most the budget's: train.max_steps would bound them"
    if plan.work is not None:
        reckoned = f"hours and dollars are those of {plan.work.steps} full steps, at most"
    return (
        f"{spec.data.source} is a bucket, which a plan does not open: how many rows there are, how long, of what form, "
        f"what is cut, and that the file does not change until the run are not known here; {reckoned}"
    )


def _of_the_template(spec: JobSpec) -> str:
    image = "image, " if spec.compute.asked_image is None else ""
    return (
        f"compute.template {spec.compute.template} is read when a pod is made, not before: its {image}registry login "
        "and variables (the pod's own win) are not known here, and may change; command, ports and disk are the spec's"
    )


def _of_the_budget(spec: JobSpec, first: Place) -> Iterator[Caution]:
    assert first.money is not None and first.hours is not None and first.deadline_hours is not None
    total, budget = first.hours.total, spec.budget
    if first.money.expected_usd > first.money.cap_usd:
        message = (
            f"on {first.gpu} ${first.money.expected_usd:.2f} are expected and the budget ends at "
            f"${first.money.cap_usd:.2f}: the run would be cut off"
        )
        yield Caution(reason="CapBelowExpectation", message=message)
    elif total.expected > first.deadline_hours:
        message = f"{total.expected:.1f} h are expected and the budget ends after {first.deadline_hours:.1f} h"
        yield Caution(reason="DeadlineTooShort", message=message)
    elif total.high > first.deadline_hours:
        message = (
            f"{total.expected:.1f} h are expected, but it may take {total.high:.1f}, and the budget ends after "
            f"{first.deadline_hours:.1f} h"
        )
        yield Caution(reason="LittleRoom", message=message)
    if first.hours.download.expected * 60 > spec.limits.first_step_minutes:
        message = (
            f"the model's download takes about {first.hours.download.expected * 60:.0f} min, and "
            f"limits.first_step_minutes ends it after {spec.limits.first_step_minutes:g}"
        )
        yield Caution(reason="FirstStepTooSoon", message=message)
    if budget.max_usd > 5 * first.money.expected_usd and budget.max_usd > 5:
        message = f"budget.max_usd ${budget.max_usd:g} is more than five times what is expected"
        yield Caution(reason="GenerousCap", message=message)


def _of_training(
    spec: TrainingSpec, plan: Plan, model: ModelFacts | None, dataset: DatasetFacts | None
) -> Iterator[Caution]:
    if spec.model.trust_remote_code:
        message = f"model.trust_remote_code: {spec.model.id} runs its own Python code on the pod, beside HF_TOKEN"
        yield Caution(reason="TrustRemoteCode", message=message)
    for what, facts in (("model " + spec.model.id, model), (f"dataset {spec.data.source}", dataset)):
        if facts is None:
            continue
        if facts.trouble:
            yield Caution(reason="NotOnTheHub", message=f"{what}: {facts.trouble}")
        if facts.is_gated:
            yield Caution(reason="Gated", message=f"{what} is gated: HF_TOKEN has to be of an account that was let in")
        if facts.licence is not None and facts.licence.lower() not in _FREE:
            yield Caution(reason="Licence", message=f"{what} is under the licence {facts.licence}: read what it allows")
    if spec.data.source is not None and not spec.data.is_on_hub:
        yield Caution(reason="DataNotRead", message=_of_the_bucket(spec, plan))
    if not spec.train.bf16:
        message = "train.bf16: false computes in fp32: the hours here are those of bf16, it takes several times as many"
        yield Caution(reason="SlowInFp32", message=message)
    if plan.fits is False and not spec.train.check_memory:
        message = "by the estimate it fits on none of its GPUs; train.check_memory: false tries it anyway, billed"
        yield Caution(reason="TriedAnyway", message=message)
    longest = model.shape.max_length if model and model.shape else None
    if longest is not None and spec.train.max_length > longest:
        message = f"train.max_length {spec.train.max_length} is beyond what {spec.model.id} was made for ({longest})"
        yield Caution(reason="LongerThanTheModel", message=message)
    if plan.work is not None and plan.work.share_cut > MUCH_CUT and not packs(spec):
        message = f"{plan.work.share_cut:.0%} of the rows are longer than train.max_length and lose their end"
        yield Caution(reason="RowsAreCut", message=message)


def _revision(what: str, revision: str, commit: str | None) -> Revision:
    return Revision(what=what, revision=revision, is_pinned=bool(_COMMIT.fullmatch(revision)), commit=commit)

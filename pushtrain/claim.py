"""The claim: from a spec nobody has run to a branch of the ledger, before anything is created."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from pushtrain.capabilities import DEFAULT_CLOUD
from pushtrain.control import Control
from pushtrain.desired import Desired, Job
from pushtrain.errors import AlreadyClaimed, CloudError, LedgerUnavailable, NoCapacity, PushtrainError, SpecError
from pushtrain.events import EventDraft, now_text
from pushtrain.jsontext import json_bytes
from pushtrain.placement import Candidate, CostEstimate, cap
from pushtrain.policy.gate import admit
from pushtrain.policy.outside import APPROVAL_MISSING, Refusal
from pushtrain.refs import Look
from pushtrain.run import Run
from pushtrain.settings import Settings
from pushtrain.several import candidates_at, clouds_for
from pushtrain.spec import CommandSpec, JobSpec, SessionSpec, TrainingSpec
from pushtrain.spec.compute import named_clouds
from pushtrain.spec.file import parse
from pushtrain.volumes.kept import kept_name


def claim_new(
    control: Control, wanted: Desired, look: Look, failures: list[PushtrainError], only: str | None
) -> dict[str, str]:
    """Claim every spec nobody has claimed and the policy lets through; returns run id → tip of the new runs, and adds
    to `failures`. What is refused stands in `control.refusals`; without a claim, every tick asks again."""
    new: dict[str, str] = {}
    claimed, unborn = look.claimed, look.unborn
    jobs = [job for name, job in wanted.jobs.items() if only is None or name == only]
    fresh = [job for job in jobs if not job.spec.suspend and job.claim not in claimed]
    if only is None:
        names = {job.spec.name for job in fresh}
        control.refusals = {name: it for name, it in control.refusals.items() if name in names}
    for job in jobs:
        if job.claim in unborn:
            control.say(f"{job.spec_path}: claimed, but its run has no branch; delete claims/{job.claim} to run it")
    if not fresh:
        return new
    for job in fresh:
        said = _admitted(control, wanted, job, {**look.runs, **new})
        if said is None:
            refused = control.refusals[job.spec.name].failure
            # To wait for people is no failure, unless somebody stands there and wants this job now.
            failures += [refused] if only or refused.reason != APPROVAL_MISSING else []
            continue
        try:
            candidates = candidates_for(control, job)
        except CloudError as no_answer:
            control.say(f"{job.spec_path}: not claimed: {no_answer.reason}: {no_answer}")
            failures.append(no_answer)
            continue
        except SpecError as problem:
            failures.append(
                problem if problem.where else SpecError(str(problem), where=job.spec_path, hint=problem.hint)
            )
            continue
        run = job.run(control.settings.ledger_url)
        try:
            new[run.id] = claim(control, job, candidates, trigger="hand" if only else "push", said=said)
            control.say(f"{run.id}: claimed")
        except AlreadyClaimed as taken:
            control.say(f"{run.id}: {taken}")
        except SpecError as not_pushed:
            failures.append(not_pushed)
    return new


def claim(
    control: Control,
    job: Job,
    candidates: Sequence[Candidate],
    *,
    trigger: str,
    retry: int = 1,
    said: Mapping[str, Any] | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> str:
    """Record spec, commit, price and cap before anything is created; returns the tip. `said` goes into the event,
    `recorded` into run.json, over what HEAD would say there.

    Raises AlreadyClaimed, and SpecError where the source's remote does not have the commit.
    """
    _check_pushed(control, job)
    run = replace(job.run(control.settings.ledger_url), retry=retry)
    event = EventDraft(
        state="claimed",
        writer="control",
        attempt=1,
        message=f"{job.spec_path} at {job.commit[:8]}, at most ${job.spec.budget.max_usd:g}",
        data={"trigger": trigger, **(said or {})},
    )
    record = _run_json(control, run, job, candidates, {"trigger": trigger, **(recorded or {})})
    return control.ledger.claim(run.id, files={"spec.yaml": job.text, "run.json": record}, event=event)


def candidates_for(control: Control, job: Job, clouds: Sequence[str] = ()) -> list[Candidate]:
    """The ladder as of now, over `clouds` alone where any are named; none while nothing has capacity.

    Raises SpecError for a GPU the cloud does not know, and for a template that the chosen provider does not take.
    """
    _check_template(control, job)
    try:
        return candidates_at(control, job.spec, clouds or clouds_for(control, job.spec))
    except NoCapacity:
        return []


def _check_pushed(control: Control, job: Job) -> None:
    """Before the claim: three pods, one after the other, would be billed for not finding it."""
    if control.source.lacks(job.commit):
        raise SpecError(
            f"commit {job.commit[:8]} is not in {control.settings.source_url}: no pod could fetch it",
            where=job.spec_path,
            hint="git push the branch that has it, then again",
            reason="NotPushed",
        )


def _check_template(control: Control, job: Job) -> None:
    """Before the claim: afterwards the run would wait for something that no tick changes."""
    template, provider = job.spec.compute.template, control.settings.runpod_provider
    if template is None or provider == Settings.runpod_provider:
        return
    raise SpecError(
        f"compute.template {template} is not taken with PUSHTRAIN_RUNPOD_PROVIDER={provider}",
        where=parse(job.text, job.spec_path).where("compute", "template"),
        hint=f"PUSHTRAIN_RUNPOD_PROVIDER={Settings.runpod_provider} takes templates; or write out what it has",
        reason="TemplateNotTaken",
    )


def _admitted(control: Control, wanted: Desired, job: Job, runs: Mapping[str, str]) -> Mapping[str, Any] | None:
    """What the claim says about it; None where the policy refuses, which is said once and noted in the control's
    `refusals`."""
    name, now_s = job.spec.name, control.clock()
    before = control.refusals.get(name)
    if before is None or not before.holds(job, wanted, now_s):
        try:
            said = admit(control.outside, wanted, job, control.ledger, runs, now_s)
        except LedgerUnavailable:
            raise
        except PushtrainError as refused:
            control.refusals[name] = Refusal.of(refused, job, wanted, now_s)
            if before is None or str(before.failure) != str(refused):
                hint = f" ({refused.hint})" if refused.hint else ""
                control.say(f"{name}: not started: {refused.reason}: {refused}{hint}")
        else:
            control.refusals.pop(name, None)
            return said
    return None


def _run_json(
    control: Control, run: Run, job: Job, candidates: Sequence[Candidate], recorded: Mapping[str, Any]
) -> bytes:
    spec = job.spec
    estimate = cap(spec, candidates[0]) if candidates else None
    expected = control.expect(spec, candidates) if control.expect is not None else {}
    document: Mapping[str, object] = {
        "job": spec.name,
        "spec_path": job.spec_path,
        "spec_digest": spec.digest,
        "commit": job.commit,
        "committed_epoch_s": recorded.get("committed_epoch_s") or control.source.committed_epoch_s(job.commit),
        "source_url": control.settings.source_url,
        "created": now_text(control.clock()),
        **_inputs(spec),
        "lock": control.source.lock_digest(),
        "image": spec.compute.image_in_words,
        "engine": control.engine.name,
        "resource_prefix": run.resource_prefix,
        "candidates": [asdict(candidate) for candidate in candidates],
        **({"kept_volume": kept_name(spec, run.ledger_url)} if spec.compute.volume.keep else {}),
        "budget": {"max_usd": spec.budget.max_usd, "max_hours": spec.budget.max_hours},
        "limits": spec.watched,
        **_at(control, spec, candidates),
        # What the first candidate would cost up to its limit, and what the run is expected to take there.
        "estimate": estimate and {"usd_per_hour": round(estimate.usd_per_hour, 6), **_rounded(estimate), **expected},
        **recorded,
    }
    return json_bytes(document)


def _at(control: Control, spec: JobSpec, candidates: Sequence[Candidate]) -> dict[str, object]:
    """The cloud, where it is not the one that a record without it means; of several all that the run may go to, and
    where it is asked for first."""
    allowed = spec.compute.clouds if len(named_clouds(spec.compute.cloud)) == 1 else clouds_for(control, spec)
    first = candidates[0].cloud if candidates else allowed[0]
    several = {"clouds": list(allowed)} if len(named_clouds(spec.compute.cloud)) > 1 else {}
    return several | ({"cloud": first} if first != DEFAULT_CLOUD else {})


def _inputs(spec: JobSpec) -> dict[str, object]:
    """What the run starts from, beside the commit."""
    if isinstance(spec, CommandSpec):
        return {"command": {"run": spec.command.run, "workdir": spec.command.workdir}}
    if isinstance(spec, SessionSpec):
        return {"session": {"branch": spec.session.branch, "idle_minutes": spec.session.idle_minutes}}
    assert isinstance(spec, TrainingSpec)
    data = {"path": spec.data.path} if spec.data.path else spec.data.model_dump(mode="json", exclude={"path"})
    return {"model": {"id": spec.model.id, "revision": spec.model.revision}, "data": data}


def _rounded(estimate: CostEstimate) -> dict[str, float]:
    return {"at_most_usd": round(estimate.cap_usd, 4), "at_most_hours": round(estimate.deadline_hours, 4)}

"""A job spec held against a policy. Pure: what only the Hub and the ledger know is given."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pushtrain.capabilities import losing
from pushtrain.policy.file import PolicyFile
from pushtrain.policy.model import Policy
from pushtrain.spec import CommandSpec, JobSpec, SessionSpec, TrainingSpec
from pushtrain.spec.compute import Compute
from pushtrain.spec.file import SpecFile
from pushtrain.spec.publish import Publish
from pushtrain.spec.yaml_tree import Problem, shorten

VIOLATION = "PolicyViolation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """`where` is the spec's file:line:column, `rule` the policy's key, `policy_where` where that stands."""

    rule: str
    value: str
    where: str
    message: str
    policy_where: str
    hint: str | None = None

    @property
    def problem(self) -> Problem:
        message = f"{self.message} ({self.policy_where}: {self.rule})"
        return Problem(where=self.where, message=message, hint=self.hint)


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What a spec does not say. `licence` gives a model's licence as the Hub names it, None where nobody can tell;
    left out, licences are not looked at. `month_usd` is what the month has cost so far with the caps of active runs;
    None: not looked at."""

    licence: Callable[[str, str], str | None] | None = None
    month_usd: float | None = None


def violations(file: PolicyFile, spec: JobSpec, spec_file: SpecFile, known: Known | None = None) -> list[Violation]:
    """Every rule that the spec breaks: money, compute, access, task, publishing. Raises SpecError (wrong policy)."""
    policy, known = file.required(), known or Known()
    broken = [
        *_budget(policy, spec, known),
        *_compute(policy, spec),
        *_access(policy, spec),
        *_task(policy, spec, known),
        *_publish(policy, spec),
    ]
    return [
        Violation(
            rule=it.rule,
            value=it.value,
            where=spec_file.where(*it.path),
            message=it.message,
            policy_where=file.where(it.rule),
            hint=it.hint,
        )
        for it in broken
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Broken:
    rule: str
    path: tuple[str | int, ...]
    value: str
    message: str
    hint: str | None = None


def matches(text: str, patterns: Sequence[str]) -> bool:
    """`*` in a pattern stands for any characters, none among them."""
    return any(re.fullmatch(".*".join(map(re.escape, it.split("*"))), text, re.DOTALL) for it in patterns)


def owned(hub_id: str, owners: Sequence[str]) -> bool:
    """By its owner or by its whole name; the Hub's names do not tell capitals apart."""
    name = hub_id.lower()
    return any(it.lower() in (name, name.partition("/")[0]) for it in owners)


def _may_be_at(source: str, owners: Sequence[str]) -> bool:
    if "://" not in source:
        return owned(source, owners)
    return any(source == it or source.startswith(it.rstrip("/") + "/") for it in owners if "://" in it)


def _budget(policy: Policy, spec: JobSpec, known: Known) -> Iterator[_Broken]:
    usd, hours = spec.budget.max_usd, spec.budget.max_hours
    if policy.max_usd_per_run is not None and usd > policy.max_usd_per_run:
        message = f"budget.max_usd is ${usd:g}, and a run may cost at most ${policy.max_usd_per_run:g}"
        yield _Broken(rule="max_usd_per_run", path=("budget", "max_usd"), value=f"{usd:g}", message=message)
    if policy.max_usd_per_month is not None and known.month_usd is not None:
        together = known.month_usd + usd
        if together > policy.max_usd_per_month:
            left = max(0.0, policy.max_usd_per_month - known.month_usd)
            message = (
                f"budget.max_usd is ${usd:g}, and of ${policy.max_usd_per_month:g} for this month ${left:.2f} is left: "
                "closed runs by their cost, active ones by their cap"
            )
            hint = "it starts by itself when active runs end below their caps, the month ends, or the policy changes"
            path = ("budget", "max_usd")
            yield _Broken(rule="max_usd_per_month", path=path, value=f"{usd:g}", message=message, hint=hint)
    if policy.max_hours is not None and hours > policy.max_hours:
        message = f"budget.max_hours is {hours:g}, and a run may take at most {policy.max_hours:g}"
        yield _Broken(rule="max_hours", path=("budget", "max_hours"), value=f"{hours:g}", message=message)


def _compute(policy: Policy, spec: JobSpec) -> Iterator[_Broken]:
    compute = spec.compute
    yield from _clouds(policy, compute)
    yield from _listed("gpus", ("compute", "gpus"), compute.gpus, policy.gpus)
    if policy.max_gpus is not None and compute.count > policy.max_gpus:
        message = f"compute.count is {compute.count}, and a pod may have at most {policy.max_gpus} GPUs"
        yield _Broken(rule="max_gpus", path=("compute", "count"), value=str(compute.count), message=message)
    yield from _listed("data_centers", ("compute", "data_centers"), compute.data_centers, policy.data_centers)
    if policy.data_centers is not None:
        allowed = _said(policy.data_centers)
        if lost := losing(compute.clouds, compute.tiers):
            named = " and ".join(lost)
            message = f"compute.tiers has {named}, whose machines are in no data center of {allowed}"
            yield _Broken(rule="data_centers", path=("compute", "tiers"), value=named, message=message)
        elif not compute.data_centers:
            message = f"compute.data_centers is empty, so that any would do, and only {allowed} may be used"
            hint = "name the data centers that will do, e.g. data_centers: [EU-SE-1]"
            path = ("compute", "data_centers")
            yield _Broken(rule="data_centers", path=path, value="any", message=message, hint=hint)
    yield from _listed("tiers", ("compute", "tiers"), compute.tiers, policy.tiers)
    if policy.images is not None and compute.asked_image is None:
        key = "cloud" if compute.template is None else "template"
        value = str(getattr(compute, key))
        message = f"compute.{key} {value} brings an image that nobody sees here, and images is limited"
        hint = "set compute.image, which wins over the template's" if compute.template else "other clouds take an image"
        yield _Broken(rule="images", path=("compute", key), value=value, message=message, hint=hint)
    elif policy.images is not None and not matches(compute.image, policy.images):
        yield _not_allowed("images", ("compute", "image"), compute.image, policy.images)


def _clouds(policy: Policy, compute: Compute) -> Iterator[_Broken]:
    if policy.clouds is None:
        return
    hint = f"cloud: [{', '.join(policy.clouds)}] lets it go to any of these" if len(policy.clouds) > 1 else None
    for index, cloud in enumerate(compute.clouds):
        if cloud in policy.clouds:
            continue
        if compute.cloud == "any":
            message = f"compute.cloud is any, and only {_said(policy.clouds)} may be used"
            yield _Broken(rule="clouds", path=("compute", "cloud"), value="any", message=message, hint=hint)
            return
        path = ("compute", "cloud", index) if isinstance(compute.cloud, list) else ("compute", "cloud")
        yield replace(_not_allowed("clouds", path, cloud, policy.clouds), hint=hint)


def _access(policy: Policy, spec: JobSpec) -> Iterator[_Broken]:
    """Who gets into the pod, what it is given, and what stays of it."""
    compute, volume = spec.compute, spec.compute.volume
    if isinstance(spec, SessionSpec) and not policy.session:
        message = "task is session, a pod to work on by hand, and is not allowed here"
        yield _Broken(rule="session", path=("task",), value="session", message=message)
    if compute.ssh and not policy.ssh:
        message = "compute.ssh is true, which is the default, and nobody may log in to a pod here"
        yield _Broken(rule="ssh", path=("compute", "ssh"), value="true", message=message, hint="ssh: false")
    yield from _listed("ports", ("compute", "ports"), compute.ports, policy.ports)
    part = {"command": getattr(spec, "command", None), "session": getattr(spec, "session", None)}.get(spec.task)
    if part is not None:
        yield from _listed("secrets", (spec.task, "secrets"), part.secrets, policy.secrets)
    if volume.keep and policy.kept_volumes is not None and not matches(str(volume.name), policy.kept_volumes):
        yield _not_allowed("kept_volumes", ("compute", "volume", "name"), str(volume.name), policy.kept_volumes)


def _task(policy: Policy, spec: JobSpec, known: Known) -> Iterator[_Broken]:
    if isinstance(spec, CommandSpec | SessionSpec) and not policy.command:
        what = "any program of the commit" if isinstance(spec, CommandSpec) else "whatever somebody types"
        message = f"task is {spec.task}, which runs {what}, and is not allowed here"
        yield _Broken(rule="command", path=("task",), value=spec.task, message=message)
    if not isinstance(spec, TrainingSpec):
        return
    model = spec.model
    if policy.model_owners is not None and not owned(model.id, policy.model_owners):
        yield _not_allowed("model_owners", ("model", "id"), model.id, policy.model_owners)
    source = (spec.data.source or "").removeprefix("hf://datasets/")
    if source and policy.dataset_owners is not None and not _may_be_at(source, policy.dataset_owners):
        yield _not_allowed("dataset_owners", ("data", "source"), source, policy.dataset_owners)
    if model.trust_remote_code and not policy.trust_remote_code:
        message = "model.trust_remote_code is true, which runs code of the model's repository, and is not allowed here"
        yield _Broken(rule="trust_remote_code", path=("model", "trust_remote_code"), value="true", message=message)
    if policy.licences is not None and known.licence is not None:
        licence = known.licence(model.id, model.revision)
        if licence is None:
            message = f"the licence of {model.id} cannot be read, and only {_said(policy.licences)} may be used"
            hint = "it stands in the model card's metadata; a gated model shows it to everybody"
            yield _Broken(rule="licences", path=("model", "id"), value="unknown", message=message, hint=hint)
        elif licence.lower() not in [it.lower() for it in policy.licences]:
            message = f"the licence of {model.id} is {shorten(ascii(licence))}, not {_said(policy.licences)}"
            yield _Broken(rule="licences", path=("model", "id"), value=shorten(licence), message=message)


def _publish(policy: Policy, spec: JobSpec) -> Iterator[_Broken]:
    publish = spec.publish if isinstance(spec, TrainingSpec | CommandSpec) else None
    if publish is None:
        return
    if policy.publish_owners is not None and not owned(publish.repo, policy.publish_owners):
        yield _not_allowed("publish_owners", ("publish", "repo"), publish.repo, policy.publish_owners)
    copies = publish.checkpoints if isinstance(publish, Publish) else None
    if policy.publish_owners is not None and copies and not _may_be_at(copies, policy.publish_owners):
        yield _not_allowed("publish_owners", ("publish", "checkpoints"), copies, policy.publish_owners)
    if not policy.public_results and not publish.private:
        message = "publish.private is false, and results may not be public here"
        yield _Broken(rule="public_results", path=("publish", "private"), value="false", message=message)


def _listed(
    rule: str, path: tuple[str, ...], values: Sequence[str], patterns: Sequence[str] | None
) -> Iterator[_Broken]:
    if patterns is None:
        return
    for index, value in enumerate(values):
        if not matches(value, patterns):
            yield _not_allowed(rule, (*path, index), value, patterns)


def _not_allowed(rule: str, path: tuple[str | int, ...], value: str, allowed: Sequence[str]) -> _Broken:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    said = f"not {_said(allowed)}" if allowed else "and none is allowed here"
    return _Broken(rule=rule, path=path, value=value, message=f"{key} is {shorten(ascii(value))}, {said}")


def _said(allowed: Sequence[str]) -> str:
    shown = [shorten(it) for it in allowed[:6]] + ([f"{len(allowed) - 6} more"] if len(allowed) > 6 else [])
    return " or ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]

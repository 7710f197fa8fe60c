"""The plan of job specs for their reviewer: whether each fits, how long it takes, what it costs, what a merge rents.

Needs neither a key nor Pulumi's program. With RUNPOD_API_KEY set prices and stock are live, otherwise those of a dated
snapshot; sizes come from the Hub, or from a table where it does not answer. Every figure says where it is from.

    sources.py    the catalogue, the Hub (hub.py), data files (data.py), the ledger's past runs
    base.py       the specs and prices of a base commit, and what changed since
    build.py      a spec and its facts → places, memory, hours, dollars
    advice.py     what would make it fit; cautions.py what a reviewer should see
    model.py      the Plan, which text.py, markdown.py and document.py show
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pushtrain.capabilities import DEFAULT_CLOUD
from pushtrain.check import check, counted
from pushtrain.errors import SpecError
from pushtrain.estimate.correction import memory_correction
from pushtrain.estimate.speed import kind_of
from pushtrain.plan.advice import suggestions
from pushtrain.plan.base import Base, changed, read_base, same_but_name
from pushtrain.plan.build import Training, bare_plan
from pushtrain.plan.cautions import cautions, revisions
from pushtrain.plan.model import Plan, Plans
from pushtrain.plan.sources import Sources, open_sources
from pushtrain.plan.words import without_model
from pushtrain.policy.file import PolicyFile, policy_at
from pushtrain.policy.known import ASKED, known_before
from pushtrain.policy.rules import violations
from pushtrain.prices import storage_said
from pushtrain.spec import JobSpec, TrainingSpec
from pushtrain.spec.file import read, spec_error
from pushtrain.spec.told import told

__all__ = ["Plan", "Plans", "plan_specs", "plans"]

DOES_NOT_FIT = "DoesNotFit"


def plan_specs(
    paths: Sequence[Path], root: Path, environ: Mapping[str, str], *, base: str | None = None
) -> tuple[Plans, list[SpecError]]:
    """Plans of the specs that are fine or that only the policy refuses, and every problem: of specs that cannot be
    planned, of those refused, of those that fit on no card.

    With `base`, only specs that are new, changed or deleted since, unless `paths` name them, held against its policy,
    with the month's sum and licences where those can be known. Raises PushtrainError for
    a base this clone does not have, or prices that cannot be read.
    """
    found = check(paths, root, base=base)
    before = read_base(root, base) if base else None
    sources = open_sources(root, environ, before.prices if before else None)
    made = _made(found.specs, found.refused, sources, before)
    made = [replace(plan, is_elsewhere=not (root / plan.path).exists()) for plan in made]
    kept = [plan for plan in made if paths or plan.status != "unchanged"]
    gone = _deleted(before, {plan.path for plan in made}, root) if before and not paths else []
    policy = policy_at(root, base) if base else None
    starting = [plan for plan in kept if plan.would_start and plan.status != "unchanged"]
    broken, notes = held_before(policy, starting, root, environ) if policy and starting else ({}, [])
    kept = [replace(plan, is_refused=plan.is_refused or plan.path in broken) for plan in kept]
    later = [problem for problems in broken.values() for problem in problems]
    problems = [*found.problems, *later, *problems_of(kept, root)]
    together = Plans(
        plans=(*kept, *gone),
        problems=tuple(problems),
        prices=sources.market.said(_clouds(kept)),
        storage=storage_said(_clouds(kept)),
        unchanged=len(made) - len(kept),
        warnings=tuple(notes),
        base=base,
    )
    return together, problems


def plans(
    specs: Sequence[JobSpec],
    root: Path,
    environ: Mapping[str, str],
    *,
    base: str | None = None,
    refused: Sequence[JobSpec] = (),
) -> tuple[list[Plan], list[SpecError]]:
    """Plans of specs that passed their check, then of those that only the policy refuses; and the problems of those
    that fit on no card. Raises as `plan_specs`."""
    before = read_base(root, base) if base else None
    sources = open_sources(root, environ, before.prices if before else None)
    made = _made(specs, refused, sources, before)
    return made, problems_of(made, root)


def held_before(
    policy: PolicyFile, starting: Sequence[Plan], root: Path, environ: Mapping[str, str]
) -> tuple[dict[str, list[SpecError]], list[str]]:
    """The rules that ask more than a spec says, held against what a merge would start, all together: the problems by a
    spec's path; and what could not be known of them."""
    known, notes = known_before(policy, root, environ)
    problems: dict[str, list[SpecError]] = {}
    for plan in starting:
        broken = violations(policy, plan.spec, read(root / plan.path, root), known)
        if asked := [spec_error([it.problem]) for it in broken if it.rule in ASKED]:
            problems[plan.path] = asked
        known = counted(known, plan.spec) or known
    return problems, notes


def problems_of(made: Sequence[Plan], root: Path) -> list[SpecError]:
    """A job that starts and fits on none of its cards would fail on the first of them, billed."""
    refused = [plan for plan in made if plan.fits is False and plan.would_start and not _is_tried_anyway(plan)]
    return [_too_large(plan, read(root / plan.path, root).where("compute", "gpus")) for plan in refused]


def _made(specs: Sequence[JobSpec], refused: Sequence[JobSpec], sources: Sources, base: Base | None) -> list[Plan]:
    made = [plan_of(spec, sources, base) for spec in specs]
    return made + [replace(plan_of(spec, sources, base), is_refused=True) for spec in refused]


def _is_tried_anyway(plan: Plan) -> bool:
    return isinstance(plan.spec, TrainingSpec) and not plan.spec.train.check_memory


def plan_of(spec: JobSpec, sources: Sources, base: Base | None) -> Plan:
    """Everything about one spec."""
    path = _path(spec, sources.root)
    if not isinstance(spec, TrainingSpec):
        plan = bare_plan(spec, path, sources, None)
        plan = replace(
            plan,
            notes=(*plan.notes, without_model(plan)),
            revisions=revisions(spec, None, None),
            facts=tuple(told(spec)),
        )
        return _compared(replace(plan, cautions=cautions(plan, None, None)), base, sources.root)
    model = sources.hub.model(spec.model.id, spec.model.revision)
    dataset, why_none, facts = sources.dataset(spec)
    training = Training.of(spec, model.shape, dataset, model.stored_bytes) if model.shape else None
    plan = bare_plan(spec, path, sources, training)
    notes = [f"model: {model.how}", f"data: {dataset.how if dataset else _without_data(why_none, plan)}"]
    notes += [f"training time: {plan.first.correction}; {plan.first.basis}"] if plan.first and plan.first.basis else []
    held = memory_correction(sources.past(), kind_of(training.recipe)) if training else None
    notes += [f"memory: {held.how}{_counted_on(held.factor)}"] if held and held.how else []
    notes += [sources.past_trouble] if sources.past_trouble else []
    plan = replace(plan, notes=(*plan.notes, *notes), revisions=revisions(spec, model, facts), facts=tuple(told(spec)))
    if plan.fits is False:
        plan = replace(plan, suggestions=suggestions(plan, model, dataset, sources))
    return _compared(replace(plan, cautions=cautions(plan, model, facts)), base, sources.root)


def _clouds(made: Sequence[Plan]) -> list[str]:
    """Whose prices the plans go by; those of a spec that names none where there is no plan."""
    return list(dict.fromkeys(cloud for plan in made for cloud in plan.spec.compute.clouds)) or [DEFAULT_CLOUD]


def _counted_on(factor: float) -> str:
    return f"; each card is taken for {factor:.2f} times smaller" if factor > 1 else ", which changes nothing"


def _without_data(why: str, plan: Plan) -> str:
    if plan.work is None:
        return f"{why}: hours and dollars are at most the budget's"
    return f"{why}: {plan.work.steps} steps of full rows are reckoned with, evaluation left out"


def _compared(plan: Plan, base: Base | None, root: Path) -> Plan:
    if base is None:
        return plan
    if plan.path not in base.specs:
        left = [(path, spec) for path, spec in base.specs.items() if spec and not (root / path).exists()]
        twin = next((path for path, spec in left if same_but_name(spec, plan.spec)), None)
        return replace(plan, status="new", renamed_from=twin)
    before = base.specs[plan.path]
    if before is None:
        note = f"at {base.ref} the file could not be read as a job spec"
        return replace(plan, status="changed", notes=(*plan.notes, note))
    what = changed(before, plan.spec)
    return replace(plan, status="changed" if what else "unchanged", differences=what)


def _deleted(base: Base, here: set[str], root: Path) -> list[Plan]:
    gone = [(path, spec) for path, spec in base.specs.items() if path not in here and not (root / path).exists()]
    return [Plan(spec=spec, path=path, status="deleted") for path, spec in gone if spec is not None]


def _path(spec: JobSpec, root: Path) -> str:
    endings = (f"jobs/{spec.name}{ending}" for ending in (".yaml", ".yml"))
    return next((path for path in endings if (root / path).exists()), f"jobs/{spec.name}.yaml")


def _too_large(plan: Plan, where: str) -> SpecError:
    assert plan.memory is not None
    cards = ", ".join(f"{place.gpu} ({place.usable_gb:.1f} GB)" for place in plan.places)
    fits = "; or ".join(" with ".join(it.change) for it in plan.suggestions)
    return SpecError(
        f"{plan.spec.name} fits on none of its GPUs: it needs {plan.memory.need_gb:.1f} GB, at the very least "
        f"{plan.memory.floor_gb:.1f}; there are {cards}",
        where=where,
        hint=f"what would fit: {fits}" if fits else "a smaller model, or more of its weights frozen",
        reason=DOES_NOT_FIT,
    )

"""Everything about job specs that can be known before anything is rented: the files, their data, each other.

Needs no key and no network. What only a cloud, the Hub or the ledger can say (stock, prices, a model's licence, the sum
of the month) is not here: `plan --base` and `review` look at it.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pushtrain.capabilities import CLOUDS, losing
from pushtrain.check_command import check_command
from pushtrain.committed import against_head
from pushtrain.errors import SpecError
from pushtrain.gpus import GPU_NAMES, nearest, unusable
from pushtrain.policy.file import PolicyFile, policy_at, policy_here
from pushtrain.policy.model import POLICY_FILE
from pushtrain.policy.rules import Known, violations
from pushtrain.rows import DATA_MISSING, PYARROW_MISSING, data_file, read_rows
from pushtrain.spec import CommandSpec, JobSpec, TrainingSpec
from pushtrain.spec.file import Problem, SpecFile, read, spec_error
from pushtrain.spec.unmet import outlived
from pushtrain.traffic import beyond_cap

# Of a data file this many rows are looked at: a wrong form shows in the first one, and a file of millions must cost
# neither minutes nor memory here. The trainer looks at every row before it trains.
HEAD_ROWS = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """`specs` are those without a problem, in the order of their files, `refused` those of which the policy alone says
    no. `problems` fail a check, `warnings` do not."""

    specs: tuple[JobSpec, ...]
    problems: tuple[SpecError, ...]
    warnings: tuple[str, ...]
    refused: tuple[JobSpec, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "specs": [{"name": spec.name, "digest": spec.digest, "suspend": spec.suspend} for spec in self.specs],
            "problems": [problem.as_json() for problem in self.problems],
            "warnings": list(self.warnings),
        }


def check(
    paths: Sequence[Path],
    root: Path,
    *,
    gpu_names: Collection[str] = GPU_NAMES,
    base: str | None = None,
    known: Known | None = None,
) -> CheckReport:
    """Checks the spec files `paths` (all of jobs/ when empty) of the repository at `root`; reports, and raises
    SpecError only where git has no commit `base`.

    `gpu_names` are the GPU types that exist; pass `Cloud.gpu_names()` where a key is at hand. The policy is the one of
    commit `base`, whatever the work tree brings along; without `base` the work tree's own. `known` is what the policy
    asks about and no spec says.
    """
    root = root.absolute()
    files = [read(path, root) for path in dict.fromkeys(root / path for path in paths or _job_files(root))]
    specs: list[JobSpec] = []
    refused: list[JobSpec] = []
    policy, problems, warnings = policy_for(root, base)
    if not files:
        warnings.append(Problem(where="jobs/", message="there is no job spec"))
    warnings += _elsewhere(files, root, paths)
    taken: dict[str, str] = {}
    for file in files:
        wrong = [*file.problems, *_name_taken(file, taken)]
        if file.spec is not None:
            wrong += _unknown_gpus(file, file.spec, gpu_names)
            warnings += [*_lost_with_the_pod(file, file.spec), *_kept_in_several(file, file.spec)]
            warnings += [*_known_later(file, file.spec), *_of_the_budget(file, file.spec)]
            files_problems, files_warnings = _files(file, file.spec, root)
            wrong += files_problems
            warnings += files_warnings
            broken = [it.problem for it in violations(policy, file.spec, file, known)] if policy.policy else []
            known = counted(known, file.spec)
            # What is suspended starts nothing; the rule is held against it again when it does.
            said = [] if file.spec.suspend else broken
            warnings += broken if file.spec.suspend else []
            if not wrong:
                (refused if said else specs).append(file.spec)
            wrong += said
        problems += wrong
    return CheckReport(
        specs=tuple(specs),
        problems=tuple(spec_error([problem]) for problem in problems),
        warnings=tuple(str(spec_error([warning])) for warning in warnings),
        refused=tuple(refused),
    )


def policy_for(root: Path, base: str | None) -> tuple[PolicyFile, list[Problem], list[Problem]]:
    """The policy that holds, and problems and warnings about it. The work tree's own has to be readable in any case:
    merged, it would stop everything."""
    here = policy_here(root)
    holds = here if base is None else policy_at(root, base)
    problems, warnings = [*holds.problems], list[Problem]()
    if base is not None and here.text != holds.text:
        problems += here.problems
        message = "this changes the policy; job specs were held against the one of the base"
        warnings.append(Problem(where=POLICY_FILE, message=message, hint="look at the change of the policy by itself"))
    return holds, problems, warnings


def counted(known: Known | None, spec: JobSpec) -> Known | None:
    """What the next spec finds when this one runs."""
    if known is None or known.month_usd is None or spec.suspend:
        return known
    return replace(known, month_usd=known.month_usd + spec.budget.max_usd)


def is_looked_at(path: str) -> bool:
    """Whether a reconcile would look at a spec at this path, relative to the top."""
    return Path(path).parent == Path("jobs")


def _job_files(root: Path) -> list[Path]:
    return sorted(path for pattern in ("*.yaml", "*.yml") for path in (root / "jobs").glob(pattern))


def _elsewhere(files: Sequence[SpecFile], root: Path, named: Sequence[Path]) -> list[Problem]:
    """Specs that nobody would ever run: what a reconcile reads is jobs/ itself."""
    found = list(files)
    if not named:
        below = (path for pattern in ("*.yaml", "*.yml") for path in (root / "jobs").glob(f"*/**/{pattern}"))
        found = [read(path, root) for path in sorted(below)]
    hint = "git mv it to jobs/NAME.yaml"
    return [
        Problem(where=file.name, message="is not in jobs/ itself: nothing ever starts it", hint=hint)
        for file in found
        if file.spec is not None and not is_looked_at(file.name)
    ]


def _name_taken(file: SpecFile, taken: dict[str, str]) -> Iterator[Problem]:
    name = file.written("name")
    if not isinstance(name, str):
        return
    if name in taken:
        message = f"the name {ascii(name)[:60]} is taken by {taken[name]}"
        yield Problem(where=file.where("name"), message=message, hint="give each job a name of its own")
    taken.setdefault(name, file.name)


def _unknown_gpus(file: SpecFile, spec: JobSpec, gpu_names: Collection[str]) -> Iterator[Problem]:
    for index, gpu in enumerate(spec.compute.gpus):
        if reason := unusable(gpu, bf16=spec.computes_in_bf16):
            message = f"compute.gpus[{index}]: {gpu!r} cannot be used: {reason}"
            yield Problem(where=file.where("compute", "gpus", index), message=message, hint="name another GPU type")
        elif gpu not in gpu_names:
            near = nearest(gpu, [name for name in gpu_names if not unusable(name)])
            meant = f"did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
            hint = f"{meant}pushtrain/gpus.py has the known ids; at run time the cloud's live list decides"
            title = " or ".join(CLOUDS[name].title for name in spec.compute.clouds)
            message = f"compute.gpus[{index}]: {gpu!r} is not a GPU type of {title} that is known"
            yield Problem(where=file.where("compute", "gpus", index), message=message, hint=hint)


def _lost_with_the_pod(file: SpecFile, spec: JobSpec) -> Iterator[Problem]:
    """What machines without a network volume mean, said before anything is rented."""
    compute = spec.compute
    lost = {name: tiers for name in compute.clouds if (tiers := losing(name, compute.tiers))}
    if not lost:
        return
    where, named = file.where("compute", "tiers"), " and ".join(losing(lost, compute.tiers))
    if compute.data_centers:
        message = f"compute.tiers allows {named}, but its machines are in none of compute.data_centers"
        yield Problem(where=where, message=message, hint=f"leave compute.data_centers out, or {named}")
        return
    if spec.copies_to:
        return
    places = " and ".join(_lossy(name, tiers, several=len(compute.clouds) > 1) for name, tiers in lost.items())
    message = f"{places} nothing survives a lost pod: the next attempt starts from step 0, within the same budget"
    without = [CLOUDS[name].title for name in lost if not CLOUDS[name].volume_tiers]
    if without:
        kept = "; publish.hub_strategy: checkpoint keeps the last one" if isinstance(spec, TrainingSpec) else ""
        hint = f"{' and '.join(without)} has no volume that outlives a pod{kept}"
        where = file.where("compute", "cloud")
    else:
        last = [*CLOUDS[next(iter(lost))].volume_tiers, *losing(lost, compute.tiers)]
        hint = f"tiers: [{', '.join(last)}] asks for such a machine last"
    yield Problem(where=where, message=message, hint=hint)


def _kept_in_several(file: SpecFile, spec: JobSpec) -> Iterator[Problem]:
    """A kept volume is at one cloud; a job that may go to several has one at each that it was placed at."""
    compute = spec.compute
    if compute.volume.keep and len(compute.clouds) > 1:
        titles = " and ".join(CLOUDS[name].title for name in compute.clouds)
        message = (
            f"the kept volume {compute.volume.name} is another one at each of {titles}, made and billed where a run"
        )
        hint = "name one cloud, that where its files are; `pushtrain volumes` lists each"
        yield Problem(where=file.where("compute", "volume"), message=f"{message} is placed first", hint=hint)


def _lossy(cloud: str, tiers: Sequence[str], *, several: bool) -> str:
    """Where a lost pod takes all with it: a tier of a cloud that has another one, else the cloud."""
    can = CLOUDS[cloud]
    if not can.volume_tiers:
        return f"at {can.title}"
    return f"on {' and '.join(tiers)}{f' at {can.title}' if several else ''}"


def _known_later(file: SpecFile, spec: JobSpec) -> Iterator[Problem]:
    """What a template brings, nobody can say here: it is in the account, and may be another one tomorrow."""
    compute = spec.compute
    if compute.template is None:
        return
    brings = "image, registry login and variables" if compute.asked_image is None else "registry login and variables"
    message = f"compute.template {compute.template} is read when a pod is made: its {brings} are not known before"
    hint = "set compute.image to pin what runs" if compute.asked_image is None else "compute.image wins over its image"
    yield Problem(where=file.where("compute", "template"), message=message, hint=hint)


def _of_the_budget(file: SpecFile, spec: JobSpec) -> Iterator[Problem]:
    """Hours that no single pod has, and dollars that no cap holds."""
    restart = not isinstance(spec, CommandSpec) or spec.command.restart
    for cloud in spec.compute.clouds:
        if message := outlived(cloud, max_hours=spec.budget.max_hours, restart=restart):
            yield Problem(where=file.where("budget", "max_hours"), message=message)
        if message := beyond_cap(cloud, spec):
            yield Problem(where=file.where("budget", "max_usd"), message=message)


def _files(file: SpecFile, spec: JobSpec, root: Path) -> tuple[list[Problem], list[Problem]]:
    """Problems and warnings of what the spec names in the commit."""
    if isinstance(spec, TrainingSpec):
        return _data(file, spec, root)
    return check_command(file, spec, root) if isinstance(spec, CommandSpec) else ([], [])


def _data(file: SpecFile, spec: TrainingSpec, root: Path) -> tuple[list[Problem], list[Problem]]:
    """Problems and warnings of the file at `data.path`, and of the chat template."""
    problems: list[Problem] = []
    warnings: list[Problem] = []
    if spec.train.chat_template_path is not None:
        _in_commit(file, spec, ("train", "chat_template_path"), root, problems, warnings)
    path, where = spec.data.path, file.where("data", "path")
    found = _in_commit(file, spec, ("data", "path"), root, problems, warnings) if path is not None else None
    if path is None or found is None:
        return problems, warnings
    skipped: list[SpecError] = []
    reading = replace(spec.reading, skipped=skipped.append if spec.data.bad_rows == "skip" else None)
    try:
        for _ in read_rows(found, path, reading, head=HEAD_ROWS):
            pass
        if skipped:
            message = (
                f"{len(skipped)} of the first rows will be skipped, as data.bad_rows says; the first: {skipped[0]}"
            )
            warnings.append(Problem(where=where, message=message))
    except SpecError as error:
        if error.reason == PYARROW_MISSING:
            warnings.append(Problem(where=where, message=str(error), hint=error.hint))
            return problems, warnings
        at = error.where or path
        problems.append(Problem(where=at, message=str(error).removeprefix(f"{at}: "), hint=error.hint))
    return problems, warnings


def _in_commit(
    file: SpecFile,
    spec: TrainingSpec,
    key: tuple[str, str],
    root: Path,
    problems: list[Problem],
    warnings: list[Problem],
) -> Path | None:
    """The file that `key` of the spec names; None where it is not there. A suspended job may wait for it: then absence
    warns."""
    part, name = key
    path, where, shown = getattr(getattr(spec, part), name), file.where(*key), ".".join(key)
    absent = warnings if spec.suspend else problems
    try:
        found = data_file(path, root, shown)
    except SpecError as error:
        problem = Problem(where=where, message=str(error), hint=error.hint)
        (absent if error.reason == DATA_MISSING else problems).append(problem)
        return None
    message, is_absent = against_head(root, shown, path, found)
    if message is not None:
        hint = f"git add {path}, and commit it: the pod fetches the commit, not this folder"
        (absent if is_absent else warnings).append(Problem(where=where, message=message, hint=hint))
    return found

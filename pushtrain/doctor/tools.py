"""What is on this machine, and what the commit's workflows say."""

import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pushtrain import __version__
from pushtrain.capabilities import CLOUDS
from pushtrain.doctor.finding import SPEC, Check, Finding, Place
from pushtrain.errors import SpecError
from pushtrain.gitcmd import git
from pushtrain.init import PROJECT, has_templates, templates, tool_files
from pushtrain.spec import JobSpec

FOLDER = Path(".github") / "workflows"
# GIT_CONFIG_COUNT, by which a token reaches git without argv.
OLDEST_GIT = (2, 31)
_OURS = ("review.yml", "train.yml", "prices.yml")
_TOO_LARGE = 256 * 1024


class Train(NamedTuple):
    """What train.yml says of itself: the branch that it acts for, and the environment that has its secrets."""

    branch: str
    environment: str


def train_workflow(root: Path) -> Train:
    """Of the work tree's train.yml; main and gpu where it is not there or says neither. Raises SpecError."""
    path = root / FOLDER / "train.yml"
    workflow = _read(path) if path.is_file() else {}
    push = (workflow.get("on") or {}).get("push") if isinstance(workflow.get("on"), Mapping) else None
    branches = (push or {}).get("branches") or ["main"]
    environments = [job["environment"] for job in _jobs(workflow) if isinstance(job.get("environment"), str)]
    return Train(branch=str(branches[0]), environment=(environments or ["gpu"])[0])


def tool_findings(place: Place, check: Check) -> Iterator[Finding]:
    said = git(["--version"], env=dict(place.environ), timeout_s=10).stdout.decode(errors="replace").strip()
    numbers = re.search(r"(\d+)\.(\d+)", said)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST_GIT:
        yield check.wrong(f"{said}: 2.31 is the oldest that can be told a token safely", "install a newer git", 1)
    else:
        yield check.ok(f"{said}, Python {sys.version.split()[0]}")
    urls = (place.settings.source_url, place.settings.ledger_url)
    if any(it and not it.startswith(("https://", "http://", "file://")) for it in urls):
        if shutil.which("ssh", path=place.environ.get("PATH", "")) is None:
            yield check.wrong("a git URL goes by ssh, and there is no ssh", "install an OpenSSH client", 1)
        else:
            yield check.ok("ssh is here, for the git URL that needs it; whether its key is taken, the git checks say")


def workflow_findings(place: Place, check: Check) -> Iterator[Finding]:
    """Raises SpecError for a workflow that cannot be read."""
    there = sorted(it for ending in ("yml", "yaml") for it in (place.root / FOLDER).glob(f"*.{ending}"))
    for name in ("review.yml", "train.yml"):
        if place.root / FOLDER / name not in there:
            yield check.wrong(f"{FOLDER / name} is not there", "pushtrain init", SPEC)
    problems = [problem for path in there for problem in _problems(path)]
    for message, fix in problems:
        # A workflow of the repository's own is its owner's matter, but for the one way to the keys of main.
        ours = any(message.startswith(f"{FOLDER / name}:") for name in _OURS)
        serious = ours or "pull_request_target" in message
        yield check.wrong(message, fix, SPEC) if serious else check.warning(message, fix)
    yield from _unhanded(place, check)
    if there and not problems:
        yield check.ok(f"{len(there)} files: secrets in an environment only, actions pinned by commit")
    yield from stale_findings(place.root, check)


def wanted_keys(specs: Sequence[JobSpec]) -> list[str]:
    """Variables of the keys without which some job could not start: of its one cloud."""
    alone = {spec.compute.clouds[0] for spec in specs if len(spec.compute.clouds) == 1}
    return [name for cloud in CLOUDS if cloud in alone for name in CLOUDS[cloud].key_names]


def _unhanded(place: Place, check: Check) -> Iterator[Finding]:
    """A key that is a secret reaches a step only where the workflow hands it over by name."""
    path = place.root / FOLDER / "train.yml"
    if not path.is_file():
        return
    handed = set(re.findall(r"secrets\.([A-Z][A-Z0-9_]*)", path.read_text(encoding="utf-8", errors="replace")))
    meant = {name: spec.name for spec in place.specs for name in spec.compute.clouds if spec.compute.cloud != "any"}
    for cloud, job in meant.items():
        if absent := [key for key in CLOUDS[cloud].key_names if key not in handed]:
            message = f"{FOLDER / 'train.yml'} hands no {' and no '.join(absent)} to reconcile, and {job} names {cloud}"
            yield check.wrong(message, "; ".join(f"{key}: ${{{{ secrets.{key} }}}} in its env" for key in absent), SPEC)


def stale_findings(root: Path, check: Check) -> Iterator[Finding]:
    """Held against what `init` of the pushtrain that is asked would write; nothing to hold where that is the
    repository's own."""
    if PROJECT.resolve().is_relative_to(root.resolve()):
        return
    fix = f"uv run --project CLONE pushtrain init --force, and git diff; CLONE has pushtrain {__version__}"
    if not has_templates():
        yield check.unknown(
            f"pushtrain {__version__} came without its workflows: these were not held against them", fix
        )
        return
    fix = "pushtrain init --force, then git diff: what you changed on purpose is in it"
    old = [name for name, text in templates(root).items() if _differs(root / name, text)]
    if old:
        message = f"{', '.join(old)}: not what init of pushtrain {__version__} writes"
        yield check.warning(message, fix)
    tool = tool_files(root)
    other = [name for name, text in tool.items() if _differs(root / name, text)]
    if other:
        shown = ", ".join(other[:3]) + (" …" if len(other) > 3 else "")
        message = f"{len(other)} of {len(tool)} files of the tool are not those of pushtrain {__version__}: {shown}"
        yield check.warning(message, fix)
    elif not old:
        yield check.ok(f"workflows and tool are those of pushtrain {__version__}")


def _differs(path: Path, text: bytes) -> bool:
    """A file that is not there is not stale: a repository need not have every workflow."""
    try:
        return path.is_file() and path.read_bytes() != text
    except OSError:
        return True


def _problems(path: Path) -> Iterator[tuple[str, str]]:
    workflow, name = _read(path), FOLDER / path.name
    events = workflow.get("on")
    if "pull_request_target" in (events if isinstance(events, Mapping | list) else [events]):
        yield f"{name}: pull_request_target runs a stranger's change with your secrets", "use pull_request"
    if workflow.get("permissions") != {}:
        yield (
            f"{name}: every job gets the token's default rights",
            "permissions: {} at the top, rights per job",
        )
    for job in _jobs(workflow):
        if re.search(r"secrets\.(?!GITHUB_TOKEN\b)", str(job)) and not job.get("environment"):
            yield f"{name}: a job reads secrets without an environment", "environment: gpu"
        for step in job.get("steps") or ():
            used = str(step.get("uses", "")) if isinstance(step, Mapping) else ""
            if used and not used.startswith("./") and not re.search(r"@[0-9a-f]{40}$", used):
                yield f"{name}: {used} can be moved to other code", "pin it by its full commit"


def _jobs(workflow: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    jobs = workflow.get("jobs")
    return [it for it in jobs.values() if isinstance(it, Mapping)] if isinstance(jobs, Mapping) else []


def _read(path: Path) -> dict[str, Any]:
    where = str(FOLDER / path.name)
    try:
        if path.stat().st_size > _TOO_LARGE:
            raise SpecError("larger than 256 KiB", where=where)
        found = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError(f"cannot be read as YAML: {str(error).splitlines()[0]}", where=where) from None
    return found if isinstance(found, dict) else {}

"""README and the other pages: every command in them parses, every link leads somewhere, every table is the code's."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import typer
import typer.core
from pydantic import BaseModel

from pushtrain import errors
from pushtrain.cli import app
from pushtrain.placement import Candidate, cap
from pushtrain.spec import KINDS, JobSpec
from pushtrain.spec.file import loads

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SECTION = r"^## {}\n(.*?)(?=^## |\Z)"


def section(title: str) -> str:
    found = re.search(SECTION.format(re.escape(title)), README, re.MULTILINE | re.DOTALL)
    assert found, f"README has no section '{title}'"
    return found[1]


def command_lines(text: str) -> list[str]:
    """Every `pushtrain VERB …` in code: in a block, in a `run:` of a workflow, or between backquotes."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    runs = re.findall(r"^\s*(?:- )?run: (.+)$", text, re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()] + inline + runs
    found = [re.search(r"(?:^|\s)pushtrain ((?:-|[a-z]).*)", line) for line in lines]
    return [re.split(r"\s(?:#|>>|\|)", match[1])[0].strip() for match in found if match]


@pytest.mark.parametrize("page", [*PAGES, *WORKFLOWS], ids=lambda page: page.name)
def test_every_pushtrain_command_written_down_is_one_the_program_takes(page: Path) -> None:
    program = typer.main.get_command(app)
    assert isinstance(program, typer.core.TyperGroup)
    usage_error = typer.BadParameter.__mro__[1]  # typer carries its own click
    for line in command_lines(page.read_text(encoding="utf-8")):
        name, *arguments = line.split()
        if name == "--version":
            continue
        assert name in program.commands, f"{page.name}: pushtrain {line}"
        try:
            program.commands[name].make_context(name, arguments)
        except usage_error as problem:
            pytest.fail(f"{page.name}: pushtrain {line}: {problem}")


def test_readme_and_workflows_do_name_commands() -> None:
    """Or the test above would pass on nothing."""
    verbs = {line.split()[0] for line in command_lines(README)}
    assert verbs >= {"check", "plan", "reconcile", "run", "runs", "logs", "cancel", "sweep", "simulator", "demo"}
    told = [command_lines(page.read_text(encoding="utf-8")) for page in WORKFLOWS]
    assert sorted(line.split()[0] for lines in told for line in lines) == ["prices", "reconcile", "reconcile"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_of_the_repository(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in _anchors(linked), f"{page.name}: {target}"


def test_the_way_of_a_batch_names_what_is_there() -> None:
    import trainer

    steps = re.findall(r"^ {4}\d  ([\w/]+\.py) +(.*)", trainer.__doc__ or "", re.MULTILINE)
    assert len(steps) == 7
    for path, words in steps:
        text = (ROOT / "trainer" / path).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", words):
            assert f"def {name}(" in text, f"{path}: {name}"
        for other in re.findall(r"(\w+\.py)", words):
            assert (ROOT / "trainer" / path).with_name(other).exists(), f"{path}: {other}"


def test_every_make_target_and_folder_named_in_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)) | set(re.findall(r"`make ([a-z-]+)`", README))
    assert named and named <= targets
    tree = re.findall(r"^([\w./-]+)\s{2,}\S", section("The tree"), re.MULTILINE)
    assert len(tree) > 8
    missing = [name for name in tree if not (ROOT / name).exists()]
    assert not missing
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {line.split("/")[0] + "/" for line in listed.splitlines() if "/" in line and not line.startswith(".")}
    assert folders <= {name.split("/")[0] + "/" for name in tree}


def test_the_table_of_fields_is_what_the_model_says() -> None:
    written = [line for line in section("The job spec").splitlines() if line.startswith("| `")]
    assert written == field_rows(), "the table should be\n" + "\n".join(field_rows())


def test_the_example_is_a_job_spec() -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert loads(example.encode(), "jobs/support-lora.yaml").name == "support-lora"


def test_the_dollars_of_the_example_are_what_the_code_computes() -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    spec = loads(example.encode(), "jobs/support-lora.yaml")
    prices = {0.53: ("$0.541/h", "$4.33"), 0.79: ("0.801", "5.6 h")}
    for price, (hourly, limit) in prices.items():
        offer = Candidate(gpu="", data_center="", tier="SECURE", usd_per_hour=price, gpu_memory_gb=48, stock="HIGH")
        found = cap(spec, offer)
        assert f"{found.usd_per_hour:.3f}" == hourly.strip("$/h")
        assert limit in (f"${found.cap_usd:.2f}", f"{found.deadline_hours:.1f} h")
        assert hourly in section("What it costs")
        assert limit in section("What it costs")


def test_the_table_of_exit_codes_is_what_the_errors_say() -> None:
    written = dict(re.findall(r"^\| (\d+) \| (.+?) \|$", section("Commands and exit codes"), re.MULTILINE))
    classes = [it for it in vars(errors).values() if isinstance(it, type) and issubclass(it, errors.PushtrainError)]
    assert {int(code) for code in written} == {it.exit_code for it in classes} | {0, 130}
    for kind in classes:
        if kind.__bases__ == (errors.PushtrainError,):
            assert f"`{kind.__name__}`" in written[str(kind.exit_code)], kind.__name__


def test_every_dependency_has_its_reason_in_decisions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    wanted = {
        re.split(r"[<>=;\s\[]", it)[0] for group in [*groups, project["dependency-groups"]["dev"]] for it in group
    }
    page = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
    given = {
        name for row in re.findall(r"^\| (`.+?) \|", page, re.MULTILINE) for name in re.findall(r"`([\w.-]+)`", row)
    }
    assert wanted == given


def field_rows() -> list[str]:
    """What every job has, then what each kind adds."""
    rows = {row[0]: row for row in _fields(JobSpec, "") if row[0] != "task"}
    for kind in KINDS:
        added = {row[0] if row[0] != "task" else f"task {kind}": row for row in _fields(kind, "")}
        rows |= {key: row for key, row in added.items() if key not in rows}
    return [f"| `{name}` | {default} | {text} |" for name, default, text in rows.values()]


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        inner = next((it for it in kinds if isinstance(it, type) and issubclass(it, BaseModel)), None)
        if inner is not None:
            yield from _fields(inner, f"{prefix}{name}.")
            continue
        default = "needed" if field.is_required() else _shown(field.default)
        yield f"{prefix}{name}", default, field.description or ""


def _shown(default: object) -> str:
    """As YAML writes it."""
    if default is None:
        return "–"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}

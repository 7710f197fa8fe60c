"""The house's own rules: who may import whom, what an import may cost, how long a piece of code may be."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from pushtrain.cli import app

ROOT = Path(__file__).parents[1]
ROOMS = ("pushtrain", "infra", "trainer")
MODULES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))
# The pod runs these with the image's own Python before anything is installed.
BARE = ("__init__", "bounds", "branch", "errors", "events", "gitcache", "gitcmd", "gitstore", "ledger", "record")
BARE += ("redact", "refs", "run")
BARE_MODULES = [it for it in MODULES if str(it.with_suffix("")) in {f"pushtrain/{name}" for name in BARE}]
BARE_MODULES += [it for it in MODULES if it.is_relative_to("pushtrain/pod")]
# The only places where the control plane reaches into infra, always inside a function.
DOORS = ("pushtrain/cli.py", "pushtrain/wiring.py", "pushtrain/plan/sources.py", "pushtrain/plan/market.py")
DOORS += ("pushtrain/prices/show.py",)
DOORS += ("pushtrain/doctor/clouds.py", "pushtrain/doctor/services.py")
VERBS = [
    "attach",
    "cancel",
    "check",
    "compare",
    "cp",
    "demo",
    "doctor",
    "extend",
    "init",
    "logs",
    "plan",
    "prices",
    "reconcile",
    "rehearse",
    "replay",
    "retry",
    "review",
    "run",
    "runs",
    "setup-pulumi",
    "simulator",
    "ssh",
    "ssh-config",
    "ssh-key",
    "sweep",
    "sync",
    "top",
    "tunnel",
    "verify",
    "volumes",
]


def parsed(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.AST, path: Path) -> Iterator[tuple[ast.stmt, str]]:
    """Every imported module by its full name; `from x import y` counts as x.y, which may be a module, too."""
    package = path.parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            yield from ((node, f"{base}.{alias.name}") for alias in node.names)


def only_for_types(tree: ast.Module) -> set[ast.AST]:
    """Everything under `if TYPE_CHECKING:`, which no process ever imports."""
    guards = [it for it in ast.walk(tree) if isinstance(it, ast.If) and "TYPE_CHECKING" in ast.unparse(it.test)]
    return {node for guard in guards for node in ast.walk(guard)}


def inside_functions(tree: ast.Module) -> set[ast.AST]:
    functions = [it for it in ast.walk(tree) if isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {node for function in functions for node in ast.walk(function)}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_follow_the_arrows(path: Path) -> None:
    room, tree = path.parts[0], parsed(path)
    untyped, deferred = only_for_types(tree), inside_functions(tree)
    for node, name in imports(tree, path):
        target = name.split(".")[0]
        where = f"{path}:{node.lineno} imports {name}"
        if target == "pulumi":
            assert room == "infra", where
        if target in ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes"):
            assert room == "trainer", where
        if target == "trainer":
            assert room == "trainer", where
        if target == "infra" and room == "trainer":
            pytest.fail(where)
        if target == "infra" and room == "pushtrain" and node not in untyped:
            assert str(path) in DOORS or path.is_relative_to("pushtrain/demo"), where
            assert node in deferred, f"{where} when it is imported itself"


@pytest.mark.parametrize("path", BARE_MODULES, ids=str)
def test_what_the_pod_runs_first_needs_the_standard_library_only(path: Path) -> None:
    allowed = {f"pushtrain.{name}" for name in BARE} | {"pushtrain.pod", "pushtrain.__version__"}
    for node, name in imports(parsed(path), path):
        top = name.split(".")[0]
        ours = any(name == it or name.startswith(f"{it}.") for it in allowed)
        assert top in sys.stdlib_module_names or ours, f"{path}:{node.lineno} imports {name}"


def test_the_list_of_bare_modules_names_files() -> None:
    """Or a renamed module would leave the test above."""
    assert len([it for it in BARE_MODULES if it.parent == Path("pushtrain")]) == len(BARE)
    assert len(BARE_MODULES) > len(BARE) + 5


def test_importing_the_control_plane_brings_neither_torch_nor_pulumi() -> None:
    names = [".".join(it.with_suffix("").parts) for it in MODULES if it.parts[0] == "pushtrain"]
    wanted = [name for name in names if not name.endswith("__main__")]
    program = (
        "import importlib, sys\n"
        f"for name in {wanted!r}: importlib.import_module(name)\n"
        "print([name for name in ('torch', 'transformers', 'pulumi', 'infra', 'trainer') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_is_about_300_lines_at_most_and_a_function_50(path: Path) -> None:
    """About: nothing is won by splitting a module for its last ten lines."""
    text = (ROOT / path).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 310
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert code_lines(node, text) <= 50, f"{path}:{node.lineno} {node.name}"


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef, text: str) -> int:
    """Lines of a body without its docstring, comments and blank lines."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    if not body:
        return 0
    lines = text.splitlines()[body[0].lineno - 1 : node.end_lineno]
    return sum(1 for line in lines if line.strip() and not line.strip().startswith("#"))


def test_nothing_is_left_for_later() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    later = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")
    names = [name for name in listed.split("\0") if name and name != "uv.lock" and (ROOT / name).is_file()]
    found = [name for name in names if later.search((ROOT / name).read_text(encoding="utf-8", errors="replace"))]
    assert len(names) > 50
    assert not found


def test_the_verbs_are_these_and_each_says_what_it_does() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert sorted(commands) == VERBS
    assert all(command.help for command in commands.values())

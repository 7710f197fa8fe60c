"""docs/money.md leads from a fear to code and to tests: every one that it names is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "money.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("| \n").split(" | ")]
    for line in PAGE.partition("## How we know")[0].splitlines()
    if line.startswith("| ") and not line.startswith(("| fear", "| ---"))
]
PLACE = re.compile(r"`([a-z_/]+\.py)`(?: `(\w+)`)?")


def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {it.name for it in ast.walk(tree) if isinstance(it, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:50])
def test_a_fear_is_answered_by_code_and_held_by_tests(row: list[str]) -> None:
    assert len(row) == 4, row
    code, tests = PLACE.findall(row[2]), PLACE.findall(row[3])
    assert code and tests
    assert all(path.startswith("tests/") and name.startswith("test_") for path, name in tests)
    for path, name in code + tests:
        assert (ROOT / path).is_file(), path
        assert not name or name in names_in(path), f"{path} has no {name}"


def test_the_page_has_rows() -> None:
    assert len(ROWS) > 25

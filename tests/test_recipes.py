"""The runner of recipes itself: what it takes from a page, and that a page which lies does not pass."""

import os
from pathlib import Path

import pytest
from recipe_runner import Command, Terminal, commands, first_missing

PAGE = """\
```sh
export GREETING='hello there'
echo "$GREETING" \\
  from here
# a comment
cat
pod$ typed in
pod$ Ctrl-D
```

```text
typed … in
```

```yaml
echo: not a command
```
"""


def test_a_page_is_read_into_commands_with_what_is_typed_and_printed() -> None:
    assert commands(PAGE) == [
        Command(line="export GREETING='hello there'"),
        Command(line='echo "$GREETING"   from here'),
        Command(line="cat", typed=("typed in", "Ctrl-D"), output=("typed … in",)),
    ]


def test_what_is_printed_has_to_come_in_its_order() -> None:
    assert first_missing(("a … c", "d"), "a b c\nd\n") is None
    assert first_missing(("d", "a"), "a\nd\n") == "a"


def test_a_page_is_played_at_a_terminal(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '```sh\nexport A=b\n[ -t 0 ] || echo "none $A"\nbash\npod$ [ -t 0 ] && echo terminal $A\npod$ exit\n```\n'
    )
    said = Terminal(tmp_path, dict(os.environ), timeout_s=150).play(page)
    assert "none b" in said and "terminal b" in said


@pytest.mark.parametrize("block", ["```sh\nfalse\n```\n", "```sh\necho a\n```\n\n```text\nb\n```\n"])
def test_a_page_that_is_wrong_does_not_pass(tmp_path: Path, block: str) -> None:
    (tmp_path / "page.md").write_text(block)
    with pytest.raises(AssertionError):
        Terminal(tmp_path, dict(os.environ), timeout_s=150).play(tmp_path / "page.md")


def test_the_other_terminal_ends_with_the_page(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(
        "```sh\n# in another terminal\nsleep 60\n```\n\n```sh\n# Ctrl-C in the other terminal\n```\n"
    )
    terminal = Terminal(tmp_path, dict(os.environ), timeout_s=150)
    terminal.play(tmp_path / "page.md")
    assert not terminal.others

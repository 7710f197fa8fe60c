"""Text that strangers wrote, in GitHub's markdown without any power: no mention, link, HTML, image, fence, table cell.

GitHub looks for @names, #numbers and www. in the rendered text, so that neither a backslash nor an entity helps against
them: a zero-width space does. Code spans and blocks are left alone by all of it.
"""

import html
import re
from collections.abc import Iterable, Sequence

# Below GitHub's 65,536 for the body of a comment.
LONGEST = 65_535
_PUNCTUATION = re.compile(r"([\\`*_\[\]#|~<>&$])")
# What begins a list, a rule or an underlined heading, where it stands first.
_FIRST = re.compile(r"^(\d*)([-+=.)])")
# What GitHub links, or tells somebody of, wherever it stands.
_LIVE = re.compile(r"(?i)(@|\\?#|\bwww|\b(?:https?|ftp|mailto|xmpp):)")
_SPACE = "\u200b"


def plain(text: str, most: int = 300) -> str:
    """One line of text, shown as it is written."""
    escaped = _FIRST.sub(r"\1\\\2", _PUNCTUATION.sub(r"\\\1", _line(text, most)))
    return _LIVE.sub(rf"\1{_SPACE}", escaped) or "–"


def code(text: str, most: int = 300) -> str:
    """One line of text as a code span; a pipe is escaped, as GitHub wants it in a table's cell."""
    line = _line(text, most)
    if not line:
        return "–"
    ticks = "`" * (_longest_run(line, "`") + 1)
    pad = " " if line.startswith("`") or line.endswith("`") or line != line.strip() else ""
    return f"{ticks}{pad}{line}{pad}{ticks}".replace("|", "\\|")


def block(text: str, most: int = 2000, language: str = "") -> str:
    """Several lines as a fenced block, with a fence longer than any in them."""
    lines = [_visible(line) for line in text.replace("\r\n", "\n").split("\n")]
    body = shortened("\n".join(lines), most)
    fence = "`" * max(3, _longest_run(body, "`") + 1)
    return f"{fence}{language}\n{body}\n{fence}"


def details(summary: str, body: str) -> str:
    """`summary` is text: a summary is HTML, in which no markdown counts. `body` is ready markup."""
    return f"<details><summary>{_html(summary)}</summary>\n\n{body}\n\n</details>"


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Two columns, which a phone shows without scrolling; cells are ready markup."""
    return "\n".join(["| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows)])


def fitted(head: str, blocks: Sequence[str], tail: str, most: int = LONGEST) -> str:
    """`head`, as many of the blocks as fit, and `tail`; those from the middle go first, whole, so that no fence or
    detail stays open, and a line says how many."""
    kept = list(blocks)
    dropped = 0
    while kept:
        note = [f"*{dropped} of {len(blocks)} parts are left out here: a comment has its limit.*"] if dropped else []
        middle = (len(kept) + 1) // 2
        text = "\n\n".join([head, *kept[:middle], *note, *kept[middle:], tail])
        if length(text) <= most:
            return text
        kept.pop(middle - 1 if len(kept) % 2 else middle)
        dropped += 1
    left = [f"*{len(blocks)} parts are left out here: a comment has its limit.*"] if blocks else []
    text = "\n\n".join([head, *left, tail])
    return text.encode("utf-16-le", "surrogatepass")[: most * 2].decode("utf-16-le", "ignore")


def shortened(text: str, most: int) -> str:
    """The middle of a long text is left out: what matters stands at its beginning and at its end."""
    if len(text) <= most:
        return text
    note = f"\n[… {len(text) - most} characters …]\n"
    keep = max(0, most - len(note))
    return text[: keep - keep // 3] + note + (text[-(keep // 3) :] if keep // 3 else "")


def length(text: str) -> int:
    """As GitHub counts at its strictest: UTF-16 units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _html(text: str) -> str:
    return re.sub(r"(?i)(@|#(?!\d+;)|\bwww|://)", rf"\1{_SPACE}", html.escape(_line(text, 300)))


def _line(text: str, most: int) -> str:
    line = _visible(" ".join(text.split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def _visible(text: str) -> str:
    """Without control characters and those that turn the direction of writing: what is read is what is there."""
    return "".join(char if char.isprintable() or char == "\t" else "�" for char in text)


def _longest_run(text: str, char: str) -> int:
    return max((len(run) for run in re.findall(f"{re.escape(char)}+", text)), default=0)

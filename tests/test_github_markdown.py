"""What strangers wrote has no power in a comment, and a comment never is too long."""

import random
import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from pushtrain.github.markdown import LONGEST, block, code, details, fitted, length, plain, shortened, table

HOSTILE = [
    "@everyone look",
    "[click](https://evil.example)",
    "![x](https://evil.example/p.png)",
    "<img src=x onerror=alert(1)><script>",
    "</details></td></table>",
    "`code` ``more`` ```fence",
    "a | b | c",
    "line\nbreak\r\n| new | row |",
    "see #1 and acme/train#2 and GH-3",
    "https://evil.example www.evil.example mail@evil.example",
    "--> <!-- pushtrain:plan -->",
    "\u202egnp.exe\u202c \x1b[31m \x00",
    "$(rm -rf /) `id` ${{ secrets.X }}",
    "# heading",
    "1. item",
    "12) item",
    "---",
    "===",
    "+ item",
    "- [ ] task",
    "**bold** _em_ ~~del~~",
    "&lt;b&gt; &commat;ann",
    "$x$ and ^a",
    "\\| \\` \\\\",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_plain_text_is_shown_as_it_is_written(text: str) -> None:
    shown = plain(text)
    assert "\n" not in shown and "\r" not in shown
    # Whatever means something in markdown stands behind a backslash, and whatever means something in text is broken.
    bare = re.sub(r"\\[^a-zA-Z0-9\s]", "", shown)
    assert not re.search(r"[`*_\[\]<>|~&#$]", bare) and not re.match(r"\d*[-+=.)]", shown)
    assert not re.search(r"@\w|#\d|\bwww\.|http://|https://", shown.replace("\\", ""))
    assert all(char.isprintable() or char == "\u200b" for char in shown)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_code_span_is_closed_by_its_own_ticks_only(text: str) -> None:
    span = code(text)
    ticks = re.match(r"`+", span)
    assert ticks is not None and span.endswith(ticks[0])
    inner = span[len(ticks[0]) : -len(ticks[0])]
    assert ticks[0] not in re.findall(r"`+", inner) and "\n" not in span
    assert not re.search(r"(?<!\\)\|", span)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_block_is_closed_by_its_own_fence_only(text: str) -> None:
    lines = block(text).split("\n")
    assert lines[0] == lines[-1] and not any(line.strip().startswith(lines[0]) for line in lines[1:-1])


@pytest.mark.parametrize("text", HOSTILE)
def test_a_summary_holds_no_markup(text: str) -> None:
    inner = details(text, "body").removeprefix("<details><summary>").partition("</summary>")[0]
    assert "<" not in inner and not re.search(r"@\w|://\w|\bwww\.", inner)


def test_nothing_is_shown_as_something() -> None:
    assert plain("") == code("  \n ") == "–"
    assert table([("a", plain(""))]).splitlines()[-1] == "| a | – |"


def test_the_middle_goes_first_and_no_fence_stays_open() -> None:
    blocks = [f"{number:03} " + block("x" * 1900) for number in range(100)]
    text = fitted("head", blocks, "tail")
    assert length(text) <= LONGEST < length("".join(blocks))
    assert text.startswith("head") and text.endswith("tail")
    assert "000 " in text and "099 " in text and "050 " not in text
    assert re.search(r"\*\d+ of 100 parts are left out here", text)
    assert text.count("```") % 2 == 0
    assert fitted("head", blocks[:3], "tail").count("left out") == 0
    assert length(fitted("head", ["y" * 70_000], "tail")) < 100
    assert length(fitted("🚀" * 40_000, [], "")) <= LONGEST


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    text = shortened("a" * 50 + "b" * 5000 + "c" * 50, 500)
    assert text.startswith("a" * 50) and text.endswith("c" * 50) and len(text) <= 500 and "characters" in text


class Shown(HTMLParser):
    """What a reader sees of rendered HTML: its text, and every tag that is not the table around it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags = "", list[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags += [] if tag in ("table", "thead", "tbody", "tr", "td", "th", "p") else [tag]

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")

    def handle_data(self, data: str) -> None:
        self.text += data


NASTY = "`*_[]()#+-.!|~<>&:\"'$^=\\/@ \tax1é\n\u200b�"


def rendered(markdown: str) -> Shown:
    return Shown(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown))


def lines_of(seed: int) -> str:
    dice = random.Random(seed)
    return "".join(dice.choice(NASTY) for _ in range(dice.randint(1, 24)))


@pytest.mark.parametrize("place", ["a cell", "a paragraph", "a list", "a span in a cell"])
def test_whatever_is_written_a_reader_sees_it_as_it_was_written(place: str) -> None:
    """Through a CommonMark parser with tables: thousands of strings of what has a meaning in markdown."""
    for text in [*HOSTILE, *(lines_of(seed) for seed in range(800))]:
        wanted = "".join(it if it.isprintable() else "�" for it in " ".join(text.split())).replace("\u200b", "�")
        if not wanted:
            continue
        if place == "a span in a cell":
            shown = rendered(table([("key", code(text))]))
            assert shown.tags == ["code"], (text, shown.tags)
        else:
            head = {"a cell": "| | |\n| --- | --- |\n| key | ", "a paragraph": "", "a list": "- "}[place]
            shown = rendered(head + plain(text) + (" |" if place == "a cell" else ""))
            assert shown.tags == (["ul", "li"] if place == "a list" else []), (text, plain(text), shown.tags)
        seen = shown.text.replace("\u200b", "").strip().removeprefix("key").strip()
        assert " ".join(seen.split()) == " ".join(wanted.split()), (text, plain(text))


def test_a_blocks_text_comes_out_as_it_went_in() -> None:
    for text in [*HOSTILE, *(lines_of(seed) for seed in range(300))]:
        shown = rendered(block(text))
        assert shown.tags == ["pre", "code"], (text, shown.tags)

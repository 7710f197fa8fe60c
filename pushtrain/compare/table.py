"""A comparison as a table: in a terminal, and in markdown for README."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pushtrain.compare.rows import Comparison, Row
from pushtrain.placement import AS_SPOT
from pushtrain.plan import words
from pushtrain.prices.snapshot import TITLES

# More rows than this are for --json.
MOST_ROWS = 20
_COLUMNS = ("cloud", "GPU", "GB", "where", "stock", "$/h", "hours", "dollars", "cap", "boot", "without")
_RIGHT = ("GB", "$/h", "hours", "dollars", "cap", "boot")


def drawn(found: Comparison) -> RenderableType:
    """To be printed without markup."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, justify="right" if name in _RIGHT else "left", overflow="fold")
    rows = shown(found.rows)
    for row in rows:
        table.add_row(*(Text(cell, "" if row.goes_there else "dim") for cell in _cells(row)))
    head = Text.assemble((found.spec.name, "bold"), f": {_need(found)}")
    left = len(found.rows) - len(rows)
    more = [Text(f"{left} dearer rows are in --json", "dim")] if left else []
    prices = [Text(f"prices of {TITLES[cloud]}: {said}", "dim") for cloud, said in found.prices.items()]
    return Group(head, table, *more, *prices, *(Text(f"note: {note}", "dim") for note in found.notes))


def markdown(found: Comparison, most: int) -> list[str]:
    """The `most` cheapest rows, with the day of each price, as lines of a table: the same on any day."""
    lines = ["| cloud | GPU | $/h | hours | dollars | price of | without |", "| --- " * 7 + "|"]
    for row in shown(found.rows, most):
        place = row.place
        day = place.stock.rpartition(" ")[2]
        usd = words.dollars(place.money) if place.money else f"at most ${place.cap_usd or 0:.2f}"
        cells = (
            row.title,
            f"{place.count} × {place.gpu}, {place.tier.lower()}{AS_SPOT if place.is_spot else ''}",
            _hourly(row),
            _hours(row),
            usd,
            day,
        )
        lines.append(f"| {' | '.join([*cells, '; '.join(row.missing) or '–'])} |")
    return lines


def shown(rows: Sequence[Row], most: int = MOST_ROWS) -> list[Row]:
    """The cheapest, with the cheapest of each cloud and the cheapest where the spec goes as it is among them; in their
    order."""
    kept = {index for index, row in enumerate(rows) if row.cloud not in {it.cloud for it in rows[:index]}}
    kept |= set([index for index, row in enumerate(rows) if row.goes_there][:1])
    for index in range(len(rows)):
        if len(kept) >= most:
            break
        kept.add(index)
    return [rows[index] for index in sorted(kept)]


def _cells(row: Row) -> tuple[str, ...]:
    place = row.place
    return (
        row.title,
        f"{place.count} × {place.gpu}",
        str(place.sold_as_gb) + ("" if place.verdict in ("fits", None) else f" ({place.verdict})"),
        words.where(place),
        place.stock.removeprefix("not asked; "),
        _hourly(row),
        _hours(row),
        words.dollars(place.money) if place.money else "–",
        f"${place.cap_usd:.2f}" if place.cap_usd is not None else "–",
        f"{row.boot_s:.0f} s" if row.boot_s is not None else "–",
        "; ".join(row.missing) or "–",
    )


def _hourly(row: Row) -> str:
    return f"{row.place.usd_per_hour:.3f}" if row.place.usd_per_hour is not None else "–"


def _hours(row: Row) -> str:
    return f"{row.place.hours.total.expected:.1f}" if row.place.hours else f"≤ {row.place.deadline_hours or 0:.1f}"


def _need(found: Comparison) -> str:
    if not found.rows:
        return "no price is known of a GPU that would do"
    need = f"needs {found.memory.need_gb:.1f} GB" if found.memory else "on the GPUs that it names"
    clouds = len({row.cloud for row in found.rows})
    return f"{need}; {len(found.rows)} places at {clouds} cloud{'s' if clouds > 1 else ''}, the cheapest first"

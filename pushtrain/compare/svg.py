"""Dollars against hours as one SVG file: a line from the low to the high estimate of each place, a dot at what is
expected. Where no time is known, from nothing to the end of the budget."""

from xml.sax.saxutils import escape

from pushtrain.compare.rows import Comparison, Row
from pushtrain.compare.table import shown
from pushtrain.plan import words
from pushtrain.prices.snapshot import TITLES

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 940, 480, 64, 290, 44, 52
_COLOURS = {"runpod": "#6b3fd4", "vast": "#2c6fbb", "lambda": "#b8860b", "jarvislabs": "#c0392b", "modal": "#2e8b57"}
_TICKS = 5


def drawn(found: Comparison) -> str:
    """An XML document; without a row it says so."""
    lines = [_line_of(row) for row in shown(found.rows)]
    body = _plot(found, lines) if lines else _text(_LEFT, _HEIGHT / 2, "no price is known of a GPU that would do")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
        f"{_text(_LEFT, 24, f'{found.spec.name}: dollars against hours')}{body}</svg>\n"
    )


_Points = list[tuple[float, float]]


def _line_of(row: Row) -> tuple[Row, _Points]:
    """(hours, dollars) of low, expected and high; of what has no estimate the end of its budget alone, twice."""
    place = row.place
    if place.hours is None or place.money is None:
        end = (place.deadline_hours or 0.0, place.cap_usd or 0.0)
        return row, [(0.0, 0.0), end, end]
    total, money = place.hours.total, place.money
    return row, [
        (total.low, money.low_usd),
        (total.expected, money.expected_usd),
        (total.high, money.high_usd),
    ]


def _plot(found: Comparison, lines: list[tuple[Row, _Points]]) -> str:
    most_h = max(h for _, points in lines for h, _ in points) or 1.0
    most_usd = max(usd for _, points in lines for _, usd in points) or 1.0

    def x(hours: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * hours / most_h

    def y(usd: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * usd / most_usd

    parts = [_grid(x(0), y(most_usd * i / _TICKS), f"${most_usd * i / _TICKS:.2f}") for i in range(_TICKS + 1)]
    for i in range(_TICKS + 1):
        hours = most_h * i / _TICKS
        parts.append(_text(x(hours), _HEIGHT - _BOTTOM + 18, f"{hours:.1f} h", "middle"))
    for row, points in lines:
        colour = _COLOURS.get(row.cloud, "#555")
        path = " ".join(f"{x(hours):.1f},{y(usd):.1f}" for hours, usd in points)
        hours, usd = points[1]
        label = f"{row.title}, {row.place.count} × {row.place.gpu}, {words.where(row.place)}: {hours:.1f} h, ${usd:.2f}"
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" opacity="0.45" points="{path}"/>')
        dot = f'<circle cx="{x(hours):.1f}" cy="{y(usd):.1f}" r="4.5" fill="{colour}"'
        hollow = "" if row.goes_there else ' fill-opacity="0.35"'
        parts.append(f'{dot}{hollow} stroke="{colour}"><title>{escape(label)}</title></circle>')
    clouds = dict.fromkeys(row.cloud for row, _ in lines)
    for index, cloud in enumerate(clouds):
        top = _TOP + 10 + 20 * index
        parts.append(f'<circle cx="{_WIDTH - _RIGHT + 24}" cy="{top - 4}" r="5" fill="{_COLOURS.get(cloud, "#555")}"/>')
        cheapest = next(row.place.gpu for row, _ in lines if row.cloud == cloud).removeprefix("NVIDIA ")
        parts.append(_text(_WIDTH - _RIGHT + 36, top, f"{TITLES[cloud]}: {cheapest}"))
    parts.append(_text(_LEFT, _HEIGHT - 10, _legend(found)))
    return "".join(parts)


def _legend(found: Comparison) -> str:
    dots = "full: the spec goes there as it is; pale: something in it would have to change"
    has_time = any(row.place.money for row in found.rows)
    return f"{dots}. {'Lines: from the low to the high estimate' if has_time else 'Lines: to the end of the budget'}"


def _grid(left: float, top: float, label: str) -> str:
    line = f'<line x1="{left:.1f}" x2="{_WIDTH - _RIGHT}" y1="{top:.1f}" y2="{top:.1f}" stroke="#ddd"/>'
    return line + _text(left - 8, top + 4, label, "end")


def _text(left: float, top: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

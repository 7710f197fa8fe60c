"""A plan in a terminal."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pushtrain.plan import words
from pushtrain.plan.markdown import rows_of
from pushtrain.plan.model import Plan, Plans

_COLOURS = {"fits": "green", "tight": "yellow", "too large": "red"}


def drawn(plans: Plans) -> RenderableType:
    """All of one call, to be printed without markup."""
    parts: list[RenderableType] = [part for plan in plans.plans for part in (*_plan(plan), Text(""))]
    if plans.unchanged:
        parts.append(Text(f"{plans.unchanged} job specs are unchanged"))
    if not plans.plans:
        parts.append(Text(words.nothing(plans)))
    parts += [Text(f"warning: {_visible(warning)}", "yellow") for warning in plans.warnings]
    return Group(*parts, Text(f"prices {plans.prices}", "dim"), Text(plans.storage, "dim"))


def _plan(plan: Plan) -> Iterator[RenderableType]:
    status = f" ({words.STATUS[plan.status]})" if words.STATUS[plan.status] else ""
    yield Text.assemble((plan.spec.name, "bold"), status, ": ", (words.headline(plan), _colour(plan)))
    if plan.status == "deleted":
        return
    for suggestion in plan.suggestions:
        yield Text(f"  would fit: {' and '.join(suggestion.change)}: {words.suggested(suggestion)}", "cyan")
    for caution in plan.cautions:
        yield Text(f"  caution: {_visible(caution.message)}", "yellow")
    grid = Table.grid(padding=(0, 2))
    for key, value in _rows(plan):
        grid.add_row(Text(f"  {key}", "dim"), Text(_visible(value)))
    yield grid
    if plan.places:
        yield _places(plan)


def _rows(plan: Plan) -> list[tuple[str, str]]:
    rows = rows_of(plan)
    if plan.memory is not None:
        rows += [("peak memory", words.memory(plan)), ("weights", words.weights(plan))]
    if plan.first is not None and plan.first.hours is not None:
        rows.append(("hours go to", words.phases(plan.first)))
    rows += [("changed", str(difference)) for difference in plan.differences]
    rows += [(it.action, f"{it.kind} {it.name}: {it.detail}") for it in plan.resources]
    rows += [("pinned" if it.is_pinned else "floating", f"{it.what}: {it.revision}") for it in plan.revisions]
    return rows + [("note", note) for note in plan.notes]


def _visible(text: str) -> str:
    """Without what a terminal would obey: escape sequences, and marks that turn the direction of writing."""
    return "".join(char if char.isprintable() else "�" for char in text)


def _places(plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in ("  GPU", "where", "memory", "tokens/s", "hours", "$/h", "dollars", "cap"):
        table.add_column(name, justify="left" if name in ("  GPU", "where", "memory") else "right", overflow="fold")
    for place in plan.places:
        money, total = place.money, place.hours.total if place.hours else None
        table.add_row(
            Text(f"  {place.count} × {place.gpu}"),
            Text(f"{words.where(place)}; {place.stock.removeprefix('not asked; ')}"),
            Text(words.fit(place), _COLOURS.get(place.verdict or "", "")),
            Text(f"{place.tokens_per_s:,.0f}" if place.tokens_per_s else "–"),
            Text(f"{total.expected:.1f}" if total else "–"),
            Text(words.price(place).removeprefix("$").removesuffix("/h")),
            Text(words.dollars(money) if money else "–"),
            Text(f"${place.cap_usd:.2f}" if place.cap_usd is not None else "–"),
        )
    return table


def _colour(plan: Plan) -> str:
    return "red" if plan.fits is False or plan.is_refused else "yellow" if plan.cautions else "green"

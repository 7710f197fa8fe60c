"""A plan as GitHub's markdown: two columns, which a phone shows, the detail folded. Specs are strangers' text: none of
it keeps any power."""

from pushtrain.errors import PushtrainError
from pushtrain.github.markdown import code, details, plain, table
from pushtrain.plan import words
from pushtrain.plan.model import Place, Plan, Plans


def markdown(plans: Plans) -> str:
    """All of one call."""
    parts = [problem_line(problem) for problem in plans.problems]
    parts += [plan_markdown(plan) for plan in plans.plans]
    parts += [f"{plans.unchanged} job specs are unchanged."] if plans.unchanged else []
    parts += [f"⚠️ {plain(warning, 600)}" for warning in plans.warnings]
    if not plans.plans:
        parts.append(f"{words.nothing(plans).capitalize()}.")
    return "\n\n".join([*parts, f"Prices {plain(plans.prices)}; {plain(plans.storage)}."])


def plan_markdown(plan: Plan) -> str:
    """One job: what a reviewer needs to say yes or no first, then the detail."""
    status = f" · {words.STATUS[plan.status]}" if words.STATUS[plan.status] else ""
    renamed = f", renamed from {code(plan.renamed_from)}" if plan.renamed_from else ""
    return f"### {code(plan.spec.name)}{status}{renamed}\n\n{plan_body(plan)}"


def plan_body(plan: Plan) -> str:
    """The same without its title."""
    if plan.status == "deleted":
        return f"**{plain(words.headline(plan))}**"
    parts = [f"**{plain(words.headline(plan))}**"]
    if plan.suggestions:
        rows = [(" and ".join(code(line) for line in it.change), plain(words.suggested(it))) for it in plan.suggestions]
        parts += ["What would fit:", table(rows)]
    parts += [f"⚠️ {plain(it.message)}" for it in plan.cautions]
    parts.append(table([(key, plain(value)) for key, value in rows_of(plan)]))
    if plan.differences:
        changes = [
            (code(it.key), f"{code(_short(it.before))} → {code(_short(it.after))}") for it in plan.differences[:60]
        ]
        parts.append(details(f"{len(plan.differences)} keys changed", table(changes)))
    if plan.places:
        parts.append(details("GPUs in the order they are asked", "\n\n".join(_place(it) for it in plan.places)))
    return "\n\n".join([*parts, details("What a merge creates, and where the figures are from", _detail(plan))])


def problem_line(problem: PushtrainError) -> str:
    """What is wrong, where, and what to do, as one point of a list."""
    where = str(getattr(problem, "where", None) or "")
    text = str(problem).removeprefix(f"{where}: ")
    hint = f"<br>💡 {plain(problem.hint, 600)}" if problem.hint else ""
    return f"- {code(where)} {plain(text, 1200)}{hint}" if where else f"- {plain(text, 1200)}{hint}"


def rows_of(plan: Plan) -> list[tuple[str, str]]:
    """The overview, as keys and texts."""
    rows = list(plan.facts)
    first = plan.first
    if plan.memory is not None:
        on = f" of {first.usable_gb:.1f} on {first.gpu}" if first else ""
        rows.append(("memory", f"{plan.memory.need_gb:.1f} GB{on}: {words.fit(first) if first else 'too large'}"))
    if plan.work is not None:
        rows.append(("training", words.amount(plan)))
    if first is not None and first.tokens_per_s is not None:
        rows.append(("speed", f"{first.tokens_per_s:,.0f} tokens/s on {first.count} × {first.gpu}"))
    if first is not None and first.hours is not None and first.money is not None:
        rows.append(("hours", words.band(first.hours.total, "h")))
        rows.append(("dollars", words.dollars(first.money)))
    rows += [("interruptions", words.interruptions(first))] if first is not None and first.interruptions else []
    rows += [(f"cheapest, {number}", words.offer(place)) for number, place in enumerate(plan.best, 1)]
    budget = plan.spec.budget
    rows.append(("never more than", f"${budget.max_usd:g} and {budget.max_hours:g} h, storage and retries included"))
    rows.append(("after a lost pod", words.after_a_lost_pod(plan)))
    return rows


def _place(place: Place) -> str:
    rows = [("where", words.where(place)), ("stock", place.stock), ("price with storage", words.price(place))]
    rows.append(("memory", f"{words.fit(place)}, {place.usable_gb:.1f} GB usable"))
    if place.tokens_per_s is not None:
        rows.append(("speed", f"{place.tokens_per_s:,.0f} tokens/s"))
    if place.hours is not None and place.money is not None:
        rows += [("hours", words.band(place.hours.total, "h")), ("of which", words.phases(place))]
        rows.append(("dollars", words.dollars(place.money)))
    rows += [("interruptions", words.interruptions(place))] if place.interruptions else []
    if place.cap_usd is not None and place.deadline_hours is not None:
        rows.append(("cap here", f"${place.cap_usd:.2f} after {place.deadline_hours:.1f} h"))
    return f"**{plain(f'{place.count} × {place.gpu}')}**\n\n" + table([(key, plain(value)) for key, value in rows])


def _detail(plan: Plan) -> str:
    rows = [(it.action, plain(f"{it.kind} {it.name}: {it.detail}")) for it in plan.resources]
    rows += [
        (_pin(it.is_pinned), plain(f"{it.what}: {it.revision}" + _today(it.commit, it.is_pinned)))
        for it in plan.revisions
    ]
    if plan.memory is not None:
        rows += [("memory", plain(words.memory(plan), 600)), ("weights", plain(words.weights(plan)))]
    return table([*rows, *(("note", plain(note, 600)) for note in plan.notes)])


def _pin(is_pinned: bool) -> str:
    return "pinned" if is_pinned else "floating"


def _today(commit: str | None, is_pinned: bool) -> str:
    return f", today {commit[:8]}" if commit and not is_pinned else ""


def _short(value: object) -> str:
    return "not there" if value is None else str(value)

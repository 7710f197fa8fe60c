"""A plan's figures as short words, the same in a terminal and in a comment."""

from pushtrain.capabilities import DEFAULT_CLOUD, losing, machine
from pushtrain.estimate.hours import Band
from pushtrain.placement import AS_SPOT
from pushtrain.plan.model import Money, Place, Plan, Plans, Suggestion
from pushtrain.prices.snapshot import TITLES
from pushtrain.spec import JobSpec, SessionSpec

STATUS = {"new": "new", "changed": "changed", "unchanged": "unchanged", "deleted": "deleted", "planned": ""}


def headline(plan: Plan) -> str:
    """One sentence a reviewer can say yes or no to."""
    if plan.status == "deleted":
        return "deleted: a merge cancels its active run"
    if plan.is_elsewhere:
        return "not in jobs/ itself, so that nothing ever starts it"
    if plan.is_refused:
        return f"refused by the policy{_let_through(plan)}"
    if plan.fits is False:
        return "fits on none of its GPUs"
    if plan.spec.suspend:
        return "suspended: a merge starts nothing"
    about, cap = _about(plan), _at_most(plan)
    return f"a merge starts it: {about}, {cap}" if about else f"a merge starts it, for {cap}"


def nothing(plans: Plans) -> str:
    """What is said where there is no plan at all."""
    if plans.problems:
        return "no plan: see what is wrong"
    return "no job spec is changed" if plans.base else "there is no job spec in jobs/"


def _let_through(plan: Plan) -> str:
    if plan.fits is False:
        return "; it fits on none of its GPUs, either"
    about, cap = _about(plan), _at_most(plan)
    return f"; it would cost {about}, {cap}" if about else f"; it would cost {cap}"


def _about(plan: Plan) -> str:
    """Expected dollars and hours; empty where nobody knows them."""
    first = plan.first
    if first is None or first.money is None or first.hours is None:
        return ""
    return f"about ${first.money.expected_usd:.2f} and {first.hours.total.expected:.1f} h on {first.gpu}"


def _at_most(plan: Plan) -> str:
    budget, first = plan.spec.budget, plan.first
    if first is None or first.money is None or first.hours is None:
        return f"at most ${budget.max_usd:g} and {budget.max_hours:g} h{_ends_on_idle(plan.spec)}"
    return f"never more than ${first.money.cap_usd:.2f}"


def without_model(plan: Plan) -> str:
    """Why there is no estimate of a job that is no training, and what limits it."""
    if not isinstance(plan.spec, SessionSpec):
        return "a command has no model of memory or time here: its hours are at most those of its budget"
    price = plan.first.usd_per_hour if plan.first else None
    costs = f", and costs ${price:.3f} an hour while it is open" if price is not None else ""
    return f"a session ends after {plan.spec.session.idle_minutes:g} idle minutes, or with its budget{costs}"


def _ends_on_idle(spec: JobSpec) -> str:
    return f"; it ends after {spec.session.idle_minutes:g} idle minutes" if isinstance(spec, SessionSpec) else ""


def fit(place: Place) -> str:
    if place.verdict is None:
        return "not known"
    return {"fits": "fits", "tight": "tight", "too large": "too large"}[place.verdict]


def where(place: Place) -> str:
    """Cloud, where that is not the one that is meant without a word, tier, and the data centers in the order they are
    asked."""
    at = "" if place.cloud == DEFAULT_CLOUD else f"{TITLES[place.cloud]}, "
    bid = AS_SPOT if place.is_spot else ""
    if place.tier == "COMMUNITY":
        return f"{at}community{bid}"
    shown = ", ".join(place.data_centers[:3]) + (
        f" and {len(place.data_centers) - 3} more" if place.data_centers[3:] else ""
    )
    return f"{at}secure{bid}, {shown}" if shown else f"{at}secure{bid}"


def offer(place: Place) -> str:
    """A place as one of several that a reviewer may compare."""
    usd = dollars(place.money) if place.money else f"at most ${place.cap_usd or 0:.2f}"
    took = f", {place.hours.total.expected:.1f} h" if place.hours else ""
    what = f"{TITLES[place.cloud]}, {place.count} × {place.gpu}, {place.tier.lower()}{AS_SPOT if place.is_spot else ''}"
    return f"{what}: {usd}{took}, {price(place)}; {place.stock}"


def band(value: Band, unit: str) -> str:
    return f"{value.expected:.1f} {unit} ({value.low:.1f} to {value.high:.1f})"


def dollars(money: Money) -> str:
    return f"${money.expected_usd:.2f} (${money.low_usd:.2f} to ${money.high_usd:.2f})"


def price(place: Place) -> str:
    return f"${place.usd_per_hour:.3f}/h" if place.usd_per_hour is not None else "–"


def memory(plan: Plan) -> str:
    """The breakdown in one line."""
    if plan.memory is None:
        return "not known"
    terms = ", ".join(f"{name} {size:.1f}" for name, size in plan.memory.terms_gb.items() if size >= 0.05)
    return f"{plan.memory.need_gb:.1f} GB to be safe, {plan.memory.floor_gb:.1f} at least: {terms}"


def amount(plan: Plan) -> str:
    work = plan.work
    if work is None:
        return "not known"
    cut = f", {work.share_cut:.0%} of the rows cut" if work.share_cut >= 0.005 else ""
    return f"{work.steps:,} steps, {work.tokens / 1e6:,.1f} M tokens{cut}"


def phases(place: Place) -> str:
    """Where the hours go, in minutes."""
    if place.hours is None:
        return ""
    parts = {
        "start": place.hours.start,
        "download": place.hours.download,
        "training": place.hours.training.times(place.hours.correction),
        "evaluation": place.hours.evaluation.times(place.hours.correction),
        "upload": place.hours.upload,
        **({"interruptions": place.hours.interrupted} if place.interruptions else {}),
    }
    return ", ".join(f"{name} {part.expected * 60:.0f} min" for name, part in parts.items())


def interruptions(place: Place) -> str:
    """Of a spot machine, how often it may be taken away, and who says so; empty on demand."""
    found = place.interruptions
    if found is None:
        return ""
    number, share = found.number, found.on_demand_share.expected
    rest = f"; {share:.0%} of the hours on demand after the last one" if share >= 0.005 else ""
    return f"{number.expected:.1f} expected ({number.low:.0f} to {number.high:.0f}), {found.rate.how}{rest}"


def weights(plan: Plan) -> str:
    if plan.parameters is None or plan.trained_parameters is None:
        return ""
    share = plan.trained_parameters / plan.parameters
    return f"{plan.parameters / 1e9:.2f} B, of which {plan.trained_parameters / 1e6:,.1f} M are trained ({share:.2%})"


def suggested(suggestion: Suggestion) -> str:
    hours = f", {suggestion.hours:.1f} h" if suggestion.hours is not None else ""
    usd = f", about ${suggestion.usd:.2f}" if suggestion.usd is not None else ""
    return f"needs {suggestion.need_gb:.1f} GB on {suggestion.gpu}{hours}{usd}"


def after_a_lost_pod(plan: Plan) -> str:
    tiers = plan.spec.compute.tiers
    if plan.spec.task == "session":
        return "the session opens again, with its work tree as it was; on a community machine as it was pushed last"
    goes_on, anew = "the next attempt goes on from the last checkpoint", "the next attempt starts from step 0"
    if plan.spec.task == "command":
        goes_on, anew = "the command starts again on the same volume", "the command starts again on an empty disk"
    if not (lost := losing(plan.spec.compute.clouds, tiers)):
        return goes_on
    if plan.spec.copies_to:
        return f"{goes_on}, which is also {plan.spec.copies_to}"
    never = all(len(losing(it, tiers)) == len(tiers) for it in plan.spec.compute.clouds)
    return anew if never else f"{goes_on}; on a {machine(lost[0])} {anew}"

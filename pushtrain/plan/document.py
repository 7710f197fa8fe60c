"""A plan as JSON. Its shape is stable (docs/plan.md): keys are added, never renamed; `format` counts what breaks."""

from dataclasses import asdict
from typing import Any

from pushtrain.estimate.hours import Band
from pushtrain.plan.model import Place, Plan, Plans
from pushtrain.plan.words import headline

FORMAT = 1


def document(plans: Plans) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "prices": plans.prices,
        "storage": plans.storage,
        "unchanged": plans.unchanged,
        "warnings": list(plans.warnings),
        "problems": [problem.as_json() for problem in plans.problems],
        "expected_usd": round(plans.expected_usd, 4),
        "cap_usd": round(plans.cap_usd, 4),
        "plans": [plan_document(plan) for plan in plans.plans],
    }


def plan_document(plan: Plan) -> dict[str, Any]:
    spec = plan.spec
    return {
        "name": spec.name,
        "path": plan.path,
        "digest": spec.digest,
        "task": spec.task,
        "status": plan.status,
        "renamed_from": plan.renamed_from,
        "headline": headline(plan),
        "fits": plan.fits,
        "starts": plan.starts,
        "refused": plan.is_refused,
        "budget": {"max_usd": spec.budget.max_usd, "max_hours": spec.budget.max_hours},
        "differences": [{"key": it.key, "before": it.before, "after": it.after} for it in plan.differences],
        "memory": _memory(plan),
        "work": None if plan.work is None else asdict(plan.work),
        "places": [place_document(place) for place in plan.places],
        "best": [place_document(place) for place in plan.best],
        "resources": [asdict(it) for it in plan.resources],
        "revisions": [asdict(it) for it in plan.revisions],
        "cautions": [asdict(it) for it in plan.cautions],
        "suggestions": [asdict(it) for it in plan.suggestions],
        "notes": list(plan.notes),
        "facts": dict(plan.facts),
    }


def _memory(plan: Plan) -> dict[str, Any] | None:
    if plan.memory is None:
        return None
    return {
        "need_gb": round(plan.memory.need_gb, 3),
        "floor_gb": round(plan.memory.floor_gb, 3),
        "terms_gb": {name: round(size, 3) for name, size in plan.memory.terms_gb.items()},
        "parameters": plan.parameters,
        "trained_parameters": plan.trained_parameters,
    }


def place_document(place: Place) -> dict[str, Any]:
    hours = place.hours
    return {
        "cloud": place.cloud,
        "gpu": place.gpu,
        "count": place.count,
        "tier": place.tier,
        "is_spot": place.is_spot,
        "data_centers": list(place.data_centers),
        "stock": place.stock,
        "memory_gb": place.sold_as_gb,
        "usable_gb": round(place.usable_gb, 2),
        "verdict": place.verdict,
        "tokens_per_s": None if place.tokens_per_s is None else round(place.tokens_per_s, 1),
        "usd_per_hour": None if place.usd_per_hour is None else round(place.usd_per_hour, 6),
        "deadline_hours": None if place.deadline_hours is None else round(place.deadline_hours, 4),
        "cap_usd": None if place.cap_usd is None else round(place.cap_usd, 4),
        "hours": None
        if hours is None
        else {
            "total": _band(hours.total),
            "start": _band(hours.start),
            "download": _band(hours.download),
            "training": _band(hours.training.times(hours.correction)),
            "evaluation": _band(hours.evaluation.times(hours.correction)),
            "upload": _band(hours.upload),
            "interrupted": _band(hours.interrupted),
        },
        "interruptions": None
        if place.interruptions is None
        else {
            **_band(place.interruptions.number),
            "hours_between": round(place.interruptions.rate.hours_between, 3),
            "how": place.interruptions.rate.how,
        },
        "usd": None
        if place.money is None
        else {
            "low": round(place.money.low_usd, 4),
            "expected": round(place.money.expected_usd, 4),
            "high": round(place.money.high_usd, 4),
            "cap": round(place.money.cap_usd, 4),
        },
        "correction": place.correction,
        "basis": place.basis,
    }


def _band(value: Band) -> dict[str, float]:
    return {"low": round(value.low, 4), "expected": round(value.expected, 4), "high": round(value.high, 4)}

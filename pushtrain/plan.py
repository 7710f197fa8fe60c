"""A first plan of a job spec for its reviewer: what it trains, what it would rent, what it can cost at most.

Without a key it names the caps and the resources; with one it adds the candidates at live prices. Memory fit and
expected cost are not estimated here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pushtrain.check import check
from pushtrain.errors import CloudError, PushtrainError, SpecError
from pushtrain.gpus import MIN_CUDA_VERSION
from pushtrain.placement import Candidate, hourly_usd, ladder, where
from pushtrain.prices import HIGH_PERFORMANCE_NOTE
from pushtrain.spec import CommandSpec, JobSpec
from pushtrain.spec.told import told


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`candidates` is None when no key was there to ask with; `note` says why there is no candidate."""

    spec: JobSpec
    candidates: tuple[tuple[Candidate, float], ...] | None
    note: str

    def rows(self) -> list[tuple[str, str]]:
        spec = self.spec
        return [
            *told(spec),
            ("creates", _creates(spec)),
            ("after a lost pod", _after_a_lost_pod(spec)),
            (
                "never more than",
                f"${spec.budget.max_usd:g} and {spec.budget.max_hours:g} h, storage and retries included",
            ),
            ("state", "suspended: a merge starts nothing" if spec.suspend else "a merge starts it"),
        ]

    def candidate_rows(self) -> list[str]:
        return [
            f"{c.gpu} ({c.gpu_memory_gb} GB) {where(c.data_center)}: ${usd:.3f}/h with storage, stock {c.stock}"
            for c, usd in self.candidates or ()
        ]

    def as_text(self) -> str:
        lines = [self.spec.name] + [f"  {key:16} {value}" for key, value in self.rows()]
        lines += [f"  {'candidate':16} {row}" for row in self.candidate_rows()]
        return "\n".join(lines + ([f"  {'note':16} {self.note}"] if self.note else []))

    def as_markdown(self) -> str:
        lines = [f"### `{self.spec.name}`", "", "| | |", "| --- | --- |"]
        lines += [f"| {key} | {_cell(value)} |" for key, value in self.rows()]
        lines += [f"| candidate {i} | {_cell(row)} |" for i, row in enumerate(self.candidate_rows(), 1)]
        return "\n".join(lines + ([f"| note | {_cell(self.note)} |"] if self.note else []))

    def as_json(self) -> dict[str, Any]:
        candidates = self.candidates and [{**asdict(c), "usd_per_hour_all": usd} for c, usd in self.candidates]
        return {"name": self.spec.name, **dict(self.rows()), "candidates": candidates, "note": self.note}


def plan_specs(paths: Sequence[Path], root: Path, environ: Mapping[str, str]) -> tuple[list[Plan], list[SpecError]]:
    """Plans of the specs that are fine, and the problems of those that are not."""
    found = check(paths, root)
    return plans(found.specs, environ), list(found.problems)


def plans(specs: Sequence[JobSpec], environ: Mapping[str, str]) -> list[Plan]:
    """Plans of specs that passed their check."""
    return [_plan(spec, environ) for spec in specs]


def _plan(spec: JobSpec, environ: Mapping[str, str]) -> Plan:
    if not environ.get("RUNPOD_API_KEY"):
        return Plan(spec=spec, candidates=None, note="no RUNPOD_API_KEY here: prices are looked up at the merge")
    from infra.clouds import connect

    try:
        cloud = connect(spec.compute.cloud, environ)
        rungs = ladder(spec, cloud.offers(spec.compute.count, MIN_CUDA_VERSION), known_gpus=cloud.gpu_names())
    except (CloudError, PushtrainError) as failure:
        return Plan(spec=spec, candidates=(), note=f"{failure.reason}: {failure}")
    shown = rungs[:6]
    note = HIGH_PERFORMANCE_NOTE if any(rung.volume_kind == "HIGH_PERFORMANCE" for rung in shown) else ""
    return Plan(spec=spec, candidates=tuple((rung, hourly_usd(rung, spec)) for rung in shown), note=note)


def _creates(spec: JobSpec) -> str:
    """What is rented; a community machine gives its own disk in place of a network volume."""
    size_gb, tiers = spec.compute.volume.size_gb, spec.compute.tiers
    storage = [f"network volume {size_gb} GB"] if "SECURE" in tiers else []
    storage += [f"{size_gb} GB of the community machine's own disk"] if "COMMUNITY" in tiers else []
    return f"{' or '.join(storage)}, pod with {spec.compute.count} GPU"


def _after_a_lost_pod(spec: JobSpec) -> str:
    goes_on, anew = "the next attempt goes on from the last checkpoint", "the next attempt starts from step 0"
    if isinstance(spec, CommandSpec):
        goes_on, anew = (
            "the command is started again on the same volume",
            "the command is started again on an empty disk",
        )
    if "COMMUNITY" not in spec.compute.tiers:
        return goes_on
    return anew if "SECURE" not in spec.compute.tiers else f"{goes_on}; on a community machine {anew}"


def _cell(text: str) -> str:
    """User text in a table cell: no pipe, no HTML, no mention may mean anything there."""
    for special, plain in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("@", "@\u200b"), ("`", "'"), ("\n", " ")):
        text = text.replace(special, plain)
    return text

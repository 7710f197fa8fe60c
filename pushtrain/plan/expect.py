"""What a claim expects of its run, so that the receipt has it beside what the run took, and the next estimate learns.

Asked at the claim, from the same sources as a plan; whatever is not known is left out, and nothing here stops a claim.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pushtrain.errors import PushtrainError
from pushtrain.estimate.correction import correction
from pushtrain.estimate.speed import kind_of
from pushtrain.ledger import Ledger
from pushtrain.placement import Candidate
from pushtrain.plan.build import Training, expectation, spot_money, with_interruptions
from pushtrain.plan.sources import Sources, open_sources, past_runs
from pushtrain.spec import JobSpec, TrainingSpec


class Expectations:
    """`root` is the checkout that holds the data files. Blocking: some requests to the Hub, each with a deadline."""

    def __init__(self, root: Path, environ: Mapping[str, str], ledger: Ledger, say: Callable[[str], None]) -> None:
        self._root, self._environ, self._ledger, self._say = root, environ, ledger, say

    def __call__(self, spec: JobSpec, candidates: Sequence[Candidate]) -> dict[str, Any]:
        """Keys for `estimate` of run.json; empty for a command, and where model, data or card are not known.

        `training_s` is before any correction, or corrections would pile up.
        """
        if not isinstance(spec, TrainingSpec) or not candidates:
            return {}
        try:
            return self._expected(spec, candidates[0], open_sources(self._root, self._environ))
        except PushtrainError as failure:
            self._say(f"{spec.name}: without an expectation: {failure}")
            return {}

    def _expected(self, spec: TrainingSpec, first: Candidate, sources: Sources) -> dict[str, Any]:
        model = sources.hub.model(spec.model.id, spec.model.revision)
        dataset, _, _ = sources.dataset(spec)
        if model.shape is None:
            return {}
        training = Training.of(spec, model.shape, dataset, model.stored_bytes)
        known: dict[str, Any] = {"gpu": first.gpu, "kind": kind_of(training.recipe)}
        known["need_gb"] = round(training.memory.need_gb, 2)
        sources.learn(past_runs(self._ledger, spec.name))
        hours, tokens_per_s, how, _ = expectation(spec, first.gpu, training, sources)
        if hours is None or tokens_per_s is None:
            return known
        hours, taken = with_interruptions(spec, first, hours, training, sources)
        usd = spot_money(hours, spec, first, taken)
        factor = correction(sources.past(), first.gpu, known["kind"]).factor
        return {
            **known,
            "expected_usd": round(usd.expected_usd, 4),
            "low_usd": round(usd.low_usd, 4),
            "high_usd": round(usd.high_usd, 4),
            "expected_hours": round(hours.total.expected, 4),
            "training_s": round((hours.training + hours.evaluation).expected * 3600, 1),
            "tokens_per_s": round(tokens_per_s * factor, 1),
            "correction": how,
            **(
                {"interruptions": round(taken.number.expected, 3), "interruptions_how": taken.rate.how} if taken else {}
            ),
        }

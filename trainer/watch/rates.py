"""How fast a training goes and what it costs, from counters that only grow. Pure: the caller says what time it is."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """What a step is made of. `samples_per_step` are rows of all processes (a packed sequence counts as one);
    `flops_per_token` and `peak_flops` (of all GPUs, per second) are None where nobody knows them, as is the price."""

    samples_per_step: int
    usd_per_hour: float | None = None
    flops_per_token: float | None = None
    peak_flops: float | None = None


class Meter:
    """Rates between one reading and the next."""

    def __init__(self, effort: Effort) -> None:
        self._effort = effort
        self._at_s, self._step, self._tokens = 0.0, 0, 0

    def start(self, now_s: float, step: int, tokens: int) -> None:
        """Count from here. `now_s` is a monotonic clock."""
        self._at_s, self._step, self._tokens = now_s, step, tokens

    def read(self, now_s: float, step: int, tokens: int) -> tuple[dict[str, float], float]:
        """The rates since the last reading, and seconds per step.

        `mfu` is model FLOPs utilisation: the operations that the model's mathematics needs, without those of recomputed
        activations, as a share of what the GPUs could do (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
        """
        seconds, steps = max(now_s - self._at_s, 1e-9), step - self._step
        per_s = (tokens - self._tokens) / seconds
        self.start(now_s, step, tokens)
        effort = self._effort
        rates = {
            "tokens_per_s": round(per_s, 1),
            "samples_per_s": round(steps * effort.samples_per_step / seconds, 3),
        }
        if effort.flops_per_token and effort.peak_flops:
            rates["mfu"] = round(per_s * effort.flops_per_token / effort.peak_flops, 4)
        if effort.usd_per_hour is not None and per_s > 0:
            rates["usd_per_mtok"] = round(effort.usd_per_hour / 3600 / per_s * 1e6, 4)
        return rates, seconds / max(steps, 1)

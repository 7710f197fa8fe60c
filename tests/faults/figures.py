"""What a schedule is told of by, and what is counted of it."""

from dataclasses import dataclass, field

from pushtrain.run import kept_prefix, kept_volume_name, ledger_prefix

LEDGER_URL = "https://git.example/o/runs.git"
MARK = ledger_prefix(LEDGER_URL)
OTHER_MARK = ledger_prefix("https://git.example/o/other-runs.git")
KEPT_MARK = kept_prefix(LEDGER_URL)
# Made before all of it: one of ours that no run uses, and another ledger's of the name that runs here use.
IDLE = kept_volume_name("idle", LEDGER_URL)
OTHERS = kept_volume_name("models", "https://git.example/o/other-runs.git")


@dataclass(kw_only=True)
class Figures:
    """What is worth telling of one schedule. Seconds and dollars."""

    runs: int = 0
    pods: int = 0
    unnamed_pods: int = 0
    """Not on the receipt: they came and went, and no control plane ever saw them."""
    unnamed_usd: float = 0.0
    leaks: int = 0
    lost_events: int = 0
    double_pods: int = 0
    """Two of one run at work at once."""
    twins: int = 0
    """Second pods that were made, by two reconciles at once or a request carried out late, and ended before work."""
    longest_twin_s: float = 0.0
    longest_orphan_s: float = 0.0
    overshoot_usd: float = 0.0
    overshoot_share: float = 0.0
    excused_usd: float = 0.0
    kept: int = 0
    """Volumes that are there at rest, on purpose."""
    kept_twice: int = 0
    """One was there beside it, made minutes late; the Action told, and somebody deleted it as it said."""


@dataclass(kw_only=True)
class Listed:
    """When a control plane last asked the cloud for everything: the two latest askings, each from its first page to its
    last."""

    pods: list[list[float]] = field(default_factory=list)
    volumes: list[list[float]] = field(default_factory=list)

    def page(self, kind: str, now: float, is_first: bool) -> None:
        asked = self.pods if kind == "pod" else self.volumes
        if is_first or not asked:
            asked.append([now, now])
            del asked[:-2]
        asked[-1][1] = now

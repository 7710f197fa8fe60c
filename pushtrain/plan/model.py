"""What a plan says: data only, so that a terminal, a comment and a program each show it in their own way."""

from dataclasses import dataclass
from typing import Literal

from pushtrain.cloud import Tier
from pushtrain.differences import Difference
from pushtrain.errors import SpecError
from pushtrain.estimate.hours import Hours
from pushtrain.estimate.interruptions import Interruptions
from pushtrain.estimate.memory import MemoryEstimate, Verdict
from pushtrain.estimate.tokens import Work
from pushtrain.spec import JobSpec

Status = Literal["planned", "new", "changed", "unchanged", "deleted"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Caution:
    """Something a reviewer should see before saying yes. `reason` is a CamelCase constant."""

    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Money:
    """US dollars of one run with storage, undisturbed but for lost spot machines, and the most the budget allows."""

    low_usd: float
    expected_usd: float
    high_usd: float
    cap_usd: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One GPU type in one tier of one cloud, by bid or on demand, in the order they are asked. `data_centers` in
    order, empty where nobody knows them.

    `verdict` is None where the memory is not estimated, `hours` and `money` where the time is not, `usd_per_hour` (with
    storage), `deadline_hours` (when the budget ends) and `cap_usd` (what it has cost by then) where nobody knows a
    price.
    """

    cloud: str
    gpu: str
    count: int
    tier: Tier
    data_centers: tuple[str, ...]
    stock: str
    sold_as_gb: int
    usable_gb: float
    verdict: Verdict | None
    tokens_per_s: float | None
    hours: Hours | None
    money: Money | None
    usd_per_hour: float | None
    deadline_hours: float | None
    cap_usd: float | None
    correction: str = ""
    basis: str = ""
    is_spot: bool = False
    interruptions: Interruptions | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """The smallest change of one kind that would fit: lines of the spec, and what it would then need and cost."""

    change: tuple[str, ...]
    need_gb: float
    gpu: str
    hours: float | None
    usd: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    """What a run starts from. `commit` is what a floating one means today, where the Hub could be asked."""

    what: str
    revision: str
    is_pinned: bool
    commit: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """One line of the Pulumi preview."""

    action: str
    kind: str
    name: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a reviewer is told about one job spec.

    `memory` and `work` are None for a command and where model or dataset are not known; `notes` say why and where
    every figure is from. `fits`: on at least one of its cards; None where nobody can tell. `is_refused` by the policy.
    `is_elsewhere`: the file lies outside of jobs/, where nothing looks for specs.
    A deleted job has its old spec and nothing else.
    """

    spec: JobSpec
    path: str
    status: Status = "planned"
    renamed_from: str | None = None
    differences: tuple[Difference, ...] = ()
    places: tuple[Place, ...] = ()
    memory: MemoryEstimate | None = None
    parameters: int | None = None
    trained_parameters: int | None = None
    work: Work | None = None
    resources: tuple[Resource, ...] = ()
    revisions: tuple[Revision, ...] = ()
    cautions: tuple[Caution, ...] = ()
    suggestions: tuple[Suggestion, ...] = ()
    notes: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    is_refused: bool = False
    is_elsewhere: bool = False

    @property
    def fits(self) -> bool | None:
        verdicts = [place.verdict for place in self.places if place.verdict is not None]
        if self.memory is None or not verdicts:
            return None
        return any(verdict != "too large" for verdict in verdicts)

    @property
    def starts(self) -> bool:
        """Whether a merge rents something for it."""
        return self.would_start and not self.is_refused

    @property
    def would_start(self) -> bool:
        """The same, were it let through."""
        return self.status != "deleted" and not self.spec.suspend and not self.is_elsewhere

    @property
    def best(self) -> tuple[Place, ...]:
        """Of a spec that allows several clouds the three cheapest places it can run on: by expected dollars, else by
        dollars an hour. Empty for a spec that names one."""
        if len(self.spec.compute.clouds) < 2:
            return ()
        priced = [place for place in self.places if place.usd_per_hour is not None and place.verdict != "too large"]
        return tuple(sorted(priced, key=_dearness)[:3])

    @property
    def first(self) -> Place | None:
        """The place that is asked first of those it can run on."""
        return next((place for place in self.places if place.verdict != "too large"), None)


def _dearness(place: Place) -> tuple[bool, float]:
    return place.money is None, place.money.expected_usd if place.money else place.usd_per_hour or 0.0


@dataclass(frozen=True, kw_only=True)
class Plans:
    """All of one call: `prices` says where prices are from and how old they are, `problems` what is wrong with specs
    (those of which there is no plan among them), `warnings` what of the base's policy could not be looked at, `base`
    what the specs were compared with."""

    plans: tuple[Plan, ...]
    prices: str
    storage: str
    unchanged: int = 0
    problems: tuple[SpecError, ...] = ()
    warnings: tuple[str, ...] = ()
    base: str | None = None

    @property
    def expected_usd(self) -> float:
        """Of what a merge starts, where it is known."""
        firsts = [plan.first for plan in self.plans if plan.starts]
        return sum(place.money.expected_usd for place in firsts if place and place.money)

    @property
    def cap_usd(self) -> float:
        return sum(plan.spec.budget.max_usd for plan in self.plans if plan.starts)

"""What the control plane works with: one object that carries the seams, the clock and where to speak."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import Cloud, Stock
from pushtrain.engine import Engine, Program
from pushtrain.fleet import cloud_of, member, members
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.limits import Limits, limits_of
from pushtrain.placement import Candidate
from pushtrain.policy.outside import Outside, Refusal
from pushtrain.run import Run
from pushtrain.settings import Settings
from pushtrain.signs import Uptimes
from pushtrain.source import Source
from pushtrain.spec import JobSpec


class SoldOut(NamedTuple):
    """What a place (GPU, data center, tier, count of GPUs) said last: when, how long that is believed, and the stock
    the catalogue showed at that moment."""

    told_s: float
    for_s: float
    stock: Stock


class Expect(Protocol):
    """What a claim expects of its run: keys for `estimate` of run.json, empty where nobody can tell. Never raises."""

    def __call__(self, spec: JobSpec, candidates: Sequence[Candidate]) -> Mapping[str, Any]: ...


class Launch(Protocol):
    """Makes the Pulumi program of one attempt. Pure: no cloud call, no secret value."""

    def __call__(
        self,
        run: Run,
        spec: JobSpec,
        candidate: Candidate,
        *,
        attempt: int,
        deadline_epoch_s: float,
        kept_id: str | None = None,
    ) -> Program:
        """`kept_id` is the kept volume that the pod mounts, where its spec keeps one."""
        ...


@dataclass(kw_only=True)
class Control:
    """The seams of one control plane process. `say` prints one line for people; it never carries a secret."""

    settings: Settings
    source: Source
    ledger: Ledger
    cloud: Cloud
    engine: Engine
    launch: Launch
    say: Callable[[str], None]
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    expect: Expect | None = None
    hear: Callable[[Mapping[str, RunRecord]], None] = lambda records: None
    """Gets what each tick reads of the active runs, before anything is done about it."""

    tried_s: dict[str, float] = field(default_factory=dict)
    """When this process last looked for capacity, by run id: within a minute nothing changes."""
    waiting_s: dict[str, float] = field(default_factory=dict)
    """Since when a run has been waiting for a place, by run id, for those that this process tried to place."""
    sold_out: dict[tuple[str, str, str | None, str, int], SoldOut] = field(default_factory=dict)
    """The places that said that they have no capacity, to whichever run."""

    looked_s: dict[str, float] = field(default_factory=dict)
    """When this process last read a silent pod's log, by run id: it takes seconds, so once a minute at most."""

    uptimes: Uptimes = field(default_factory=Uptimes)

    stacks: dict[str, Run] = field(default_factory=dict)
    """The runs whose stack this process's engine may remember, by run id."""

    outside: Outside = field(default_factory=Outside)
    """What the policy asks of the Hub and of GitHub."""

    whole: Cloud | None = None
    """Of a control plane at one cloud: all of them."""

    may_rent: bool = True
    """False: what is at its end is ended, what nobody owns is swept, and nothing is claimed or created."""

    refusals: dict[str, Refusal] = field(default_factory=dict)
    """What the policy did not let through, by job."""

    def at(self, place: str | RunRecord) -> "Control":
        """The same control plane where it works at one cloud, by name or that of a run; all it remembers is shared.
        Raises CloudAuthFailed where that cloud's key is not set."""
        name = place if isinstance(place, str) else cloud_of(place)
        return replace(self, cloud=member(self.everywhere, name), whole=self.everywhere)

    @property
    def everywhere(self) -> Cloud:
        """All clouds that there is a key for, also where this one works at one of them."""
        return self.whole or self.cloud

    @property
    def console(self) -> str:
        """Where a person sees what is rented."""
        return " and ".join(CLOUDS[name].console for name in members(self.cloud))

    def each(self) -> "list[Control]":
        """One for every cloud that there is a key for."""
        return [self.at(name) for name in members(self.cloud)]

    def limits(self, record: RunRecord) -> Limits:
        return limits_of(record.run.get("limits") or {}, self.settings, CLOUDS[cloud_of(record)])

"""What one cloud is to the schedules: its API over the virtual service, its client, a spec in its words, and what of a
pod's life is its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
from starlette.routing import Route

from infra.clouds.wire import Limits
from infra.simulator.catalog import Catalog
from infra.simulator.service import Service
from infra.simulator.state import Pod, Volume
from pushtrain.cloud import Cloud

from ..virtual import Process

ACCOUNT_KEY = "rpa_account_key_of_the_proof"
BASE_URL = "http://127.0.0.1:1"
LIMITS = Limits(jitter=lambda: 0.5)
# What a cloud says that would do something for somebody else, or later.
REFUSALS = (401, 403, 429, 500, 502)
Ways = Sequence[tuple[str, str, Mapping[str, str] | None]]
Log = Callable[[str], list[tuple[float, str, str]]]
Routes = Callable[[Service, dict[Any, Any], Log], list[Route]]


@dataclass(frozen=True, kw_only=True)
class Seams:
    """What a client is made of. `wall` is the control plane's own time of day, which may be off; `asked_time` the
    cloud's, None where it does not answer."""

    process: Process
    clock: Callable[[], float]
    wall: Callable[[], float]
    asked_time: Callable[[str, float], float | None]
    transport: httpx.BaseTransport


@dataclass(frozen=True, kw_only=True)
class Rental:
    """One cloud of the schedules.

    `catalog` is what it rents out, `place` where other people's things stand, `types` its ids for those of
    schedules. `routes(service, transports, log)` is the API; `lists` the paths of whole lists by what they
    hold; `operation(method, path)` the simulator's name of a request, as far as schedules tell them apart, `ends` its
    name for what ends a pod; `gpu_of` is the account's word for a type by its id in specs, `pod_id` and `volume_id`
    what its client calls the account's pods and volumes; `left_over` names what is in it beside those,
    `hides(service, pod)` says whether no list has a pod yet, and
    `late_s` by how much the cloud's own end of a pod is later than was asked;
    `is_refused(status, body)` tells an answer that does nothing now; `spec` a job of the other clouds as one of this.

    Of a pod: `env_of` is what its container is told; `ways` what it sends to end itself. Without any its `ending`
    says what its end is: its machine powers off, which ends no bill, or nothing but its work ends, or it leaves, and
    the cloud ends it with its first process, however that ended. With `is_machine`
    it is a container in a machine of its own, that boots `boots_s` longer. `stops_unpaid`: what runs is stopped when
    the money is gone.
    """

    name: str
    catalog: Catalog
    place: str
    ids: Callable[[int], str]
    routes: Routes
    client: Callable[[Seams], Cloud]
    environ: Mapping[str, str]
    lists: Mapping[str, tuple[str, ...]]
    more_pages: str
    operation: Callable[[str, str], str]
    ends: str = "pod_action"
    gpu_of: Callable[[str], str] = field(default=lambda sold: sold)
    pod_id: Callable[[str], str] = field(default=lambda its: its)
    volume_id: Callable[[Volume], str] = field(default=lambda volume: volume.id)
    left_over: Callable[[Service], list[str]] = field(default=lambda service: [])
    hides: Callable[[Service, Pod], bool] = field(default=lambda service, pod: False)
    late_s: Callable[[Service, str], float] = field(default=lambda service, pod_id: 0.0)
    types: Mapping[str, str] = field(default_factory=dict)
    ways: Callable[[str], Ways] = field(default=lambda pod_id: ())
    ending: Literal["asks", "off", "work", "leaves"] = "asks"
    env_of: Callable[[Pod], Mapping[str, str]] = field(default=lambda pod: pod.env)
    foreign_env: Mapping[str, str] = field(default_factory=dict)
    is_refused: Callable[[int, bytes], bool] = field(default=lambda status, body: status in REFUSALS)
    is_machine: bool = False
    boots_s: float = 0.0
    stops_unpaid: bool = True
    spec: Callable[[str], str] = field(default=lambda text: text)
    tick_s: float = 15.0
    """How long the requests of one tick take at most."""

    def gpu(self, named: str) -> str:
        """The account's word for a type that a schedule names."""
        return self.gpu_of(self.types.get(named, named))


def without_kept(text: str) -> str:
    """A job without the volume that runs share."""
    return text.replace("volume: {name: models, keep: true, ", "volume: {")

"""What the plugin leaves open, closed with the cloud's own listing: of each name one volume and one living pod.

The plugin creates without looking, retries nothing and knows only ids that are in the state. Its import cannot take a
resource over, either: it reads back almost no inputs. So what bears one of our names and is not in the state is used as
it is, beside the state; the stack's exports name it, and by them `released` finds it again before a destroy.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

from pulumi.automation import CommandError, ConcurrentUpdateError

from infra import clouds
from infra.clouds.wire import Limits
from infra.operations import BUSY_WAITS_S, VolumeOperations, kind_of
from infra.plugin import PROVIDER_TYPE, Found, PluginProgram, is_plugins
from infra.plugin_errors import answer_in, decode
from pushtrain.cloud import Live, Pod, Volume
from pushtrain.engine import Program
from pushtrain.errors import CloudError, CloudUnavailable, EngineError

T = TypeVar("T")
Sleep = Callable[[float], None]
Resources = Sequence[Mapping[str, Any]]
ReadState = Callable[[], Resources]


def guarded(
    program: Program,
    resources: Resources,
    carry_out: Callable[[Program], T],
    read_state: ReadState,
    sleep: Sleep = time.sleep,
) -> T:
    """`carry_out(program)`; for the plugin's program with a look before, and another after an answer nobody got: what
    was created all the same is found by its name, and the program carried out once more with it.

    `resources` are those of the stack's state, `read_state` gives them anew. Raises the cloud's own errors.
    """
    if not isinstance(program, PluginProgram):
        return carry_out(program)
    guard = _Guard(program)
    try:
        return carry_out(guard.settled(resources))
    except CommandError as error:
        if not guard.is_ambiguous(error) or not guard.appeared(read_state(), sleep):
            raise guard.meaning(error) or error from None
    try:
        return carry_out(guard.settled(read_state()))
    except CommandError as error:
        raise guard.meaning(error) or error from None


def informed(program: Program, resources: Resources) -> Program:
    """The program as `up` would carry it out now, for a preview. Changes nothing."""
    return _Guard(program).looked(resources) if isinstance(program, PluginProgram) else program


def patient(work: Callable[[], T], sleep: Sleep = time.sleep) -> T:
    """`work`, again and again (85 s in all) while a network volume is still held by a pod that is on its way out."""
    for wait_s in BUSY_WAITS_S:
        try:
            return work()
        except CommandError as error:
            meant = decode(str(error))
            if isinstance(error, ConcurrentUpdateError) or meant is None or "from all pods" not in str(meant):
                raise
            sleep(wait_s)
    return work()


def beside_state(resources: Resources) -> dict[str, str]:
    """Ids that the stack's exports name and its state does not hold: `pod_id`, `volume_id`, as far as there are any."""
    held = {it.get("id") for it in resources}
    if not any(it["type"] == PROVIDER_TYPE for it in resources):
        return {}
    outputs = next((it.get("outputs") or {} for it in resources if it["type"] == "pulumi:pulumi:Stack"), {})
    named = {name: outputs.get(name) for name in ("pod_id", "volume_id")}
    return {name: str(it) for name, it in named.items() if it and it not in held}


@contextmanager
def released(beside: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[None]:
    """Around a destroy: removes what `beside_state` found, a pod before and a volume after it."""
    cloud = clouds.connect("runpod", environ) if beside else None
    if cloud is not None and "pod_id" in beside:
        cloud.terminate(beside["pod_id"])
    yield
    if cloud is not None and "volume_id" in beside:
        VolumeOperations().delete(cloud, beside["volume_id"])


def refuse_mixture(program: Program, resources: Resources) -> None:
    """Raises EngineError for a stack of the other provider: Pulumi would make a second volume, and then delete the one
    with the checkpoints."""
    plugins = isinstance(program, PluginProgram)
    kinds = {is_plugins(it["type"]) for it in resources if kind_of(it["type"]) in ("Pod", "NetworkVolume")}
    if kinds - {plugins}:
        made, asked = ("pushtrain", "pulumi-runpod") if plugins else ("pulumi-runpod", "pushtrain")
        raise EngineError(
            f"this run's stack was made with PUSHTRAIN_RUNPOD_PROVIDER={made} and cannot go on with {asked}",
            hint=f"set it to {made} until the run is over; destroying it works with either",
            reason="OtherProvider",
        )


class _Guard:
    def __init__(self, program: PluginProgram) -> None:
        self._program = program
        self._plan = program.plan
        self._cloud = clouds.connect(self._plan.cloud, program.environ)

    def settled(self, resources: Resources) -> PluginProgram:
        """Leaves one of each name, the oldest living pod and the state's volume, and says what they are."""
        live, known = self._live(), self._known(resources)
        pod = _oldest(live)
        for other in live.pods:
            if other is not pod:
                self._cloud.terminate(other.id)
        before = beside_state(resources).get("pod_id")
        if before is not None and (pod is None or before != pod.id):
            self._cloud.terminate(before)  # of an earlier attempt: Pulumi, which does not know it, would let it run
        volume = _unknown_volume(live, known)
        if volume is not None and self._plan.volume is not None:
            volume = self._cloud.create_volume(self._plan.volume)  # it adopts by name, and leaves one of several
        elif known:
            for twin in [it for it in live.volumes if it.id not in known]:
                with suppress(CloudUnavailable):  # a pod holds it; it goes with the run
                    self._cloud.delete_volume(twin.id)
        return self._informed(volume, pod, known)

    def looked(self, resources: Resources) -> PluginProgram:
        """The same, changing nothing."""
        live, known = self._live(), self._known(resources)
        return self._informed(_unknown_volume(live, known), _oldest(live), known)

    def appeared(self, resources: Resources, sleep: Sleep) -> bool:
        """Whether something of our names shows up that is not in the state."""
        known = self._known(resources)
        for pause_s in Limits().look_pauses_s:
            sleep(pause_s)
            live = self._live()
            if ({pod.id for pod in live.pods} | {volume.id for volume in live.volumes}) - known:
                return True
        return False

    def is_ambiguous(self, error: CommandError) -> bool:
        """Whether something may have been created that nobody was told of."""
        answer = None if isinstance(error, ConcurrentUpdateError) else answer_in(str(error))
        return answer is not None and answer.ambiguous

    def meaning(self, error: CommandError) -> CloudError | None:
        """None for what is not the plugin's to say: somebody else's lock, an error of Pulumi."""
        if isinstance(error, ConcurrentUpdateError):
            return None
        pod, volume = self._plan.pod, self._plan.volume
        parts = [f"network volume {volume.name} in {volume.data_center}"] if volume else []
        if pod is not None:
            parts.append(f"pod {pod.name} ({pod.gpu_count} x {pod.gpu}, {pod.tier})")
        return decode(str(error), f"creating {' and '.join(parts)} with RunPod's plugin")

    def _informed(self, volume: Volume | None, pod: Pod | None, known: set[str]) -> PluginProgram:
        in_state = pod is not None and pod.id in known
        return replace(self._program, found=Found(volume=volume, pod=None if in_state else pod, same_pod=in_state))

    def _known(self, resources: Resources) -> set[str]:
        """Ids in the state. Raises EngineError when the volume there is not the one that is wanted."""
        for it in resources:
            if self._plan.volume is not None and is_plugins(it["type"]) and kind_of(it["type"]) == "NetworkVolume":
                inputs, wanted = it["inputs"], self._plan.volume
                VolumeOperations().must_replace(
                    {"name": inputs["name"], "size_gb": int(inputs["size"]), "data_center": inputs["dataCenterId"]},
                    {"name": wanted.name, "size_gb": wanted.size_gb, "data_center": wanted.data_center.upper()},
                )
        return {str(it["id"]) for it in resources if it.get("id")}

    def _live(self) -> Live:
        """What has exactly the names of the plan."""
        names = sorted(it.name for it in (self._plan.volume, self._plan.pod) if it is not None)
        live = self._cloud.find(os.path.commonprefix(names))  # noqa: RUF071  (names, not paths)
        return Live(
            pods=tuple(pod for pod in live.pods if pod.name in names),
            volumes=tuple(volume for volume in live.volumes if volume.name in names),
        )


def _oldest(live: Live) -> Pod | None:
    return min((pod for pod in live.pods if pod.is_alive), key=lambda pod: pod.age_key, default=None)


def _unknown_volume(live: Live, known: set[str]) -> Volume | None:
    """None as soon as the state holds one of the name."""
    ids = {volume.id for volume in live.volumes}
    return live.volumes[0] if ids and not ids & known else None

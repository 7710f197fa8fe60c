"""The input of the Pulumi program."""

from dataclasses import dataclass

from pushtrain.cloud import PodRequest, VolumeRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class StackPlan:
    """What one run wants to exist right now. `pod` is None between attempts: the volume alone stays. `volume` is None
    where the pod takes none.

    `cloud` is a name `infra.clouds.connect` knows. A new attempt is the same plan with another pod name.
    """

    run_id: str
    cloud: str
    volume: VolumeRequest | None
    pod: PodRequest | None

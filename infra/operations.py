"""What creating, reading, comparing and deleting a pushtrain resource means, over any cloud. Knows nothing of Pulumi.

Both engines carry resources out through these functions: the Pulumi CLI by way of `infra.provider`, the embedded
engine directly. Properties are plain JSON values; the ones named in `inputs` are what a person asked for, the rest is
what the cloud answered.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Protocol

from pushtrain.cloud import Cloud, Pod, PodRequest, VolumeRequest
from pushtrain.errors import CloudUnavailable, EngineError

Properties = Mapping[str, Any]
Sleep = Callable[[float], None]

# A volume is held until its pod is really gone: waits of 1, 2, 4, 8 and then 10 s, 85 s in all.
BUSY_WAITS_S = (1.0, 2.0, 4.0, 8.0, *(10.0,) * 7)


class Operations(Protocol):
    """One kind of resource. Every function is safe to repeat: create adopts by name, absent is success."""

    inputs: tuple[str, ...]

    def create(self, cloud: Cloud, wanted: Properties) -> tuple[str, dict[str, Any]]:
        """The id and all properties. Raises CloudError."""
        ...

    def read(self, cloud: Cloud, resource_id: str, known: Properties) -> dict[str, Any] | None:
        """All properties as the cloud sees them now, None when the resource is gone. Raises CloudError if in doubt."""
        ...

    def must_replace(self, known: Properties, wanted: Properties) -> list[str]:
        """The inputs whose change needs a new resource. Raises EngineError for a change that is not allowed."""
        ...

    def delete(self, cloud: Cloud, resource_id: str) -> None: ...

    def delete_by_name(self, cloud: Cloud, wanted: Properties) -> None:
        """For a create whose answer nobody saw: removes whatever carries the wanted name."""
        ...


def changed(inputs: tuple[str, ...], known: Properties, wanted: Properties) -> list[str]:
    """Names among `inputs` whose values differ; a property left out is the same as None."""
    return [name for name in inputs if known.get(name) != wanted.get(name)]


class VolumeOperations:
    inputs = ("cloud", *(field.name for field in fields(VolumeRequest)))

    def __init__(self, sleep: Sleep = time.sleep) -> None:
        self._sleep = sleep

    def create(self, cloud: Cloud, wanted: Properties) -> tuple[str, dict[str, Any]]:
        volume = cloud.create_volume(
            VolumeRequest(
                name=wanted["name"],
                size_gb=int(wanted["size_gb"]),
                data_center=wanted["data_center"],
                kind=wanted.get("kind"),
            )
        )
        return volume.id, dict(wanted)

    def read(self, cloud: Cloud, resource_id: str, known: Properties) -> dict[str, Any] | None:
        return None if cloud.read_volume(resource_id) is None else dict(known)

    def must_replace(self, known: Properties, wanted: Properties) -> list[str]:
        """`kind` is only a wish at the create: what a data center offers may change, the volume does not."""
        differences = changed(tuple(name for name in self.inputs if name != "kind"), known, wanted)
        if differences:
            what = ", ".join(f"{name} {known.get(name)!r} → {wanted.get(name)!r}" for name in differences)
            raise EngineError(
                f"the network volume {known.get('name')} cannot become another one ({what}): checkpoints would be lost",
                hint="destroy the run first; a changed spec is a new run with its own volume",
            )
        return []

    def delete(self, cloud: Cloud, resource_id: str) -> None:
        """Waits up to 85 s for a pod to let go of it, then raises CloudUnavailable."""
        for wait_s in BUSY_WAITS_S:
            try:
                return cloud.delete_volume(resource_id)
            except CloudUnavailable:
                self._sleep(wait_s)
        return cloud.delete_volume(resource_id)

    def delete_by_name(self, cloud: Cloud, wanted: Properties) -> None:
        for volume in cloud.find(wanted["name"]).volumes:
            if volume.name == wanted["name"]:
                self.delete(cloud, volume.id)


class PodOperations:
    inputs = ("cloud", *(field.name for field in fields(PodRequest)))

    def create(self, cloud: Cloud, wanted: Properties) -> tuple[str, dict[str, Any]]:
        pod = cloud.create_pod(_pod_request(wanted))
        return pod.id, _pod_properties(pod, wanted)

    def read(self, cloud: Cloud, resource_id: str, known: Properties) -> dict[str, Any] | None:
        pod = cloud.read_pod(resource_id)
        return None if pod is None else _pod_properties(pod, known)

    def must_replace(self, known: Properties, wanted: Properties) -> list[str]:
        return changed(self.inputs, known, wanted)

    def delete(self, cloud: Cloud, resource_id: str) -> None:
        cloud.terminate(resource_id)

    def delete_by_name(self, cloud: Cloud, wanted: Properties) -> None:
        for pod in cloud.find(wanted["name"]).pods:
            if pod.name == wanted["name"]:
                cloud.terminate(pod.id)


OPERATIONS: Mapping[str, Operations] = {"NetworkVolume": VolumeOperations(), "Pod": PodOperations()}


def kind_of(pulumi_type: str) -> str:
    """`Pod` of `pulumi-python:dynamic/pushtrain:Pod`: the last part of a Pulumi type token."""
    return pulumi_type.rsplit(":", 1)[-1]


def operations_of(kind: str) -> Operations:
    """Raises EngineError for a resource that is not pushtrain's own."""
    try:
        return OPERATIONS[kind]
    except KeyError:
        raise EngineError(
            f"nobody here knows how to carry out a {kind}", hint="the embedded engine takes NetworkVolume and Pod only"
        ) from None


def _pod_properties(pod: Pod, asked: Properties) -> dict[str, Any]:
    """`placed_in` is where the pod is; a cloud that does not say put it where it was asked to."""
    return {**asked, "usd_per_hour": pod.usd_per_hour, "placed_in": pod.data_center or asked.get("data_center")}


def _pod_request(wanted: Properties) -> PodRequest:
    """Numbers cross Pulumi's wire as floats, tuples as lists, and None not at all."""
    return PodRequest(
        name=wanted["name"],
        image=wanted.get("image"),
        gpu=wanted["gpu"],
        gpu_count=int(wanted["gpu_count"]),
        tier=wanted["tier"],
        disk_gb=int(wanted["disk_gb"]),
        args=wanted["args"],
        data_center=wanted.get("data_center"),
        volume_id=wanted.get("volume_id"),
        persistent_gb=None if wanted.get("persistent_gb") is None else int(wanted["persistent_gb"]),
        mount_path=wanted["mount_path"],
        env=dict(wanted.get("env") or {}),
        secret_env=tuple(wanted.get("secret_env") or ()),
        ports=tuple(wanted.get("ports") or ()),
        min_cuda_version=wanted.get("min_cuda_version"),
        template=wanted.get("template"),
        ssh=bool(wanted.get("ssh")),
        max_usd_per_hour=wanted.get("max_usd_per_hour"),
        bid_usd_per_hour=wanted.get("bid_usd_per_hour"),
    )

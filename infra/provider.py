"""Pulumi's side of our resources: `NetworkVolume` and `Pod`, carried out by `infra.operations` on any cloud.

The providers are stateless and live in an installed module, so Pulumi's state holds a reference to them, not code,
and no credential: the cloud client reads its keys from the environment of the process that carries the step out.
"""

import contextlib
import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, TypeVar

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

from infra import clouds
from infra.border import Encoded, encode
from infra.operations import OPERATIONS
from pushtrain.cloud import PodRequest, VolumeRequest
from pushtrain.errors import EngineError, PushtrainError

T = TypeVar("T")


class _Provider(ResourceProvider):
    # There is nothing secret in a reference to a class; as a secret it would be re-encrypted, and differ, each time.
    serialize_as_secret_always = False
    kind: str

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult(*_crossing(lambda: OPERATIONS[self.kind].create(clouds.connect(props["cloud"]), props)))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        found = _crossing(lambda: OPERATIONS[self.kind].read(clouds.connect(props["cloud"]), id_, props))
        return ReadResult(None, {}) if found is None else ReadResult(id_, found)

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        replaces = _crossing(lambda: OPERATIONS[self.kind].must_replace(_olds, _news))
        return DiffResult(changes=bool(replaces), replaces=replaces, delete_before_replace=True)

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Nothing of ours changes in place; Pulumi still asks when only `__provider` moved, and keeps what it gets."""
        if _crossing(lambda: OPERATIONS[self.kind].must_replace(_olds, _news)):
            raise Encoded(encode(EngineError(f"a {self.kind} is replaced, never changed in place")))
        return UpdateResult({**_olds, **_news})

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        _crossing(lambda: OPERATIONS[self.kind].delete(clouds.connect(_props["cloud"]), _id))


class NetworkVolumeProvider(_Provider):
    kind = "NetworkVolume"


class PodProvider(_Provider):
    kind = "Pod"


class NetworkVolume(Resource, module="pushtrain", name="NetworkVolume"):
    """A network volume. Nothing about it may change; `up` of a changed one raises EngineError."""

    data_center: pulumi.Output[str]

    def __init__(self, name: str, cloud: str, request: VolumeRequest) -> None:
        with _pickler_as_it_was():
            super().__init__(NetworkVolumeProvider(), name, {"cloud": cloud, **_properties(request)})


class Pod(Resource, module="pushtrain", name="Pod"):
    """A pod, on a network volume or a disk of its own. Any change of its request replaces it."""

    name: pulumi.Output[str]
    usd_per_hour: pulumi.Output[float]
    placed_in: pulumi.Output[str | None]

    def __init__(
        self,
        name: str,
        cloud: str,
        request: PodRequest,
        volume_id: pulumi.Input[str] | None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        """`volume_id` wins over the request's own. No value of `secret_env` is read here, only the names are kept."""
        wanted = _properties(request) | {
            "cloud": cloud,
            "env": dict(request.env),
            "secret_env": list(request.secret_env),
            "ports": list(request.ports),
            "volume_id": volume_id,
        }
        with _pickler_as_it_was():
            super().__init__(PodProvider(), name, {**wanted, "usd_per_hour": None, "placed_in": None}, opts)


@contextlib.contextmanager
def _pickler_as_it_was() -> Iterator[None]:
    """Pulumi's SDK wraps Python's pickler anew for each resource and leaves it so: after hundreds of them in a process
    every pickle would end in a RecursionError."""
    pickler, kept = pickle._Pickler, ("_batch_setitems", "save_dict")
    before = {name: getattr(pickler, name) for name in kept}
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(pickler, name, method)


def _properties(request: VolumeRequest | PodRequest) -> dict[str, Any]:
    return {field.name: getattr(request, field.name) for field in fields(request)}


def _crossing(step: Callable[[], T]) -> T:
    """Runs `step` in the CLI's provider process; its text is all that reaches the engine, so chains are cut."""
    try:
        return step()
    except PushtrainError as error:
        raise Encoded(encode(error)) from None

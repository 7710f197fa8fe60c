"""What of the package `modal` its client uses: the calls that each makes, and what they raise, as its SDK 1.6.4 does.

A call is tried four times where there is no answer, or one that says nothing; a limit is waited out for as long as the
server says. A create that is given up while it is queued is ended first, if that can be said.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any, Protocol

from infra.clouds.modal.names import sold_as

# The SDK asks twice a second; every request is a moment to die here, of which a queue has enough so.
_POLL_S = 5.0
# How long `ModalSdk` waits for a create to end that it gave up.
_SHIELDED_S = 40.0


class Error(Exception):
    """The first of Modal's own."""


class AuthError(Error): ...


class PermissionDeniedError(Error): ...


class NotFoundError(Error): ...


class AlreadyExistsError(Error): ...


class ResourceExhaustedError(Error): ...


class InvalidError(Error): ...


class ConflictError(InvalidError): ...


class ServiceError(Error): ...


class InternalError(Error): ...


class ConnectionError(Error): ...


class StreamTerminatedError(Error):
    """grpclib's, which is none of Modal's."""


# gRPC's statuses as numbers of HTTP.
STATUSES: Mapping[int, type[Error]] = {
    400: InvalidError,
    401: AuthError,
    402: ConflictError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: AlreadyExistsError,
    412: ConflictError,
    429: ResourceExhaustedError,
    500: InternalError,
    502: ServiceError,
}
TRANSIENT = (StreamTerminatedError, InternalError, ServiceError, ConnectionError)


class Late(BaseException):
    """The deadline of a call is over: it is cancelled where it waits."""


class Hanging(BaseException):
    """Nor does it come back once it is cancelled."""


class Calls(Protocol):
    """One open client."""

    def __call__(self, name: str, /, *, writes: bool = False, query: Mapping[str, str] = {}, **said: Any) -> Any:
        """The answer. Raises Error or Late."""
        ...

    def wait(self, seconds: float) -> None:
        """Raises Late."""
        ...

    def allow(self, seconds: float) -> None:
        """A deadline from now on in the place of the call's own."""
        ...


def package(call: Calls) -> Any:
    """Stands for the module `modal`."""
    return SimpleNamespace(
        App=SimpleNamespace(lookup=_both(lambda name, **more: _app(call, **more))),
        Image=SimpleNamespace(from_registry=lambda ref: _Image(call, ref)),
        Secret=SimpleNamespace(from_dict=dict),
        Volume=SimpleNamespace(
            from_name=lambda name, create_if_missing=False, client=None: _Volume(call, name, create_if_missing),
            from_id=lambda volume_id, client=None: SimpleNamespace(object_id=volume_id),
            objects=SimpleNamespace(
                list=_both(lambda client: _volumes(call)),
                delete=_both(lambda name, allow_missing, client: _delete_volume(call, name, allow_missing)),
            ),
        ),
        Workspace=SimpleNamespace(from_context=lambda client: SimpleNamespace(billing=_billing(call))),
        Sandbox=SimpleNamespace(
            create=_both(lambda *args, **options: _create(call, args, options)),
            from_id=_both(lambda sandbox_id, client: _from_id(call, sandbox_id)),
            from_name=_both(lambda app, name, **more: _from_name(call, name, **more)),
            list=SimpleNamespace(aio=lambda app_id, client: _Each(_listed(call))),
        ),
    )


def _both(done: Callable[..., Any]) -> Any:
    """A function with its asynchronous self."""

    async def aio(*args: Any, **more: Any) -> Any:
        return done(*args, **more)

    return SimpleNamespace(aio=aio)


class _Each:
    """An asynchronous iterator that never waits."""

    def __init__(self, found: Iterator[Any]) -> None:
        self._found = found

    def __aiter__(self) -> "_Each":
        return self

    async def __anext__(self) -> Any:
        for each in self._found:
            return each
        raise StopAsyncIteration


def _app(call: Calls, client: Any, create_if_missing: bool = False) -> Any:
    return SimpleNamespace(app_id=call("AppGetOrCreate", writes=create_if_missing)["app_id"])


def _billing(call: Calls) -> Any:
    return SimpleNamespace(rates=_both(lambda: call("WorkspaceBillingRates")["rates"]))


class _Image:
    def __init__(self, call: Calls, ref: str) -> None:
        self.build = _both(lambda app: call("ImageGetOrCreate", writes=True, image=ref)["image_id"])


class _Volume:
    def __init__(self, call: Calls, name: str, create: bool) -> None:
        def hydrate(client: Any) -> None:
            self.object_id = call("VolumeGetOrCreate", writes=create, name=name, create=create)["volume_id"]

        self.name, self.object_id = name, ""
        self.hydrate = _both(hydrate)


def _volumes(call: Calls) -> list[Any]:
    return [SimpleNamespace(object_id=it["volume_id"], name=it["name"]) for it in call("VolumeList")["items"]]


def _delete_volume(call: Calls, name: str, allow_missing: bool) -> None:
    """By its id of this moment."""
    try:
        found = call("VolumeGetOrCreate", name=name, create=False)
        call("VolumeDelete", writes=True, volume_id=found["volume_id"])
    except NotFoundError:
        if not allow_missing:
            raise


def _create(call: Calls, args: tuple[str, ...], options: Mapping[str, Any]) -> Any:
    """Each volume and each secret is asked for first; then it is looked whether the sandbox has a machine."""
    volumes = {path: volume.object_id for path, volume in options["volumes"].items()}
    for volume_id in volumes.values():
        call("VolumeGetById", volume_id=volume_id)
    told = [it for it in (*options["secrets"], options["env"]) if it]
    gpu, _, many = str(options["gpu"]).partition(":")
    made = call(
        "SandboxCreate",
        writes=True,
        secret_ids=[call("SecretGetOrCreate", writes=True, env=env)["secret_id"] for env in told],
        name=options["name"],
        args=list(args),
        tags=options["tags"],
        gpu=sold_as(gpu),
        gpu_count=int(many),
        timeout=options["timeout"],
        image_id=options["image"],
        volumes=volumes,
    )["sandbox_id"]
    try:
        _wait_for_a_machine(call, made)
    except ConflictError:
        raise
    except (Error, Late):
        _end(call, made)
        raise
    return _Sandbox(call, made)


def _wait_for_a_machine(call: Calls, sandbox_id: str) -> None:
    while True:
        try:
            if call("SandboxGetTaskId", sandbox_id=sandbox_id)["task_id"]:
                return
        except TRANSIENT:
            """It asks again, until the deadline."""
        call.wait(_POLL_S)


def _end(call: Calls, sandbox_id: str) -> None:
    """Nobody would ever hear of it. Raises Hanging when that takes too long as well; else nothing."""
    call.allow(_SHIELDED_S)
    try:
        call("SandboxTerminate", writes=True, sandbox_id=sandbox_id)
    except Late:
        raise Hanging from None
    except Error:
        """The SDK logs it, where nobody reads."""


def _from_id(call: Calls, sandbox_id: str) -> Any:
    return _Sandbox(call, sandbox_id, call("SandboxWait", sandbox_id=sandbox_id)["returncode"])


def _from_name(call: Calls, name: str, client: Any, include_terminated: bool = False) -> Any:
    return _Sandbox(call, call("SandboxGetFromName", name=name, ended_too=include_terminated)["sandbox_id"])


def _listed(call: Calls) -> Iterator[Any]:
    """Page after page, until one is empty."""
    query: dict[str, str] = {}
    while page := call("SandboxList", query=query)["sandboxes"]:
        yield from (_Sandbox(call, it["sandbox_id"]) for it in page)
        query = {"before": repr(page[-1]["created_at"])}


class _Sandbox:
    def __init__(self, call: Calls, sandbox_id: str, returncode: int | None = None) -> None:
        def entries(since: datetime, until: datetime) -> Iterator[Any]:
            for at, text in call("AppFetchLogs", sandbox_id=sandbox_id, since=since.timestamp())["lines"]:
                time = datetime.fromtimestamp(at, timezone.utc)
                if time <= until:
                    yield SimpleNamespace(timestamp=time, source="stdout", message=f"{text}\n")

        self.object_id, self.returncode = sandbox_id, returncode
        self.get_tags = _both(lambda: call("SandboxTagsGet", sandbox_id=sandbox_id)["tags"])
        self.terminate = _both(lambda: call("SandboxTerminate", writes=True, sandbox_id=sandbox_id))
        self._experimental_stats = _both(
            lambda: SimpleNamespace(cost=call("SandboxGetStats", sandbox_id=sandbox_id)["cost"])
        )
        self.logs = SimpleNamespace(fetch=SimpleNamespace(aio=lambda since, until: _Each(entries(since, until))))

"""Modal's gRPC API, as far as its SDK needs it for sandboxes, volumes, logs, rates and costs. See `modal_server`.

A sandbox is a container on the same machine as RunPod's pods. A handler gets a message of modal_proto and answers with
one; refusals are `Status` of gRPC.
"""

import base64
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from infra.simulator.container_log import Entry, read_log
from infra.simulator.modal_account import ANYWHERE, CORE_USD, GIB_USD, GPUS, ModalService, Sandbox, new_id, task_id
from infra.simulator.state import Pod, PodOrder, Refused
from pushtrain.events import parse_time

Result = api.GenericResult
_BUILDER = "2025.06"


class ModalApi:
    """`handlers` by the name of the call. One workspace, one environment."""

    def __init__(self, service: ModalService) -> None:
        self._service, self._workspace = service, service.workspace

    @property
    def handlers(self) -> Mapping[str, Callable[[Any], Any]]:
        return {
            "AuthTokenGet": self._token,
            "AppGetOrCreate": self._app,
            "EnvironmentGetOrCreate": self._environment,
            "ImageGetOrCreate": self._image,
            "SecretGetOrCreate": self._secret,
            "WorkspaceNameLookup": lambda _: api.WorkspaceNameLookupResponse(username="simulator"),
            "WorkspaceBillingRates": self._rates,
            "VolumeGetOrCreate": self._volume,
            "VolumeGetById": self._volume_by_id,
            "VolumeList": self._volumes,
            "VolumeDelete": self._delete_volume,
            "SandboxCreate": self._create,
            "SandboxGetTaskId": self._task,
            "SandboxGetFromName": self._named,
            "SandboxGetFromNameV2": self._named_in_v2,
            "SandboxList": self._list,
            "SandboxListV2": self._list,
            "SandboxTagsGet": self._tags,
            "SandboxWait": self._wait,
            "SandboxTerminate": self._terminate,
            "SandboxGetStats": self._stats,
            "AppCountLogs": self._count_logs,
            "AppFetchLogs": self._fetch_logs,
        }

    def _token(self, request: Any) -> Any:
        """A token that says only until when it is good."""
        claims = base64.urlsafe_b64encode(json.dumps({"exp": int(self._service.clock()) + 3600}).encode()).decode()
        return api.AuthTokenGetResponse(token=f"e30.{claims.rstrip('=')}.simulator")

    def _app(self, request: Any) -> Any:
        name = request.app_name
        if name not in self._workspace.apps and request.object_creation_type:
            self._workspace.apps[name] = new_id("ap")
            self._workspace.save()
        if name not in self._workspace.apps:
            raise _absent(f"App '{name}' not found")
        return api.AppGetOrCreateResponse(app_id=self._workspace.apps[name])

    def _environment(self, request: Any) -> Any:
        settings = api.EnvironmentSettings(image_builder_version=_BUILDER)
        metadata = api.EnvironmentMetadata(name="main", settings=settings)
        return api.EnvironmentGetOrCreateResponse(environment_id="en-simulator", metadata=metadata)

    def _image(self, request: Any) -> Any:
        base = next(line for line in request.image.dockerfile_commands if line.startswith("FROM "))
        image_id = new_id("im")
        self._workspace.images[image_id] = base.removeprefix("FROM ").strip()
        metadata = api.ImageMetadata(image_builder_version=_BUILDER)
        return api.ImageGetOrCreateResponse(
            image_id=image_id, result=Result(status=Result.GENERIC_STATUS_SUCCESS), metadata=metadata
        )

    def _secret(self, request: Any) -> Any:
        secret_id = new_id("st")
        self._workspace.secrets[secret_id] = dict(request.env_dict)
        return api.SecretGetOrCreateResponse(secret_id=secret_id)

    def _rates(self, request: Any) -> Any:
        catalog = self._service.account.catalog
        gpus = {word: str(catalog.gpus[gpu].secure_usd) for word, gpu in GPUS.items()}
        return api.WorkspaceBillingRatesResponse(rates={**gpus, "CPU": str(CORE_USD), "Memory": str(GIB_USD)})

    def _volume(self, request: Any) -> Any:
        name, service = request.deployment_name, self._service
        found = next((it for it in service.account.live_volumes() if it.name == name), None)
        if found is None and not request.object_creation_type:
            raise _absent(f"Volume '{name}' not found")
        if found is None:
            found = service.create_volume(name, 0, ANYWHERE, None)
        return api.VolumeGetOrCreateResponse(volume_id=_outside(found.id), metadata=_metadata(found))

    def _volume_by_id(self, request: Any) -> Any:
        found = next((it for it in self._service.account.live_volumes() if _outside(it.id) == request.volume_id), None)
        if found is None:
            raise _absent(f"Volume '{request.volume_id}' not found")
        return api.VolumeGetByIdResponse(volume_id=request.volume_id, metadata=_metadata(found))

    def _volumes(self, request: Any) -> Any:
        before = request.pagination.created_before or float("inf")
        found = sorted(self._service.account.live_volumes(), key=lambda it: -it.spans[0].start)
        page = [it for it in found if it.spans[0].start < before][: request.pagination.max_objects or None]
        items = [api.VolumeListItem(label=it.name, volume_id=_outside(it.id), metadata=_metadata(it)) for it in page]
        return api.VolumeListResponse(items=items, environment_name="main")

    def _delete_volume(self, request: Any) -> None:
        """As Modal does, it is gone, whoever mounts it."""
        try:
            self._service.delete_volume(_inside(request.volume_id))
        except Refused as refused:
            status = Status.NOT_FOUND if refused.why == "not_found" else Status.FAILED_PRECONDITION
            raise GRPCError(status, refused.detail) from refused

    def _create(self, request: Any) -> Any:
        definition, now = request.definition, self._service.clock()
        if any(it.name == definition.name for _, it in self._living()) or any(
            name == definition.name for name, _ in self._workspace.queued.values()
        ):
            raise GRPCError(Status.ALREADY_EXISTS, f"Sandbox with name '{definition.name}' already exists.")
        ends_at = self._workspace.asked[definition.name] = now + definition.timeout_secs
        try:
            pod = self._service.create_pod(self._order(request))
        except Refused as refused:
            if refused.why not in ("no_capacity", "no_resources"):
                raise GRPCError(Status.INVALID_ARGUMENT, refused.detail) from refused
            queued = new_id("sb")
            self._workspace.queued[queued] = (definition.name, request.app_id)
            return api.SandboxCreateResponse(sandbox_id=queued)
        resources = definition.resources
        hourly = pod.usd_per_hour + CORE_USD * resources.milli_cpu / 1000 + GIB_USD * resources.memory_mb / 1024
        self._workspace.sandboxes[pod.id] = Sandbox(
            app_id=request.app_id,
            name=definition.name,
            ends_at=ends_at,
            usd_per_hour=hourly,
            tags={it.tag_name: it.tag_value for it in request.tags},
            mounts=[it.volume_id for it in definition.volume_mounts],
        )
        self._workspace.save()
        return api.SandboxCreateResponse(sandbox_id=pod.id, metadata=api.SandboxHandleMetadata(app_id=request.app_id))

    def _order(self, request: Any) -> PodOrder:
        definition, env = request.definition, dict[str, str]()
        for secret_id in definition.secret_ids:
            env |= self._workspace.secrets.get(secret_id, {})
        mounts = [_inside(it.volume_id) for it in definition.volume_mounts]
        return PodOrder(
            name=definition.name,
            image=self._workspace.images.get(definition.image_id, definition.image_id),
            gpu=gpu_of(request),
            gpu_count=definition.resources.gpu_config.count,
            args=shlex.join(definition.entrypoint_args),
            env=env,
            volume_id=mounts[0] if mounts else None,
            mount_path=definition.volume_mounts[0].mount_path if mounts else None,
        )

    def _task(self, request: Any) -> Any:
        """Nothing for one in the queue: that it will never be placed Modal does not say."""
        if request.sandbox_id in self._workspace.queued:
            return api.SandboxGetTaskIdResponse()
        self._sandbox(request.sandbox_id)
        return api.SandboxGetTaskIdResponse(task_id=task_id(request.sandbox_id))

    def _named(self, request: Any) -> Any:
        app_id = self._workspace.apps.get(request.app_name)
        for pod, it in self._living():
            if (it.name, it.app_id) == (request.sandbox_name, app_id):
                metadata = api.SandboxHandleMetadata(app_id=it.app_id)
                return api.SandboxGetFromNameResponse(sandbox_id=pod.id, metadata=metadata)
        raise _absent(f"Sandbox with name '{request.sandbox_name}' not found")

    def _named_in_v2(self, request: Any) -> Any:
        """A sandbox with a GPU is of the older backend; the newer one is asked of those that ended."""
        ended = [(key, it) for key, it in self._workspace.sandboxes.items() if it.name == request.sandbox_name]
        for sandbox_id, it in reversed(ended if request.include_terminated else []):
            metadata = api.SandboxHandleMetadata(app_id=it.app_id)
            return api.SandboxGetFromNameResponse(sandbox_id=sandbox_id, metadata=metadata)
        raise _absent(f"Sandbox with name '{request.sandbox_name}' not found")

    def _list(self, request: Any) -> Any:
        """Newest first; a page is small here, and the next one begins before the last one's creation."""
        before = request.before_timestamp or float("inf")
        found = [(pod, it) for pod, it in self._living() if it.app_id == request.app_id and pod.created_at < before]
        found.sort(key=lambda pair: -pair[0].created_at)
        return api.SandboxListResponse(
            sandboxes=[
                api.SandboxInfo(
                    id=pod.id,
                    created_at=pod.created_at,
                    app_id=it.app_id,
                    name=it.name,
                    metadata=api.SandboxHandleMetadata(app_id=it.app_id),
                )
                for pod, it in found[: self._service.settings.page_size]
            ]
        )

    def _tags(self, request: Any) -> Any:
        tags = self._sandbox(request.sandbox_id).tags
        return api.SandboxTagsGetResponse(
            tags=[api.SandboxTag(tag_name=name, tag_value=value) for name, value in tags.items()]
        )

    def _wait(self, request: Any) -> Any:
        sandbox, pod = self._sandbox(request.sandbox_id), self._service.account.pods[request.sandbox_id]
        metadata = api.SandboxHandleMetadata(app_id=sandbox.app_id)
        if pod.status != "TERMINATED":
            return api.SandboxWaitResponse(metadata=metadata)
        timed_out = (pod.ended_at or 0.0) >= sandbox.ends_at
        ended = sandbox.result or ("GENERIC_STATUS_TIMEOUT" if timed_out else "GENERIC_STATUS_SUCCESS")
        return api.SandboxWaitResponse(result=Result(status=Result.GenericStatus.Value(ended)), metadata=metadata)

    def _terminate(self, request: Any) -> Any:
        if self._workspace.queued.pop(request.sandbox_id, None) is None:
            sandbox = self._sandbox(request.sandbox_id)
            if self._service.account.pods[request.sandbox_id].status != "TERMINATED":
                sandbox.result = "GENERIC_STATUS_TERMINATED"
                self._workspace.save()
                self._service.terminate_pod(request.sandbox_id)
        return api.SandboxTerminateResponse()

    def _stats(self, request: Any) -> Any:
        sandbox, pod = self._sandbox(request.sandbox_id), self._service.account.pods[request.sandbox_id]
        hours = ((pod.ended_at or self._service.clock()) - pod.created_at) / 3600
        return api.SandboxGetStatsResponse(cost=f"{hours * sandbox.usd_per_hour:.8f}", duration_hours=hours)

    def _count_logs(self, request: Any) -> Any:
        """All in one bucket that covers what was asked for."""
        bucket = api.AppCountLogsResponse.LogBucket(stdout_logs=len(list(self._entries(request))))
        bucket.bucket_start_at.CopyFrom(request.since)
        return api.AppCountLogsResponse(app_id=request.app_id, buckets=[bucket])

    def _fetch_logs(self, request: Any) -> Any:
        found = list(self._entries(request))[: request.limit or None]
        items = [
            api.TaskLogs(
                data=f"{it.line}\n",
                timestamp=parse_time(it.time),
                file_descriptor=api.FILE_DESCRIPTOR_STDOUT if it.source == "container" else api.FILE_DESCRIPTOR_INFO,
            )
            for it in found
        ]
        batch = api.TaskLogsBatch(task_id=request.task_id, items=items)
        return api.AppFetchLogsResponse(batches=[batch] if items else [])

    def _entries(self, request: Any) -> Iterator[Entry]:
        begin, path = request.since.seconds, self._service.machine.log_path(f"sb-{request.task_id[3:]}")
        return (it for it in read_log(path) if it.source == "container" and parse_time(it.time) >= begin)

    def _living(self) -> list[tuple[Pod, Sandbox]]:
        """A sandbox past its timeout has ended, whether or not its processes were looked at since."""
        now = self._service.clock()
        found = [(pod, self._workspace.sandboxes[pod.id]) for pod in self._service.account.live_pods()]
        return [(pod, it) for pod, it in found if it.ends_at > now]

    def _sandbox(self, sandbox_id: str) -> Sandbox:
        found = self._workspace.sandboxes.get(sandbox_id)
        if found is None:
            raise _absent(f"Sandbox '{sandbox_id}' not found")
        return found


def gpu_of(request: Any) -> str:
    word = request.definition.resources.gpu_config.gpu_type.rstrip("!")
    return GPUS.get(word, word)


def _metadata(volume: Any) -> Any:
    created = api.CreationInfo(created_at=volume.spans[0].start)
    return api.VolumeMetadata(name=volume.name, creation_info=created)


def _outside(volume_id: str) -> str:
    """Ids of the account are of one kind; Modal's say what they are of."""
    return f"vo-{volume_id[3:]}"


def _inside(volume_id: str) -> str:
    return f"sb-{volume_id[3:]}"


def _absent(said: str) -> GRPCError:
    return GRPCError(Status.NOT_FOUND, said)

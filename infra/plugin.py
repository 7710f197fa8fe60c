"""RunPod's official Pulumi plugin `pulumi-runpod`, as resources of our program: chosen by PUSHTRAIN_RUNPOD_PROVIDER.

No SDK of it is needed: its schema is a handful of camelCase names. It speaks GraphQL, knows no name but the ids it was
given, and puts what it gets into the state; `infra.plugin_guard` closes what that leaves open.
"""

import os
import pwd
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi

from infra.clouds.requested import secrets_of
from infra.clouds.runpod.client import BASE_URL
from infra.plan import StackPlan
from pushtrain.cloud import Pod, PodRequest, Volume
from pushtrain.errors import CloudAuthFailed, EngineError

PUSHTRAIN, PULUMI_RUNPOD = "pushtrain", "pulumi-runpod"
VERSION = "0.1.5"
_SERVER = "github://api.github.com/runpod/pulumi-runpod"
_BINARY = "pulumi-resource-runpod"
_INSTALL = f"pulumi plugin install resource runpod {VERSION} --server {_SERVER}"
PROVIDER_TYPE = "pulumi:providers:runpod"
_TYPES = "runpod:index:"
# What the plugin would change in place, by resetting the running container.
_MUTABLE = (
    "imageName",
    "dockerArgs",
    "env",
    "ports",
    "volumeInGb",
    "volumeMountPath",
    "containerDiskInGb",
    "containerRegistryAuthId",
)


def chosen(environ: Mapping[str, str]) -> bool:
    """True when PUSHTRAIN_RUNPOD_PROVIDER asks for the plugin. Raises EngineError for a name that is neither."""
    name = environ.get("PUSHTRAIN_RUNPOD_PROVIDER") or PUSHTRAIN
    if name not in (PUSHTRAIN, PULUMI_RUNPOD):
        raise EngineError(
            f"PUSHTRAIN_RUNPOD_PROVIDER={name!r} is no provider", hint=f"{PUSHTRAIN} (the default) or {PULUMI_RUNPOD}"
        )
    return name == PULUMI_RUNPOD


def is_plugins(pulumi_type: str) -> bool:
    """Whether a Pulumi type token is one of the plugin's resources."""
    return pulumi_type.startswith(_TYPES)


def check_usable(environ: Mapping[str, str], engine: str) -> None:
    """Raises EngineError when the plugin was chosen and could not work, or not safely: before anything is rented."""
    if not chosen(environ):
        return
    if engine != "pulumi":
        raise EngineError(
            f"the engine {engine} carries no Pulumi plugin out, and PUSHTRAIN_RUNPOD_PROVIDER={PULUMI_RUNPOD}",
            hint=f"PUSHTRAIN_ENGINE=pulumi with its CLI on PATH, or PUSHTRAIN_RUNPOD_PROVIDER={PUSHTRAIN}",
        )
    if shutil.which(_BINARY, path=environ.get("PATH", "")) is None and not _installed(environ):
        raise EngineError(f"the Pulumi plugin runpod {VERSION} is not installed", hint=_INSTALL)
    remote = environ.get("PULUMI_BACKEND_URL", "").startswith(("http://", "https://"))
    if not remote and not any(environ.get(f"PULUMI_CONFIG_PASSPHRASE{suffix}") for suffix in ("", "_FILE")):
        raise EngineError(
            f"{PULUMI_RUNPOD} keeps the account key and the pod's tokens in Pulumi's state, and nothing encrypts it",
            hint="set PULUMI_CONFIG_PASSPHRASE (or _FILE), the same one wherever this state is used; Pulumi Cloud as "
            "backend needs none",
        )


def plugins_folder(environ: Mapping[str, str]) -> Path:
    """Where `pulumi plugin install` puts plugins: by default under the home that the user database names, not $HOME."""
    if environ.get("PULUMI_HOME"):
        return Path(environ["PULUMI_HOME"]) / "plugins"
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        home = environ.get("HOME") or "/"
    return Path(home) / ".pulumi" / "plugins"


def api_of(environ: Mapping[str, str]) -> tuple[str, str]:
    """The account key and GraphQL's address. Raises CloudAuthFailed without a key."""
    key = environ.get("RUNPOD_API_KEY", "").strip()
    if not key:
        raise CloudAuthFailed("RUNPOD_API_KEY is not set")
    url = (environ.get("RUNPOD_API_BASE_URL") or BASE_URL).rstrip("/").removesuffix("/v2")
    return key, f"{url}/graphql"


class Runpod(pulumi.ProviderResource):
    """The plugin, with the account key as a Pulumi secret: left out, it would read the same variable and write the key
    into the state in clear."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Raises CloudAuthFailed without a key."""
        key, url = api_of(environ)
        options = pulumi.ResourceOptions(
            version=VERSION, plugin_download_url=_SERVER, additional_secret_outputs=["apiKey"]
        )
        super().__init__("runpod", "runpod", {"apiKey": pulumi.Output.secret(key), "apiUrl": url}, options)


def lend_plugins(environ: Mapping[str, str], pulumi_home: Path) -> None:
    """Lets a Pulumi home that lives as long as one call find the plugins that a person has installed."""
    installed = plugins_folder(environ)
    if installed.is_dir() and not (pulumi_home / "plugins").exists():
        pulumi_home.mkdir(parents=True, exist_ok=True)
        (pulumi_home / "plugins").symlink_to(installed, target_is_directory=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What is there before the program runs. `volume` and `pod` are alive and in no state; `same_pod`: the state holds
    the living pod of the wanted name."""

    volume: Volume | None = None
    pod: Pod | None = None
    same_pod: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginProgram:
    """The program of `infra.program` over the plugin's resources, with the same exports. Calling it declares them.

    `environ` is read when it is called: for the key, the address and the pod's secrets.
    """

    plan: StackPlan
    environ: Mapping[str, str] = field(repr=False)
    found: Found = Found()

    def __call__(self) -> None:
        """Raises CloudAuthFailed without a key, EngineError for a template: what wins over it is known of REST only."""
        if self.plan.pod is not None and self.plan.pod.template is not None:
            raise EngineError(
                f"compute.template is not taken with PUSHTRAIN_RUNPOD_PROVIDER={PULUMI_RUNPOD}",
                hint=f"PUSHTRAIN_RUNPOD_PROVIDER={PUSHTRAIN}, or write the template's settings into the spec",
            )
        provider = Runpod(self.environ)
        pulumi.export("run_id", self.plan.run_id)
        volume_id, data_center, depends_on = self._volume(provider)
        if volume_id is not None and self.plan.volume is not None:
            pulumi.export("volume_id", volume_id)
            pulumi.export("volume_data_center", data_center)
        if self.plan.pod is None:
            return
        pod_id, usd_per_hour = self._pod(provider, self.plan.pod, volume_id, data_center, depends_on)
        pulumi.export("pod_id", pod_id)
        name = self.plan.pod.name
        pulumi.export("pod_name", pulumi.Output.from_input(pod_id).apply(lambda _: name))
        pulumi.export("usd_per_hour", usd_per_hour)
        # The plugin does not say where a pod is; one with a network volume is where that is.
        pulumi.export("data_center", data_center)

    def _volume(self, provider: Runpod) -> tuple[pulumi.Input[str] | None, str | None, list[pulumi.Resource]]:
        request, found = self.plan.volume, self.found.volume
        if request is None:
            pod = self.plan.pod  # of a kept volume, which is in no stack
            return (pod.volume_id, pod.data_center, []) if pod and pod.volume_id else (None, None, [])
        if found is not None:
            return found.id, found.data_center, []
        # What kind of storage it is, is left to the data center: nobody says which of the two `isNextGenStorage` means.
        properties = {"name": request.name, "size": request.size_gb, "dataCenterId": request.data_center.upper()}
        options = pulumi.ResourceOptions(provider=provider)
        volume = pulumi.CustomResource(f"{_TYPES}NetworkVolume", "volume", properties, options)
        return volume.id, request.data_center, [volume]

    def _pod(
        self,
        provider: Runpod,
        request: PodRequest,
        volume_id: pulumi.Input[str] | None,
        data_center: str | None,
        depends_on: list[pulumi.Resource],
    ) -> tuple[pulumi.Input[str], pulumi.Input[float]]:
        if self.found.pod is not None:
            return self.found.pod.id, self.found.pod.usd_per_hour
        properties = _pod_properties(request, self.environ)
        if volume_id is not None:
            properties |= {"networkVolumeId": volume_id, "volumeInGb": 0}
        # On Community, naming a data center blocks the placement (runpodctl#326).
        if request.tier == "SECURE" and (where := request.data_center or data_center):
            properties["dataCenterId"] = where.upper()
        pod = pulumi.CustomResource(f"{_TYPES}Pod", "pod", properties, self._pod_options(provider, depends_on))
        # No secret, though it came with one.
        return pod.id, pulumi.Output.unsecret(pulumi.get(pod, "costPerHr"))

    def _pod_options(self, provider: Runpod, depends_on: list[pulumi.Resource]) -> pulumi.ResourceOptions:
        """When the state holds this very pod, nothing about it is news: RunPod may show a setting otherwise than it was
        given, and the plugin would edit the pod for it, which resets the container in the middle of a training. (A pod
        of another name takes all of its settings: ignored ones would be those of the pod before.)"""
        return pulumi.ResourceOptions(
            provider=provider,
            depends_on=depends_on,
            # Two pods at once would be billed twice, so the old attempt's goes first.
            delete_before_replace=True,
            additional_secret_outputs=["env"],
            ignore_changes=list(_MUTABLE) if self.found.same_pod else None,
        )


def _pod_properties(request: PodRequest, environ: Mapping[str, str]) -> dict[str, Any]:
    """The whole environment is a secret: it holds the values of those named in `secret_env`."""
    secrets = secrets_of(request, environ)
    return {
        "name": request.name,
        "imageName": request.image,
        "gpuTypeId": request.gpu,
        "gpuCount": request.gpu_count,
        "cloudType": request.tier,
        "containerDiskInGb": request.disk_gb,
        "volumeInGb": request.persistent_gb or 0,
        "volumeMountPath": request.mount_path,
        "dockerArgs": request.args,
        "env": pulumi.Output.secret({**request.env, **secrets}),
        "ports": ",".join(request.ports) or None,
        "minCudaVersion": request.min_cuda_version,
        "startSsh": request.ssh or None,
        "costPerHr": None,
    }


def _installed(environ: Mapping[str, str]) -> bool:
    binary = plugins_folder(environ) / f"resource-runpod-v{VERSION}" / _BINARY
    return os.access(binary, os.X_OK)

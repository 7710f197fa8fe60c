"""What the pod's cloud says to it in its variables: who it is, by which key it may end itself, what its ports are."""

from collections.abc import Mapping
from dataclasses import dataclass

CLOUD = "PUSHTRAIN_CLOUD"


@dataclass(frozen=True)
class Words:
    """One cloud, as its pods know it: names of variables, each empty where there is none. `port` is the beginning of
    the one that says what a port is outside, `base_url` where its API is if that is not `public_api`, with or without
    `api_path`. RunPod's unless said.

    With `refuses_in_200` an answer has to be read to know whether it is a refusal. `launch` is what tells two pods of
    one attempt apart where a pod is not told its id, `proxy` the URL of an HTTP port.
    """

    cloud: str = "runpod"
    pod_id: str = "RUNPOD_POD_ID"
    api_key: str = "RUNPOD_API_KEY"
    base_url: str = "RUNPOD_API_BASE_URL"
    public_api: str = "https://api.runpod.io"
    api_path: str = "/v2"
    address: str = "RUNPOD_PUBLIC_IP"
    port: str = "RUNPOD_TCP_PORT_"
    refuses_in_200: bool = False
    launch: str = ""
    proxy: str = "https://{pod}-{port}.proxy.runpod.net"


RUNPOD = Words()
VAST = Words(
    cloud="vast",
    pod_id="CONTAINER_ID",
    api_key="CONTAINER_API_KEY",
    base_url="VAST_URL",
    public_api="https://console.vast.ai",
    api_path="/api/v0",
    address="PUBLIC_IPADDR",
    port="VAST_TCP_PORT_",
    refuses_in_200=True,
)
LAMBDA = Words(
    cloud="lambda",
    pod_id="",
    api_key="",
    base_url="LAMBDA_CLOUD_BASE_URL",
    public_api="https://cloud.lambda.ai",
    api_path="/api/v1",
    address="",
    port="LAMBDA_TCP_PORT_",
    launch="LAMBDA_LAUNCH",
)
# A sandbox has no key of its own, and needs none: it ends with its first process.
MODAL = Words(
    cloud="modal",
    pod_id="MODAL_SANDBOX_ID",
    api_key="",
    base_url="MODAL_SERVER_URL",
    public_api="https://api.modal.com",
    api_path="",
    address="",
    port="MODAL_TCP_PORT_",
)
# A container there is told nothing: neither which one it is, nor a key, nor where its ports are.
JARVISLABS = Words(
    cloud="jarvislabs",
    pod_id="",
    api_key="",
    base_url="JARVISLABS_URL",
    public_api="https://backendn.jarvislabs.net",
    api_path="",
    address="",
    port="",
    launch="PUSHTRAIN_LAUNCH",
    proxy="",
)
PLACES: Mapping[str, Words] = {it.cloud: it for it in (RUNPOD, VAST, LAMBDA, MODAL, JARVISLABS)}
# Where the machine ends for a file that its pod makes: its path.
END_FILE = "PUSHTRAIN_END_FILE"
# The pod's own keys: for whoever ends the pod, and for nothing that it starts.
KEYS = tuple(it.api_key for it in PLACES.values() if it.api_key)


def words(environ: Mapping[str, str]) -> Words:
    """By what the control plane said at the create; without a word it is RunPod."""
    return PLACES.get(environ.get(CLOUD, ""), RUNPOD)


def pod_id(environ: Mapping[str, str]) -> str:
    return environ.get(words(environ).pod_id, "").strip()


def mapped(environ: Mapping[str, str], port: int | str) -> str:
    """What a port of the pod is outside; empty where nobody maps it."""
    begin = words(environ).port
    return environ.get(f"{begin}{port}", "") if begin else ""


def is_public(environ: Mapping[str, str]) -> bool:
    """Whether this is a machine of the cloud itself, and not of a simulator, where pods share their machine."""
    said = words(environ)
    return (environ.get(said.base_url) or said.public_api).rstrip("/") == said.public_api

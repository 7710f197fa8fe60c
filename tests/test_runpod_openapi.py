"""Every request the client makes, judged by RunPod's own OpenAPI document; it answers with the document's examples."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openapi import MISSING, OpenApi

from infra.clouds.runpod.client import RunPod
from pushtrain.cloud import PodRequest, VolumeRequest
from pushtrain.errors import CloudError


class Examiner(httpx.BaseTransport):
    """Refuses what the document does not know, answers what it shows. `refuse` answers one route with a status."""

    def __init__(self, judge: OpenApi) -> None:
        self.judge = judge
        self.asked: list[tuple[str, str]] = []
        self.refuse: dict[tuple[str, str], int] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        method, path = request.method.lower(), request.url.path
        body = json.loads(request.content) if request.content else None
        self.judge.check_request(method, path, dict(request.url.params), body)
        template, operation = self.judge.operation(method, path)
        self.asked.append((request.method, template))
        status = self.refuse.get((request.method, template)) or min(
            int(code) for code in operation["responses"] if code[0] == "2"
        )
        answer = self._example(operation, status)
        self.judge.check_response(method, path, status, answer)
        if isinstance(answer, str):
            return httpx.Response(status, content=f"{answer}\n".encode())  # an event ends with an empty line
        return httpx.Response(status, content=b"" if answer is None else json.dumps(answer).encode())

    def _example(self, operation: dict[str, Any], status: int) -> Any:
        if status >= 400:
            return {"title": "Refused", "status": status, "detail": "resource not found"}
        for content in operation["responses"][str(status)].get("content", {}).values():
            for example in content.get("examples", {}).values():
                return example["value"]
        return None


@pytest.fixture
def examiner() -> Examiner:
    judge = OpenApi.load()
    if judge is None:
        pytest.skip(MISSING)
    return Examiner(judge)


@pytest.fixture
def client(examiner: Examiner) -> Iterator[RunPod]:
    cloud = RunPod("key", environ={"HF_TOKEN": "token"}, sleep=lambda _: None, transport=examiner)
    yield cloud
    cloud.close()


def request(**changes: Any) -> PodRequest:
    values: dict[str, Any] = {
        "name": "pt-1-a1",
        "image": "runpod/pytorch:1",
        "gpu": "NVIDIA A40",
        "gpu_count": 1,
        "tier": "SECURE",
        "disk_gb": 40,
        "args": "sleep 1",
    }
    return PodRequest(**{**values, **changes})


def test_everything_the_client_can_ask_is_in_the_document(client: RunPod, examiner: Examiner):
    assert client.offers(4, "13.0") and client.gpu_names()
    client.create_volume(VolumeRequest(name="pt-1-v", size_gb=10, data_center="US-KS-2"))
    client.create_volume(VolumeRequest(name="pt-2-v", size_gb=10, data_center="US-KS-2", kind="STANDARD"))
    client.create_pod(request())
    full = request(
        data_center="EU-SE-1",
        volume_id="2q9m7x4c",
        env={"A": "b"},
        secret_env=("HF_TOKEN",),
        ports=("22/tcp",),
        ssh=True,
        min_cuda_version="12.8",
    )
    client.create_pod(full)
    client.create_pod(request(tier="COMMUNITY", persistent_gb=10))
    assert client.read_volume("2q9m7x4c") and client.read_pod("7h9k2m4n6p")
    client.find("pt-")
    assert [line.line for line in client.logs("7h9k2m4n6p", "2026-06-01T12:02:02Z/000000000009")] == ["Model loaded."]
    assert [line.line for line in client.logs("7h9k2m4n6p")] == ["Model loaded."]
    client.bill(["7h9k2m4n6p"], ["2q9m7x4c"], "2026-06-01T00:00:00Z")
    assert client.volumes() and client.read_template("tpl_abc")
    client.grow_volume("2q9m7x4c", 200)
    client.create_pod(request(image=None, template="tpl_abc"))
    client.delete_volume("2q9m7x4c")
    client.terminate("7h9k2m4n6p")
    examiner.refuse[("POST", "/v2/pods/{id}/action")] = 409
    client.terminate("7h9k2m4n6p")
    assert set(examiner.asked) == {
        ("GET", "/v2/catalog/gpus"),
        ("GET", "/v2/catalog/datacenters"),
        ("GET", "/v2/pods"),
        ("POST", "/v2/pods"),
        ("GET", "/v2/pods/{id}"),
        ("DELETE", "/v2/pods/{id}"),
        ("POST", "/v2/pods/{id}/action"),
        ("GET", "/v2/pods/{id}/logs"),
        ("GET", "/v2/network-volumes"),
        ("POST", "/v2/network-volumes"),
        ("GET", "/v2/network-volumes/{id}"),
        ("PATCH", "/v2/network-volumes/{id}"),
        ("DELETE", "/v2/network-volumes/{id}"),
        ("GET", "/v2/templates/{id}"),
        ("GET", "/v2/billing/pods"),
        ("GET", "/v2/billing/network-volumes"),
    }


def test_the_documents_own_examples_are_read_as_they_say(client: RunPod):
    secure, community = client.offers()
    assert (secure.gpu, secure.data_center, secure.usd_per_gpu_hour, secure.max_count) == (
        "NVIDIA GeForce RTX 4090",
        "US-KS-2",
        0.44,
        8,
    )
    assert secure.has_network_volumes and secure.stock == "HIGH"
    assert (community.data_center, community.usd_per_gpu_hour, community.max_count) == (None, 0.31, 4)
    (pod,) = client.find("pytorch-").pods
    assert (pod.id, pod.status, pod.uptime_s, pod.usd_per_hour) == ("7h9k2m4n6p", "RUNNING", 3600, 0.44)
    bill = client.bill(["7h9k2m4n6p"], ["2q9m7x4c"], "2026-06-01T00:00:00Z")
    assert (bill.pods_usd, bill.volumes_usd) == (12.34, 5.79)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 410, 422, 429, 500, 503])
def test_every_refusal_in_the_documents_shape_becomes_an_error(client: RunPod, examiner: Examiner, status: int):
    examiner.refuse[("POST", "/v2/pods")] = status
    with pytest.raises(CloudError):
        client.create_pod(request())


@pytest.mark.parametrize(
    ("method", "path", "query", "body"),
    [
        ("POST", "/v2/pods", {}, {"name": "x", "image": "i", "gpuTypeId": "NVIDIA A40"}),
        ("POST", "/v2/pods", {}, {"name": "x", "image": "i", "gpu": {"id": "a", "minRam": 1}}),
        ("POST", "/v2/pods", {}, {"name": "x", "gpu": {"id": "a"}}),
        ("POST", "/v2/pods", {}, None),
        ("POST", "/v2/pods/x/action", {}, {"action": "explode"}),
        ("POST", "/v2/network-volumes", {}, {"name": "x", "size": 9, "dataCenter": "EU-SE-1"}),
        ("GET", "/v2/pods", {"page": "2"}, None),
        ("GET", "/v2/pods", {}, {"filter": 1}),
        ("GET", "/v2/catalog/gpus", {"include": "STOCK"}, None),
        ("GET", "/v2/catalog/gpus", {"count": "two"}, None),
        ("GET", "/v2/billing/pods", {"startTime": "yesterday"}, None),
        ("GET", "/v2/nodes", {}, None),
        ("PUT", "/v2/pods", {}, None),
    ],
)
def test_the_judge_refuses_what_runpod_would(examiner: Examiner, method: str, path: str, query: dict, body: Any):
    with pytest.raises(AssertionError):
        examiner.judge.check_request(method, path, query, body)


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/v2/pods", 200, {"pods": [{"id": "x"}]}),
        ("DELETE", "/v2/pods/x", 204, {}),
        ("GET", "/v2/pods/x", 404, {"title": "Not Found", "status": 404}),
        ("GET", "/v2/pods/x", 503, "down"),
        ("GET", "/v2/pods/x/logs", 200, {"lines": []}),
    ],
)
def test_the_judge_refuses_answers_runpod_would_not_give(
    examiner: Examiner, method: str, path: str, status: int, body: Any
):
    with pytest.raises(AssertionError):
        examiner.judge.check_response(method, path, status, body)

"""The simulator's GraphQL: what RunPod's Pulumi plugin sends, over the same account as REST. No pod needs a process.

The plugin itself runs in tests/test_engine.py, where it is installed; these tests hold the endpoint everywhere.
"""

from typing import Any

import httpx
import pytest
from simulator_client import Client, pod_file, pod_state, wait_for

from infra.simulator.gate import NO_BALANCE
from infra.simulator.pod_env import pod_key
from infra.simulator.server import RunningSimulator
from infra.simulator.state import NO_CAPACITY, VOLUME_IN_USE

pytest_plugins = ("simulator_fixtures",)
POD_FIELDS = (
    "id name machineId imageName dockerArgs gpuCount vcpuCount memoryInGb containerDiskInGb volumeInGb volumeMountPath "
    "desiredStatus costPerHr env ports templateId networkVolumeId containerRegistryAuthId podType"
)
VOLUME_FIELDS = "id name size dataCenterId storageClusterId storageType"
DEPLOY = (
    "mutation C($input: PodFindAndDeployOnDemandInput!) { "
    f"podFindAndDeployOnDemand(input: $input) {{ {POD_FIELDS} }} }}"
)
GET = f"query G($input: PodFilter!) {{ pod(input: $input) {{ {POD_FIELDS} }} }}"
EDIT = f"mutation E($input: PodEditJobInput!) {{ podEditJob(input: $input) {{ {POD_FIELDS} }} }}"
TERMINATE = "mutation T($input: PodTerminateInput!) { podTerminate(input: $input) }"
NEW_VOLUME = (
    f"mutation V($input: CreateNetworkVolumeInput!) {{ createNetworkVolume(input: $input) {{ {VOLUME_FIELDS} }} }}"
)
GROW = f"mutation U($input: UpdateNetworkVolumeInput!) {{ updateNetworkVolume(input: $input) {{ {VOLUME_FIELDS} }} }}"
DROP = "mutation D($input: DeleteNetworkVolumeInput!) { deleteNetworkVolume(input: $input) }"
VOLUMES = f"query M {{ myself {{ networkVolumes {{ {VOLUME_FIELDS} }} }} }}"
# What the plugin always sends: empty lists stay.
EMPTY = {"gpuTypeIdList": [], "allowedCudaVersions": [], "instanceIds": [], "modelReferences": []}
POD = {
    "name": "pt-a",
    "imageName": "acme/train:1",
    "gpuTypeId": "NVIDIA A40",
    "env": [],
    "dockerArgs": "sleep 60",
    **EMPTY,
}


@pytest.fixture
def ask(api: Client) -> Any:
    """One request; `data` of its answer, or the answer itself when that has errors."""

    def send(query: str, key: str = "", **variables: Any) -> Any:
        body = {"query": query, "variables": {"input": variables} if variables else None}
        headers = {"Authorization": f"Bearer {key}"} if key else None
        response = api.raw("POST", "/graphql", headers, json=body)
        return response if response.status_code != 200 or "errors" in response.json() else response.json()["data"]

    return send


@pytest.fixture
def idle(simulator: RunningSimulator) -> None:
    simulator.fault("never_starts", times=None)


def said(answer: httpx.Response, status: int = 200) -> tuple[str, str, Any]:
    """Message, code and path of the one error."""
    assert answer.status_code == status, answer.text
    (error,) = answer.json()["errors"]
    return error["message"], error["extensions"]["code"], error.get("path")


def test_a_pod_lives_in_one_account_whatever_the_api(api: Client, ask: Any, idle: None) -> None:
    volume = ask(NEW_VOLUME, name="pt-v", size=20, dataCenterId="EU-SE-1")["createNetworkVolume"]
    assert (volume["name"], volume["size"], volume["dataCenterId"]) == ("pt-v", 20, "EU-SE-1")
    order = {
        **POD,
        "gpuCount": 2,
        "env": [{"key": "RUN_ID", "value": "7f3a"}],
        "ports": "22/tcp,8888/http",
        "networkVolumeId": volume["id"],
        "volumeMountPath": "/workspace",
        "containerDiskInGb": 33,
        "volumeInGb": 0,
        "minCudaVersion": "12.8",
        "terminateAfter": "2026-11-21T00:00:00Z",
    }
    made = ask(DEPLOY, **order)["podFindAndDeployOnDemand"]
    assert made["desiredStatus"] == "RUNNING" and made["costPerHr"] == 0.80 and made["env"] == ["RUN_ID=7f3a"]
    assert (made["dockerArgs"], made["ports"], made["networkVolumeId"]) == ("sleep 60", order["ports"], volume["id"])
    shown = api("GET", f"/v2/pods/{made['id']}").json()
    assert shown["args"] == "sleep 60" and shown["env"] == {"RUN_ID": "7f3a"} and shown["disk"] == 33
    assert shown["mounts"]["network"] == [{"volumeId": volume["id"], "path": "/workspace"}]
    assert shown["ports"] == ["22/tcp", "8888/http"] and shown["gpu"] == {"id": "NVIDIA A40", "count": 2}
    assert ask(GET, podId=made["id"])["pod"] == made
    assert ask("{ myself { pods { id } } }")["myself"]["pods"] == [{"id": made["id"]}]

    assert said(ask(DROP, id=volume["id"])) == (VOLUME_IN_USE, "RUNPOD", ["deleteNetworkVolume"])
    assert ask(TERMINATE, podId=made["id"]) == {"podTerminate": None}
    assert ask(GET, podId=made["id"]) == {"pod": None} and ask(GET, podId="nobody") == {"pod": None}
    assert "not found" in said(ask(TERMINATE, podId=made["id"]))[0]
    assert api("GET", "/v2/pods").json()["pods"] == []

    assert ask(GROW, id=volume["id"], name="pt-v", size=30)["updateNetworkVolume"]["size"] == 30
    assert "reduced" in said(ask(GROW, id=volume["id"], size=20))[0]
    assert [it["id"] for it in ask(VOLUMES)["myself"]["networkVolumes"]] == [volume["id"]]
    assert ask(DROP, id=volume["id"]) == {"deleteNetworkVolume": None}
    assert ask(VOLUMES)["myself"]["networkVolumes"] == []
    assert "not found" in said(ask(DROP, id=volume["id"]))[0]


def test_an_edit_resets_the_container_and_not_the_bill(api: Client, ask: Any, simulator: RunningSimulator) -> None:
    pod = api.create_pod("sh -c 'echo $WORD >> word; sleep 60'", env={"WORD": "first"}, disk=20)
    api.wait_running(pod)
    wait_for(lambda: pod_file(simulator, pod, "word").exists())
    before = pod_state(simulator, pod)
    edited = ask(
        EDIT,
        podId=pod,
        imageName="acme/train:2",
        containerDiskInGb=20,
        dockerArgs="sh -c 'echo $WORD >> word; sleep 61'",
        env=[{"key": "WORD", "value": "second"}],
    )["podEditJob"]
    assert (edited["id"], edited["imageName"], edited["env"]) == (pod, "acme/train:2", ["WORD=second"])

    def said_second() -> bool:
        path = pod_file(simulator, pod, "word")
        return path.exists() and path.read_text() == "second\n"

    wait_for(said_second)
    after = pod_state(simulator, pod)
    assert after["created_at"] == before["created_at"] and after["ended_at"] is None
    assert after["billed_usd"] >= before["billed_usd"]
    assert "not found" in said(ask(EDIT, podId="nobody", imageName="x", containerDiskInGb=20))[0]


def test_what_does_not_fit_the_schema_is_400_in_graphqls_words(api: Client, ask: Any) -> None:
    for query, variables, code, word in (
        ('{ pod(input: {podId: "x"}) { id nickname } }', {}, "GRAPHQL_VALIDATION_FAILED", "nickname"),
        ("{ __schema { types { name } } }", {}, "GRAPHQL_VALIDATION_FAILED", "introspection"),
        ("{ pod(", {}, "GRAPHQL_PARSE_FAILED", "Syntax Error"),
        (DEPLOY, {**POD, "gpuType": "NVIDIA A40"}, "BAD_USER_INPUT", "gpuType"),
        (DEPLOY, {**POD, "gpuCount": "one"}, "BAD_USER_INPUT", "gpuCount"),
        (EDIT, {"podId": "x"}, "BAD_USER_INPUT", "imageName"),
    ):
        response = ask(query, **variables)
        assert response.status_code == 400, response.text
        errors = response.json()["errors"]
        assert errors[0]["extensions"]["code"] == code and any(word in error["message"] for error in errors), errors
    assert api.raw("POST", "/graphql", json=["no"]).status_code == 400
    assert api("GET", "/v2/pods").json()["pods"] == []


def test_the_cloud_says_no_in_a_200_and_what_stands_before_it_by_status(
    api: Client, ask: Any, simulator: RunningSimulator, idle: None
) -> None:
    assert said(ask(DEPLOY, **{**POD, "gpuTypeId": "NVIDIA B200"})) == (
        NO_CAPACITY,
        "RUNPOD",
        ["podFindAndDeployOnDemand"],
    )
    for wrong in ({"templateId": "t"}, {"computeType": "CPU"}, {"imageName": None}, {"gpuTypeId": "NVIDIA Nothing"}):
        assert said(ask(DEPLOY, **{**POD, **wrong}))[1] == "RUNPOD"
    assert said(ask(NEW_VOLUME, name="v", size=5, dataCenterId="EU-SE-1"))[1] == "RUNPOD"
    simulator.fault("http_402", operation="create_pod")
    assert said(ask(DEPLOY, **POD))[:2] == (NO_BALANCE, "RUNPOD")
    simulator.fault("http_500", operation="get_pod")
    assert said(ask(GET, podId="x"))[1] == "INTERNAL_SERVER_ERROR"
    for kind, status in (("http_401", 401), ("http_403", 403), ("http_410", 410), ("http_429", 429), ("http_502", 502)):
        simulator.fault(kind, operation="create_pod", pod_name="pt-*")
        assert ask(DEPLOY, **POD).status_code == status
    assert ask(GET, key="rpa_somebody_else", podId="x").status_code == 401
    bare = httpx.post(f"{simulator.url}/graphql", headers={"User-Agent": "Python-urllib/3.11"}, json={})
    assert bare.status_code == 403 and "1010" in bare.text
    assert "RateLimit" in api.raw("POST", "/graphql", json={"query": VOLUMES}).headers
    assert api("GET", "/v2/pods").json()["pods"] == []


def test_faults_strike_graphql_by_the_same_names(
    api: Client, ask: Any, simulator: RunningSimulator, idle: None
) -> None:
    simulator.fault("error_after_create", operation="create_volume", volume_name="pt-v")
    assert said(ask(NEW_VOLUME, name="pt-v", size=10, dataCenterId="EU-SE-1"))[1] == "INTERNAL_SERVER_ERROR"
    (volume,) = ask(VOLUMES)["myself"]["networkVolumes"]
    simulator.fault("error_after_create", pod_name="pt-a", gpu="NVIDIA A40")
    assert said(ask(DEPLOY, **POD)) == (
        "Something went wrong. Please try again later or contact support.",
        "INTERNAL_SERVER_ERROR",
        ["podFindAndDeployOnDemand"],
    )
    (pod,) = api("GET", "/v2/pods").json()["pods"]
    assert pod["name"] == "pt-a"
    simulator.fault("no_capacity", gpu="NVIDIA A40")
    assert said(ask(DEPLOY, **POD))[0] == NO_CAPACITY
    simulator.fault("lost_answer", operation="create_pod")
    with pytest.raises(httpx.RemoteProtocolError):
        ask(DEPLOY, **{**POD, "name": "pt-b"})
    assert sorted(it["name"] for it in api("GET", "/v2/pods").json()["pods"]) == ["pt-a", "pt-b"]
    simulator.fault("volume_busy", volume_name="pt-v")
    assert said(ask(DROP, id=volume["id"]))[0] == VOLUME_IN_USE
    assert ask(DROP, id=volume["id"]) == {"deleteNetworkVolume": None}


def test_a_pods_own_key_ends_its_pod_and_nothing_else(
    api: Client, ask: Any, simulator: RunningSimulator, idle: None
) -> None:
    mine, other = api.create_pod(), api.create_pod()
    key = pod_key(simulator.api_key, mine)
    for query, variables in ((GET, {"podId": mine}), (TERMINATE, {"podId": other}), (DEPLOY, POD), (VOLUMES, {})):
        assert ask(query, key=key, **variables).status_code == 403
    assert ask(TERMINATE, key=key, podId=mine) == {"podTerminate": None}
    assert [pod["id"] for pod in api("GET", "/v2/pods").json()["pods"]] == [other]


def test_the_catalog_is_the_same_one(api: Client, ask: Any, simulator: RunningSimulator) -> None:
    price = "lowestPrice(input: {gpuCount: 1, secureCloud: true}) { uninterruptablePrice stockStatus minimumBidPrice }"
    gpus = ask(f"{{ gpuTypes {{ id securePrice memoryInGb maxGpuCount {price} }} }}")["gpuTypes"]
    assert all(gpu["lowestPrice"]["uninterruptablePrice"] == gpu["securePrice"] for gpu in gpus)
    assert {gpu["id"]: gpu["securePrice"] or 0 for gpu in gpus} == {
        gpu["id"]: gpu["price"]["secure"] for gpu in api("GET", "/v2/catalog/gpus").json()["gpus"]
    }
    (one,) = ask("query G($input: GpuTypeFilter) { gpuTypes(input: $input) { id } }", id="NVIDIA A40")["gpuTypes"]
    assert one == {"id": "NVIDIA A40"}
    simulator.fault("no_stock", times=None, gpu="NVIDIA A40", data_center="EU-SE-1")
    centers = ask(
        "{ dataCenters { id storageSupport compliance gpuAvailability { gpuTypeId available stockStatus } } }"
    )
    shown = {center["id"]: center for center in centers["dataCenters"]}
    assert shown["EU-SE-1"]["storageSupport"] and not shown["US-TX-3"]["storageSupport"]
    stock = {it["gpuTypeId"]: it["stockStatus"] for it in shown["EU-SE-1"]["gpuAvailability"]}
    assert stock["NVIDIA A40"] is None and stock["NVIDIA RTX A5000"] == "High"


@pytest.mark.parametrize("ports", ["8888", "22/udp", "0/tcp", "70000/http", "8888/http;22/tcp"])
def test_both_apis_refuse_the_same_ports(api: Client, ask: Any, ports: str) -> None:
    assert "invalid port" in said(ask(DEPLOY, **POD, ports=ports))[0]
    answer = api("POST", "/v2/pods", {"name": "pt-p", "image": "a/b:1", "gpu": {"id": "NVIDIA A40"}, "ports": [ports]})
    assert answer.status_code == 400 and "invalid port" in answer.json()["detail"]

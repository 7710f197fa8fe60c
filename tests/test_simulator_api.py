"""The simulator's REST v2 as RunPod's own document and its observed habits have it. No pod here needs a process."""

import http.client
import urllib.request
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

import httpx
import pytest
from openapi import OpenApi
from simulator_client import Client

from infra.simulator import bodies
from infra.simulator.gate import NO_BALANCE
from infra.simulator.pod_env import pod_key
from infra.simulator.server import RunningSimulator
from infra.simulator.state import NO_CAPACITY, NO_RESOURCES

pytest_plugins = ("simulator_fixtures",)
LEFT_OUT = "(left out)"
POD = {"name": "pt-a", "image": "acme/train:1", "gpu": {"id": "NVIDIA A40"}}


@pytest.fixture(autouse=True)
def _no_processes(api: Client, simulator: RunningSimulator) -> None:
    simulator.fault("never_starts", times=None)


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return dict(response.json())


def test_a_pod_says_running_at_once_but_has_no_runtime(api: Client) -> None:
    pod = api("POST", "/v2/pods", POD).json()
    assert (pod["status"], pod["runtime"], pod["startedAt"], pod["cost"]) == ("RUNNING", None, None, 0.40)
    assert pod["actions"] == ["stop", "restart", "terminate"] and pod["ssh"]["proxy"]["host"]
    assert api("GET", f"/v2/pods/{pod['id']}").json()["id"] == pod["id"]


def test_a_pod_keeps_what_it_was_asked_for(api: Client) -> None:
    volume = api.create_volume("EU-SE-1")
    order = {
        **POD,
        "args": "bash -c 'echo hi'",
        "disk": 33,
        "env": {"RUN_ID": "7f3a"},
        "ports": ["22/tcp"],
        "cloud": "SECURE",
        "gpu": {"id": "NVIDIA A40", "count": 2, "minCudaVersion": "12.8"},
        "mounts": {"network": [{"volumeId": volume, "path": "/workspace"}]},
        "dataCenterIds": ["EU-SE-1"],
        "startSsh": True,
    }
    pod = api("POST", "/v2/pods", order).json()
    for name in ("name", "image", "args", "disk", "env", "ports", "cloud", "mounts"):
        assert pod[name] == order[name]
    assert pod["gpu"] == {"id": "NVIDIA A40", "count": 2} and pod["cost"] == 0.80
    assert (pod["dataCenterId"], pod["cudaVersion"]) == ("EU-SE-1", "13.0")


def test_a_terminated_pod_leaves_the_list_and_is_not_found(api: Client) -> None:
    one, two = api.create_pod(), api.create_pod()
    assert api("DELETE", f"/v2/pods/{one}").status_code == 204
    assert api("POST", f"/v2/pods/{two}/action", {"action": "terminate"}).status_code == 204
    assert api("GET", "/v2/pods").json()["pods"] == []
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/logs")):
        assert problem(api(method, f"/v2/pods/{one}{path}"), 404)["title"] == "Not Found"


def test_lists_come_in_pages_that_survive_a_deletion_in_between(api: Client) -> None:
    pods = [api.create_pod(name=f"pt-{n}") for n in range(7)]
    first = api("GET", "/v2/pods").json()
    assert [pod["id"] for pod in first["pods"]] == pods[:3] and first["pagination"]["hasNextPage"]
    cursor = first["pagination"]["nextCursor"]
    api("DELETE", f"/v2/pods/{pods[2]}")
    second = api("GET", "/v2/pods", cursor=cursor, limit="100").json()
    assert [pod["id"] for pod in second["pods"]] == pods[3:]
    assert second["pagination"] == {"hasNextPage": False, "nextCursor": None}
    volumes = [api.create_volume() for _ in range(4)]
    page = api("GET", "/v2/network-volumes", limit="2").json()
    rest = api("GET", "/v2/network-volumes", cursor=page["pagination"]["nextCursor"]).json()
    assert [volume["id"] for volume in page["networkVolumes"] + rest["networkVolumes"]] == volumes
    problem(api.raw("GET", "/v2/pods?limit=1001"), 422)
    problem(api.raw("GET", "/v2/pods?cursor=%21"), 400)


def test_a_wrong_transition_is_a_conflict(api: Client) -> None:
    pod = api.create_pod()
    problem(api("POST", f"/v2/pods/{pod}/action", {"action": "start"}), 409)
    stopped = api("POST", f"/v2/pods/{pod}/action", {"action": "stop"}).json()
    assert (stopped["status"], stopped["actions"], stopped["cost"]) == ("EXITED", ["start", "terminate"], 0.40)
    problem(api("POST", f"/v2/pods/{pod}/action", {"action": "restart"}), 409)
    assert api("POST", f"/v2/pods/{pod}/action", {"action": "start"}).json()["status"] == "RUNNING"


def test_refusals_that_no_schema_knows_are_400(api: Client) -> None:
    volume = api.create_volume("EU-SE-1")
    mount = {"network": [{"volumeId": volume, "path": "/workspace"}]}
    both = {**mount, "persistent": {"size": 10, "path": "/data"}}
    wrong: list[dict[str, Any]] = [
        {"gpu": {"id": "NVIDIA Nothing"}},
        {"dataCenterIds": ["XX-XX-9"]},
        {"mounts": mount, "dataCenterIds": ["US-KS-2"]},
        {"mounts": mount, "cloud": "COMMUNITY", "gpu": {"id": "NVIDIA RTX A6000"}},
        {"mounts": both},
        {"registry": "nobody"},
        {"gpu": {"id": "NVIDIA A40", "allowedCudaVersions": ["12.4"], "minCudaVersion": "12.4"}},
        {"gpu": LEFT_OUT},
    ]
    for change in wrong:
        body = {name: value for name, value in {**POD, **change}.items() if value != LEFT_OUT}
        problem(api("POST", "/v2/pods", body), 400)
    assert problem(api("POST", "/v2/pods", {**POD, "gpu": {"id": "NVIDIA B200"}}), 400)["detail"] == NO_CAPACITY
    assert problem(api("POST", "/v2/pods", {**POD, "disk": 9999}), 400)["detail"] == NO_RESOURCES
    assert "from all pods" not in api("DELETE", f"/v2/network-volumes/{volume}").text
    assert api("GET", "/v2/pods").json()["pods"] == []


def test_unknown_properties_are_refused_by_name(api: Client) -> None:
    body = {**POD, "gpuTypeId": "x", "gpu": {"id": "NVIDIA A40", "bid": 1}}
    errors = problem(api("POST", "/v2/pods", body), 422)["errors"]
    assert errors == [
        "$.gpu: additional properties 'bid' not allowed",
        "$: additional properties 'gpuTypeId' not allowed",
    ]
    wrong = problem(api("POST", f"/v2/pods/{api.create_pod()}/action", {"action": "explode"}), 422)
    assert wrong["errors"] == ["$.action: value must be one of 'start', 'stop', 'restart', 'terminate'"]
    assert problem(api("POST", "/v2/pods", {"image": "i"}), 422)["errors"] == ["$: missing property 'name'"]
    problem(api.raw("POST", "/v2/pods", content=b"{"), 400)


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": 5},
        {"image": LEFT_OUT},
        {"image": None},
        {"env": None},
        {"gpu": {"id": "NVIDIA A40", "minCudaVersion": None}},
        {"mounts": {"persistent": None}},
        {"dataCenterIds": [None]},
        {"disk": 0},
        {"disk": "50"},
        {"disk": 1.5},
        {"env": {"A": 1}},
        {"env": ["A=1"]},
        {"ports": "22/tcp"},
        {"cloud": "ALL"},
        {"gpu": {"count": 1}},
        {"gpu": {"id": "NVIDIA A40", "count": 0}},
        {"gpu": {"id": "NVIDIA A40", "minCudaVersion": "12"}},
        {"mounts": {"persistent": {"size": 9, "path": "/x"}}},
        {"mounts": {"network": [{"volumeId": "v"}]}},
        {"mounts": {"network": [{"volumeId": "v", "path": "/x"}, {"volumeId": "w", "path": "/y"}]}},
        {"dataCenterIds": "EU-RO-1"},
        {"volumeInGb": 10},
        {"stopAfter": "2026-01-01T00:00:00Z"},
        {"supportPublicIp": True},
        {"startSsh": "yes"},
        {"args": ["python"]},
    ],
)
def test_what_the_document_forbids_is_422_and_nothing_else(api: Client, judge: OpenApi, change: dict[str, Any]) -> None:
    body = {name: value for name, value in {**POD, **change}.items() if value != LEFT_OUT}
    with pytest.raises(AssertionError):
        judge.check_request("POST", "/v2/pods", {}, body)
    assert problem(api("POST", "/v2/pods", body), 422)["errors"]


def test_bodies_have_exactly_the_documents_properties(judge: OpenApi) -> None:
    schemas = judge.document["components"]["schemas"]

    def properties(schema: dict[str, Any]) -> set[str]:
        if "$ref" in schema:
            return properties(schemas[schema["$ref"].rpartition("/")[2]])
        found = set(schema.get("properties", {}))
        return found.union(*(properties(part) for part in schema.get("allOf", [])))

    pairs = {
        "CreatePodRequest": bodies.CreatePod,
        "CreateGpuConfig": bodies.Gpu,
        "Mounts": bodies.Mounts,
        "PersistentMount": bodies.PersistentMount,
        "NetworkMount": bodies.NetworkMount,
        "PodActionRequest": bodies.PodAction,
        "CreateNetworkVolumeRequest": bodies.CreateVolume,
        "UpdateNetworkVolumeRequest": bodies.UpdateVolume,
        "UpdateSshKeysRequest": bodies.UpdateSshKeys,
    }
    for name, model in pairs.items():
        assert properties(schemas[name]) == set(model.model_fields), name


def test_a_volume_lives_grows_and_goes(api: Client) -> None:
    volume = api.create_volume("US-KS-2", type="HIGH_PERFORMANCE")
    assert api("PATCH", f"/v2/network-volumes/{volume}", {"size": 20}).json()["size"] == 20
    assert api("PATCH", f"/v2/network-volumes/{volume}", {"name": "renamed"}).json()["name"] == "renamed"
    problem(api("PATCH", f"/v2/network-volumes/{volume}", {"size": 19}), 400)
    problem(api("PATCH", f"/v2/network-volumes/{volume}", {}), 422)
    for body in ({"size": 9}, {"size": 4097}, {"type": "STANDARD"}):
        problem(api("PATCH", f"/v2/network-volumes/{volume}", body), 422)
    pod = api.create_pod(mounts={"network": [{"volumeId": volume, "path": "/workspace"}]})
    assert "from all pods" in problem(api("DELETE", f"/v2/network-volumes/{volume}"), 400)["detail"]
    api("DELETE", f"/v2/pods/{pod}")
    assert api("DELETE", f"/v2/network-volumes/{volume}").status_code == 204
    problem(api("GET", f"/v2/network-volumes/{volume}"), 404)
    problem(api("DELETE", f"/v2/network-volumes/{volume}"), 404)
    problem(api("POST", "/v2/network-volumes", {"name": "v", "size": 10, "dataCenter": "US-TX-3"}), 400)


def test_the_catalog_has_prices_and_only_on_request_stock(api: Client) -> None:
    plain = {gpu["id"]: gpu for gpu in api("GET", "/v2/catalog/gpus").json()["gpus"]}
    assert len(plain) >= 12 and "availability" not in plain["NVIDIA A40"]
    assert plain["NVIDIA GeForce RTX 4090"]["price"] == {"secure": 0.74, "community": 0.34}
    asked = api("GET", "/v2/catalog/gpus", include="AVAILABILITY", product="POD").json()["gpus"]
    stocked = {gpu["id"]: gpu for gpu in asked}
    assert stocked["NVIDIA A40"]["availability"] == "HIGH"
    assert "EU-SE-1" in {center["id"] for center in stocked["NVIDIA A40"]["dataCenters"]}
    assert stocked["NVIDIA B200"]["availability"] == "NONE" and "dataCenters" not in stocked["NVIDIA B200"]
    one = api("GET", f"/v2/catalog/gpus/{quote('NVIDIA A40')}").json()
    assert one == plain["NVIDIA A40"]
    problem(api("GET", "/v2/catalog/gpus/nothing"), 404)


def test_stock_is_asked_for_by_count_tier_country_and_cuda(api: Client) -> None:
    def ask(gpu: str, **query: str) -> dict[str, Any]:
        path = f"/v2/catalog/gpus/{quote(gpu)}"
        return dict(api("GET", path, include="AVAILABILITY", product="POD", **query).json())

    assert ask("NVIDIA A40", count="11")["availability"] == "NONE"
    assert ask("NVIDIA A40", cloud="COMMUNITY")["availability"] == "NONE"
    community = ask("NVIDIA GeForce RTX 3090", cloud="COMMUNITY")
    assert community["availability"] == "HIGH" and "dataCenters" not in community
    assert [center["id"] for center in ask("NVIDIA A40", countryCodes="CA")["dataCenters"]] == ["CA-MTL-1"]
    newer = ask("NVIDIA A40", minCudaVersion="12.11")["cudaVersions"]
    assert newer == [{"version": "13.0", "available": True}]
    everywhere = api("GET", "/v2/catalog/gpus", include="AVAILABILITY", product="POD", countryCodes="JP").json()["gpus"]
    assert "NVIDIA A40" not in {gpu["id"] for gpu in everywhere} and everywhere
    problem(api("GET", "/v2/catalog/gpus", include="AVAILABILITY"), 400)
    problem(api("GET", "/v2/catalog/gpus", product="POD"), 400)
    problem(api("GET", "/v2/catalog/gpus", include="AVAILABILITY", product="POD", countryCodes="fr"), 422)


def test_data_centers_say_what_storage_and_stock_they_have(api: Client) -> None:
    centers = api("GET", "/v2/catalog/datacenters", include="GPU_AVAILABILITY").json()["dataCenters"]
    with_storage = {center["id"] for center in centers if center["networkVolumeTypes"]}
    assert {"EU-SE-1", "US-KS-2"} <= with_storage and "US-TX-3" not in with_storage
    gpus = {gpu["id"] for gpu in next(c for c in centers if c["id"] == "US-TX-3")["gpuAvailability"]}
    assert "NVIDIA L4" in gpus
    filtered = api("GET", "/v2/catalog/datacenters", regions="EUROPE", networkVolumeTypes="STANDARD,HIGH_PERFORMANCE")
    assert [center["id"] for center in filtered.json()["dataCenters"]] == ["EU-SE-1"]
    assert api("GET", "/v2/catalog/datacenters/EU-SE-1").json()["region"] == "EUROPE"
    problem(api("GET", "/v2/catalog/datacenters/XX"), 404)


def test_the_bill_names_every_pod_and_volume(api: Client) -> None:
    volume, pod = api.create_volume("EU-SE-1"), api.create_pod()
    api("DELETE", f"/v2/pods/{pod}")
    bill = api("GET", "/v2/billing/pods", podId=pod, bucketSize="hour", lastN="2").json()
    assert {record["podId"] for record in bill["records"]} == {pod}
    assert bill["metadata"]["uniquePodCount"] == 1 and bill["metadata"]["query"]["podId"] == pod
    assert 0 < bill["metadata"]["totals"]["totalAmount"] < 0.01
    stored = api("GET", "/v2/billing/network-volumes", networkVolumeId=volume).json()
    assert stored["records"][0]["networkVolumeId"] == volume
    everything = api("GET", "/v2/billing", startTime="2026-01-01T00:00:00Z", bucketSize="year").json()
    totals = everything["metadata"]["totals"]
    assert totals["podGpuAmount"] >= bill["metadata"]["totals"]["gpuAmount"] > 0
    assert totals["storageStandardAmount"] > 0
    problem(api("GET", "/v2/billing", lastN="2", startTime="2026-01-01T00:00:00Z"), 400)
    problem(api("GET", "/v2/billing", bucketSize="minute"), 422)
    problem(api("GET", "/v2/billing", startTime="yesterday"), 422)


def test_nobody_gets_in_without_the_key(api: Client, simulator: RunningSimulator) -> None:
    assert problem(Client(simulator.url, "canary-secret-wrong")("GET", "/v2/pods"), 401)["title"] == "Unauthorized"
    missing = api.raw("GET", "/v2/pods", headers={"Authorization": ""})
    assert problem(missing, 401)["detail"] == "missing bearer token" and "ratelimit" not in missing.headers
    assert Client(simulator.url, "wrong").raw("GET", "/_simulator/state").status_code == 401
    assert Client(simulator.url, "wrong").raw("POST", "/_simulator/shutdown", json={}).status_code == 401


def test_a_request_without_user_agent_meets_cloudflare(api: Client, simulator: RunningSimulator) -> None:
    key = {"Authorization": f"Bearer {simulator.api_key}"}
    with pytest.raises(HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(f"{simulator.url}/v2/pods", headers=key), timeout=150)
    assert caught.value.code == 403 and "1010" in caught.value.read().decode()
    plain = http.client.HTTPConnection(urlsplit(simulator.url).netloc, timeout=150)
    plain.request("GET", "/v2/pods", headers=key)
    assert plain.getresponse().status == 403
    plain.close()


def test_unknown_paths_and_methods_are_problems(api: Client) -> None:
    problem(api.raw("GET", "/v2/nothing"), 404)
    refused = api.raw("PATCH", f"/v2/pods/{api.create_pod()}", json={"name": "x"})
    assert problem(refused, 405)["title"] == "Method Not Allowed" and "GET" in refused.headers["allow"]


def test_every_answer_tells_the_quota(api: Client) -> None:
    answers = [api("GET", "/v2/pods"), api("GET", "/v2/pods/none")]
    left = [int(answer.headers["RateLimit"].split(";r=")[1].split(";")[0]) for answer in answers]
    assert left[1] < left[0]
    assert '"minute";q=6000;w=60' in answers[0].headers["RateLimit-Policy"]


def test_a_pods_key_may_only_end_its_own_pod(api: Client, simulator: RunningSimulator) -> None:
    own, other = api.create_pod(), api.create_pod()
    pod = Client(simulator.url, pod_key(simulator.api_key, own))
    forbidden = [
        ("GET", "/v2/pods", None),
        ("GET", f"/v2/pods/{own}", None),
        ("GET", f"/v2/pods/{own}/logs", None),
        ("POST", f"/v2/pods/{own}/action", {"action": "stop"}),
        ("DELETE", f"/v2/pods/{other}", None),
        ("POST", f"/v2/pods/{other}/action", {"action": "terminate"}),
        ("POST", "/v2/pods", POD),
        ("GET", "/v2/catalog/gpus", None),
    ]
    for method, path, body in forbidden:
        problem(pod(method, path, body), 403)
    assert pod.raw("GET", "/_simulator/state").status_code == 403
    assert pod("POST", f"/v2/pods/{own}/action", {"action": "terminate"}).status_code == 204
    assert pod("DELETE", f"/v2/pods/{own}").status_code == 404
    mine = Client(simulator.url, pod_key(simulator.api_key, other))
    assert mine("DELETE", f"/v2/pods/{other}").status_code == 204
    assert api("GET", "/v2/pods").json()["pods"] == []


def test_registered_ssh_keys_are_kept(api: Client) -> None:
    keys = {"keys": ["ssh-ed25519 AAAA me@example.com"]}
    assert api("PUT", "/v2/account/ssh-keys", keys).json() == keys
    assert api("GET", "/v2/account/ssh-keys").json() == keys
    assert api("PUT", "/v2/account/ssh-keys", {"keys": []}).json() == {"keys": []}


@pytest.mark.parametrize(
    ("kind", "status", "detail"),
    [
        ("http_401", 401, "invalid bearer token"),
        ("http_402", 402, NO_BALANCE),
        ("http_410", 410, "retired"),
        ("http_429", 429, "rate limit exceeded"),
        ("http_500", 500, "Something went wrong"),
    ],
)
def test_a_fault_answers_before_anything_happened(
    api: Client, simulator: RunningSimulator, kind: str, status: int, detail: str
) -> None:
    simulator.fault(kind, seconds=7, operation="create_pod")
    refused = api("POST", "/v2/pods", POD)
    assert detail in problem(refused, status)["detail"]
    assert refused.headers.get("Retry-After") == ("7" if status == 429 else None)
    assert api("GET", "/v2/pods").json()["pods"] == []
    assert api("POST", "/v2/pods", POD).status_code == 201


def test_a_gateway_may_answer_html(api: Client, simulator: RunningSimulator) -> None:
    simulator.fault("http_502", operation="list_pods")
    answer = api.raw("GET", "/v2/pods")
    assert answer.status_code == 502 and answer.text.startswith("<html>")


@pytest.mark.parametrize("kind", ["error_after_create", "lost_answer"])
def test_a_create_may_fail_and_still_rent(api: Client, simulator: RunningSimulator, kind: str) -> None:
    simulator.fault(kind, operation="create_pod")
    simulator.fault(kind, operation="create_volume")
    volume = {"name": "pt-v", "size": 10, "dataCenter": "EU-SE-1"}
    for path, body in (("/v2/pods", POD), ("/v2/network-volumes", volume)):
        if kind == "lost_answer":
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                api("POST", path, body)
        else:
            problem(api("POST", path, body), 500)
    assert [pod["name"] for pod in api("GET", "/v2/pods").json()["pods"]] == ["pt-a"]
    assert [it["name"] for it in api("GET", "/v2/network-volumes").json()["networkVolumes"]] == ["pt-v"]


def test_a_slow_answer_has_its_effect_though_nobody_waits(api: Client, simulator: RunningSimulator) -> None:
    simulator.fault("slow", seconds=0.5, operation="create_pod")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{simulator.url}/v2/pods",
            json=POD,
            headers={"Authorization": f"Bearer {simulator.api_key}", "User-Agent": "tests"},
            timeout=0.2,
            trust_env=False,
        )
    simulator.fault("slow", seconds=0.6, operation="list_pods")
    assert len(api("GET", "/v2/pods").json()["pods"]) == 1


def test_no_capacity_may_hit_one_data_center(api: Client, simulator: RunningSimulator) -> None:
    simulator.fault("no_capacity", times=1, data_center="EU-SE-1")
    elsewhere = api("POST", "/v2/pods", POD).json()
    assert elsewhere["dataCenterId"] != "EU-SE-1"
    there = {**POD, "dataCenterIds": ["EU-SE-1"]}
    assert problem(api("POST", "/v2/pods", there), 400)["detail"] == NO_CAPACITY
    assert api("POST", "/v2/pods", there).json()["dataCenterId"] == "EU-SE-1"


def test_without_stock_the_catalog_shows_it_too(api: Client, simulator: RunningSimulator) -> None:
    simulator.fault("no_stock", times=None, gpu="NVIDIA A40")
    gpus = api("GET", "/v2/catalog/gpus", include="AVAILABILITY", product="POD").json()["gpus"]
    assert next(gpu for gpu in gpus if gpu["id"] == "NVIDIA A40")["availability"] == "NONE"
    assert problem(api("POST", "/v2/pods", POD), 400)["detail"] == NO_CAPACITY


def test_a_volume_may_be_busy_after_its_pod_is_gone(api: Client, simulator: RunningSimulator) -> None:
    volume = api.create_volume()
    simulator.fault("volume_busy", times=2, volume_id=volume)
    answers = [api("DELETE", f"/v2/network-volumes/{volume}").status_code for _ in range(3)]
    assert answers == [400, 400, 204]


def test_faults_are_listed_and_refused_when_unknown(api: Client, simulator: RunningSimulator) -> None:
    simulator.fault("slow", times=3, seconds=0, operation="nothing")
    listed = api.raw("GET", "/_simulator/faults").json()["faults"]
    assert {"kind": "slow", "times": 3}.items() <= listed[-1].items()
    assert api.raw("POST", "/_simulator/faults", json={"kind": "meteor"}).status_code == 422
    assert api.raw("DELETE", f"/_simulator/faults?id={listed[-1]['id']}").status_code == 204
    assert all(fault["kind"] != "slow" for fault in api.raw("GET", "/_simulator/faults").json()["faults"])

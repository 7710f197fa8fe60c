"""The RunPod client over real HTTP on loopback: reading, ending, connecting."""

from datetime import datetime
from http.server import ThreadingHTTPServer
from typing import Any

import pytest
from runpod_script import GONE, KEY, PODS, VOLUMES, Reply, Script, Time, pod_json, pods, problem, volume_json

from infra.clouds import connect
from infra.clouds.runpod.client import RunPod
from pushtrain.errors import CloudAuthFailed, CloudUnavailable, RequestRejected, SpecError

pytest_plugins = ("runpod_fixtures",)


def test_the_catalogue_becomes_offers_field_by_field(runpod: RunPod, script: Script):
    def gpu(**changes: Any) -> dict[str, Any]:
        return {
            "id": "NVIDIA A40",
            "memory": 48,
            "secure": True,
            "community": True,
            "price": {"secure": 0.4, "community": 0.3},
            "maxCount": {"secure": 9, "community": 4},
            **changes,
        }

    centers = [{"id": "EU-SE-1", "availability": "HIGH"}, {"id": "US-KS-2", "availability": "LOW"}]
    catalogue = ("GET", "/v2/catalog/gpus")
    script.on(
        catalogue,
        {
            "gpus": [
                gpu(dataCenters=centers, availability="HIGH"),
                gpu(id="Sold out"),
                gpu(id="C", secure=False, dataCenters=centers),
            ]
        },
        {"gpus": [gpu(availability="MEDIUM"), gpu(id="Sold out"), gpu(id="S", community=False)]},
    )
    script.on(
        ("GET", "/v2/catalog/datacenters"),
        {
            "dataCenters": [
                {"id": "EU-SE-1", "networkVolumeTypes": ["STANDARD"]},
                {"id": "US-KS-2", "networkVolumeTypes": []},
            ]
        },
    )
    found = [
        (o.gpu, o.gpu_memory_gb, o.data_center, o.tier, o.usd_per_gpu_hour, o.stock, o.has_network_volumes, o.max_count)
        for o in runpod.offers(2)
    ]
    assert found == [
        ("NVIDIA A40", 48, "EU-SE-1", "SECURE", 0.4, "HIGH", True, 9),
        ("NVIDIA A40", 48, "US-KS-2", "SECURE", 0.4, "LOW", False, 9),
        ("NVIDIA A40", 48, None, "COMMUNITY", 0.3, "MEDIUM", False, 4),
        ("Sold out", 48, None, "COMMUNITY", 0.3, "NONE", False, 4),
    ]
    asked = {"include": "AVAILABILITY", "product": "POD", "count": "2"}
    assert [seen.query for seen in script.sent(*catalogue)] == [
        {**asked, "cloud": "SECURE"},
        {**asked, "cloud": "COMMUNITY"},
    ]


def test_the_catalogue_is_read_once_for_all_who_ask_within_half_a_minute(runpod: RunPod, script: Script, timer: Time):
    gpus = {"gpus": [{"id": "A", "memory": 1, "secure": False, "community": False}]}
    script.on(("GET", "/v2/catalog/gpus"), gpus)
    script.on(("GET", "/v2/catalog/datacenters"), {"dataCenters": []})
    asked = []
    for pause in (0, 29, 2, 0, 600):
        timer.now_s += pause
        assert runpod.offers() == [] and runpod.gpu_names() == ["A"]
        asked.append(len(script.seen))
    assert asked == [4, 4, 7, 7, 11]
    runpod.offers(8)
    runpod.offers(8, "13.0")
    assert len(script.seen) == 17, "another count, or another driver, is another question"
    assert script.sent("GET", "/v2/catalog/gpus")[-1].query["minCudaVersion"] == "13.0"


def test_gpu_names_are_all_types_in_stock_or_not(runpod: RunPod, script: Script):
    script.on(("GET", "/v2/catalog/gpus"), {"gpus": [{"id": "NVIDIA A40"}, {"id": "NVIDIA H100 PCIe"}]})
    assert runpod.gpu_names() == ["NVIDIA A40", "NVIDIA H100 PCIe"]


def test_a_pod_is_read_field_by_field(runpod: RunPod, script: Script):
    script.on(("GET", "/v2/pods/pod1"), pod_json(runtime={"uptime": 61}), pod_json(), pod_json(runtime={}))
    pod = runpod.read_pod("pod1")
    assert pod is not None
    assert (pod.id, pod.name, pod.status, pod.gpu, pod.gpu_count) == ("pod1", "pt-a1", "RUNNING", "NVIDIA A40", 2)
    assert (pod.usd_per_hour, pod.data_center, pod.created_at) == (0.8, "EU-SE-1", "2026-11-20T12:00:00Z")
    assert pod.uptime_s == 61
    running_without_a_container, just_started = runpod.read_pod("pod1"), runpod.read_pod("pod1")
    assert running_without_a_container and running_without_a_container.uptime_s is None
    assert just_started and just_started.uptime_s == 0


@pytest.mark.parametrize("answer", [Reply(404, GONE), Reply(200, pod_json(status="TERMINATED"))])
def test_a_pod_that_is_gone_reads_as_none(runpod: RunPod, script: Script, answer: Reply):
    script.on(("GET", "/v2/pods/pod1"), answer)
    assert runpod.read_pod("pod1") is None


def test_a_volume_is_read_and_none_when_it_is_gone(runpod: RunPod, script: Script):
    script.on(("GET", "/v2/network-volumes/vol1"), volume_json(), Reply(404, GONE))
    volume = runpod.read_volume("vol1")
    assert volume is not None
    assert (volume.id, volume.name, volume.size_gb, volume.data_center) == ("vol1", "pt-v", 50, "EU-SE-1")
    assert runpod.read_volume("vol1") is None


@pytest.mark.parametrize("body", [b"<html><h1>404 Not Found</h1></html>", b"", b'{"error": "no such route"}'])
def test_a_404_that_is_not_runpods_never_means_gone(runpod: RunPod, script: Script, body: bytes):
    script.on(("GET", "/v2/pods/pod1"), Reply(404, body))
    with pytest.raises(CloudUnavailable) as caught:
        runpod.read_pod("pod1")
    assert "RUNPOD_API_BASE_URL" in (caught.value.hint or "")


@pytest.mark.parametrize("body", [{"id": "pod1"}, ["pod1"], None, {"pods": []}])
def test_an_answer_of_an_unknown_shape_is_unavailable_and_never_gone(runpod: RunPod, script: Script, body: Any):
    script.on(("GET", "/v2/pods/pod1"), Reply(200, body))
    with pytest.raises(CloudUnavailable, match="unexpected shape"):
        runpod.read_pod("pod1")


def test_find_takes_every_page_and_leaves_foreign_and_terminated_things_out(runpod: RunPod, script: Script):
    def page(*listed: dict[str, Any], cursor: str | None = None) -> dict[str, Any]:
        return {**pods(*listed), "pagination": {"hasNextPage": cursor is not None, "nextCursor": cursor}}

    script.on(
        PODS,
        page(pod_json("a", "pt-x-a1"), pod_json("b", "mine"), cursor="2/+"),
        page(pod_json("c", "pt-x-a2", status="TERMINATED"), pod_json("d", "pt-x-a3", status="EXITED"), cursor="3"),
        page(pod_json("e", "pt-xx")),
    )
    script.on(VOLUMES, {"networkVolumes": [volume_json("v", "pt-x-v"), volume_json("w", "apt-x-v")]})
    live = runpod.find("pt-x-")
    assert [pod.id for pod in live.pods] == ["a", "d"]
    assert [volume.id for volume in live.volumes] == ["v"]
    whole = {"limit": "1000"}
    assert [seen.query for seen in script.sent(*PODS)] == [whole, whole | {"cursor": "2/+"}, whole | {"cursor": "3"}]


def test_lists_without_pages_and_empty_lists_as_null_are_read(runpod: RunPod, script: Script):
    script.on(PODS, pods(pod_json("a", "pt-x-a1"), pod_json("cpu", "pt-x-cpu", gpu=None, cost=None)))
    script.on(VOLUMES, {"networkVolumes": None})
    live = runpod.find("pt-x-")
    assert [pod.id for pod in live.pods] == ["a", "cpu"]
    assert live.volumes == ()


@pytest.mark.parametrize(
    "broken",
    [
        {"pods": [], "pagination": {"hasNextPage": True, "nextCursor": None}},
        {"pods": [], "pagination": {"hasNextPage": True, "nextCursor": "same"}},
        {"items": []},
    ],
)
def test_a_list_that_cannot_be_had_whole_is_never_an_empty_one(runpod: RunPod, script: Script, broken: dict[str, Any]):
    script.on(PODS, broken)
    script.on(VOLUMES, {"networkVolumes": []})
    with pytest.raises(CloudUnavailable):
        runpod.find("pt-")


def test_the_bill_sums_the_hours_of_exactly_these_resources(runpod: RunPod, script: Script):
    def records(key: str, *rows: tuple[str, float]) -> dict[str, Any]:
        return {"records": [{key: name, "totalAmount": usd} for name, usd in rows], "metadata": {}}

    script.on(
        ("GET", "/v2/billing/pods"),
        records("podId", ("p1", 0.25), ("p1", 0.5), ("somebody-else", 99.0)),
        records("podId", ("p2", 1.0)),
    )
    script.on(("GET", "/v2/billing/network-volumes"), records("networkVolumeId", ("v1", 0.01), ("v1", 0.02)))
    bill = runpod.bill(["p1", "p2"], ["v1"], "2026-11-20T12:30:00Z")
    assert (bill.pods_usd, bill.volumes_usd, bill.final) == (1.75, pytest.approx(0.03), False)
    asked = {"startTime": "2026-11-20T12:30:00Z", "bucketSize": "hour"}
    assert [seen.query for seen in script.sent("GET", "/v2/billing/pods")] == [
        {**asked, "podId": "p1"},
        {**asked, "podId": "p2"},
    ]
    assert script.sent("GET", "/v2/billing/network-volumes")[0].query == {**asked, "networkVolumeId": "v1"}


@pytest.mark.parametrize(
    ("until", "now", "final"),
    [
        (None, "2026-11-21T12:30:00Z", False),
        ("2026-11-20T12:30:00Z", "2026-11-20T12:31:00Z", False),
        ("2026-11-20T12:30:00Z", "2026-11-20T13:14:59Z", False),
        ("2026-11-20T12:30:00Z", "2026-11-20T13:15:00Z", True),
        ("2026-11-20T13:00:00.000Z", "2026-11-20T13:15:00Z", True),
        ("2026-11-20T13:00:00.001Z", "2026-11-20T13:15:00Z", False),
    ],
)
def test_a_bill_is_final_when_the_hour_of_the_end_is_over_and_settled(
    runpod: RunPod, script: Script, until: str | None, now: str, final: bool
):
    script.on(("GET", "/v2/billing/pods"), {"records": [], "metadata": {}})
    now_s = datetime.fromisoformat(now).timestamp()
    assert runpod.bill(["p1"], [], "2026-11-20T12:00:00Z", until=until, now_s=now_s).final is final


ACTION, DELETE_POD = ("POST", "/v2/pods/pod1/action"), ("DELETE", "/v2/pods/pod1")


@pytest.mark.parametrize("answer", [Reply(204), Reply(200, pod_json()), Reply(404, GONE)])
def test_terminate_is_done_when_the_action_is_accepted_or_the_pod_is_absent(
    runpod: RunPod, script: Script, answer: Reply
):
    script.on(ACTION, answer)
    runpod.terminate("pod1")
    assert script.sent(*ACTION)[0].body == {"action": "terminate"}
    assert len(script.seen) == 1


@pytest.mark.parametrize("refused", [problem(409, "invalid for status"), problem(403, "denied"), problem(500, "boom")])
@pytest.mark.parametrize("then", [Reply(204), Reply(404, GONE)])
def test_terminate_falls_back_to_delete(runpod: RunPod, script: Script, refused: Reply, then: Reply):
    script.on(ACTION, refused)
    script.on(DELETE_POD, then)
    runpod.terminate("pod1")
    assert len(script.sent(*DELETE_POD)) == 1


def test_a_conflict_over_a_pod_that_is_gone_is_success_and_over_one_that_is_not_an_error(
    runpod: RunPod, script: Script
):
    script.on(ACTION, problem(409, "already terminated"))
    script.on(DELETE_POD, problem(409, "already terminated"))
    script.on(("GET", "/v2/pods/pod1"), pod_json(status="TERMINATED"))
    runpod.terminate("pod1")
    script.on(("GET", "/v2/pods/pod1"), pod_json())
    with pytest.raises(CloudUnavailable, match="terminating pod pod1: RunPod answered 409"):
        runpod.terminate("pod1")


def test_terminate_with_a_bad_key_fails_and_never_claims_success(runpod: RunPod, script: Script):
    script.on(ACTION, problem(401, "missing bearer token"))
    with pytest.raises(CloudAuthFailed):
        runpod.terminate("pod1")


def test_deleting_a_volume_that_is_gone_is_success(runpod: RunPod, script: Script):
    script.on(("DELETE", "/v2/network-volumes/vol1"), Reply(204), Reply(404, GONE))
    runpod.delete_volume("vol1")
    runpod.delete_volume("vol1")


@pytest.mark.parametrize("status", [400, 409])
def test_deleting_a_volume_in_use_names_the_pods_that_hold_it(runpod: RunPod, script: Script, status: int):
    text = "You must remove this network volume from all pods before deleting it."
    script.on(("DELETE", "/v2/network-volumes/vol1"), problem(status, text))
    script.on(PODS, pods(pod_json("holder", mounts={"network": [{"volumeId": "vol1", "path": "/workspace"}]})))
    with pytest.raises(CloudUnavailable, match=r"from all pods before deleting it.*: holder") as caught:
        runpod.delete_volume("vol1")
    assert "terminate the pods" in (caught.value.hint or "")


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "a?b", "x y"])
def test_an_id_that_is_none_never_reaches_a_url(runpod: RunPod, script: Script, bad: str):
    for call in (runpod.read_pod, runpod.terminate, runpod.read_volume, runpod.delete_volume):
        with pytest.raises(RequestRejected):
            call(bad)
    assert script.seen == []


def test_connect_takes_key_and_base_url_from_the_environment(scripted_server: ThreadingHTTPServer, script: Script):
    script.on(("GET", "/v2/catalog/gpus"), {"gpus": []})
    base = f"http://127.0.0.1:{scripted_server.server_port}/v2/"
    cloud = connect("runpod", {"RUNPOD_API_KEY": f" {KEY}\n", "RUNPOD_API_BASE_URL": base})
    assert cloud.gpu_names() == []
    assert cloud.name == "runpod"
    assert script.seen[0].headers["authorization"] == f"Bearer {KEY}"


def test_connect_without_a_key_says_where_to_get_one():
    with pytest.raises(CloudAuthFailed, match="RUNPOD_API_KEY is not set") as caught:
        connect("runpod", {"RUNPOD_API_KEY": "  "})
    assert caught.value.hint


def test_connect_knows_no_other_cloud_yet():
    with pytest.raises(SpecError, match="'nimbus'"):
        connect("nimbus", {"RUNPOD_API_KEY": KEY})

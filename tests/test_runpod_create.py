"""Creates over real HTTP: adopt by name before, after, and when nobody knows what happened."""

import time
from dataclasses import replace
from http.server import ThreadingHTTPServer
from typing import Any

import pytest
from runpod_script import (
    CREATE_POD,
    CREATE_VOLUME,
    CUT,
    HF,
    KEY,
    PODS,
    VOLUME,
    VOLUMES,
    Reply,
    Script,
    Time,
    pod_json,
    pod_request,
    pods,
    problem,
    volume_json,
)

from infra.clouds.runpod.client import RunPod
from infra.clouds.wire import Limits
from pushtrain import __version__
from pushtrain.errors import CloudUnavailable, NoCapacity, RequestRejected

pytest_plugins = ("runpod_fixtures",)


def test_a_pod_is_asked_for_field_by_field(runpod: RunPod, script: Script):
    script.on(PODS, pods())
    script.on(CREATE_POD, Reply(201, pod_json()))
    request = pod_request(data_center="eu-se-1", ports=("22/tcp",), min_cuda_version="12.8", mount_path="/data")
    assert runpod.create_pod(request).id == "pod1"
    (seen,) = script.sent(*CREATE_POD)
    assert seen.body == {
        "name": "pt-a1",
        "image": "runpod/pytorch:1",
        "cloud": "SECURE",
        "gpu": {"id": "NVIDIA A40", "count": 2, "minCudaVersion": "12.8"},
        "args": "bash -c true",
        "env": {"PUSHTRAIN_ATTEMPT": "1", "HF_TOKEN": HF},
        "disk": 40,
        "ports": ["22/tcp"],
        "mounts": {"network": [{"volumeId": "vol1", "path": "/data"}]},
        "dataCenterIds": ["EU-SE-1"],
    }
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["user-agent"] == f"pushtrain/{__version__}"


def test_a_community_pod_names_no_data_center_and_takes_no_volume(runpod: RunPod, script: Script):
    script.on(PODS, pods())
    script.on(CREATE_POD, Reply(201, pod_json()))
    runpod.create_pod(pod_request(tier="COMMUNITY", volume_id=None))
    body = script.sent(*CREATE_POD)[0].body
    assert body["cloud"] == "COMMUNITY"
    assert not {"dataCenterIds", "mounts", "ports"} & set(body)
    with pytest.raises(RequestRejected, match="SECURE pods only"):
        runpod.create_pod(pod_request(tier="COMMUNITY"))
    assert len(script.sent(*CREATE_POD)) == 1


def test_a_pod_with_a_disk_of_its_own_and_a_volume_of_a_kind_are_asked_for(runpod: RunPod, script: Script):
    script.on(PODS, pods())
    script.on(CREATE_POD, Reply(201, pod_json(cloud="COMMUNITY", dataCenterId=None)))
    made = runpod.create_pod(pod_request(tier="COMMUNITY", volume_id=None, persistent_gb=50, mount_path="/workspace"))
    assert (made.tier, made.data_center) == ("COMMUNITY", None)
    assert script.sent(*CREATE_POD)[0].body["mounts"] == {"persistent": {"size": 50, "path": "/workspace"}}
    script.on(VOLUMES, {"networkVolumes": []})
    script.on(CREATE_VOLUME, Reply(201, volume_json()))
    runpod.create_volume(replace(VOLUME, kind="STANDARD"))
    assert script.sent(*CREATE_VOLUME)[0].body["type"] == "STANDARD"


def test_the_one_pod_of_that_name_is_adopted_from_any_page_and_nothing_is_created(runpod: RunPod, script: Script):
    script.on(
        PODS,
        {**pods(pod_json("other", "pt-a11")), "pagination": {"hasNextPage": True, "nextCursor": "2"}},
        pods(pod_json("mine", "pt-a1")),
    )
    assert runpod.create_pod(pod_request()).id == "mine"
    assert not script.sent(*CREATE_POD)


def test_of_twins_the_oldest_stays_and_the_others_are_terminated(runpod: RunPod, script: Script):
    script.on(
        PODS,
        pods(
            pod_json("young", createdAt="2026-11-20T12:00:02Z"),
            pod_json("old", createdAt="2026-11-20T12:00:01Z"),
            pod_json("youngest", createdAt="2026-11-20T12:00:03Z"),
        ),
    )
    for twin in ("young", "youngest"):
        script.on(("POST", f"/v2/pods/{twin}/action"), Reply(204))
    assert runpod.create_pod(pod_request()).id == "old"
    assert {seen.path for seen in script.seen if seen.method == "POST"} == {
        "/v2/pods/young/action",
        "/v2/pods/youngest/action",
    }


@pytest.mark.parametrize("listed", [True, False], ids=["both-listed", "ours-not-listed-yet"])
def test_a_twin_made_by_somebody_else_meanwhile_is_found_after_the_create(runpod: RunPod, script: Script, listed: bool):
    theirs = pod_json("theirs", createdAt="2026-11-20T11:59:59Z")
    script.on(PODS, pods(), pods(*([pod_json("ours")] if listed else []), theirs))
    script.on(CREATE_POD, Reply(201, pod_json("ours")))
    script.on(("POST", "/v2/pods/ours/action"), Reply(204))
    assert runpod.create_pod(pod_request()).id == "theirs"
    assert script.sent("POST", "/v2/pods/ours/action")


@pytest.mark.parametrize("status", ["EXITED", "ERROR"])
def test_a_pod_that_ended_is_terminated_and_made_anew(runpod: RunPod, script: Script, status: str):
    script.on(PODS, pods(pod_json("dead", status=status)), pods(pod_json("fresh")))
    script.on(("POST", "/v2/pods/dead/action"), Reply(204))
    script.on(CREATE_POD, Reply(201, pod_json("fresh")))
    assert runpod.create_pod(pod_request()).id == "fresh"
    assert script.sent("POST", "/v2/pods/dead/action")


def test_a_terminated_pod_still_listed_is_neither_adopted_nor_terminated_again(runpod: RunPod, script: Script):
    script.on(PODS, pods(pod_json("ghost", status="TERMINATED")))
    script.on(CREATE_POD, Reply(201, pod_json("fresh")))
    assert runpod.create_pod(pod_request()).id == "fresh"
    assert not script.sent("POST", "/v2/pods/ghost/action")


@pytest.mark.parametrize(
    "lost",
    [
        Reply(500, b"<html><body>Internal&nbsp;Server Error</body></html>"),
        Reply(502, b""),
        Reply(408, {"title": "Timeout", "status": 408, "detail": "late"}),
        Reply(201, b"<html>Cloudflare</html>"),
        Reply(201, b""),
        Reply(201, {"pod": pod_json()}),
        Reply(201, pod_json(), cut=True),
        CUT,
    ],
    ids=["500", "502", "408", "201-html", "201-empty", "201-strange", "201-cut", "closed"],
)
def test_a_pod_whose_create_was_answered_badly_is_found_by_name(
    runpod: RunPod, script: Script, timer: Time, lost: Reply
):
    def appears() -> None:
        script.on(PODS, pods(), pods(), pods(pod_json("made")))

    script.on(PODS, pods())
    script.on(CREATE_POD, Reply(**{**vars(lost), "effect": appears}))
    assert runpod.create_pod(pod_request()).id == "made"
    assert len(script.sent(*CREATE_POD)) == 1, "a second create would have rented twice"
    assert timer.sleeps == [1.0, 3.0, 6.0], "about ten seconds, several looks"


def test_a_create_that_really_failed_is_sent_again_and_at_last_given_up(runpod: RunPod, script: Script):
    script.on(PODS, pods())
    script.on(CREATE_POD, problem(500, "boom"), Reply(201, pod_json("second")))
    assert runpod.create_pod(pod_request()).id == "second"
    script.seen.clear()
    script.on(CREATE_POD, problem(503, "down"))
    with pytest.raises(CloudUnavailable, match="503: down, and nothing of that name appeared") as caught:
        runpod.create_pod(pod_request())
    assert len(script.sent(*CREATE_POD)) == 3
    assert "looks the name up" in (caught.value.hint or "")


def test_a_create_that_takes_too_long_is_looked_up(scripted_server: ThreadingHTTPServer, script: Script):
    client = RunPod(
        KEY,
        f"http://127.0.0.1:{scripted_server.server_port}",
        environ={},
        limits=Limits(create_s=0.2, look_pauses_s=(0.01,)),
    )
    script.on(PODS, pods(), pods(pod_json("slow")))
    script.on(CREATE_POD, Reply(201, pod_json("slow"), delay_s=30))
    begun = time.monotonic()
    assert client.create_pod(pod_request()).id == "slow"
    assert time.monotonic() - begun < 25
    client.close()


def test_when_nobody_can_look_no_second_create_is_sent(runpod: RunPod, script: Script):
    script.on(PODS, Reply(200, pods()), Reply(500))
    script.on(CREATE_POD, CUT)
    with pytest.raises(CloudUnavailable):
        runpod.create_pod(pod_request())
    assert len(script.sent(*CREATE_POD)) == 1


def test_a_volume_is_created_adopted_and_found_after_a_lost_answer(runpod: RunPod, script: Script):
    none, one = {"networkVolumes": []}, {"networkVolumes": [volume_json()]}
    script.on(VOLUMES, none, one)
    script.on(CREATE_VOLUME, Reply(201, volume_json()))
    assert runpod.create_volume(VOLUME).id == "vol1"
    assert script.sent(*CREATE_VOLUME)[0].body == {"name": "pt-v", "size": 50, "dataCenter": "EU-SE-1"}
    assert runpod.create_volume(VOLUME).id == "vol1"
    assert len(script.sent(*CREATE_VOLUME)) == 1
    script.on(VOLUMES, none, one)
    script.on(CREATE_VOLUME, CUT)
    assert runpod.create_volume(VOLUME).id == "vol1"
    assert len(script.sent(*CREATE_VOLUME)) == 2


@pytest.mark.parametrize(("mounted", "kept"), [([], "v1"), ([{"volumeId": "v2", "path": "/workspace"}], "v2")])
def test_of_twin_volumes_the_mounted_one_stays(runpod: RunPod, script: Script, mounted: list[Any], kept: str):
    script.on(VOLUMES, {"networkVolumes": [volume_json("v1"), volume_json("v2")]})
    script.on(PODS, pods(pod_json(mounts={"network": mounted}), pod_json(mounts=None)))
    for volume_id in ("v1", "v2"):
        script.on(("DELETE", f"/v2/network-volumes/{volume_id}"), Reply(204))
    assert runpod.create_volume(VOLUME).id == kept
    (deleted,) = [seen.path for seen in script.seen if seen.method == "DELETE"]
    assert deleted == f"/v2/network-volumes/{'v2' if kept == 'v1' else 'v1'}"


def test_a_volume_of_that_name_in_another_data_center_sends_the_caller_there(runpod: RunPod, script: Script):
    script.on(VOLUMES, {"networkVolumes": [volume_json(center="US-KS-2")]})
    with pytest.raises(NoCapacity, match="taken by vol1 in US-KS-2") as caught:
        runpod.create_volume(VOLUME)
    assert caught.value.reason == "VolumeElsewhere"
    assert all(seen.method == "GET" for seen in script.seen), "nobody's data may be deleted for a name"

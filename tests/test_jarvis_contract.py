"""The cloud contract over the JarvisLabs client and the simulator, and what is JarvisLabs' own: errors inside a 200, a
host for each region, start scripts that go with their instances, names that are too long, resuming under another id."""

import base64
import gzip
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from simulator_client import Client

from infra.clouds.jarvis.client import JarvisLabs
from infra.clouds.wire import Limits
from infra.simulator.server import RunningSimulator
from infra.start import boot_env, cloud_env, start_args
from pushtrain.capabilities import CLOUDS
from pushtrain.cloud import KeepsScripts, PodRequest, VolumeRequest
from pushtrain.errors import CloudAuthFailed, CloudError, CloudUnavailable, NoBalance, NoCapacity, RequestRejected

pytest.register_assert_rewrite("cloud_contract")
from cloud_contract import CloudContract, Facts, Trouble, within  # noqa: E402
from contract_on_simulator import OnTheSimulator  # noqa: E402

pytest_plugins = ("simulator_fixtures",)

NAME, PATIENCE_S = "jarvislabs", 60.0
LIMITS = Limits(look_pauses_s=(0.05, 0.1, 0.2))
LONG = "a-job-with-a-name-of-24-c-01234567-89abcdef-"
Raw = Callable[..., Any]


def url_of(simulator: RunningSimulator) -> str:
    return simulator.env(NAME)["JARVISLABS_URL"]


class _Rising(httpx.BaseTransport):
    """What the simulator says; from the first create on every price is twice what it was."""

    def __init__(self) -> None:
        self._wire, self._risen = httpx.HTTPTransport(), False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._risen = self._risen or request.url.path.endswith("/create")
        answer = self._wire.handle_request(request)
        if not (self._risen and request.url.path.endswith("/misc/server_meta")):
            return answer
        answer.read()
        said = answer.json()
        rows = [row | {"price_per_hour": 2 * float(row["price_per_hour"])} for row in said["server_meta"]]
        return httpx.Response(answer.status_code, json=said | {"server_meta": rows})

    def close(self) -> None:
        self._wire.close()


class _Closing(httpx.BaseTransport):
    """What the simulator says; from the first create on nobody may look at what there is."""

    def __init__(self) -> None:
        self._wire, self._closed = httpx.HTTPTransport(), False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._closed = self._closed or request.url.path.endswith("/create")
        if self._closed and "/users/fetch" in request.url.path:
            return httpx.Response(403, json={"detail": "access denied"})
        return self._wire.handle_request(request)

    def close(self) -> None:
        self._wire.close()


class TestJarvisLabsOnTheSimulator(OnTheSimulator, CloudContract):
    def client(self, simulator: RunningSimulator) -> JarvisLabs:
        secrets = {"CANARY": "s3cret canary's"}
        return JarvisLabs(simulator.keys.others[NAME], url_of(simulator), environ=secrets, limits=LIMITS)

    @pytest.fixture
    def facts(self) -> Facts:
        return Facts(
            can=CLOUDS[NAME],
            gpu="NVIDIA RTX A6000",
            data_center="india-noida-01",
            elsewhere="india-chennai-01",
            image=None,
            ports=("8888/http", "7860/http"),
            sold_out=("NVIDIA H200", "india-noida-01"),
            absent_id="jl-999999999999",
            template="fastai",
            volume_gb=50,
            settle_s=PATIENCE_S,
        )

    def test_a_spot_instance_costs_its_own_price_and_is_paused_for_somebody_on_demand(
        self, cloud: JarvisLabs, simulator: RunningSimulator, pod: PodRequest
    ) -> None:
        pod = replace(pod, data_center="india-noida-01")
        (offer,) = [it for it in cloud.offers() if (it.gpu, it.data_center) == (pod.gpu, pod.data_center)]
        asked = offer.min_bid_usd_per_gpu_hour
        assert asked is not None and asked < offer.usd_per_gpu_hour
        with pytest.raises(NoCapacity, match="no spot instance is offered for"):
            cloud.create_pod(replace(pod, bid_usd_per_hour=asked * pod.gpu_count - 0.01))
        made = cloud.create_pod(replace(pod, bid_usd_per_hour=asked * pod.gpu_count))
        assert made.is_spot and made.usd_per_hour == pytest.approx(asked * pod.gpu_count)
        simulator.fault("outbid", times=1, seconds=0, pod_id=made.id.removeprefix("jl-"))
        assert within(150, lambda: (seen := cloud.read_pod(made.id)) is not None and not seen.is_alive)
        again = cloud.create_pod(pod)
        assert again.id != made.id and again.is_spot is False and cloud.read_pod(made.id) is None

    def test_where_a_type_has_no_spot_price_none_is_offered_and_none_is_made(
        self, cloud: JarvisLabs, pod: PodRequest
    ) -> None:
        (offer,) = [it for it in cloud.offers() if it.data_center == "europe-01" and it.gpu == "NVIDIA H200"]
        assert offer.min_bid_usd_per_gpu_hour is None and offer.stock != "NONE"
        wanted = replace(pod, gpu="NVIDIA H200", data_center="europe-01", volume_id=None, bid_usd_per_hour=99.0)
        with pytest.raises(NoCapacity, match="no spot instance is free"):
            cloud.create_pod(wanted)

    @pytest.fixture
    def raw(self, api: Client, simulator: RunningSimulator) -> Iterator[Raw]:
        """The account as JarvisLabs' own client sees it."""
        headers = {"Authorization": f"Bearer {simulator.keys.others[NAME]}", "User-Agent": "tests"}
        with httpx.Client(base_url=url_of(simulator), headers=headers, trust_env=False, timeout=150) as client:
            yield lambda method, path, **options: client.request(method, path, **options).raise_for_status().json()

    @pytest.fixture
    def scripts(self, raw: Raw, prefix: str) -> Callable[[], list[str]]:
        def named() -> list[str]:
            listed = raw("GET", "/scripts/")["script_meta"]
            return sorted(it["script_name"] for it in listed if it["script_name"].startswith(prefix))

        return named

    def test_a_pod_with_a_disk_of_its_own_on_a_community_machine(self, cloud: JarvisLabs, pod: PodRequest, prefix: str):
        """There is none; a machine of JarvisLabs' own has a disk of its own, too."""
        with pytest.raises(RequestRejected, match="COMMUNITY"):
            cloud.create_pod(replace(pod, tier="COMMUNITY", data_center=None, persistent_gb=10))
        assert not cloud.find(prefix)
        made = cloud.create_pod(replace(pod, persistent_gb=10))
        assert (made.tier, made.volume_id) == ("SECURE", None)

    def test_what_jarvislabs_does_not_have_is_refused_and_leaves_nothing(
        self, cloud: JarvisLabs, pod: PodRequest, prefix: str, scripts: Callable[[], list[str]]
    ):
        for changed, said in (({"image": "acme/train:1"}, "image"), ({"ports": ("22/tcp",)}, "HTTP ports only")):
            with pytest.raises(RequestRejected, match=said):
                cloud.create_pod(replace(pod, **changed))  # type: ignore[arg-type]
        with pytest.raises(RequestRejected, match="no such region"):
            cloud.create_volume(VolumeRequest(name=f"{prefix}v", size_gb=50, data_center="EU-SE-1"))
        assert not cloud.find(prefix) and scripts() == []

    def test_a_price_that_rose_above_what_was_planned_is_not_paid(
        self, cloud: JarvisLabs, pod: PodRequest, prefix: str
    ):
        price = next(
            it.usd_per_gpu_hour for it in cloud.offers() if (it.gpu, it.data_center) == (pod.gpu, pod.data_center)
        )
        with pytest.raises(NoCapacity, match="an hour or less"):
            cloud.create_pod(replace(pod, max_usd_per_hour=price - 0.01))
        assert not cloud.find(prefix)
        assert cloud.create_pod(replace(pod, max_usd_per_hour=price)).usd_per_hour == price

    def test_a_price_that_rises_with_the_create_is_told_as_it_is_by_then(
        self, simulator: RunningSimulator, pod: PodRequest
    ):
        """Nothing a create takes bounds its price, and offers are kept for a while: whoever asked has to hear it."""
        rising = _Rising()
        with closing(
            JarvisLabs(simulator.keys.others[NAME], url_of(simulator), environ={}, limits=LIMITS, transport=rising)
        ) as cloud:
            price = next(
                it.usd_per_gpu_hour for it in cloud.offers() if (it.gpu, it.data_center) == (pod.gpu, pod.data_center)
            )
            made = cloud.create_pod(replace(pod, max_usd_per_hour=price))
            assert made.usd_per_hour == pytest.approx(2 * price)
            assert [it.usd_per_hour for it in cloud.find(pod.name).pods] == [made.usd_per_hour]
            with pytest.raises(NoCapacity, match="an hour or less"):
                cloud.create_pod(replace(pod, name=f"{pod.name}1", max_usd_per_hour=price))
            cloud.terminate(made.id)

    def test_what_was_made_is_told_though_nobody_may_look_at_it_by_then(
        self, cloud: JarvisLabs, simulator: RunningSimulator, pod: PodRequest
    ):
        """Read as a refusal it would be made once more, and the first one be in no list for minutes."""
        key, url = simulator.keys.others[NAME], url_of(simulator)
        with closing(JarvisLabs(key, url, environ={}, limits=LIMITS, transport=_Closing())) as other:
            made = other.create_pod(pod)
        assert [it["name"] for it in simulator.state()["pods"] if f"jl-{it['id']}" == made.id] == [pod.name]
        cloud.terminate(made.id)
        cloud.delete_script(pod.name)  # by its name: who it was no list said

    def test_without_a_region_the_first_that_has_room_is_taken(
        self, cloud: JarvisLabs, pod: PodRequest, simulator: RunningSimulator
    ):
        assert cloud.create_pod(replace(pod, gpu="NVIDIA RTX A5000", data_center=None)).data_center == (
            "india-chennai-01"
        )
        europe = cloud.create_pod(replace(pod, name=f"{pod.name}1", gpu="NVIDIA H200", data_center=None))
        assert europe.data_center == "europe-01"
        with pytest.raises(NoCapacity):
            cloud.create_pod(replace(pod, name=f"{pod.name}2", gpu="NVIDIA H200", data_center=None, gpu_count=2))

    def test_a_refused_create_that_made_one_all_the_same_adopts_it(
        self, cloud: JarvisLabs, pod: PodRequest, prefix: str, simulator: RunningSimulator
    ):
        simulator.fault("refused_but_rented", operation="create_pod")
        made = cloud.create_pod(pod)
        assert [it.id for it in cloud.find(prefix).pods] == [made.id]

    def test_an_instance_that_fails_to_start_asks_for_the_next_candidate_and_leaves_nothing(
        self,
        cloud: JarvisLabs,
        pod: PodRequest,
        prefix: str,
        scripts: Callable[[], list[str]],
        simulator: RunningSimulator,
    ):
        simulator.fault("never_starts")
        with pytest.raises(NoCapacity, match="No free GPUs on the node"):
            cloud.create_pod(pod)
        assert not cloud.find(prefix) and scripts() == []
        assert [it["status"] for it in simulator.state()["pods"] if it["name"] == pod.name] == ["TERMINATED"]

    def test_a_start_script_brings_variables_and_goes_with_its_instance(
        self,
        cloud: JarvisLabs,
        pod: PodRequest,
        scripts: Callable[[], list[str]],
        simulator: RunningSimulator,
    ):
        words = "bash -c 'echo said $A $CANARY $PUSHTRAIN_POD_NAME in $PUSHTRAIN_WORKSPACE; sleep 600'"
        asked = replace(pod, args=words, env={"A": 'it\'s a "test"'}, secret_env=("CANARY", "NOT_SET"))
        made = cloud.create_pod(asked)
        log = _home(simulator, made.id) / "pushtrain.log"
        assert within(PATIENCE_S, lambda: log.exists() and log.read_text().endswith("\n"))
        assert log.read_text().startswith(f"said it's a \"test\" s3cret canary's {pod.name} in /")
        assert scripts() == [pod.name]
        cloud.terminate(made.id)
        assert scripts() == []

    def test_scripts_are_listed_by_their_whole_names_and_can_be_removed_by_them(
        self, cloud: JarvisLabs, twin: JarvisLabs, prefix: str
    ) -> None:
        name = f"{prefix}{LONG}a1"
        for it in (name, f"x{name}"):
            cloud._scripts.put(it, b"#!/bin/bash\nexport TOKEN=canary\n")
        assert twin.find(prefix).scripts == (name,) and isinstance(twin, KeepsScripts)
        twin.delete_script(name)
        twin.delete_script(name)
        assert cloud.find(prefix).scripts == () and not cloud.find(prefix)
        assert cloud.find(f"x{name}").scripts == (f"x{name}",)
        cloud.delete_script(f"x{name}")

    def test_a_create_that_finds_no_room_leaves_no_script(
        self, cloud: JarvisLabs, pod: PodRequest, trouble: Trouble, scripts: Callable[[], list[str]]
    ):
        trouble.say_no_capacity()
        with pytest.raises(NoCapacity):
            cloud.create_pod(pod)
        assert scripts() == []

    @pytest.mark.parametrize("way", ["lose_answer", "fail_after"])
    def test_a_script_whose_upload_got_no_answer_is_there_once(
        self, cloud: JarvisLabs, pod: PodRequest, trouble: Trouble, scripts: Callable[[], list[str]], way: str
    ):
        getattr(trouble, way)("put_script")
        cloud.create_pod(pod)
        assert scripts() == [pod.name]

    def test_names_that_are_too_long_there_are_whole_here(
        self,
        cloud: JarvisLabs,
        twin: JarvisLabs,
        pod: PodRequest,
        prefix: str,
        scripts: Callable[[], list[str]],
        raw: Raw,
    ):
        assert len(f"{prefix}{LONG}a1") > 40
        volume = VolumeRequest(name=f"{prefix}{LONG}v", size_gb=50, data_center=str(pod.data_center))
        held = cloud.create_volume(volume)
        made = cloud.create_pod(replace(pod, name=f"{prefix}{LONG}a1", volume_id=held.id))
        assert (made.name, held.name) == (f"{prefix}{LONG}a1", volume.name) and made.volume_id == held.id
        shown = [it["instance_name"] for it in raw("GET", "/users/fetch")["instances"]]
        assert [len(name) for name in shown if name.startswith(prefix)] == [40]
        found = twin.find(f"{prefix}{LONG}")
        assert [it.name for it in found.pods] == [made.name] and found.volumes == (held,)
        assert twin.create_pod(replace(pod, name=made.name, volume_id=held.id)).id == made.id
        assert scripts() == [made.name, volume.name]
        twin.terminate(made.id)
        assert within(PATIENCE_S, lambda: not twin.find(f"{prefix}{LONG}").pods)
        twin.delete_volume(held.id)
        assert scripts() == [] and not twin.find(prefix)

    def test_a_paused_instance_is_over_and_destroyed_and_a_resumed_one_is_found_by_its_name(
        self, cloud: JarvisLabs, pod: PodRequest, prefix: str, raw: Raw
    ):
        made = cloud.create_pod(pod)
        number = made.id.removeprefix("jl-")
        assert within(PATIENCE_S, lambda: getattr(cloud.read_pod(made.id), "status", "") == "RUNNING")
        raw("POST", "/misc/pause", params={"machine_id": number})
        paused = cloud.read_pod(made.id)
        assert paused is not None and (paused.status, paused.is_alive) == ("EXITED", False)
        other = f"jl-{raw('POST', '/templates/pytorch/resume', json={'machine_id': int(number)})['machine_id']}"
        assert other != made.id and cloud.read_pod(made.id) is None
        assert within(PATIENCE_S, lambda: [it.id for it in cloud.find(prefix).pods] == [other])
        raw("POST", "/misc/pause", params={"machine_id": other.removeprefix("jl-")})
        again = cloud.create_pod(pod)
        assert again.id not in (made.id, other), "what ended is destroyed, not adopted"
        assert [it.id for it in cloud.find(prefix).pods] == [again.id]

    def test_a_volume_is_the_same_under_another_number(
        self, cloud: JarvisLabs, pod: PodRequest, volume: VolumeRequest, raw: Raw, simulator: RunningSimulator
    ):
        def number() -> int:
            return next(int(it["fs_id"]) for it in raw("GET", "/filesystem/list") if it["fs_name"] == volume.name)

        made, before = cloud.create_volume(volume), number()
        assert cloud.grow_volume(made.id, 60).id == made.id and number() != before
        holder = cloud.create_pod(replace(pod, volume_id=made.id))
        assert holder.volume_id == made.id
        cloud.terminate(holder.id)
        assert within(PATIENCE_S, lambda: cloud.find(pod.name).pods == ())

    def test_of_two_kept_volumes_with_one_name_each_can_be_told_and_deleted(
        self, cloud: JarvisLabs, volume: VolumeRequest, raw: Raw
    ):
        """A create that is carried out minutes late makes another one; by the name alone nobody would ever see it."""
        name, region = f"pt-keep-{uuid.uuid4().hex[:6]}-models", volume.data_center

        def there() -> list[str]:
            return [it.id for it in cloud.volumes() if it.name == name]

        def comes_late() -> str:
            raw("POST", "/filesystem/create", json={"fs_name": name, "storage": 50, "region": region})
            return there()[-1]

        made, twin = cloud.create_volume(replace(volume, name=name)), comes_late()
        assert there() == [made.id, twin] and twin.startswith(f"{made.id}~")
        with pytest.raises(CloudUnavailable, match="2 times") as caught:
            cloud.grow_volume(made.id, 60)
        assert f"volumes delete {twin} --yes" in str(caught.value.hint)
        for _ in range(2):
            cloud.delete_volume(twin)
            assert there() == [made.id]
        comes_late()
        cloud.delete_volume(made.id)
        assert there() == [made.id], "of kept ones the one that is meant; the other one has its name to itself"
        cloud.delete_volume(made.id)
        assert there() == []

    def test_a_volume_is_as_small_as_jarvislabs_makes_it(self, cloud: JarvisLabs, volume: VolumeRequest):
        assert cloud.create_volume(replace(volume, size_gb=10)).size_gb == 50

    @pytest.mark.parametrize(
        ("fault", "error"),
        [("http_402", NoBalance), ("http_403", CloudAuthFailed), ("http_401", CloudAuthFailed)],
    )
    def test_errors_are_sorted_by_who_acts(
        self,
        cloud: JarvisLabs,
        pod: PodRequest,
        prefix: str,
        simulator: RunningSimulator,
        fault: str,
        error: type[CloudError],
    ):
        simulator.fault(fault, operation="create_pod")
        with pytest.raises(error) as caught:
            cloud.create_pod(pod)
        assert caught.value.hint and not cloud.find(prefix)

    def test_a_fault_inside_a_200_is_asked_again_and_never_reads_like_gone(
        self, cloud: JarvisLabs, pod: PodRequest, prefix: str, simulator: RunningSimulator
    ):
        made = cloud.create_pod(pod)
        simulator.fault("http_500", operation="list_pods")
        assert [it.id for it in cloud.find(prefix).pods] == [made.id]
        simulator.fault("http_500", times=None, operation="list_pods")
        try:
            for call in (lambda: cloud.find(prefix), lambda: cloud.read_pod(made.id), lambda: cloud.terminate(made.id)):
                with pytest.raises(CloudUnavailable):
                    call()
        finally:
            simulator.request("DELETE", "/_simulator/faults").raise_for_status()

    def test_an_account_in_rupees_is_refused_before_anything_is_rented(
        self, cloud: JarvisLabs, pod: PodRequest, prefix: str, simulator: RunningSimulator
    ):
        simulator.fault("pays_in_rupees", times=2, operation="get_account")
        for call in (cloud.offers, lambda: cloud.create_pod(pod)):
            with pytest.raises(RequestRejected, match="rupees"):
                call()
        assert not cloud.find(prefix)

    def test_of_what_is_gone_there_is_no_bill(self, cloud: JarvisLabs, pod: PodRequest):
        made, since = cloud.create_pod(pod), "2026-01-01T00:00:00Z"
        assert cloud.bill([made.id], [], since).is_told
        cloud.terminate(made.id)
        bill = cloud.bill([made.id], [], since)
        assert (bill.total_usd, bill.is_told, bill.final) == (0.0, False, True)

    def test_the_log_says_that_there_is_none_and_has_no_time_to_tell_silence_by(
        self, cloud: JarvisLabs, pod: PodRequest
    ):
        made = cloud.create_pod(pod)
        (line,) = cloud.logs(made.id)
        assert line.time == "" and "no log" in line.line
        assert list(cloud.logs(made.id, line.event_id)) == []

    @pytest.mark.parametrize("boot", [boot_env(), ""], ids=["the watchdog", "without python, curl"])
    def test_a_pod_that_cannot_begin_has_no_key_and_waits_to_be_destroyed(
        self, cloud: JarvisLabs, pod: PodRequest, prefix: str, simulator: RunningSimulator, boot: str
    ):
        url = {"JARVISLABS_URL": url_of(simulator)}
        env = cloud_env(NAME, url) | {"PUSHTRAIN_BOOT": boot, "PUSHTRAIN_POD_TICK_S": "0.2"}
        made = cloud.create_pod(replace(pod, args=start_args(NAME), env=env))
        log = _home(simulator, made.id) / "pushtrain.log"
        said = "no key to end itself with" if boot else "unexpected end of file"
        assert within(PATIENCE_S, lambda: log.exists() and said in log.read_text()), log.read_text()
        assert simulator.keys.others[NAME] not in log.read_text()
        assert cloud.read_pod(made.id) is not None
        cloud.terminate(made.id)
        assert within(PATIENCE_S, lambda: not cloud.find(prefix))

    def test_bash_ends_the_work_where_the_watchdog_was_killed(
        self, cloud: JarvisLabs, pod: PodRequest, simulator: RunningSimulator
    ):
        work = "import os, subprocess, time; subprocess.Popen(['sleep', '600'], start_new_session=True); os._exit(0)"
        made = cloud.create_pod(replace(pod, args=start_args(NAME), env={"PUSHTRAIN_POD_TICK_S": "0.2", **_gz(work)}))

        def at_work() -> int:
            state = next(it for it in simulator.state()["pods"] if f"jl-{it['id']}" == made.id)
            commands = [Path(f"/proc/{pid}/cmdline") for pid in state["processes"]]
            return sum(it.exists() and it.read_bytes() == b"sleep\0600\0" for it in commands)

        log = _home(simulator, made.id) / "pushtrain.log"
        assert within(PATIENCE_S, log.exists)
        assert within(PATIENCE_S, lambda: at_work() == 0 and cloud.read_pod(made.id) is not None)

    def test_the_key_of_another_cloud_is_refused_as_a_key(self, simulator: RunningSimulator):
        stranger = JarvisLabs(simulator.api_key, url_of(simulator), limits=LIMITS)
        for call in (stranger.offers, lambda: stranger.find(""), lambda: stranger.terminate("jl-12345678")):
            with pytest.raises(CloudAuthFailed, match="Invalid token"):
                call()
        stranger.close()


def _home(simulator: RunningSimulator, pod_id: str) -> Path:
    return simulator.state_dir / NAME / "pods" / pod_id.removeprefix("jl-") / "home"


def _gz(program: str) -> dict[str, str]:
    """A boot archive of one program."""
    return {"PUSHTRAIN_BOOT": base64.b64encode(gzip.compress(program.encode())).decode()}

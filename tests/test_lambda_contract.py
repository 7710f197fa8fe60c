"""The cloud contract over the Lambda Cloud client and the simulator, and what is Lambda's own: one ssh key a launch, a
machine instead of a container, file systems without a size, neither log nor bill nor a key of a machine's own."""

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from infra.clouds.lambda_cloud.client import Lambda
from infra.clouds.lambda_cloud.pace import LambdaLimits
from infra.simulator.server import RunningSimulator
from pushtrain.capabilities import LAMBDA
from pushtrain.cloud import PodRequest, VolumeRequest
from pushtrain.errors import CloudAuthFailed, CloudUnavailable, NoBalance, NoCapacity, RequestRejected

pytest.register_assert_rewrite("cloud_contract")
from cloud_contract import CloudContract, Facts, within  # noqa: E402
from contract_on_simulator import OnTheSimulator  # noqa: E402

pytest_plugins = ("simulator_fixtures",)

# Whoever looks for a lost launch does not wait ten seconds for it here, and a second before the next one, not twelve.
LIMITS = LambdaLimits(look_pauses_s=(0.05, 0.1, 0.2), request_s=0.0, launch_s=1.0)
CANARY = "canary-7c1e5b"
PATIENCE_S = 60.0


def connect(simulator: RunningSimulator) -> Lambda:
    return Lambda(simulator.keys.others["lambda"], simulator.url, limits=LIMITS, environ={"HF_TOKEN": CANARY})


class TestLambdaOnTheSimulator(OnTheSimulator, CloudContract):
    def client(self, simulator: RunningSimulator) -> Lambda:
        return connect(simulator)

    @pytest.fixture
    def facts(self) -> Facts:
        return Facts(
            can=LAMBDA,
            gpu="NVIDIA RTX A6000",
            data_center="us-west-1",
            image="acme/train:1",
            ports=("8888/tcp", "22/tcp"),
            sold_out=("NVIDIA B200", "us-east-1"),
            absent_id="0" * 32,
            elsewhere="us-east-1",
            settle_s=PATIENCE_S,
        )

    def test_a_pod_with_a_disk_of_its_own_on_a_community_machine(  # type: ignore[override]
        self, cloud: Lambda, pod: PodRequest, prefix: str
    ):
        """There are none; the machine's own disk is there without asking."""
        with pytest.raises(RequestRejected, match="own machines alone"):
            cloud.create_pod(replace(pod, tier="COMMUNITY", data_center=None, persistent_gb=10))
        made = cloud.create_pod(replace(pod, persistent_gb=10))
        assert (made.tier, made.volume_id) == ("SECURE", None) and [it.id for it in cloud.find(prefix).pods] == [
            made.id
        ]

    def test_a_pod_made_from_a_template_is_what_the_request_says_over_what_the_template_says(  # type: ignore[override]
        self, cloud: Lambda, pod: PodRequest, prefix: str
    ):
        """There are none."""
        with pytest.raises(RequestRejected, match="no templates"):
            cloud.create_pod(replace(pod, image=None, template="abc"))
        assert not cloud.find(prefix)

    def test_the_bill_of_something_new_is_small_and_of_nothing_is_nothing(  # type: ignore[override]
        self, cloud: Lambda, pod: PodRequest, facts: Facts
    ):
        """There is none to read, which is another answer than nothing."""
        made = cloud.create_pod(pod)
        assert made.usd_per_hour == 0.80
        bill = cloud.bill([made.id], [facts.absent_id], "2026-11-22T00:00:00Z")
        assert (bill.is_told, bill.final) == (False, True)

    def test_a_launch_names_the_one_key_that_opens_nothing_and_no_other_is_touched(
        self, cloud: Lambda, pod: PodRequest
    ):
        mine = "ssh-ed25519 AAAAmine me@here"
        try:
            cloud.replace_ssh_keys([mine])
            cloud.create_pod(pod)
            assert cloud.ssh_keys() == [mine]
            cloud.replace_ssh_keys([])
            assert cloud.create_pod(replace(pod, name=f"{pod.name}1")).name.endswith("a11")
        finally:
            cloud.replace_ssh_keys([])

    def test_the_accounts_keys_and_the_pods_secrets_reach_the_container_and_no_command_line(
        self, cloud: Lambda, pod: PodRequest, simulator: RunningSimulator
    ):
        try:
            cloud.replace_ssh_keys(["ssh-ed25519 AAAAmine me@here", "ssh-ed25519 AAAAtheirs them@there"])
            told = 'echo "keys: $PUBLIC_KEY"; echo "token: $HF_TOKEN"; sleep 600'
            made = cloud.create_pod(_running(pod, told, ssh=True, secret_env=("HF_TOKEN",)))
            assert within(PATIENCE_S, lambda: f"token: {CANARY}" in _log(simulator, made.id)), _log(simulator, made.id)
            log, lines = _log(simulator, made.id), [" ".join(words) for words in _commands(simulator, made.id)]
            assert "AAAAmine" in log and "AAAAtheirs" in log and log.count(CANARY) == 1
            assert lines and not any(CANARY in line for line in lines)
            assert within(PATIENCE_S, lambda: getattr(cloud.read_pod(made.id), "ssh_direct", None) is not None)
        finally:
            cloud.replace_ssh_keys([])

    @pytest.mark.parametrize("end", ["touch $PUSHTRAIN_END_FILE; sleep 600", "exit 3", "sleep 600"])
    def test_a_machine_whose_pod_is_over_powers_off_and_is_there_until_it_is_terminated(
        self, cloud: Lambda, pod: PodRequest, simulator: RunningSimulator, end: str
    ):
        deadline = "1" if end == "sleep 600" else "9999999999"
        made = cloud.create_pod(_running(pod, end, env={"PUSHTRAIN_DEADLINE_EPOCH_S": deadline}))
        assert within(PATIENCE_S, lambda: "machine: powered off" in _log(simulator, made.id)), _log(simulator, made.id)
        assert within(PATIENCE_S, lambda: not [it for it in _commands(simulator, made.id) if "sleep" in it])
        assert within(PATIENCE_S, lambda: len(_commands(simulator, made.id)) == 2), "the machine, and what runs it"
        found = cloud.read_pod(made.id)
        assert found is not None and found.is_alive, "nothing that Lambda says tells that it is off, and it is billed"
        cloud.terminate(made.id)
        assert within(PATIENCE_S, lambda: cloud.read_pod(made.id) is None)

    def test_a_file_system_is_the_pods_workspace_and_outlives_it(
        self, cloud: Lambda, pod: PodRequest, volume: VolumeRequest, simulator: RunningSimulator
    ):
        held = cloud.create_volume(volume)
        writer = _running(pod, "echo kept > $PUSHTRAIN_WORKSPACE/word; sleep 600", volume_id=held.id)
        made = cloud.create_pod(writer)
        (word,) = (simulator.state_dir / "lambda" / "volumes" / held.id,)
        assert within(PATIENCE_S, lambda: (word / "word").exists()), _log(simulator, made.id)
        cloud.terminate(made.id)
        reader = _running(pod, "cat $PUSHTRAIN_WORKSPACE/word; sleep 600", volume_id=held.id, name=f"{pod.name}2")
        again = cloud.create_pod(reader)
        assert again.volume_id == held.id
        assert within(PATIENCE_S, lambda: "kept" in _log(simulator, again.id)), _log(simulator, again.id)

    def test_a_file_system_of_another_region_is_refused(self, cloud: Lambda, pod: PodRequest, volume: VolumeRequest):
        held = cloud.create_volume(replace(volume, data_center="us-west-1"))
        with pytest.raises(RequestRejected, match="wrong-region"):
            cloud.create_pod(replace(pod, volume_id=held.id, data_center="us-east-1"))

    def test_a_machine_that_boots_again_starts_its_pod_again(
        self, cloud: Lambda, pod: PodRequest, simulator: RunningSimulator
    ):
        made = cloud.create_pod(_running(pod, "echo started; sleep 600"))
        assert within(PATIENCE_S, lambda: _log(simulator, made.id).count("started") == 1)
        simulator.fault("container_restart", seconds=0.0, pod_name=pod.name)
        assert within(PATIENCE_S, lambda: _log(simulator, made.id).count("started") == 2), _log(simulator, made.id)

    def test_a_price_that_rose_above_what_was_planned_is_not_paid(self, cloud: Lambda, pod: PodRequest, prefix: str):
        with pytest.raises(NoCapacity, match="an hour or less"):
            cloud.create_pod(replace(pod, max_usd_per_hour=0.79))
        assert not cloud.find(prefix)
        assert cloud.create_pod(replace(pod, max_usd_per_hour=0.80)).usd_per_hour == 0.80

    def test_errors_are_sorted_by_who_acts(
        self, cloud: Lambda, pod: PodRequest, simulator: RunningSimulator, prefix: str
    ):
        for kind, error in (("http_402", NoBalance), ("http_403", CloudAuthFailed), ("http_401", CloudAuthFailed)):
            simulator.fault(kind, operation="create_pod")
            with pytest.raises(error):
                cloud.create_pod(pod)
        simulator.fault("http_502", times=LIMITS.attempts, operation="list_pods")
        with pytest.raises(CloudUnavailable):
            cloud.find(prefix)

    def test_the_key_of_another_cloud_is_refused_as_a_key(self, simulator: RunningSimulator):
        stranger = Lambda(simulator.api_key, simulator.url, limits=LIMITS)
        for call in (stranger.offers, lambda: stranger.find(""), lambda: stranger.terminate("a" * 32)):
            with pytest.raises(CloudAuthFailed, match="API key was invalid"):
                call()
        stranger.close()


def test_offers_are_machines_of_just_so_many_gpus(simulator: RunningSimulator):
    with contextlib.closing(connect(simulator)) as cloud:
        eight = {(it.gpu, it.data_center): it for it in cloud.offers(8)}
        assert eight["NVIDIA H100 80GB HBM3", "us-south-2"].usd_per_gpu_hour == 2.99
        assert {it.max_count for it in eight.values()} == {8} and ("NVIDIA H100 PCIe", "us-west-3") not in eight


def _log(simulator: RunningSimulator, pod_id: str) -> str:
    path = simulator.state_dir / "lambda" / "pods" / pod_id / "container.log"
    return path.read_text() if path.exists() else ""


def _commands(simulator: RunningSimulator, pod_id: str) -> list[list[str]]:
    """The command lines of every process of a machine."""
    (pod,) = (it for it in simulator.state()["pods"] if it["id"] == pod_id)
    found = []
    for pid in pod["processes"]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append(Path(f"/proc/{pid}/cmdline").read_text().split("\0"))
    return found


def _running(pod: PodRequest, script: str, **changes: object) -> PodRequest:
    return replace(pod, args=f"bash -c '{script}'", **changes)  # type: ignore[arg-type]

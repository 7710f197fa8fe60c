"""The cloud contract over Modal's client, its real SDK and the simulator, and what is Modal's own: names that are
unique there, a queue in the place of 'no capacity', a sandbox that ends with its command and at its own deadline."""

import gc
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from faults.rentals.modal.module import STATUSES, TRANSIENT, StreamTerminatedError
from simulator_client import Client

from infra.clouds.modal.client import Modal
from infra.clouds.modal.shapes import ANYWHERE, GRACE_S
from infra.clouds.wire import Limits
from infra.simulator.server import RunningSimulator
from infra.start import boot_env, cloud_env, start_args
from pushtrain.capabilities import MODAL
from pushtrain.cloud import Cloud, PodRequest
from pushtrain.errors import CloudAuthFailed, CloudUnavailable, NoBalance, NoCapacity, RequestRejected

pytest.register_assert_rewrite("cloud_contract")
from cloud_contract import CloudContract, Facts, within  # noqa: E402
from contract_on_simulator import OnTheSimulator  # noqa: E402

pytest_plugins = ("simulator_fixtures",)

# What Modal queues is given up after so long: a create that works takes a tenth of a second here.
LIMITS = Limits(create_s=10, look_pauses_s=(0.05, 0.1, 0.2))
PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def clients(simulator: RunningSimulator) -> Iterator[tuple[Modal, Modal]]:
    """Two of one workspace; opening one takes longer than most tests here."""
    found = modal(simulator), modal(simulator)
    yield found
    for client in found:
        client.close()


def modal(simulator: RunningSimulator, secret: str | None = None, environ: dict[str, str] | None = None) -> Modal:
    env = simulator.env("modal")
    return Modal(
        secret or env["MODAL_TOKEN_SECRET"], env["MODAL_SERVER_URL"], limits=LIMITS, environ=env | (environ or {})
    )


class TestModalOnTheSimulator(OnTheSimulator, CloudContract):
    @pytest.fixture
    def cloud(self, api: Client, clients: tuple[Modal, Modal]) -> Modal:
        return clients[0]

    @pytest.fixture
    def twin(self, api: Client, clients: tuple[Modal, Modal]) -> Modal:
        return clients[1]

    @pytest.fixture
    def facts(self) -> Facts:
        return Facts(
            can=MODAL,
            gpu="NVIDIA L40S",
            data_center=ANYWHERE,
            image="acme/train:1",
            ports=(),
            sold_out=("NVIDIA B200", ANYWHERE),
            absent_id="sb-" + "A" * 22,
        )

    def test_the_accounts_ssh_keys_are_replaced_as_a_whole(self, cloud: Cloud):
        """Modal has none: that is said, not passed over."""
        assert cloud.ssh_keys() == []
        cloud.replace_ssh_keys([])
        with pytest.raises(RequestRejected, match="no ssh keys"):
            cloud.replace_ssh_keys(["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBQrContract me@here"])

    @pytest.mark.parametrize(
        ("change", "said"),
        [({"tier": "COMMUNITY"}, "tier COMMUNITY"), ({"ports": ("22/tcp",)}, "port"), ({"ssh": True}, "ssh key")],
    )
    def test_a_pod_with_a_disk_of_its_own_on_a_community_machine(
        self, cloud: Cloud, pod: PodRequest, prefix: str, change: dict, said: str
    ):
        """There are no such machines at Modal, nor ports: refused for good, and nothing is left. A disk it has."""
        with pytest.raises(RequestRejected, match=said):
            cloud.create_pod(replace(pod, **change))
        assert not cloud.find(prefix)
        own = cloud.create_pod(replace(pod, persistent_gb=10, data_center=None))
        assert (own.data_center, own.volume_id) == (None, None)

    def test_a_pod_made_from_a_template_is_what_the_request_says_over_what_the_template_says(
        self, cloud: Cloud, pod: PodRequest, prefix: str
    ):
        """Modal has no templates: an image beside one does not make it one."""
        assert cloud.read_template("tpl-1") is None
        with pytest.raises(RequestRejected, match="tpl-1") as caught:
            cloud.create_pod(replace(pod, template="tpl-1"))
        assert caught.value.reason == "UnknownTemplate" and not cloud.find(prefix)

    def test_every_page_of_the_list_is_read(self, cloud: Cloud, pod: PodRequest, prefix: str):
        made = {cloud.create_pod(replace(pod, name=f"{prefix}{number}")).id for number in range(5)}
        assert {it.id for it in cloud.find(prefix).pods} == made

    def test_a_sandbox_ends_with_its_command_and_its_log_stays(self, cloud: Cloud, pod: PodRequest, prefix: str):
        words = "for i in 1 2 3; do echo line $i; done"
        made = cloud.create_pod(replace(pod, args=f"bash -c '{words}'"))
        assert within(PATIENCE_S, lambda: cloud.read_pod(made.id) is None) and not cloud.find(prefix)
        first, second, third = list(cloud.logs(made.id))
        assert [it.line for it in (first, second, third)] == ["line 1", "line 2", "line 3"]
        assert list(cloud.logs(made.id, first.event_id)) == [second, third]
        assert list(cloud.logs(made.id, third.event_id)) == []
        assert 0 < cloud.bill([made.id], [], "2026-01-01T00:00:00Z").pods_usd < 1

    def test_one_that_ended_by_itself_is_the_answer_to_a_second_create_and_one_that_was_ended_is_not(
        self, cloud: Cloud, pod: PodRequest, prefix: str
    ):
        """The first one's maker may have died before anybody heard of it: what it cost is on a bill so."""
        made = cloud.create_pod(replace(pod, args="true"))
        assert within(PATIENCE_S, lambda: cloud.read_pod(made.id) is None)
        again = cloud.create_pod(replace(pod, args="true"))
        assert (again.id, again.is_alive, again.created_at) == (made.id, False, made.created_at)
        other = replace(pod, name=f"{prefix}other")
        ended = cloud.create_pod(other)
        cloud.terminate(ended.id)
        assert within(PATIENCE_S, lambda: cloud.create_pod(other).id != ended.id)

    def test_modal_ends_a_sandbox_at_its_deadline_though_nobody_else_lives_to_do_it(
        self, cloud: Cloud, pod: PodRequest, prefix: str, simulator: RunningSimulator
    ):
        env = {"PUSHTRAIN_DEADLINE_EPOCH_S": str(int(time.time()) + 8 - GRACE_S)}
        made = cloud.create_pod(replace(pod, args="bash -c 'trap : TERM; while :; do sleep 1; done'", env=env))
        assert within(PATIENCE_S, lambda: cloud.read_pod(made.id) is None) and not cloud.find(prefix)
        state = simulator.state
        assert within(PATIENCE_S, lambda: all(it["processes"] == [] for it in state()["pods"] if it["id"] == made.id))

    @pytest.mark.parametrize("boot", [boot_env(), ""], ids=["the watchdog", "without python"])
    def test_a_pod_that_cannot_begin_ends_itself(
        self, cloud: Cloud, pod: PodRequest, prefix: str, simulator: RunningSimulator, boot: str
    ):
        env = cloud_env("modal", simulator.env("modal")) | {"PUSHTRAIN_BOOT": boot, "PUSHTRAIN_POD_TICK_S": "0.2"}
        made = cloud.create_pod(replace(pod, args=start_args("modal"), env=env))
        assert within(PATIENCE_S, lambda: cloud.read_pod(made.id) is None), list(cloud.logs(made.id))
        assert not cloud.find(prefix)

    def test_secrets_reach_the_sandbox_and_no_text_of_ours(
        self, cloud: Cloud, pod: PodRequest, simulator: RunningSimulator
    ):
        other = modal(simulator, environ={"CANARY": "canary-93f1c8"})
        asked = replace(pod, args="bash -c 'echo it is $CANARY; sleep 600'", secret_env=("CANARY",))
        made = other.create_pod(asked)
        assert within(PATIENCE_S, lambda: bool(list(other.logs(made.id))))
        (line,) = other.logs(made.id)
        assert line.line.startswith("it is") and "canary-93f1c8" not in line.line
        (log,) = simulator.state_dir.glob(f"modal/pods/{made.id}/container.log")
        assert "it is canary-93f1c8" in log.read_text()
        simulator.fault("http_500", times=20, operation="get_pod")
        with pytest.raises(CloudUnavailable) as caught:
            other.read_pod(made.id)
        assert "canary" not in str(caught.value) and "as-simulator" not in repr(caught.value.__dict__)
        simulator.request("DELETE", "/_simulator/faults").raise_for_status()
        other.close()

    def test_a_price_that_rose_above_what_was_planned_is_not_paid(self, cloud: Cloud, pod: PodRequest, prefix: str):
        price = next(it.usd_per_gpu_hour for it in cloud.offers() if it.gpu == pod.gpu)
        with pytest.raises(NoCapacity, match="an hour by now"):
            cloud.create_pod(replace(pod, max_usd_per_hour=price - 0.01))
        assert not cloud.find(prefix)
        assert cloud.create_pod(replace(pod, max_usd_per_hour=price + 0.01)).usd_per_hour == pytest.approx(price)

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            ("http_401", CloudAuthFailed),
            ("http_402", NoBalance),
            ("http_403", CloudAuthFailed),
            ("http_410", RequestRejected),
            ("http_502", CloudUnavailable),
        ],
    )
    def test_a_refused_create_is_sorted_by_who_acts_and_leaves_nothing(
        self, cloud: Cloud, pod: PodRequest, prefix: str, simulator: RunningSimulator, fault: str, error: type
    ):
        simulator.fault(fault, times=20, operation="create_pod")
        with pytest.raises(error) as caught:
            cloud.create_pod(pod)
        assert type(caught.value) is error and caught.value.hint
        assert not cloud.find(prefix)

    def test_the_token_of_another_workspace_is_refused_as_a_token(self, simulator: RunningSimulator):
        stranger = modal(simulator, secret="as-nobody")
        for call in (stranger.offers, lambda: stranger.find(""), lambda: stranger.terminate("sb-" + "A" * 22)):
            with pytest.raises(CloudAuthFailed, match="Token validation"):
                call()
        stranger.close()

    def test_a_client_that_nobody_holds_takes_its_thread_with_it(self, simulator: RunningSimulator):
        def threads() -> int:
            return sum(thread.name == "modal" for thread in threading.enumerate())

        before = threads()
        for _ in range(3):
            modal(simulator).offers()
        # What its thread still held a moment ago is garbage only now.
        assert within(PATIENCE_S, lambda: gc.collect() >= 0 and threads() <= before)


def test_what_the_fault_schedules_raise_is_what_modal_raises():
    import modal.exception

    for its in {*STATUSES.values(), *TRANSIENT} - {StreamTerminatedError}:
        real = getattr(modal.exception, its.__name__)
        assert {it.__name__ for it in its.__mro__} <= {it.__name__ for it in real.__mro__}, its

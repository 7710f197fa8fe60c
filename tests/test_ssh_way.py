"""From what ledger and cloud say to the way onto a pod, and what sshd on the pod is told. Pure."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from git import Repo

from pushtrain.cloud import Pod, SshAddress
from pushtrain.errors import LedgerUnavailable, SshError
from pushtrain.events import Event
from pushtrain.pod.ssh import authorized, sshd_config
from pushtrain.record import RunRecord
from pushtrain.ssh.endpoint import check_way_in, pod_of, way
from pushtrain.ssh.reach import Seams, reach
from pushtrain.ssh.session import open_line

RUN = "job-0123abcd-0123abcd"
DOOR = {"host_key": "ssh-ed25519 AAAA", "user": "root", "keys": ["SHA256:x"], "folder": "/workspace"}
POD = Pod(
    id="p1", name="x", status="RUNNING", gpu="", gpu_count=1, usd_per_hour=0.4, data_center=None, uptime_s=5,
    created_at=None,
    ssh_direct=SshAddress(host="1.2.3.4", port=1022, user="root"),
    ssh_proxy=SshAddress(host="ssh.runpod.io", port=22, user="p1-abc"),
)  # fmt: skip


def record(*states: str, ssh: object = DOOR, receipt: bool = False) -> RunRecord:
    events = tuple(
        Event(
            seq=number, time="2026-01-01T00:00:00Z", state=state, writer="pod", attempt=1, reason="", message="",
            data={"pod": "p1", "pod_id": "p1", "ssh": ssh}, prev=None, digest="",
        )
        for number, state in enumerate(states, 1)
    )  # fmt: skip
    return RunRecord(
        run_id=RUN, tip="", spec=b"", run={}, events=events, result=None, receipt={} if receipt else None, paths={}
    )


def reason(found: RunRecord, pod: Pod = POD) -> str:
    with pytest.raises(SshError) as refused:
        pod_of(found)
        way(found, pod)
    assert refused.value.hint
    return refused.value.reason


def test_each_state_of_a_run_has_a_reason_of_its_own() -> None:
    assert reason(record("claimed", "provisioned", "booting", "destroying")) == "RunOver"
    assert reason(record("claimed", "provisioned", "closed", receipt=True)) == "RunOver"
    assert reason(record("claimed", "waiting")) == "NoPod"
    assert reason(record("claimed", "provisioned", "booting", "lost")) == "NoPod"
    assert reason(record("claimed", "provisioned")) == "NotUpYet"
    assert reason(record("provisioned", "booting"), replace(POD, uptime_s=None)) == "NotUpYet"
    assert reason(record("provisioned", "booting"), replace(POD, ssh_direct=None)) == "NotMapped"
    assert reason(record("provisioned", "booting", ssh=None)) == "SshOff"
    assert reason(record("provisioned", "booting", ssh={"off": "NoKeys", "why": "no key"})) == "NoKeys"
    no_proxy = replace(POD, ssh_proxy=None)
    assert reason(record("provisioned", "booting", ssh={"off": "NoPort", "why": "x"}), no_proxy) == "NoPort"


def test_a_cloud_without_ssh_says_so_with_what_to_do_instead() -> None:
    def refused(cloud: str) -> SshError:
        with pytest.raises(SshError) as caught:
            check_way_in(replace(record("provisioned", "booting"), run={"cloud": cloud}), "sb-17")
        return caught.value

    assert refused("modal").reason == "NoWayIn" and "is at Modal" in str(refused("modal"))
    assert "`modal shell sb-17`" in str(refused("modal").hint) and "modal volume ls" in str(refused("modal").hint)
    assert "console" in str(refused("jarvislabs").hint)
    for cloud in ("runpod", "vast", "lambda"):
        check_way_in(replace(record("provisioned", "booting"), run={"cloud": cloud}), "x")


def test_the_ledger_gives_the_host_key_and_the_cloud_the_address() -> None:
    found = way(record("provisioned", "booting", "training"), POD)
    assert (found.host, found.port, found.user, found.host_key) == ("1.2.3.4", 1022, "root", "ssh-ed25519 AAAA")
    by_proxy = way(record("provisioned", "booting", ssh={"off": "NoSshd", "why": "x"}), POD)
    assert by_proxy.proxy and by_proxy.user == "p1-abc" and by_proxy.host_key == ""


def test_only_public_keys_are_let_in() -> None:
    good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBQr me@here"
    taken = authorized(f'command="rm" {good}\n\n{good}\nnonsense\n# {good}\n')
    assert list(taken.values()) == [good] and next(iter(taken)).startswith("SHA256:")


def test_the_shells_get_the_environment_but_what_sshd_cannot_carry() -> None:
    text = sshd_config(Path("/f"), "root", {"A": "b c", "QUOTE": 'x"y', "LINES": "a\nb", "PUBLIC_KEY": "k", "PWD": "/"})
    assert 'SetEnv "A=b c"\n' in text
    assert "PasswordAuthentication no" in text and "UsePAM no" in text


@pytest.mark.parametrize(("was_connected", "least_s"), [(False, 0), (True, 7)])
def test_a_laptop_that_woke_up_without_a_network_waits_for_it(
    tmp_path: Path, was_connected: bool, least_s: float
) -> None:
    with Repo.init(tmp_path) as repo:
        repo.create_remote("origin", "http://127.0.0.1:9/nobody.git")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RUNPOD_API_KEY": "key"}
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += 3 * seconds

    line = open_line(tmp_path, environ, lambda text: None)
    seams = Seams(say=lambda text: None, clock=lambda: now[0], sleep=wait)
    with pytest.raises(LedgerUnavailable):
        reach(line.cloud, line.ledger, "job", seams, wait_s=7, through_gaps=was_connected)
    assert least_s <= now[0] <= least_s + 3

"""`pushtrain tunnel`: ports of a pod on this machine, over a lost connection, a lost pod and a machine that slept."""

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from git import Repo
from ssh_world import has_door, needs_clients
from whole import World

from pushtrain.errors import SshError, UsageError
from pushtrain.pod.processes import descendants
from pushtrain.ssh.endpoint import Endpoint
from pushtrain.ssh.forwards import Forward, is_free, read_forwards, settle
from pushtrain.ssh.reach import Seams
from pushtrain.ssh.session import open_line
from pushtrain.ssh.tunnel import Tunnel

pytest_plugins = ("whole", "ssh_world")
pytestmark = pytest.mark.timeout(600)


def test_ports_as_a_person_writes_them() -> None:
    assert read_forwards(["6006", "8000:80"]) == [
        Forward(here=6006, there=6006, is_exact=False),
        Forward(here=8000, there=80, is_exact=True),
    ]


@pytest.mark.parametrize("texts", [["http"], ["0"], ["70000"], ["8000:"], ["6006", "6006:1"], ["-1"]])
def test_what_is_no_port_is_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError):
        read_forwards(texts)


def test_a_port_that_is_taken_becomes_the_next_free_one_unless_both_are_named() -> None:
    said: list[str] = []
    free = {6008, 7000}.__contains__
    asked = read_forwards(["6006", "7000"])
    assert [it.here for it in settle(asked, free, said.append)] == [6008, 7000]
    assert said == ["port 6006 is taken here: 6008 instead"]
    with pytest.raises(SshError, match="port 6006 is taken"):
        settle(read_forwards(["6006:6006"]), free, said.append)


def test_a_port_is_free_when_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not is_free(taken.getsockname()[1])


def test_a_new_tunnel_asks_twice_a_second_and_a_minute_later_every_two(tmp_path: Path) -> None:
    Repo.init(tmp_path).close()
    environ = {"RUNPOD_API_KEY": "a-key", "PUSHTRAIN_SOURCE_URL": "file:///nowhere.git", "HOME": str(tmp_path)}
    line, asked, now_s = open_line(tmp_path, environ, lambda text: None), list[float](), [0.0]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds

    def ask(url: str) -> str:
        asked.append(now_s[0])
        return ""

    tunnel = Tunnel(
        line=replace(line, seams=Seams(say=lambda text: None, clock=lambda: now_s[0], sleep=sleep)),
        name="job",
        forwards=read_forwards(["6006"]),
        is_over=lambda: now_s[0] >= 60,
        ask=ask,
        wall=lambda: now_s[0],
    )
    found = Endpoint(run_id="r", attempt=1, pod_id="p", host="h", port=22, user="root", host_key="k")
    client = subprocess.Popen(["sleep", "600"])
    try:
        tunnel._watch(client, found, 0.0)
    finally:
        client.kill()
        client.wait()
    steps = [after - before for before, after in pairwise(asked)]
    assert [it for it in steps if it not in (0.5, 2.0)] == []
    assert sum(it == 0.5 for it in steps) == 20 and asked[20] == 10.0 and asked[0] == 0.0
    assert steps[20:] == [2.0] * len(steps[20:]) and len(steps) > 40


class Held:
    """A tunnel in a thread, to one port of the guest's pod. `asleep_s` moves its clock of the wall."""

    def __init__(self, guest: World, there: int) -> None:
        self.asleep_s = 0.0
        self.opened: list[str] = []
        self.said: list[str] = []
        self._over = threading.Event()
        (self.forward,) = settle(read_forwards([str(there)]), is_free, self.said.append)
        self.tunnel = Tunnel(
            line=open_line(guest.repository, guest.env, self.said.append),
            name="job",
            forwards=[self.forward],
            open_url=self.opened.append,
            is_over=self._over.is_set,
            wall=lambda: time.time() + self.asleep_s,
        )
        self._thread = threading.Thread(target=self.tunnel.hold, kwargs={"wait_s": 30})
        self._thread.start()

    def until(self, ready: Callable[[], object], timeout_s: float = 180.0) -> None:
        give_up = time.monotonic() + timeout_s
        while not ready():
            assert time.monotonic() < give_up and self._thread.is_alive(), self.said
            time.sleep(0.05)

    def answers(self, times: int) -> Callable[[], bool]:
        return lambda: sum(f"{self.forward.url} answers" in text for text in self.said) >= times

    def close(self) -> None:
        self._over.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


def serve(guest: World, port: int) -> None:
    """Something that answers by HTTP on the pod, as TensorBoard would."""
    line = f"nohup python3 -m http.server --bind 127.0.0.1 {port} > /dev/null 2>&1 < /dev/null &"
    assert guest.cli("ssh", "job", "--", line).returncode == 0


@needs_clients
def test_a_tunnel_is_made_again_after_a_cut_a_sleep_and_the_next_pod(guest: World) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve(guest, port)
    held = Held(guest, port)
    try:
        held.until(held.answers(1))
        assert held.forward.here != port, "the pod shares this machine, so its port is taken here"
        assert held.opened == [held.forward.url]
        (client,) = [pid for pid in descendants(os.getpid()) if _is_client(pid)]
        os.kill(client, signal.SIGKILL)
        held.until(held.answers(2))
        held.asleep_s = 60.0
        held.until(held.answers(3))
        assert any("this machine slept" in text for text in held.said)
        guest.simulator.fault("lost_pod", seconds=0.0)
        guest.until(lambda record: has_door(record) and record.last.attempt == 2)
        serve(guest, port)
        held.until(held.answers(4))
    finally:
        held.close()


@needs_clients
def test_a_port_that_is_open_to_everybody_is_named_with_its_public_address(guest: World) -> None:
    said: list[str] = []
    line = open_line(guest.repository, guest.env, said.append)
    (forward,) = read_forwards(["18188:8188"])
    public = "https://p1-8188.proxy.runpod.net"
    opened: list[str] = []
    tunnel = Tunnel(line=line, name="job", forwards=[forward], open_url=opened.append, ask=lambda url: "HTTP 200")
    found, _ = line.reach("job", wait_s=30)
    tunnel._ask_all(replace(found, urls=(("8188/http", public),)))
    tunnel._ask_all(replace(found, urls=(("8188/http", public),)))
    assert opened == [forward.url]
    assert [text.partition(" ")[0] for text in said] == [forward.url, public]
    assert "no password" in said[1]


def _is_client(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return command[0] == b"ssh" and b"-N" in command


@needs_clients
def test_ctrl_c_closes_it_and_the_pod_goes_on(guest: World) -> None:
    port = 20000 + os.getpid() % 10000
    started = guest.start_cli("tunnel", "job", str(port))
    assert started.stderr is not None
    lines = iter(started.stderr.readline, "")
    assert any(re.search("nothing listens on port", line) for line in lines)
    started.send_signal(signal.SIGINT)
    assert "the pod goes on" in started.stderr.read()
    assert started.wait(20) == 0

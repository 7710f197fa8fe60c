"""sshd on the pod: who gets in and with what, and that nobody who is logged in keeps a pod alive."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pod_bench import HF_TOKEN, LEDGER_TOKEN, Bench
from ssh_world import needs_clients

from infra.simulator import ssh_ports
from infra.simulator.ssh_ports import free_port, programs, write_sshd
from pushtrain.pod.ssh import ASKED, open_door

pytestmark = needs_clients
# A shell that hears neither the end of its terminal nor a request to end.
DEAF = "trap '' HUP TERM; echo in; while :; do sleep 1; done"
MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(steps: str, **more: float) -> Bench:
        made.append(Bench(tmp_path, steps, **more))
        return made[-1]

    yield make
    for bench in made:
        bench.close()
        end_sshd(bench)


def end_sshd(bench: Bench) -> None:
    """A real sshd writes its title over the environment by which a bench finds what is its own."""
    if not (port := bench.folder / "port").exists():
        return
    for program in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"-p {port.read_text()} -o ListenAddress".encode() in program.read_bytes().replace(b"\0", b" "):
                os.kill(int(program.parent.name), signal.SIGKILL)


class Guest:
    """Somebody with a key, and a port that stands for 22."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self.port = bench, free_port()
        (bench.folder / "port").write_text(str(self.port))
        self.key = bench.folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True, timeout=150)
        write_sshd(bench.folder, self.port)
        bench.start(
            PUSHTRAIN_SSH="1",
            PUBLIC_KEY=self.key.with_name("key.pub").read_text(),
            RUNPOD_TCP_PORT_22=str(self.port),
            PATH=f"{programs(bench.folder)}:{bench.env['PATH']}",
        )
        bench.wait(lambda: "booting" in bench.states(), "first event")
        (hello,) = (it for it in bench.record().events if it.state == "booting")
        self.told = hello.data["ssh"]

    def argv(self, command: str) -> list[str]:
        hosts = self._bench.folder / "hosts"
        hosts.write_text(f"pod {self.told['host_key']}\n")
        options = [f"UserKnownHostsFile={hosts}", "HostKeyAlias=pod", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes"]
        options += ["BatchMode=yes", "GlobalKnownHostsFile=/dev/null"]
        flags = ["-F", "none", *(part for option in options for part in ("-o", option)), "-i", str(self.key)]
        return ["ssh", *flags, "-p", str(self.port), f"{self.told['user']}@127.0.0.1", command]

    def run(self, command: str) -> str:
        done = subprocess.run(self.argv(command), capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stay(self) -> "subprocess.Popen[str]":
        inside = subprocess.Popen(self.argv(DEAF), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert inside.stdout is not None and inside.stdout.readline() == "in\n"
        return inside


@pytest.mark.parametrize("is_real", [True, False], ids=["sshd", "stand-in"])
def test_a_person_gets_in_with_the_host_key_of_the_ledger_and_sees_the_run(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, is_real: bool
) -> None:
    if is_real and not any(Path(path).exists() for path in ssh_ports._PROGRAMS):
        pytest.skip("there is no sshd on this machine")
    if not is_real:
        monkeypatch.setattr(ssh_ports, "_PROGRAMS", ())
    bench = make_bench("talk 60")
    guest = Guest(bench)
    names = "$PUSHTRAIN_RUN_ID/$HF_TOKEN/$PUSHTRAIN_LEDGER_TOKEN/$RUNPOD_API_KEY/$PUSHTRAIN_WORKSPACE"
    assert guest.run(f'echo "{names}"').strip() == f"{bench.run.id}/{HF_TOKEN}///{bench.workspace}"
    assert guest.run("printf 'a\\0b' | od -An -c").split() == ["a", "\\0", "b"]
    stranger = bench.folder / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True, timeout=150)
    guest.key = stranger
    refused = subprocess.run(guest.argv("true"), capture_output=True, text=True, timeout=150, check=False)
    assert refused.returncode == 255 and "Permission denied (publickey)" in refused.stderr
    written = b"".join(path.read_bytes() for path in (bench.folder / "tmp").rglob("*") if path.is_file())
    assert HF_TOKEN.encode() not in written and LEDGER_TOKEN.encode() not in written


def test_a_pod_with_somebody_logged_in_ends_at_its_deadline(make_bench: MakeBench) -> None:
    bench = make_bench("talk 600", deadline_s=8)
    guest = Guest(bench)
    inside = guest.stay()
    assert time.time() < bench.deadline and inside.poll() is None
    bench.wait_until_terminated()
    assert bench.terminations[0] <= bench.deadline + float(bench.env["PUSHTRAIN_GRACE_S"]) + 60
    assert inside.wait(60) == 255
    assert not any("echo in;" in line for line in bench.processes().values()), "nobody is left inside"


def test_a_run_that_ends_does_not_wait_for_who_is_logged_in(make_bench: MakeBench) -> None:
    bench = make_bench("talk 4\nresult x")
    guest = Guest(bench)
    inside = guest.stay()
    bench.wait(lambda: "finished" in bench.states(), "end of the run")
    ended = time.time()
    bench.wait_until_terminated()
    assert bench.terminations[0] - ended < float(bench.env["PUSHTRAIN_GRACE_S"]), "a deaf shell would have had it all"
    assert inside.wait(60) == 255


def test_without_a_key_a_port_or_an_sshd_the_run_goes_on_and_says_it_in_a_line(make_bench: MakeBench) -> None:
    bench = make_bench("result x")
    bench.start(PUSHTRAIN_SSH="1")
    bench.wait_until_terminated()
    assert bench.states()[-1] == "finished"
    (hello,) = (it for it in bench.record().events if it.state == "booting")
    assert hello.data["ssh"]["off"] == "NoKeys"
    assert bench.ledger_text("logs").count("nobody can log in") == 1


def test_an_sshd_that_ends_before_it_reads_its_configuration_is_quoted(tmp_path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True, timeout=150
    )
    (tmp_path / "sshd").write_text("#!/bin/sh\nexec 0<&-\necho 'library not found' >&2\nexit 127\n")
    (tmp_path / "sshd").chmod(0o755)
    environ = {
        ASKED: "1",
        "RUNPOD_TCP_PORT_22": "1",
        "PUBLIC_KEY": (tmp_path / "key.pub").read_text(),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    said: list[str] = []
    more_than_a_pipe_holds = {"BIG": "x" * 200_000}
    door = open_door(environ, more_than_a_pipe_holds, workspace=tmp_path, programs=tmp_path, say=said.append)
    assert door.told == {"off": "NoSshd", "why": "nobody can log in: the image has no sshd (library not found)"}
    assert said == [f"ssh: {door.told['why']}"]

"""Which engine it is, and the CLI as a process: found or missed clearly, never waited for without an end."""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.engines import engine_line, select
from infra.pulumi_cli import MINIMUM, PulumiCli
from infra.pulumi_lock import Calls, Owner
from pushtrain.errors import EngineError


def test_the_engine_is_the_one_named_or_the_one_at_hand_and_never_another(tmp_path: Path) -> None:
    bare = {"PATH": str(tmp_path / "empty")}
    with_cli = {"PATH": str(_cli(tmp_path, f"echo v{MINIMUM}").parent)}
    assert engine_line(select(bare, state_dir=tmp_path / "s")) == f"engine: embedded, state in {tmp_path / 's'}"
    assert engine_line(select(with_cli, state_dir=tmp_path / "s")) == (
        f"engine: pulumi {MINIMUM}, state in {(tmp_path / 's' / 'pulumi').as_uri()}"
    )
    assert select({**with_cli, "PUSHTRAIN_ENGINE": "embedded"}, state_dir=tmp_path).name == "embedded"
    with pytest.raises(EngineError, match="not on PATH") as refused:
        select({**bare, "PUSHTRAIN_ENGINE": "pulumi"}, state_dir=tmp_path)
    assert "PUSHTRAIN_ENGINE=embedded" in (refused.value.hint or "")
    with pytest.raises(EngineError, match="terraform"):
        select({**with_cli, "PUSHTRAIN_ENGINE": "terraform"}, state_dir=tmp_path)


def test_the_state_backend_is_shown_without_its_key(tmp_path: Path) -> None:
    environ = {
        "PATH": str(_cli(tmp_path, f"echo v{MINIMUM}").parent),
        "PULUMI_BACKEND_URL": "s3://key:canary-secret-key@bucket?region=auto",
    }
    assert engine_line(select(environ, state_dir=tmp_path)).endswith("state in s3://***@bucket?region=auto")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo v3.100.0", r"is version 3\.100\.0"),
        (f"echo v{MINIMUM}-dev.0", "is version .*-dev"),
        ("echo hello", "does not say its version: it says 'hello' and exits with 0"),
        ("echo canary >&2; exit 3", "it says 'canary' and exits with 3"),
        ("exit 3", "it says 'nothing'"),
        ("sleep 60", "said nothing for 0.5 s"),
    ],
)
def test_a_cli_that_cannot_be_used_is_refused_before_anything_happens(script: str, said: str, tmp_path: Path) -> None:
    path = f"{_cli(tmp_path, script).parent}:{os.environ['PATH']}"
    with pytest.raises(EngineError, match=said) as refused:
        PulumiCli({"PATH": path}, version_timeout_s=0.5)
    assert str(MINIMUM) in (refused.value.hint or "") and "setup-pulumi" in (refused.value.hint or "")


def test_a_newer_cli_is_taken_also_an_unfinished_one(tmp_path: Path) -> None:
    newer = f"{MINIMUM.bump_minor()}-alpha.1"
    assert str(PulumiCli({"PATH": str(_cli(tmp_path, f"echo v{newer}").parent)}).version) == newer


def test_a_file_that_is_no_program_is_named(tmp_path: Path) -> None:
    cli = _cli(tmp_path, "echo v1")
    cli.write_bytes(b"\x7fELF of another machine")
    with pytest.raises(EngineError, match="bin/pulumi does not start: Exec format error"):
        PulumiCli({"PATH": str(cli.parent)})
    cli.chmod(0o644)
    with pytest.raises(EngineError, match="bin/pulumi is not executable"):
        PulumiCli({"PATH": str(cli.parent)})


def test_a_cli_that_never_ends_is_interrupted(tmp_path: Path) -> None:
    says_version = f'[ "$1" = version ] && echo v{MINIMUM} && exit'
    saves_when_interrupted = f'trap "kill \\$!; echo saved >> {tmp_path}/log; exit 1" INT; sleep 60 & wait'
    script = f"{says_version}\n{saves_when_interrupted}"
    cli = PulumiCli({"PATH": f"{_cli(tmp_path, script).parent}:{os.environ['PATH']}"}, timeout_s=0.5)
    with pytest.raises(EngineError, match="'pulumi up' took more than"):
        cli.run(["up"], str(tmp_path), {})
    assert (tmp_path / "log").read_text() == "saved\n"


def test_a_killed_cli_leaves_no_process_and_its_call_on_record(tmp_path: Path) -> None:
    """Its provider runs in a process group of its own, and would wait for ever."""
    provider = f"setsid sleep 60 > /dev/null 2>&1 & echo $! > {tmp_path}/provider"
    script = f'[ "$1" = version ] && echo v{MINIMUM} && exit\n{provider}\nsleep 0.2; kill -9 $$'
    calls = Calls(tmp_path / "calls")
    cli = PulumiCli({"PATH": f"{_cli(tmp_path, script).parent}:{os.environ['PATH']}"}, calls)
    with pytest.raises(EngineError, match=r"'pulumi up' was killed \(SIGKILL\)"):
        cli.run(["up", "--stack", "s"], str(tmp_path), {})
    _wait_until(lambda: not _alive(int((tmp_path / "provider").read_text())), "the provider is gone", 10)
    (record,) = (tmp_path / "calls").iterdir()
    pid = json.loads(record.read_text())["process"]["pid"]
    assert calls.is_dead("s", Owner(user="x", host=socket.gethostname(), pid=pid, since_s=None))


def _cli(tmp_path: Path, script: str) -> Path:
    """A program called pulumi that does what `script` says."""
    path = tmp_path / "bin" / "pulumi"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = 150.0) -> None:
    gives_up = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < gives_up, f"never: {what}"
        time.sleep(0.05)

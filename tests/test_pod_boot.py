"""The exact commit, the locked environment and one child of the agent."""

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pod_bench import context_of, make_source, run_git, wait_for

from pushtrain.errors import LedgerError, RunFailed
from pushtrain.pod.boot import fetch_commit
from pushtrain.pod.child import Heartbeat, LogFile, StopRequest, Watch, run_child
from pushtrain.pod.environment import prepare_environment, trainer_env


@pytest.fixture
def git_home(tmp_path: Path) -> dict[str, str]:
    names = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    return path | names | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}


def test_a_server_that_refuses_single_commits_is_fetched_whole(tmp_path: Path, git_home: dict[str, str]) -> None:
    bare, commit = make_source(tmp_path / "source", "result", git_home)
    work = str(tmp_path / "source" / "work")
    run_git("-C", work, "commit", "-q", "--allow-empty", "-m", "later", env=git_home)
    run_git("-C", work, "push", "-q", str(bare), "HEAD", env=git_home)
    context = context_of(source_url=f"file://{bare}", commit=commit, workspace=tmp_path / "volume")
    old = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.version", "GIT_CONFIG_VALUE_0": "0"}
    checkout = fetch_commit(context, git_home | old, sleep=_no_sleep)
    assert run_git("-C", str(checkout), "rev-parse", "HEAD", env=git_home) == commit
    assert (checkout / ".git" / "refs" / "remotes").exists() or (checkout / ".git" / "packed-refs").exists()
    assert not (checkout / ".git" / "shallow").exists(), "the whole history came, not one commit"


def test_only_the_commit_is_fetched_and_an_intact_checkout_is_used_again(
    tmp_path: Path, git_home: dict[str, str]
) -> None:
    bare, commit = make_source(tmp_path / "source", "result", git_home)
    context = context_of(source_url=f"file://{bare}", commit=commit, workspace=tmp_path / "volume")
    checkout = fetch_commit(context, git_home, sleep=_no_sleep)
    assert (checkout / ".git" / "shallow").exists() and checkout == context.checkout
    bare.rename(bare.with_name("gone.git"))
    assert fetch_commit(context, git_home, sleep=_no_sleep) == checkout
    (checkout / "jobs" / "fake.yaml").write_text("tampered")
    with pytest.raises(LedgerError):
        fetch_commit(context, git_home, sleep=_no_sleep)
    bare.with_name("gone.git").rename(bare)
    assert fetch_commit(context, git_home, sleep=_no_sleep) == checkout
    assert (checkout / "jobs" / "fake.yaml").read_text() == "result"
    assert [path.name for path in checkout.parent.iterdir()] == [commit], "no half-fetched folder stays"


def test_a_remote_that_comes_back_is_tried_again_with_growing_pauses(tmp_path: Path, git_home: dict[str, str]) -> None:
    bare, commit = make_source(tmp_path / "source", "result", git_home)
    away = bare.with_name("away.git")
    bare.rename(away)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            away.rename(bare)

    context = context_of(source_url=f"file://{bare}", commit=commit, workspace=tmp_path / "volume")
    assert fetch_commit(context, git_home, sleep=sleep).is_dir()
    assert pauses == [1, 2, 4]


def _no_sleep(seconds: float) -> None:
    return None


def test_the_environment_is_installed_by_uv_from_the_lock_without_any_secret(tmp_path: Path) -> None:
    tools, seen = tmp_path / "bin", tmp_path / "seen"
    tools.mkdir()
    (tools / "uv").write_text(f'#!/bin/sh\necho "$@" >> {seen}\nenv >> {seen}\n[ $(grep -c sync {seen}) -gt 1 ]\n')
    (tools / "uv").chmod(0o755)
    names = ("HF_TOKEN", "PUSHTRAIN_LEDGER_TOKEN", "RUNPOD_API_KEY", "AWS_SECRET_ACCESS_KEY", "GOOGLE_CREDENTIALS")
    secrets = dict.fromkeys(names, "canary-secret")
    context = context_of(workspace=tmp_path / "volume", tick_s=0.01, extras=("s3",))

    def run(argv: Any, env: Mapping[str, str]) -> int:
        return subprocess.run(argv, env=dict(env), check=False).returncode

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tools}:/usr/bin:/bin")
        environ = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path), **secrets}
        python = prepare_environment(context, environ, run, disk=tmp_path)
    text = seen.read_text()
    assert python == str(tmp_path / "pushtrain-venv" / "bin" / "python")
    assert text.count("sync --frozen --no-dev --no-install-project") == 2, "the first try failed"
    assert text.count("--extra trainer") == text.count("--extra=s3") == 2
    assert f"UV_PROJECT_ENVIRONMENT={tmp_path}/pushtrain-venv" in text and "UV_LINK_MODE=copy" in text
    assert f"UV_CACHE_DIR={tmp_path}/volume/.cache/uv" in text and "canary-secret" not in text


def test_of_a_command_only_what_starts_it_is_installed(tmp_path: Path) -> None:
    asked: list[str] = []
    context = context_of(workspace=tmp_path, task="command")

    def run(argv: Any, env: Mapping[str, str]) -> int:
        asked.append(" ".join(argv))
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.which", lambda name: f"/bin/{name}")
        prepare_environment(context, {"HOME": str(tmp_path)}, run, disk=tmp_path)
    assert asked == ["/bin/uv sync --frozen --no-dev --no-install-project --compile-bytecode"]


def test_an_environment_that_cannot_be_installed_fails_the_run(tmp_path: Path) -> None:
    context = context_of(workspace=tmp_path, tick_s=0.001)
    with pytest.raises(RunFailed) as caught:
        prepare_environment(context, {"HOME": str(tmp_path)}, lambda argv, env: 1, disk=tmp_path)
    assert caught.value.reason == "EnvironmentFailed"


def test_the_trainer_gets_the_hub_token_and_no_other_secret() -> None:
    secrets = ("HF_TOKEN", "PUSHTRAIN_LEDGER_TOKEN", "PUSHTRAIN_SOURCE_TOKEN", "RUNPOD_API_KEY")
    env = trainer_env(context_of(), dict.fromkeys(secrets, "canary-secret") | {"CUDA_VERSION": "13"})
    assert {name for name, value in env.items() if value == "canary-secret"} == {"HF_TOKEN"}
    assert env["HF_HOME"] == "/workspace/.cache/huggingface" and env["CUDA_VERSION"] == "13"
    caches = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH")
    assert all(env[name].startswith("/workspace/.cache/") for name in caches), "what is compiled is compiled once"


def test_nothing_of_a_child_is_left_and_its_output_is_redacted(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "trainer.log", {"HF_TOKEN": "canary-secret-1"})
    heartbeat = Heartbeat(tmp_path / "heartbeat")
    watch = Watch(heartbeat=heartbeat, stop=StopRequest(None), grace_s=1, tick_s=0.02)
    code = "import subprocess; p = subprocess.Popen(['sleep', '60']); print('canary-secret-1', p.pid, flush=True)"
    assert run_child([sys.executable, "-c", code], {}, tmp_path, watch=watch, out=log) == 0
    mask, pid = (tmp_path / "trainer.log").read_text().split()
    assert mask == "***"
    wait_for(lambda: _is_gone(int(pid)))
    assert (tmp_path / "heartbeat").exists()


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_small_trickle_of_bytes_is_no_sign_of_life(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path / "heartbeat")
    code = "import time\nwhile True: open('/dev/null', 'wb').write(b'x' * 1000); time.sleep(0.01)"
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.3)
        heartbeat.look(child.pid)
        (tmp_path / "heartbeat").unlink()
        for _ in range(20):
            time.sleep(0.02)
            heartbeat.look(child.pid)
        assert not (tmp_path / "heartbeat").exists()
    finally:
        child.kill()
        child.wait()

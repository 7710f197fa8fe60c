"""The program, the provider behind it, and the line its errors cross the CLI on."""

import asyncio
import base64
import contextvars
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pulumi
import pytest
from engine_world import HF_CANARY, World
from pulumi.runtime.stack import run_pulumi_func

from infra.border import decode, encode
from infra.operations import VolumeOperations, operations_of
from infra.program import program
from infra.provider import NetworkVolumeProvider, PodProvider
from pushtrain.errors import (
    CloudUnavailable,
    EngineError,
    LeakError,
    NoCapacity,
    PushtrainError,
    RequestRejected,
    SpecError,
)

pytest_plugins = ("engine_fixtures",)
ROOT = Path(__file__).parents[1]
_GIT_ENV = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


@pytest.mark.parametrize("provider", [NetworkVolumeProvider(), PodProvider()])
def test_a_provider_is_stored_as_a_reference_to_an_installed_module(provider: Any) -> None:
    stored = base64.b64decode(pulumi.dynamic.dynamic.serialize_provider(provider))
    assert len(stored) < 100, "code or settings went into the state"
    assert type(pickle.loads(stored)) is type(provider)
    assert not vars(provider) and provider.serialize_as_secret_always is False


def test_the_program_names_secrets_and_holds_none(stack_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stack_world.environ.items():
        monkeypatch.setenv(name, value)
    declared = _declared(stack_world)
    assert [(it["type"], it["name"]) for it in declared] == [
        ("pulumi-python:dynamic/pushtrain:NetworkVolume", "volume"),
        ("pulumi-python:dynamic/pushtrain:Pod", "pod"),
    ]
    volume, pod = (it["inputs"] for it in declared)
    assert volume == {"cloud": "runpod", "name": f"{stack_world.prefix}-v", "size_gb": 20, "data_center": "EU-SE-1"}
    assert pod["volume_id"] == "id-of-volume", "the pod does not take its volume from the stack"
    assert pod["secret_env"] == ["HF_TOKEN", "PUSHTRAIN_LEDGER_TOKEN", "NOT_SET_ANYWHERE"]
    assert HF_CANARY not in str(declared) and stack_world.environ["RUNPOD_API_KEY"] not in str(declared)


@pytest.mark.parametrize(
    "error",
    [
        NoCapacity("no NVIDIA A40\nin EU-SE-1", hint="later, or another [GPU]"),
        RequestRejected("422: $.gpu: wrong"),
        SpecError("unknown cloud 'moon'", where="jobs/x.yaml:1:2", hint="the only cloud so far is 'runpod'"),
        EngineError("locked", reason="StackLocked"),
        LeakError("pod abc: still there"),
    ],
)
def test_an_error_crosses_the_cli_with_class_reason_message_and_hint(error: PushtrainError) -> None:
    line = encode(error)
    assert "\n" not in line
    back = decode(
        f"Updating (s):\n    Traceback (most recent call last):\n    infra.border.Encoded: {line}\nResources:\n"
    )
    assert type(back) is type(error)
    assert (str(back), back.reason, back.hint) == (" ".join(str(error).split()), error.reason, error.hint)


def test_what_is_not_an_error_of_ours_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decode("pushtrain[Exception]: no\npushtrain[redact]: no\nerror: NoCapacity: no") is None
    monkeypatch.setenv("HF_TOKEN", HF_CANARY)
    assert HF_CANARY not in encode(RequestRejected(f"the body had {HF_CANARY}"))


def test_a_volume_held_by_a_pod_is_tried_again_with_patience_that_ends(stack_world: World) -> None:
    volume = stack_world.cloud.create_volume(stack_world.plan().volume)
    waits: list[float] = []
    operations = VolumeOperations(sleep=waits.append)
    stack_world.simulator.fault("volume_busy", times=3, volume_name=volume.name)
    operations.delete(stack_world.cloud, volume.id)
    assert waits == [1, 2, 4]
    assert not stack_world.live()

    volume = stack_world.cloud.create_volume(stack_world.plan().volume)
    stack_world.simulator.fault("volume_busy", times=None, volume_name=volume.name)
    waits.clear()
    with pytest.raises(CloudUnavailable):
        operations.delete(stack_world.cloud, volume.id)
    assert 60 < sum(waits) < 120
    stack_world.clear_faults()
    operations.delete(stack_world.cloud, volume.id)


def test_deleting_by_name_takes_that_name_and_no_longer_one(stack_world: World) -> None:
    first, tenth = stack_world.plan(attempt=1), stack_world.plan(attempt=10)
    volumes = [replace(first.volume, name=name) for name in (first.volume.name, f"{first.volume.name}2")]
    kept = [stack_world.cloud.create_pod(tenth.pod).name, stack_world.cloud.create_volume(volumes[1]).name]
    stack_world.cloud.create_pod(first.pod)
    stack_world.cloud.create_volume(volumes[0])
    for kind, wanted in (("Pod", first.pod), ("NetworkVolume", first.volume)):
        operations_of(kind).delete_by_name(stack_world.cloud, {"name": wanted.name})
        operations_of(kind).delete_by_name(stack_world.cloud, {"name": wanted.name})
    assert [it.name for it in (*stack_world.live().pods, *stack_world.live().volumes)] == kept


def test_pulumi_preview_by_hand_shows_the_stack_of_a_spec_and_up_by_hand_is_refused(
    tmp_path: Path, stack_world: World
) -> None:
    if shutil.which("pulumi") is None:
        pytest.skip("pulumi CLI not on PATH: Pulumi.yaml was not tried")
    project = _checkout(tmp_path)
    environ = {
        **stack_world.environ,
        "PATH": f"{project / 'bin'}:{Path(sys.executable).parent}:{stack_world.environ['PATH']}",
        "RUNPOD_API_BASE_URL": "http://127.0.0.1:9",
        "UV_PROJECT_ENVIRONMENT": sys.prefix,
        "PULUMI_HOME": str(tmp_path / "pulumi-home"),
        "PULUMI_BACKEND_URL": tmp_path.as_uri(),
        "PULUMI_CONFIG_PASSPHRASE": "",
        "PULUMI_SKIP_UPDATE_CHECK": "1",
        "PUSHTRAIN_SPEC": "jobs/demo.yaml",
    }

    def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["pulumi", "--non-interactive", *arguments]
        return subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, timeout=150)

    assert cli("stack", "init", "by-hand").returncode == 0
    shown = cli("preview")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "NetworkVolume volume create" in shown.stdout and "Pod pod create" in shown.stdout
    refused = cli("up", "--yes", "--skip-preview")
    assert refused.returncode != 0 and "preview only" in refused.stdout
    environ["PUSHTRAIN_SPEC"] = "jobs/nowhere.yaml"
    wrong = cli("preview")
    assert "jobs/nowhere.yaml: is not there" in wrong.stdout and "Traceback" not in wrong.stdout


def _declared(stack_world: World) -> list[dict[str, Any]]:
    """The resources the program registers, with the inputs Pulumi's engine would get."""
    seen: list[dict[str, Any]] = []

    class Recorder(pulumi.runtime.Mocks):
        def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[str, Any], None]:
            raise AssertionError(f"the program called {args.token}")

        def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
            inputs = {name: value for name, value in args.inputs.items() if name != "__provider"}
            seen.append({"type": args.typ, "name": args.name, "inputs": inputs})
            return f"id-of-{args.name}", inputs

    async def run() -> None:
        pulumi.runtime.set_mocks(Recorder(), "pushtrain", stack_world.stack)
        await run_pulumi_func(program(stack_world.plan()))

    contextvars.copy_context().run(asyncio.run, run())
    return seen


def _checkout(tmp_path: Path) -> Path:
    """A repository with what `pulumi preview` reads. Its `uv` only says its version: tests install nothing."""
    project = tmp_path / "project"
    for name in ("Pulumi.yaml", "pyproject.toml", "uv.lock", "infra/__main__.py", "jobs/demo.yaml"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    uv = project / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "uv 0.9.0"\nexit 0\n')
    uv.chmod(0o755)
    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.invalid", "-c", "init.defaultBranch=main"]
    for arguments in (
        ["init", "-q"],
        ["add", "-A"],
        ["commit", "-qm", "A job"],
        ["remote", "add", "origin", "https://example.invalid/owner/name.git"],
    ):
        subprocess.run([*git, *arguments], cwd=project, env=_GIT_ENV, check=True, timeout=150)
    return project

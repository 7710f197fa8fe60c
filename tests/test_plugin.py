"""RunPod's own Pulumi plugin as the provider: who may choose it, what it is given, what its errors mean.

What it does is in tests/test_engine.py and tests/test_plugin_runs.py, where CLI and plugin are on PATH.
"""

import asyncio
import contextvars
from pathlib import Path
from typing import Any

import pulumi
import pytest
from engine_world import HF_CANARY, LEDGER_CANARY, stack_plan
from pulumi.runtime.stack import run_pulumi_func

from infra.engines import select
from infra.plugin import Found, PluginProgram
from infra.plugin_errors import decode
from infra.program import program
from pushtrain.cloud import Pod, Volume
from pushtrain.errors import (
    CloudAuthFailed,
    CloudUnavailable,
    EngineError,
    NoBalance,
    NoCapacity,
    PushtrainError,
    RequestRejected,
)

KEY = "canary-secret-account-key"
ENVIRON = {
    "PUSHTRAIN_RUNPOD_PROVIDER": "pulumi-runpod",
    "RUNPOD_API_KEY": KEY,
    "RUNPOD_API_BASE_URL": "http://127.0.0.1:9/v2/",
    "HF_TOKEN": HF_CANARY,
    "PUSHTRAIN_LEDGER_TOKEN": LEDGER_CANARY,
}


def test_only_two_providers_have_a_name_and_the_plugin_needs_the_cli(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="'runpod' is no provider") as refused:
        program(stack_plan("pt-x"), {"PUSHTRAIN_RUNPOD_PROVIDER": "runpod"})
    assert "pushtrain" in (refused.value.hint or "") and "pulumi-runpod" in (refused.value.hint or "")
    for environ in ({}, {"PUSHTRAIN_RUNPOD_PROVIDER": ""}, {"PUSHTRAIN_RUNPOD_PROVIDER": "pushtrain"}):
        assert not isinstance(program(stack_plan("pt-x"), environ), PluginProgram)
    with pytest.raises(EngineError, match="embedded carries no Pulumi plugin out") as refused:
        select({**ENVIRON, "PUSHTRAIN_ENGINE": "embedded"}, state_dir=tmp_path)
    assert "PUSHTRAIN_ENGINE=pulumi" in (refused.value.hint or "")
    with pytest.raises(EngineError, match="'rest' is no provider"):
        select({"PUSHTRAIN_RUNPOD_PROVIDER": "rest", "PUSHTRAIN_ENGINE": "embedded"}, state_dir=tmp_path)


def test_a_plugin_that_is_not_there_is_said_with_the_command_that_installs_it(tmp_path: Path) -> None:
    home = tmp_path / "pulumi-home"
    environ = {
        **ENVIRON,
        "PATH": str(_tool(tmp_path, "pulumi")),
        "PULUMI_HOME": str(home),
        "PUSHTRAIN_ENGINE": "pulumi",
    }
    with pytest.raises(EngineError, match=r"runpod 0\.1\.5 is not installed") as refused:
        select(environ, state_dir=tmp_path)
    assert refused.value.hint == (
        "pulumi plugin install resource runpod 0.1.5 --server github://api.github.com/runpod/pulumi-runpod"
    )
    _tool(home / "plugins" / "resource-runpod-v0.1.5", "pulumi-resource-runpod", folder="")
    with pytest.raises(EngineError, match="nothing encrypts it") as refused:
        select(environ, state_dir=tmp_path)
    assert "PULUMI_CONFIG_PASSPHRASE" in (refused.value.hint or "")
    for given in (
        {"PULUMI_CONFIG_PASSPHRASE": "p"},
        {"PULUMI_CONFIG_PASSPHRASE_FILE": __file__},
        {"PULUMI_BACKEND_URL": "https://api.pulumi.com", "PULUMI_ACCESS_TOKEN": "t"},
    ):
        assert select({**environ, **given}, state_dir=tmp_path).name == "pulumi"


def test_the_plugin_gets_the_same_plan_and_the_program_the_same_exports() -> None:
    plan = stack_plan("pt-x", ports=("22/tcp", "8888/http"))
    (provider, volume, pod), exports = _declared(PluginProgram(plan=plan, environ=ENVIRON))
    assert (provider["type"], provider["inputs"]) == (
        "pulumi:providers:runpod",
        {"apiUrl": "http://127.0.0.1:9/graphql", "apiKey": _secret(KEY)},
    )
    assert (volume["type"], volume["inputs"]) == (
        "runpod:index:NetworkVolume",
        {"name": "pt-x-v", "size": 20, "dataCenterId": "EU-SE-1"},
    )
    env = {"PUSHTRAIN_RUN_ID": "pt-x", "HF_TOKEN": HF_CANARY, "PUSHTRAIN_LEDGER_TOKEN": LEDGER_CANARY}
    assert (pod["type"], pod["inputs"]) == (
        "runpod:index:Pod",
        {
            "name": "pt-x-a1",
            "imageName": "pushtrain/test:1",
            "gpuTypeId": "NVIDIA A40",
            "gpuCount": 1,
            "cloudType": "SECURE",
            "dataCenterId": "EU-SE-1",
            "containerDiskInGb": 20,
            "volumeInGb": 0,
            "networkVolumeId": "id-of-volume",
            "volumeMountPath": "/workspace",
            "dockerArgs": "sleep 60",
            "env": _secret(env),
            "ports": "22/tcp,8888/http",
        },
    )
    assert set(exports) == {
        "run_id",
        "volume_id",
        "volume_data_center",
        "pod_id",
        "pod_name",
        "usd_per_hour",
        "data_center",
    }
    assert KEY not in repr(PluginProgram(plan=stack_plan("pt-x"), environ=ENVIRON))
    with pytest.raises(CloudAuthFailed):
        PluginProgram(plan=stack_plan("pt-x"), environ={})()


def test_the_plugin_takes_no_template_whose_rules_only_rest_tells() -> None:
    with pytest.raises(EngineError, match=r"compute\.template"):
        PluginProgram(plan=stack_plan("pt-x", template="tpl1"), environ=ENVIRON)()


def test_what_exists_beside_the_state_is_named_and_not_declared() -> None:
    volume = Volume(id="vol1", name="pt-x-v", size_gb=20, data_center="EU-SE-1")
    pod = Pod(
        id="pod1",
        name="pt-x-a1",
        status="RUNNING",
        gpu="NVIDIA A40",
        gpu_count=1,
        usd_per_hour=0.4,
        data_center="EU-SE-1",
        uptime_s=None,
        created_at=None,
    )
    found = Found(volume=volume, pod=pod)
    declared, exports = _declared(PluginProgram(plan=stack_plan("pt-x"), environ=ENVIRON, found=found))
    assert [it["type"] for it in declared] == ["pulumi:providers:runpod"]
    assert exports == {
        "run_id": "pt-x",
        "volume_id": "vol1",
        "volume_data_center": "EU-SE-1",
        "pod_id": "pod1",
        "pod_name": "pt-x-a1",
        "usd_per_hour": 0.4,
        "data_center": "EU-SE-1",
    }


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (
            "input: podFindAndDeployOnDemand There are no longer any instances available with the requested "
            "specifications. Please refresh and try again.",
            NoCapacity,
        ),
        ("input: podFindAndDeployOnDemand This machine does not have the resources to deploy your pod.", NoCapacity),
        ("input: podFindAndDeployOnDemand Your account balance is too low to rent a pod. Please add funds.", NoBalance),
        ("input: podFindAndDeployOnDemand Something went wrong. Please try again later.", CloudUnavailable),
        ("input: deleteNetworkVolume You must remove this network volume from all pods before it.", CloudUnavailable),
        ("input: createNetworkVolume a network volume has 10 to 4096 GB", RequestRejected),
        ('returned error 401: {"title":"Unauthorized"}', CloudAuthFailed),
        ('returned error 410: {"title":"Gone"}', RequestRejected),
        ('returned error 429: {"title":"Too Many Requests"}', CloudUnavailable),
        ("returned error 502: <html><body>502 Bad Gateway</body></html>", CloudUnavailable),
        ('returned error 400: {"errors":[{"message":"Cannot query field"}]}', RequestRejected),
        ('Post "http://127.0.0.1:9/graphql": EOF', CloudUnavailable),
        ('Post "http://127.0.0.1:9/graphql": dial tcp 127.0.0.1:9: connect: connection refused', CloudUnavailable),
        ('Post "https://api.runpod.io/graphql": context deadline exceeded', CloudUnavailable),
    ],
)
def test_an_error_of_the_plugin_is_sorted_by_what_to_do_next(said: str, error: type[PushtrainError]) -> None:
    text = f"  runpod:index:Pod (pod):\n    error: {said}\n  pulumi:pulumi:Stack (s):\n    error: update failed\n"
    found = decode(text, "creating pod pt-x-a1 (1 x NVIDIA A40)")
    assert type(found) is error and "NVIDIA A40" in str(found) and found.hint
    assert said.removeprefix("input: ").partition(" ")[2][:20] in str(found)


def test_what_is_not_the_plugins_error_is_not_decoded() -> None:
    for text in (
        "Diagnostics:\n  pulumi:pulumi:Stack (s):\n    error: update failed\n",
        "  runpod:index:Pod (pod):\n    error: resource 'pod' is protected\n",
        '  pulumi:pulumi:Stack (s):\n    error: Post "https://s3": connection refused\n',
        "error: no resource plugin 'pulumi-resource-runpod' found in the workspace",
        "error: an unhandled error occurred: Program failed with an unhandled exception: ValueError: input wrong",
        "error: passphrase must be set with PULUMI_CONFIG_PASSPHRASE or PULUMI_CONFIG_PASSPHRASE_FILE",
        "input: not an error line",
    ):
        assert decode(text) is None, text


def _declared(declare: PluginProgram) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The resources the program registers, with the inputs Pulumi's engine would get, and its exports."""
    seen: list[dict[str, Any]] = []
    exports: dict[str, Any] = {}

    class Recorder(pulumi.runtime.Mocks):
        def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[str, Any], None]:
            raise AssertionError(f"the program called {args.token}")

        def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
            seen.append({"type": args.typ, "name": args.name, "inputs": dict(args.inputs)})
            return f"id-of-{args.name}", {**args.inputs, "costPerHr": 0.4}

    async def run() -> None:
        pulumi.runtime.set_mocks(Recorder(), "pushtrain", "run-pt-x")
        await run_pulumi_func(declare)
        root = pulumi.runtime.get_root_resource()
        for name, value in root.outputs.items():
            exports[name] = await pulumi.Output.from_input(value).future()

    contextvars.copy_context().run(asyncio.run, run())
    return seen, exports


def _secret(value: Any) -> dict[str, Any]:
    """How a secret crosses Pulumi's wire."""
    return {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "value": value}


def _tool(tmp_path: Path, name: str, folder: str = "bin") -> Path:
    """A folder with a program of this name, which says a version; returns the folder."""
    path = tmp_path / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\necho v3.999.0\n")
    path.chmod(0o755)
    return path.parent

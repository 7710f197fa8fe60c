"""RunPod's own plugin at work, with the real CLI: what it leaves open is closed. Skipped where it is not on PATH."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from engine_world import HF_CANARY, LEDGER_CANARY, PLUGIN, World

from infra.engine_pulumi import PulumiEngine
from infra.engines import select
from infra.simulator.server import SimulatorConfig, start
from pushtrain.engine import Engine
from pushtrain.errors import CloudUnavailable, EngineError

CHOSEN = {**PLUGIN, "PUSHTRAIN_ENGINE": "pulumi"}
pytest_plugins = ("engine_fixtures",)
pytestmark = pytest.mark.skipif(
    shutil.which("pulumi") is None or shutil.which("pulumi-resource-runpod") is None,
    reason="pulumi and pulumi-resource-runpod are not both on PATH: RunPod's own plugin was not tried",
)


@pytest.fixture
def stack_world(stack_world: World) -> World:
    return replace(stack_world, environ={**stack_world.environ, **CHOSEN})


@pytest.fixture
def engine(stack_world: World, tmp_path: Path) -> Engine:
    return select(stack_world.environ, state_dir=tmp_path / "state")


def test_a_pod_whose_answer_is_lost_is_found_and_its_late_twin_is_ended(engine: Engine, stack_world: World) -> None:
    stack_world.simulator.fault("error_after_create", operation="create_pod")
    outputs = engine.up(stack_world.stack, stack_world.program())
    (pod,), (volume,) = stack_world.live().pods, stack_world.live().volumes
    assert (outputs["pod_id"], outputs["volume_id"]) == (pod.id, volume.id)
    assert outputs["usd_per_hour"] == pytest.approx(pod.usd_per_hour) and outputs["data_center"] == "EU-SE-1"
    assert len(stack_world.ever()) == 2, "something was created twice"

    plan = stack_world.plan()
    for path, body in (
        ("/v2/pods", {"name": plan.pod.name, "image": "x", "gpu": {"id": "NVIDIA A40"}, "cloud": "SECURE"}),
        ("/v2/network-volumes", {"name": plan.volume.name, "size": 10, "dataCenter": "EU-SE-1"}),
    ):
        stack_world.simulator.request("POST", path, json=body).raise_for_status()
    assert engine.up(stack_world.stack, stack_world.program()) == outputs
    assert [it.id for it in (*stack_world.live().pods, *stack_world.live().volumes)] == [pod.id, volume.id]
    second = engine.up(stack_world.stack, stack_world.program(stack_world.plan(attempt=2)))
    assert [it.id for it in (*stack_world.live().pods, *stack_world.live().volumes)] == [second["pod_id"], volume.id]
    engine.destroy(stack_world.stack)
    assert not stack_world.live() and engine.outputs(stack_world.stack) == {}


def test_a_volume_whose_answer_is_lost_is_used_and_goes_with_the_stack(engine: Engine, stack_world: World) -> None:
    stack_world.simulator.fault("lost_answer", operation="create_volume")
    outputs = engine.up(stack_world.stack, stack_world.program())
    (pod,), (volume,) = stack_world.live().pods, stack_world.live().volumes
    assert (outputs["pod_id"], outputs["volume_id"]) == (pod.id, volume.id)
    assert len(stack_world.ever()) == 2, "something was created twice"
    engine.destroy(stack_world.stack)
    assert not stack_world.live()


def test_a_pod_that_shows_other_settings_is_not_reset(engine: Engine, stack_world: World) -> None:
    outputs = engine.up(stack_world.stack, stack_world.program())
    edit = {
        "podId": outputs["pod_id"],
        "imageName": "pushtrain/test:1",
        "containerDiskInGb": 20,
        "dockerArgs": "sleep 9",
    }
    body = {
        "query": "mutation E($input: PodEditJobInput!) { podEditJob(input: $input) { id } }",
        "variables": {"input": edit},
    }
    assert "errors" not in stack_world.simulator.request("POST", "/graphql", json=body).json()
    assert engine.up(stack_world.stack, stack_world.program()) == outputs
    shown = stack_world.simulator.request("GET", f"/v2/pods/{outputs['pod_id']}").json()
    assert shown["args"] == "sleep 9", "the plugin edited a running pod"
    second = engine.up(stack_world.stack, stack_world.program(stack_world.plan(attempt=2, env={"NEW": "1"})))
    shown = stack_world.simulator.request("GET", f"/v2/pods/{second['pod_id']}").json()
    assert shown["args"] == "sleep 60" and shown["env"]["NEW"] == "1" and "PUSHTRAIN_RUN_ID" not in shown["env"]


def test_a_run_keeps_its_provider_and_either_one_destroys_it(
    engine: Engine, stack_world: World, tmp_path: Path
) -> None:
    plain = {name: value for name, value in stack_world.environ.items() if name not in PLUGIN}
    ours = replace(stack_world, environ=plain)
    passphrase = {"PULUMI_CONFIG_PASSPHRASE": PLUGIN["PULUMI_CONFIG_PASSPHRASE"]}
    other = select({**plain, **passphrase}, state_dir=tmp_path / "state")
    for makes, world, goes_on, other_world in ((engine, stack_world, other, ours), (other, ours, engine, stack_world)):
        makes.up(world.stack, world.program())
        before = world.ever()
        with pytest.raises(EngineError, match="cannot go on with") as refused:
            goes_on.up(world.stack, other_world.program(world.plan(attempt=2)))
        assert refused.value.reason == "OtherProvider"
        assert world.ever() == before
        goes_on.destroy(world.stack)
        assert not world.live()


def test_after_a_change_of_key_and_address_a_run_goes_on_with_its_volume_and_is_destroyed(tmp_path: Path) -> None:
    """Both stand in the state, where Pulumi would go on with the old ones, and replace the volume for the new ones."""

    def account(key: str) -> Iterator[World]:
        simulator = start(SimulatorConfig(state_dir=tmp_path / "account", port=_free_port(), api_key=key))
        environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **simulator.env(), **CHOSEN}
        world = World(simulator=simulator, environ=environ, prefix="pt-changed")
        world.clear_faults()
        try:
            yield world
        finally:
            simulator.stop(stop_pods=False)

    for world in account("canary-secret-first-key"):
        first = select(world.environ, state_dir=tmp_path / "state").up(world.stack, world.program())
    for world in account("canary-secret-second-key"):
        engine = select(world.environ, state_dir=tmp_path / "state")
        second = engine.up(world.stack, world.program(world.plan(attempt=2)))
        assert second["volume_id"] == first["volume_id"] and second["pod_id"] != first["pod_id"]
        assert [it.id for it in (*world.live().pods, *world.live().volumes)] == [second["pod_id"], second["volume_id"]]
    for world in account("canary-secret-third-key"):
        engine = select(world.environ, state_dir=tmp_path / "state")
        engine.destroy(world.stack)
        assert not world.live() and engine.outputs(world.stack) == {}
    kept = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
    assert b"canary-secret" not in kept


def test_no_secret_is_in_clear_and_a_volume_still_held_is_tried_again(
    engine: Engine, stack_world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = [str(engine.preview(stack_world.stack, stack_world.program()))]
    said.append(str(engine.up(stack_world.stack, stack_world.program())))
    said.append(str(engine.preview(stack_world.stack, stack_world.program(stack_world.plan(attempt=2)))))
    stack_world.simulator.fault("http_502", operation="create_pod", times=None)
    assert isinstance(engine, PulumiEngine)
    with pytest.raises(CloudUnavailable) as failed:
        engine.up(stack_world.stack, stack_world.program(stack_world.plan(attempt=2)))
    said += [str(failed.value), str(engine.outputs(stack_world.stack)), json.dumps(engine.export(stack_world.stack))]
    said += [path.read_text(errors="replace") for path in (tmp_path / "state").rglob("*") if path.is_file()]
    said += list(capfd.readouterr())
    assert any("runpod:index:Pod" in text for text in said), "no state was looked at"
    for secret in _secrets(stack_world):
        for text in said:
            assert secret not in text
    stack_world.clear_faults()
    stack_world.simulator.fault("volume_busy", times=2, volume_name=f"{stack_world.prefix}-v")
    engine.destroy(stack_world.stack)
    assert not stack_world.live()


def _secrets(world: World) -> tuple[str, ...]:
    return HF_CANARY, LEDGER_CANARY, world.environ["RUNPOD_API_KEY"], world.environ["PULUMI_CONFIG_PASSPHRASE"]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])

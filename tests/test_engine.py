"""One contract over two engines, two stores of state, and RunPod's own plugin. What is not on PATH is skipped."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from engine_world import HF_CANARY, LEDGER_CANARY, PLUGIN, World, stack_plan
from s3_server import Bucket, bucket

from infra.engines import engine_line, select
from pushtrain.cloud import VolumeRequest
from pushtrain.engine import Change, Engine
from pushtrain.errors import CloudAuthFailed, EngineError, NoCapacity
from pushtrain.run import KEPT_PREFIX

pytest_plugins = ("engine_fixtures",)


BUCKET_CANARY = "canary-secret-bucket-key"


@pytest.fixture(params=["embedded", "pulumi", "pulumi on s3", "pulumi-runpod"])
def member(request: pytest.FixtureRequest) -> str:
    if request.param != "embedded" and shutil.which("pulumi") is None:
        pytest.skip("pulumi CLI not on PATH: the contract was checked for the embedded engine only")
    if request.param == "pulumi-runpod" and shutil.which("pulumi-resource-runpod") is None:
        pytest.skip("pulumi-resource-runpod not on PATH: the contract was not checked for RunPod's own plugin")
    return str(request.param)


@pytest.fixture
def store(member: str) -> Iterator[Bucket | None]:
    with ExitStack() as stack:
        on_s3 = member == "pulumi on s3"
        made = stack.enter_context(bucket(access_key="AKIAEXAMPLE", secret_key=BUCKET_CANARY)) if on_s3 else None
        yield made
        assert made is None or not made.refused


@pytest.fixture
def stack_world(stack_world: World, member: str, store: Bucket | None) -> World:
    chosen = {"PUSHTRAIN_ENGINE": "embedded" if member == "embedded" else "pulumi"}
    if member == "pulumi-runpod":
        chosen |= PLUGIN
    if store is not None:
        chosen |= store.environ()
    return replace(stack_world, environ={**stack_world.environ, **chosen})


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def files(store: Bucket | None, state_dir: Path) -> Callable[[], dict[str, bytes]]:
    """Every file of the engine's state, but for the one that says how a Pulumi backend is laid out."""

    def look() -> dict[str, bytes]:
        local = {str(path): path.read_bytes() for path in state_dir.rglob("*") if path.is_file()}
        kept = local if store is None else local | store.objects
        return {name: raw for name, raw in kept.items() if ".pulumi/meta.yaml" not in name}

    return look


@pytest.fixture
def engine(stack_world: World, state_dir: Path) -> Engine:
    return select(stack_world.environ, state_dir=state_dir)


def test_up_makes_what_preview_promised_and_a_second_up_writes_nothing(
    engine: Engine, stack_world: World, state_dir: Path
) -> None:
    declared = stack_world.program()
    both_new = [
        Change(action="create", kind="NetworkVolume", urn_name="volume"),
        Change(action="create", kind="Pod", urn_name="pod"),
    ]
    assert engine.preview(stack_world.stack, declared) == both_new
    assert not state_dir.exists(), "preview of a new stack left something behind"
    assert not stack_world.ever(), "preview created something"

    outputs = engine.up(stack_world.stack, declared)
    (pod,), (volume,) = stack_world.live().pods, stack_world.live().volumes
    assert pod.ports == ("8888/http", "22/tcp")
    assert outputs == {
        "run_id": stack_world.prefix,
        "volume_id": volume.id,
        "volume_data_center": "EU-SE-1",
        "pod_id": pod.id,
        "pod_name": f"{stack_world.prefix}-a1",
        "usd_per_hour": pytest.approx(pod.usd_per_hour),
        "data_center": "EU-SE-1",
    }
    assert outputs["usd_per_hour"] > 0
    (mounted,) = (it["volume_id"] for it in stack_world.ever() if it["id"] == pod.id)
    assert mounted == volume.id

    before = stack_world.ever()
    assert engine.up(stack_world.stack, declared) == outputs
    assert stack_world.ever() == before
    assert engine.outputs(stack_world.stack) == outputs


def test_a_kept_volume_is_mounted_and_nothing_of_the_stack(engine: Engine, stack_world: World) -> None:
    name = f"{KEPT_PREFIX}{stack_world.prefix}"
    kept = stack_world.cloud.create_volume(VolumeRequest(name=name, size_gb=10, data_center="EU-SE-1"))
    plans = [
        replace(stack_world.plan(attempt=attempt, volume_id=kept.id, data_center="EU-SE-1"), volume=None)
        for attempt in (1, 2)
    ]
    assert [it.kind for it in engine.preview(stack_world.stack, stack_world.program(plans[0]))] == ["Pod"]
    for plan in plans:
        outputs = engine.up(stack_world.stack, stack_world.program(plan))
        (pod,) = stack_world.live().pods
        assert (pod.id, pod.volume_id, outputs["data_center"]) == (outputs["pod_id"], kept.id, "EU-SE-1")
        assert "volume_id" not in outputs and stack_world.live().volumes == ()
    engine.destroy(stack_world.stack)
    assert not stack_world.live() and stack_world.cloud.read_volume(kept.id) == kept
    stack_world.cloud.delete_volume(kept.id)


def test_a_new_attempt_replaces_the_pod_and_keeps_the_volume(engine: Engine, stack_world: World) -> None:
    first = engine.up(stack_world.stack, stack_world.program(stack_world.plan(attempt=1)))
    kept = Change(action="same", kind="NetworkVolume", urn_name="volume")
    assert engine.preview(stack_world.stack, stack_world.program(stack_world.plan(attempt=2))) == [
        kept,
        Change(action="replace", kind="Pod", urn_name="pod"),
    ]
    assert [pod.id for pod in stack_world.live().pods] == [first["pod_id"]], "preview touched the pod"

    second = engine.up(stack_world.stack, stack_world.program(stack_world.plan(attempt=2)))
    assert second["volume_id"] == first["volume_id"]
    assert second["pod_name"] == f"{stack_world.prefix}-a2"
    assert [pod.id for pod in stack_world.live().pods] == [second["pod_id"]]
    assert second["pod_id"] != first["pod_id"]
    pods = {it["id"]: it for it in stack_world.ever() if "ended_at" in it}
    assert pods[first["pod_id"]]["ended_at"] <= pods[second["pod_id"]]["created_at"], "two pods were billed at once"

    between = replace(stack_world.plan(), pod=None)
    assert engine.preview(stack_world.stack, stack_world.program(between)) == [
        kept,
        Change(action="delete", kind="Pod", urn_name="pod"),
    ]
    outputs = engine.up(stack_world.stack, stack_world.program(between))
    assert not stack_world.live().pods
    assert set(outputs) == {"run_id", "volume_id", "volume_data_center"}


def test_destroy_removes_everything_twice_is_once_and_an_unknown_stack_is_success(
    engine: Engine, stack_world: World
) -> None:
    assert engine.outputs(stack_world.stack) == {}
    engine.destroy(stack_world.stack)
    engine.up(stack_world.stack, stack_world.program())
    engine.destroy("run-nobody-ever-made")
    assert stack_world.live()
    engine.destroy(stack_world.stack)
    assert not stack_world.live()
    engine.destroy(stack_world.stack)
    assert engine.outputs(stack_world.stack) == {}


def test_no_capacity_for_the_pod_keeps_its_class_and_leaves_the_volume_to_destroy(
    engine: Engine, stack_world: World
) -> None:
    stack_world.simulator.fault("no_capacity", times=None, pod_name=f"{stack_world.prefix}-*")
    with pytest.raises(NoCapacity) as refused:
        engine.up(stack_world.stack, stack_world.program())
    assert "A40" in str(refused.value)
    assert refused.value.hint
    assert len(stack_world.live().volumes) == 1 and not stack_world.live().pods

    stack_world.clear_faults()
    outputs = engine.up(stack_world.stack, stack_world.program(stack_world.plan(gpu="NVIDIA RTX A6000")))
    assert [pod.id for pod in stack_world.live().pods] == [outputs["pod_id"]]
    assert len(stack_world.live().volumes) == 1

    stack_world.simulator.fault("no_capacity", times=None, pod_name=f"{stack_world.prefix}-*")
    with pytest.raises(NoCapacity):
        engine.up(stack_world.stack, stack_world.program(stack_world.plan(attempt=2)))
    engine.destroy(stack_world.stack)
    assert not stack_world.live()


def test_a_pod_deleted_behind_its_back_is_created_again_by_up(engine: Engine, stack_world: World) -> None:
    first = engine.up(stack_world.stack, stack_world.program())
    stack_world.cloud.terminate(first["pod_id"])
    assert engine.preview(stack_world.stack, stack_world.program()) == [
        Change(action="same", kind="NetworkVolume", urn_name="volume"),
        Change(action="create", kind="Pod", urn_name="pod"),
    ]
    second = engine.up(stack_world.stack, stack_world.program())
    assert [pod.id for pod in stack_world.live().pods] == [second["pod_id"]]
    assert second["pod_id"] != first["pod_id"]
    assert second["volume_id"] == first["volume_id"]
    stack_world.cloud.terminate(second["pod_id"])
    engine.destroy(stack_world.stack)
    assert not stack_world.live()


def test_the_volume_never_becomes_another_one(engine: Engine, stack_world: World) -> None:
    plan = replace(stack_world.plan(), pod=None)
    engine.up(stack_world.stack, stack_world.program(plan))
    before = stack_world.ever()
    moved = replace(plan, volume=replace(plan.volume, data_center="US-KS-2"))
    with pytest.raises(EngineError, match="data_center 'EU-SE-1' → 'US-KS-2'") as refused:
        engine.up(stack_world.stack, stack_world.program(moved))
    assert "new run" in (refused.value.hint or "")
    assert stack_world.ever() == before


def test_a_wrong_key_is_said_as_such_and_no_secret_stays_behind(
    engine: Engine, stack_world: World, state_dir: Path, files: Callable[[], dict[str, bytes]]
) -> None:
    stranger = replace(stack_world, environ={**stack_world.environ, "RUNPOD_API_KEY": "canary-secret-wrong-key"})
    with pytest.raises(CloudAuthFailed) as refused:
        select(stranger.environ, state_dir=state_dir).up(stack_world.stack, stranger.program())
    outputs = engine.up(stack_world.stack, stack_world.program())
    exported = json.dumps(engine.export(stack_world.stack))
    said = f"{refused.value} {refused.value.hint} {outputs} {engine_line(engine)} {exported}"

    pod = stack_world.simulator.request("GET", f"/v2/pods/{outputs['pod_id']}").json()
    assert pod["env"]["HF_TOKEN"] == HF_CANARY and pod["env"]["PUSHTRAIN_LEDGER_TOKEN"] == LEDGER_CANARY
    assert "NOT_SET_ANYWHERE" not in pod["env"]
    written = files()
    assert any(stack_world.prefix.encode() in raw for raw in written.values()), "no state was found to look into"
    keys = ("canary-secret-wrong-key", BUCKET_CANARY, stack_world.environ["RUNPOD_API_KEY"])
    for secret in (HF_CANARY, LEDGER_CANARY, *keys):
        assert secret not in said
        assert not [name for name, raw in written.items() if secret.encode() in raw]


def test_the_export_is_what_the_engine_knows_and_none_for_an_unknown_stack(
    engine: Engine, stack_world: World, files: Callable[[], dict[str, bytes]]
) -> None:
    assert engine.export(stack_world.stack) is None and not files()
    outputs = engine.up(stack_world.stack, stack_world.program())
    text = json.dumps(engine.export(stack_world.stack))
    for known in (outputs["pod_id"], outputs["volume_id"], f"{stack_world.prefix}-a1", f"{stack_world.prefix}-v"):
        assert known in text
    engine.destroy(stack_world.stack)
    assert engine.export(stack_world.stack) is None


def test_destroy_leaves_nothing_of_the_stack_and_of_an_unknown_one_makes_nothing(
    engine: Engine, stack_world: World, state_dir: Path, files: Callable[[], dict[str, bytes]]
) -> None:
    engine.destroy("run-nobody-ever-made")
    assert not files()
    for attempt in (1, 2):
        engine.up(stack_world.stack, stack_world.program(stack_world.plan(attempt=attempt)))
    another = replace(stack_plan(f"{stack_world.prefix}-another"), pod=None)
    engine.up("run-another", stack_world.program(another))
    assert files()
    engine.destroy("run-another")
    engine.destroy(stack_world.stack)
    assert not files()
    leftover = [it.name for it in state_dir.rglob("*") if stack_world.stack in it.name or "run-another" in it.name]
    assert leftover == [], "folders of stacks that are no more pile up"


def test_a_program_that_fails_is_an_engine_error(engine: Engine, stack_world: World) -> None:
    def broken() -> None:
        raise ValueError("canary in the coal mine")

    with pytest.raises(EngineError, match="canary in the coal mine"):
        engine.preview(stack_world.stack, broken)


def test_a_stack_name_that_is_no_file_name_is_refused(engine: Engine, stack_world: World) -> None:
    for call in (engine.outputs, engine.destroy, lambda name: engine.up(name, stack_world.program())):
        with pytest.raises(EngineError, match="stack name"):
            call("../elsewhere")

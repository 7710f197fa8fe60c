"""Where the real CLI keeps its state: an S3-compatible store, a passphrase, and what a service says to a stranger."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_world import World
from pulumi_service import OWNER, service
from s3_server import Bucket, bucket

from infra.engines import select
from infra.program import program
from pushtrain.engine import Engine
from pushtrain.errors import EngineError, StackLocked

pytest_plugins = ("engine_fixtures",)
pytestmark = pytest.mark.skipif(
    shutil.which("pulumi") is None, reason="pulumi CLI not on PATH: state backends and passphrases were not tried"
)
SECRET_KEY = "canary-secret-bucket-key"
TOKEN = "pul-canary0secret0access0token"


@pytest.fixture
def store() -> Iterator[Bucket]:
    with bucket(access_key="AKIAEXAMPLE", secret_key=SECRET_KEY) as made:
        yield made


def engine_of(world: World, tmp_path: Path, **environ: str) -> Engine:
    return select({**world.environ, "PUSHTRAIN_ENGINE": "pulumi", **environ}, state_dir=tmp_path / "state")


def test_a_bucket_holds_the_stack_for_another_machine_and_then_nothing_of_it(
    store: Bucket, stack_world: World, tmp_path: Path
) -> None:
    outputs = engine_of(stack_world, tmp_path / "one", **store.environ()).up(
        stack_world.stack, program(stack_world.plan())
    )
    elsewhere = engine_of(stack_world, tmp_path / "two", **store.environ())
    assert elsewhere.outputs(stack_world.stack) == outputs
    assert any("history" in key for key in store.objects) and any("backups" in key for key in store.objects)
    kept = b"".join(store.objects.values())
    assert outputs["pod_id"].encode() in kept
    for secret in (SECRET_KEY, "AKIAEXAMPLE", "canary-secret"):
        assert secret.encode() not in kept
    elsewhere.destroy(stack_world.stack)
    assert not stack_world.live() and list(store.objects) == [".pulumi/meta.yaml"]
    assert not (tmp_path / "one" / "state").exists() or not list((tmp_path / "one" / "state").rglob("*.json"))


def test_a_lock_in_a_bucket_names_its_owner_without_the_bucket_s_key(
    store: Bucket, stack_world: World, tmp_path: Path
) -> None:
    engine = engine_of(stack_world, tmp_path, **store.environ())
    engine.up(stack_world.stack, program(stack_world.plan()))
    lock = {"pid": 4711, "username": "ci", "hostname": "runner-7", "timestamp": "2026-01-01T00:00:00Z"}
    key = f".pulumi/locks/organization/pushtrain/{stack_world.stack}/abc.json"
    store.objects[key] = json.dumps(lock).encode()
    with pytest.raises(StackLocked, match=r"locked by ci@runner-7 \(process 4711, for \d") as refused:
        engine.destroy(stack_world.stack)
    assert not refused.value.passing and key in store.objects
    hint = refused.value.hint or ""
    assert "pulumi cancel" in hint and store.name in hint and SECRET_KEY not in hint
    del store.objects[key]
    engine.destroy(stack_world.stack)
    assert not stack_world.live()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "canary-secret-wrong-key"}, "does not take the credentials.*SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": "AKIAWRONG"}, "does not take the credentials.*InvalidAccessKeyId"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "does not take the credentials, or there are none"),
        ({"PULUMI_BACKEND_URL": "s3://no-such-bucket"}, "there is no such bucket"),
    ],
    ids=["wrong key", "unknown key", "no key", "no bucket"],
)
def test_a_bucket_that_refuses_is_told_in_one_line(
    changed: dict[str, str], said: str, store: Bucket, stack_world: World, tmp_path: Path
) -> None:
    if "PULUMI_BACKEND_URL" in changed:
        changed = {"PULUMI_BACKEND_URL": store.backend_url.replace("s3://state", "s3://nothing")}
    engine = engine_of(stack_world, tmp_path, **store.environ() | changed)
    with pytest.raises(EngineError, match=said) as refused:
        engine.up(stack_world.stack, program(stack_world.plan()))
    text = f"{refused.value} {refused.value.hint}"
    assert refused.value.reason == "BackendRefused" and "canary" not in text and "\n" not in text
    assert not store.objects and not stack_world.ever()


def test_a_backend_that_is_away_is_told_and_destroys_nothing(stack_world: World, tmp_path: Path) -> None:
    away = {
        "PULUMI_BACKEND_URL": "s3://state?region=auto&endpoint=http://127.0.0.1:1&s3ForcePathStyle=true",
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    }
    for environ in (away, {"PULUMI_BACKEND_URL": "http://127.0.0.1:1", "PULUMI_ACCESS_TOKEN": TOKEN}):
        with pytest.raises(EngineError, match="does not answer") as refused:
            engine_of(stack_world, tmp_path, **environ).destroy(stack_world.stack)
        text = f"{refused.value} {refused.value.hint}"
        assert refused.value.reason == "BackendUnavailable" and "pushtrain sweep" in text
        assert SECRET_KEY not in text and TOKEN not in text


def test_a_service_keeps_the_stack_and_its_lease_is_waited_for(stack_world: World, tmp_path: Path) -> None:
    with service(TOKEN) as made:
        engine = engine_of(stack_world, tmp_path, PULUMI_BACKEND_URL=made.url, PULUMI_ACCESS_TOKEN=TOKEN)
        engine.destroy(stack_world.stack)
        assert made.stacks == {}
        declared = program(stack_world.plan())
        outputs = engine.up(stack_world.stack, declared)
        assert engine.outputs(stack_world.stack) == outputs
        ((name, kept),) = made.stacks.items()
        assert name == f"{OWNER}/pushtrain/{stack_world.stack}"
        exported = json.dumps(engine.export(stack_world.stack))
        assert str(outputs["pod_id"]) in exported
        for secret in ("canary", TOKEN, stack_world.environ["RUNPOD_API_KEY"]):
            assert secret not in json.dumps(kept.deployment) + exported

        kept.running = "update-of-somebody-else"
        for call in (lambda: engine.up(stack_world.stack, declared), lambda: engine.destroy(stack_world.stack)):
            with pytest.raises(StackLocked) as refused:
                call()
            assert refused.value.passing, "a service ends the lease of who is gone by itself"
        kept.running = None
        engine.destroy(stack_world.stack)
        assert made.stacks == {} and not stack_world.live()
        assert made.unknown == []


def test_a_service_that_refuses_the_token_is_told(stack_world: World, tmp_path: Path) -> None:
    with service("another") as made:
        engine = engine_of(stack_world, tmp_path, PULUMI_BACKEND_URL=made.url, PULUMI_ACCESS_TOKEN=TOKEN)
        with pytest.raises(EngineError, match="does not take PULUMI_ACCESS_TOKEN") as refused:
            engine.up(stack_world.stack, program(stack_world.plan()))
        assert refused.value.reason == "BackendRefused" and TOKEN not in f"{refused.value} {refused.value.hint}"
        assert f"token {TOKEN}" in made.shown
    assert not stack_world.ever() and not (tmp_path / "state").exists()


def test_another_passphrase_is_told_and_changes_nothing(stack_world: World, tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("open canary sesame\n")
    from_file = {"PULUMI_CONFIG_PASSPHRASE_FILE": str(tmp_path / "passphrase")}
    declared = program(stack_world.plan())
    outputs = engine_of(stack_world, tmp_path, PULUMI_CONFIG_PASSPHRASE="open canary sesame").up(
        stack_world.stack, declared
    )
    before = _state(tmp_path)
    for other in ({}, {"PULUMI_CONFIG_PASSPHRASE": "canary guess"}):
        engine = engine_of(stack_world, tmp_path, **other)
        for call in (
            lambda engine=engine: engine.up(stack_world.stack, declared),
            lambda engine=engine: engine.preview(stack_world.stack, declared),
            lambda engine=engine: engine.destroy(stack_world.stack),
        ):
            with pytest.raises(EngineError, match="made with another passphrase") as refused:
                call()
            assert refused.value.reason == "WrongPassphrase" and "canary" not in str(refused.value)
    assert _state(tmp_path) == before and stack_world.live().pods[0].id == outputs["pod_id"]
    assert b"canary" not in b"".join(before.values())
    engine_of(stack_world, tmp_path, **from_file).destroy(stack_world.stack)
    assert not stack_world.live()


def _state(tmp_path: Path) -> dict[str, bytes]:
    stacks = tmp_path / "state" / "pulumi" / ".pulumi" / "stacks"
    return {str(path): path.read_bytes() for path in stacks.rglob("*.json")}

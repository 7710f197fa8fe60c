"""What is kept of a stack in the ledger: slim, whole, and never a secret."""

import hashlib
import json
import threading

import pytest
from whole import CANARY, World, end

from infra.state_file import StateFile
from pushtrain.deployment import MAX_BYTES, deployment_file
from pushtrain.errors import EngineError
from pushtrain.gitcmd import git
from pushtrain.reconcile import tick

pytest_plugins = ("whole",)

BOOT = "H4sI" * 6000
SECRETS = {"HF_TOKEN": "canary-secret-of-the-hub", "PULUMI_CONFIG_PASSPHRASE": 'say "canary" \\ secret'}


def exported(**env: str) -> dict[str, object]:
    pod = {"name": "pod", "id": "p1", "inputs": {"env": {"PUSHTRAIN_BOOT": BOOT, **env}, "ports": ["8888/http"]}}
    return {"resources": [pod], "outputs": {"pod_id": "p1"}}


def test_the_file_holds_the_state_but_for_the_boot_archive_whose_digest_it_has() -> None:
    raw = deployment_file("embedded", "run-x", exported(PUSHTRAIN_RUN_ID="x"), {})
    document = json.loads(raw)
    assert (document["engine"], document["stack"]) == ("embedded", "run-x")
    (pod,) = document["state"]["resources"]
    digest = hashlib.sha256(BOOT.encode()).hexdigest()
    assert pod["inputs"]["env"] == {"PUSHTRAIN_BOOT": f"sha256:{digest}", "PUSHTRAIN_RUN_ID": "x"}
    assert pod["inputs"]["ports"] == ["8888/http"] and document["state"]["outputs"] == {"pod_id": "p1"}
    assert len(raw) < 1000


@pytest.mark.parametrize("name", SECRETS)
def test_a_state_that_holds_a_secret_is_refused_by_the_name_of_the_secret(name: str) -> None:
    with pytest.raises(EngineError, match=name) as refused:
        deployment_file("pulumi", "run-x", exported(OTHER=f"x {SECRETS[name]} y"), SECRETS)
    assert refused.value.reason == "SecretInState"
    assert SECRETS[name] not in f"{refused.value} {refused.value.hint}"


def test_what_is_encrypted_stays_out_and_so_does_what_a_passphrase_could_be_tried_on() -> None:
    secret = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "v1:abc:def"}
    state = {
        "deployment": {
            "secrets_providers": {"type": "passphrase", "state": {"salt": "v1:salt:salted"}},
            "resources": [{"inputs": {"apiKey": secret, "name": "pod"}}],
        }
    }
    written = json.loads(deployment_file("pulumi", "run-x", state, {}))
    assert written["state"] == {"deployment": {"resources": [{"inputs": {"apiKey": "[secret]", "name": "pod"}}]}}


def test_what_only_looks_like_a_secret_is_masked_and_too_much_is_refused() -> None:
    raw = deployment_file("pulumi", "run-x", exported(URL="https://me:hunter22@host/x"), {})
    assert json.loads(raw)["state"]["resources"][0]["inputs"]["env"]["URL"] == "https://***@host/x"
    with pytest.raises(EngineError, match=f"the ledger takes {MAX_BYTES}"):
        deployment_file("pulumi", "run-x", exported(LONG="x" * MAX_BYTES), {})


def test_a_closed_run_has_what_its_engine_knew_in_the_ledger(world: World) -> None:
    world.write_job()
    world.push()
    record = world.until(lambda record: record.is_over)
    assert end(record)[0] == "succeeded"
    document = json.loads(_file(world, "deployment.json"))
    assert document["engine"] == "embedded" and document["stack"] == f"run-{record.run_id}"
    volume, pod = document["state"]["resources"]
    assert [volume["id"], pod["id"]] == [*record.receipt["volumes"], *record.receipt["pods"]]  # type: ignore[index]
    assert pod["inputs"]["env"]["PUSHTRAIN_BOOT"].startswith("sha256:")
    assert CANARY not in json.dumps(document)
    world.assert_nothing_left()


def test_a_run_of_another_engine_is_destroyed_by_name_and_the_change_is_said(world: World) -> None:
    world.orders(steps=500, step_s=0.1)
    world.write_job()
    world.push()
    world.until(lambda record: record.last.state == "training")
    world.write_job(more="suspend: true\n")
    world.push()
    control = world.control()
    # Another machine's engine: it has no state of this run, and another name.
    control.engine.state_dir = world.folder / "elsewhere"  # type: ignore[attr-defined]
    control.engine.name = "pulumi"
    done = tick(control)
    (record,) = world.records()
    assert not done.failures and end(record) == ("cancelled", "Suspended")
    assert not control.cloud.find("")
    (line,) = (line for line in world.said if "provisioned by engine embedded, destroyed by pulumi" in line)
    assert f"stack run-{record.run_id}" in line
    assert "deployment.json" not in record.paths
    (world.folder / "state" / "stacks" / f"run-{record.run_id}.json").unlink()
    world.assert_nothing_left()


def test_a_stack_that_somebody_works_on_is_no_failure_and_its_run_goes_on_with_the_next_tick(world: World) -> None:
    world.orders(steps=500, step_s=0.1)
    world.write_job()
    world.push()
    record = world.until(lambda record: record.last.state == "training")
    world.write_job(more="suspend: true\n")
    world.push()
    release, held = threading.Event(), threading.Event()

    def hold() -> None:
        with StateFile(world.folder / "state" / "stacks", f"run-{record.run_id}").locked():
            held.set()
            release.wait(150)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(150)
        done = world.cli("reconcile")
        assert done.returncode == 0, done.stderr
        assert "StackLocked" in done.stderr and "next tick" in done.stderr
        (record,) = world.records()
        assert not record.is_over
        assert not world.control().cloud.find("").pods, "the pod is billed while somebody else is at work"
    finally:
        release.set()
        holder.join(150)
    assert end(world.until(lambda record: record.is_over)) == ("cancelled", "Suspended")
    world.assert_nothing_left()


def _file(world: World, name: str) -> bytes:
    """A file of the only run, as anybody with git reads it."""
    (record,) = world.records()
    return git(["show", f"runs/{record.run_id}:{name}"], env=world.env, cwd=world.folder / "remote.git").stdout

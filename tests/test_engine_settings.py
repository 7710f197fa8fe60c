"""What the Pulumi CLI is given, and what a stack's exported state says: no CLI needed."""

import sys
from pathlib import Path
from typing import Any

import pytest

from infra.pulumi_settings import pulumi_environ
from infra.pulumi_state import half_created, outputs_of, passphrase_salt
from pushtrain.errors import EngineError

TOKEN = "pul-canary0secret0token"


def test_state_is_in_a_local_folder_without_a_passphrase_unless_said_otherwise(tmp_path: Path) -> None:
    made = pulumi_environ({"PULUMI_BACKEND_URL": "", "PULUMI_CONFIG_PASSPHRASE": "", "HF_TOKEN": "x"}, tmp_path)
    assert made["PULUMI_BACKEND_URL"] == tmp_path.as_uri()
    assert made["PULUMI_CONFIG_PASSPHRASE"] == "" and "PULUMI_CONFIG_PASSPHRASE_FILE" not in made
    assert made["HF_TOKEN"] == "x", "the provider needs what a pod is given"
    given = pulumi_environ({"PULUMI_BACKEND_URL": "s3://b", "PULUMI_CONFIG_PASSPHRASE": "p"}, tmp_path)
    assert (given["PULUMI_BACKEND_URL"], given["PULUMI_CONFIG_PASSPHRASE"]) == ("s3://b", "p")


def test_the_provider_runs_on_the_interpreter_that_runs_us(tmp_path: Path) -> None:
    made = pulumi_environ({"PULUMI_PYTHON_CMD": "/usr/bin/python2"}, tmp_path)
    assert made["PULUMI_PYTHON_CMD"] == sys.executable


def test_a_passphrase_file_is_honoured_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("open sesame")
    monkeypatch.chdir(tmp_path)
    made = pulumi_environ({"PULUMI_CONFIG_PASSPHRASE": "", "PULUMI_CONFIG_PASSPHRASE_FILE": "secret"}, tmp_path)
    assert made["PULUMI_CONFIG_PASSPHRASE_FILE"] == str(tmp_path / "secret")
    assert "PULUMI_CONFIG_PASSPHRASE" not in made, "the CLI takes an empty one before it looks for a file"
    with pytest.raises(EngineError, match=r"PULUMI_CONFIG_PASSPHRASE_FILE.*No such file"):
        pulumi_environ({"PULUMI_CONFIG_PASSPHRASE_FILE": "lost"}, tmp_path)


def test_a_service_wants_a_token_and_says_so_before_anything_happens(tmp_path: Path) -> None:
    service = {"PULUMI_BACKEND_URL": "https://api.pulumi.com"}
    with pytest.raises(EngineError, match="PULUMI_ACCESS_TOKEN is not set") as refused:
        pulumi_environ(service | {"PULUMI_ACCESS_TOKEN": ""}, tmp_path)
    assert "unset PULUMI_BACKEND_URL" in (refused.value.hint or "")
    assert pulumi_environ(service | {"PULUMI_ACCESS_TOKEN": TOKEN}, tmp_path)["PULUMI_ACCESS_TOKEN"] == TOKEN
    pulumi_environ(service | {"PULUMI_HOME": str(tmp_path)}, tmp_path)  # who has logged in there
    with pytest.raises(EngineError) as refused:
        pulumi_environ({"PULUMI_BACKEND_URL": f"https://me:{TOKEN}@pulumi.example"}, tmp_path)
    assert TOKEN not in str(refused.value)


def resource(name: str, kind: str = "Pod", resource_id: str | None = None) -> dict[str, Any]:
    made = {"urn": f"urn:{kind}", "type": f"pulumi-python:dynamic/pushtrain:{kind}", "inputs": {"name": name}}
    return made | ({"id": resource_id} if resource_id else {})


def exported(*resources: dict[str, Any], pending: tuple[dict[str, Any], ...] = (), **more: Any) -> dict[str, Any]:
    stack = {"urn": "urn:stack", "type": "pulumi:pulumi:Stack"}
    operations = [{"type": "creating", "resource": it} for it in pending]
    return {"version": 3, "deployment": {"resources": [stack, *resources], "pending_operations": operations, **more}}


@pytest.mark.parametrize(
    ("known", "pending", "left"),
    [
        ([], [], []),
        ([], [resource("v", "NetworkVolume"), resource("a1")], ["a1", "v"]),
        ([resource("a1", resource_id="p1")], [resource("a1")], []),
        ([resource("a2", resource_id="p2")], [resource("a1")], ["a1"]),
        ([resource("a1")], [resource("a1")], ["a1"]),
        ([], [resource("bucket", "Bucket")], []),
    ],
    ids=["nothing", "the last first", "adopted", "another attempt's", "without an id", "not ours"],
)
def test_what_is_half_created_is_what_no_known_resource_accounts_for(
    known: list[dict[str, Any]], pending: list[dict[str, Any]], left: list[str]
) -> None:
    assert [it["inputs"]["name"] for it in half_created(exported(*known, pending=tuple(pending)))] == left


def test_an_operation_that_is_no_create_leaves_nothing_half_created() -> None:
    state = exported()
    state["deployment"]["pending_operations"] = [{"type": "deleting", "resource": resource("a1", resource_id="p1")}]
    assert half_created(state) == [] and half_created({"version": 3, "deployment": None}) == []


def test_the_exports_are_those_of_the_stack_itself() -> None:
    state = exported(resource("a1", resource_id="p1"))
    assert outputs_of(state) == {} and outputs_of({}) == {}
    state["deployment"]["resources"][0]["outputs"] = {"pod_id": "p1"}
    assert outputs_of(state) == {"pod_id": "p1"}


def test_the_salt_is_there_only_where_a_passphrase_keeps_the_secrets() -> None:
    salted = {"type": "passphrase", "state": {"salt": "v1:abc:v1:def"}}
    assert passphrase_salt(exported(secrets_providers=salted)) == "v1:abc:v1:def"
    assert passphrase_salt(exported(secrets_providers={"type": "service", "state": {"url": "x"}})) is None
    assert passphrase_salt(exported()) is None

"""`compute.template`: what it brings, what the spec says over it, and one that is not there."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from climb_world import World

from infra.simulator.state import Pod
from infra.simulator.templates import Template
from pushtrain.check import check
from pushtrain.errors import RequestRejected, SpecError
from pushtrain.plan import plan_specs
from pushtrain.plan.document import document
from pushtrain.policy.file import parse_policy
from pushtrain.policy.rules import violations
from pushtrain.spec import job_spec
from pushtrain.spec.file import parse

TEMPLATE = Template(
    id="tpl1",
    name="with a login",
    image="ghcr.io/me/private:1",
    args="/start.sh",
    disk_gb=500,
    env={"FROM_TEMPLATE": "1", "PUSHTRAIN_TASK": "theirs"},
    ports=("8888/http", "22/tcp"),
    cuda_versions=("12.8",),
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(folder=tmp_path)
    made.runpod.account.templates[TEMPLATE.id] = TEMPLATE
    return made


def pod(world: World) -> Pod:
    (found,) = world.runpod.account.live_pods()
    return found


def test_its_image_and_variables_are_the_pods_and_all_else_is_the_specs(world: World) -> None:
    world.job(more="template: tpl1, disk_gb: 30, ")
    assert world.tick().failures == []
    made = pod(world)
    assert (made.image, made.env["FROM_TEMPLATE"], made.env["PUSHTRAIN_TASK"]) == (TEMPLATE.image, "1", "sft")
    assert (made.disk_gb, made.cuda_version) == (30, "13.0")
    assert not {"8888/http"} & set(made.ports), "nothing of a template is open to the internet unasked"
    assert made.args != TEMPLATE.args and "PUSHTRAIN_BOOT" in made.args
    assert world.record().run["image"] == "the image of template tpl1"


def test_an_image_of_the_spec_wins(world: World) -> None:
    world.job(more="template: tpl1, image: acme/train:2, ")
    world.tick()
    assert pod(world).image == "acme/train:2" and pod(world).env["FROM_TEMPLATE"] == "1"
    assert world.record().run["image"] == "acme/train:2"


@pytest.mark.parametrize("wrong", ["absent", "worker"])
def test_one_that_is_not_there_ends_the_run_at_once_with_nothing_rented(world: World, wrong: str) -> None:
    world.runpod.account.templates["worker"] = Template(id="worker", name="w", image="w", serverless=True)
    world.job(more=f"template: {wrong}, ")
    failure = world.fails(RequestRejected)
    assert failure.reason == "UnknownTemplate" and wrong in str(failure) and failure.hint
    world.tick()
    assert world.record().is_over and world.record().receipt is not None
    assert not world.runpod.account.live_pods() and not world.runpod.account.live_volumes()
    assert [event.reason for event in world.events("failed")] == ["UnknownTemplate"]
    assert not [pod for pod in world.runpod.account.pods.values()], "each rung would have been asked, and billed"


def test_the_other_provider_takes_none_and_nothing_is_claimed(world: World) -> None:
    world.job(more="template: tpl1, ")
    control = world.control()
    control.settings = replace(control.settings, runpod_provider="pulumi-runpod")
    (failure,) = world.tick(control).failures
    line = 1 + world.checkout.jobs["job"].text.decode().partition("template:")[0].count("\n")
    assert isinstance(failure, SpecError) and re.fullmatch(rf"jobs/\w+\.yaml:{line}:\d+", str(failure.where))
    assert "PUSHTRAIN_RUNPOD_PROVIDER=pulumi-runpod" in str(failure) and failure.exit_code == 2
    assert str(failure.hint).startswith("PUSHTRAIN_RUNPOD_PROVIDER=pushtrain")
    assert not control.ledger.refs() and not world.runpod.account.pods
    assert world.tick().failures == [] and pod(world).image == TEMPLATE.image


SPEC: dict[str, object] = {
    "version": 1,
    "name": "job",
    "model": {"id": "org/base", "revision": "0" * 40},
    "data": {"path": "data/x.jsonl"},
    "compute": {"gpus": ["NVIDIA A40"], "template": "tpl1"},
    "budget": {"max_hours": 1, "max_usd": 1},
    "publish": {"repo": "org/job"},
}


def test_check_and_plan_say_what_nobody_knows_yet(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    (tmp_path / "jobs" / "job.yaml").write_text(json.dumps(SPEC))
    (warning,) = check([], tmp_path).warnings
    assert "compute.template tpl1 is read when a pod is made: its image" in warning
    made, problems = plan_specs([], tmp_path, {"HF_HUB_OFFLINE": "1"})
    assert not problems
    (plan,) = made.plans
    assert [it.message for it in plan.cautions if it.reason == "Template" and "may change" in it.message]
    assert not [it for it in plan.cautions if it.reason == "ImageWithoutDigest"]
    assert "the image of template tpl1" in json.dumps(document(made))


def test_strict_and_a_policy_of_images_want_the_image_in_the_spec() -> None:
    with pytest.raises(ValueError, match=r"compute\.template 'tpl1' may name another image"):
        job_spec(SPEC | {"strict": True})
    pinned = {"gpus": ["NVIDIA A40"], "template": "tpl1", "image": "acme/train@sha256:" + "0" * 64}
    assert job_spec(SPEC | {"strict": True, "compute": pinned}).compute.asked_image == pinned["image"]
    policy = parse_policy(b"version: 1\nimages: ['acme/*']\n")
    for compute, broken in ((SPEC["compute"], ["tpl1"]), (pinned, [])):
        file = parse(json.dumps(SPEC | {"compute": compute}), "jobs/job.yaml")
        assert file.spec is not None
        assert [it.value for it in violations(policy, file.spec, file) if it.rule == "images"] == broken


@pytest.mark.parametrize("wrong", ["", "a b", "x/../y", "a" * 65])
def test_an_id_that_could_be_no_id_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="template"):
        job_spec(SPEC | {"compute": {"gpus": ["NVIDIA A40"], "template": wrong}})

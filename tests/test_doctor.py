"""`doctor`: each line is right or says the fix; the simulator, real git over HTTP and GitHub's API on loopback."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from git_http import GitHost
from huggingface_hub import HfApi
from ssh_world import make_key, register
from whole import CANARY, World

from infra.pulumi_cli import MINIMUM
from infra.pulumi_probe import probe
from infra.simulator.github.api import TOKEN, GitHubServer
from infra.simulator.github.state import REPO
from infra.simulator.others import OTHERS, others_env
from infra.simulator.server import RunningSimulator
from pushtrain.capabilities import CLOUDS
from pushtrain.cli import app
from pushtrain.doctor.finding import Check, Finding, Place, exit_code, text_of
from pushtrain.doctor.look import CHECKS, carried_out, look
from pushtrain.errors import EngineError, LedgerUnavailable

pytest_plugins = ("whole",)
ROOT = Path(__file__).parents[1]
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHVzZWQgZm9yIGEgdGVzdCwgYW5kIG5vdGhpbmcg somebody@else"
POD_TOKEN = CANARY + "ledger"
PERMISSIVE = {"deployment_branch_policy": None, "protection_rules": []}
RULES: list[dict[str, Any]] = [
    {"type": kind, "ruleset_id": 5} for kind in ("pull_request", "non_fast_forward", "deletion")
]


class Scene:
    """A repository at a git host that is also GitHub, its ledger beside it, and an account."""

    def __init__(self, world: World) -> None:
        self.world, self.github = world, GitHubServer()
        served = world.folder / "hosted" / "acme"
        served.mkdir(parents=True)
        for name in ("train.git", "train-runs.git"):
            shutil.copytree(world.folder / "remote.git", served / name)
        self.source = GitHost(world.folder / "hosted", world.env)
        self.ledger = GitHost(world.folder / "hosted", world.env, token=POD_TOKEN)
        self.source.reads_only = True
        self.github.tokens.add(POD_TOKEN)
        self.github.answers |= {
            "GET rules/branches/main": RULES,
            "GET rulesets/5": {"current_user_can_bypass": "never"},
            "GET environments/gpu": {"deployment_branch_policy": {"protected_branches": False}},
            "GET environments/gpu/deployment-branch-policies": {"branch_policies": [{"name": "main"}]},
            "GET environments/gpu/secrets": {"secrets": [{"name": it} for it in _SECRETS]},
            "GET actions/secrets": {"secrets": []},
            "GET actions/variables/PUSHTRAIN_ENABLED": {"value": "true"},
        }
        self.env = (
            world.env
            | self.github.env()
            | {
                "GITHUB_ACTIONS": "",
                "GITHUB_SERVER_URL": self.source.url,
                "PUSHTRAIN_SOURCE_URL": f"{self.source.url}/{REPO}.git",
                "PUSHTRAIN_LEDGER_URL": f"{self.ledger.url}/{REPO}-runs.git",
            }
        )

    def close(self) -> None:
        for it in (self.github, self.source, self.ledger):
            it.close()

    def look(self, **more: str) -> list[Finding]:
        """What doctor finds; never with a secret in it, and nothing of it is left anywhere."""
        found = look(self.world.repository, self.env | more)
        said = json.dumps([it.as_json() for it in found])
        assert CANARY not in said and TOKEN not in said
        assert not [it for it in self.github.seen if not it.startswith("GET ")]
        assert "doctor" not in self.refs("train") + self.refs("train-runs")
        return found

    def refs(self, name: str) -> str:
        return self.world.git("-C", str(self.world.folder / "hosted" / "acme" / f"{name}.git"), "for-each-ref")


_SECRETS = ("RUNPOD_API_KEY", "PUSHTRAIN_LEDGER_TOKEN", "HF_TOKEN")


@pytest.fixture
def scene(world: World, cloud: RunningSimulator) -> Iterator[Scene]:
    world.write_job(more="")
    for name in ("train", "review"):
        world.write(f".github/workflows/{name}.yml", (ROOT / f".github/workflows/{name}.yml").read_text("utf-8"))
    world.write("pushtrain-policy.yaml", "version: 1\nmax_usd_per_run: 5\n")
    world.push()
    HfApi(endpoint=cloud.url, token=world.env["HF_TOKEN"]).create_repo("demo/job", exist_ok=True)
    made = Scene(world)
    yield made
    made.close()


def of(found: list[Finding], check: str, verdict: str = "") -> list[str]:
    return [f"{it.message} | {it.fix}" for it in found if it.check == check and verdict in ("", it.verdict)]


def test_where_all_is_well_every_check_has_a_line_and_none_is_wrong(scene: Scene) -> None:
    found = scene.look()
    assert not [it for it in found if it.verdict == "wrong"], found
    assert {it.check for it in found} == set(CHECKS) - OTHERS.keys(), "a cloud that nobody means is no line"
    assert exit_code(found) == 0
    assert "balance $" in of(found, "runpod", "ok")[1]
    assert any("demo/job can be written to" in it for it in of(found, "hub", "ok"))
    assert any("written and removed" in it for it in of(found, "ledger", "ok"))
    assert any("main is out of its reach" in it for it in of(found, "source", "ok"))
    assert of(found, "branch", "ok") == ["main takes pull requests only | "]
    assert any("gpu is for main alone" in it for it in of(found, "environment", "ok"))
    assert [it.verdict for it in found if it.check == "ledger's Actions"] == ["unknown"]


def test_wrong_keys_are_told_each_with_its_fix_and_the_other_checks_go_on(scene: Scene) -> None:
    wrong = {"RUNPOD_API_KEY": CANARY + "other", "HF_TOKEN": CANARY + "none", "PUSHTRAIN_LEDGER_TOKEN": CANARY + "no"}
    scene.github.tokens.clear()
    found = scene.look(**wrong)
    for check in ("runpod", "hub", "ledger", "branch", "environment"):
        assert of(found, check, "wrong"), check
    assert all(it.fix for it in found if it.verdict == "wrong"), found
    assert of(found, "jobs", "ok") and of(found, "workflows", "ok") and of(found, "engine", "ok")
    assert exit_code(found) == 3


def test_a_pod_s_token_that_can_push_to_main_is_wrong_and_rules_that_hold_are_enough(scene: Scene) -> None:
    scene.source.reads_only = False
    assert any("the rules of main hold for the pod's token" in it for it in of(scene.look(), "source", "ok"))
    scene.github.answers["GET rulesets/5"] = {"current_user_can_bypass": "always"}
    assert any("can push to main" in it and "a ledger of its own" in it for it in of(scene.look(), "source", "wrong"))
    scene.github.answers["GET rules/branches/main"] = []
    scene.github.answers["GET branches/main"] = {"protected": False}
    found = scene.look()
    assert of(found, "source", "wrong") and any("settings/rules/new" in it for it in of(found, "branch", "wrong"))
    scene.github.answers["GET branches/main"] = {"protected": True}
    assert [it.verdict for it in scene.look() if it.check == "branch"] == ["warning"]


def test_an_environment_that_any_branch_may_use_is_wrong_so_is_one_that_is_not_there(scene: Scene) -> None:
    scene.github.answers["GET environments/gpu"] = PERMISSIVE
    scene.github.answers["GET actions/secrets"] = {"secrets": [{"name": "RUNPOD_API_KEY"}]}
    scene.github.answers["GET environments/gpu/secrets"] = {"secrets": [{"name": "HF_TOKEN"}]}
    wrong = of(scene.look(), "environment", "wrong")
    assert [it.split(":")[0].split(" |")[0] for it in wrong] == [
        "every branch may use the environment gpu",
        "gpu has no secret PUSHTRAIN_LEDGER_TOKEN",
        "gpu has no secret RUNPOD_API_KEY",
        "RUNPOD_API_KEY is a secret of the whole repository",
    ]
    del scene.github.answers["GET environments/gpu"]
    (wrong_one,) = of(scene.look(), "environment", "wrong")
    assert "gh api -X PUT repos/acme/train/environments/gpu" in wrong_one


def test_without_a_token_for_github_it_is_unknown_and_how_to_see_it_is_said(scene: Scene) -> None:
    found = scene.look(GITHUB_TOKEN="")
    assert all("gh auth token" in it for it in of(found, "branch", "unknown") + of(found, "environment", "unknown"))
    assert of(found, "branch", "unknown") and exit_code(found) == 0


def test_a_ledger_whose_rules_keep_branches_is_writable_and_the_probe_is_named(scene: Scene) -> None:
    bare = scene.world.folder / "hosted" / "acme" / "train-runs.git"
    scene.world.git("-C", str(bare), "config", "receive.denyDeletes", "true")
    for _ in range(2):
        (said,) = of(look(scene.world.repository, scene.env), "ledger", "warning")
        assert "do not let refs/heads/runs/doctor-" in said and "by hand" in said
    assert scene.refs("train-runs").count("runs/doctor-") == 1
    hook = bare / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    scene.world.git("-C", str(bare), "config", "receive.denyDeletes", "false")
    hook.write_text("#!/bin/sh\nwhile read old new ref; do case $new in *[1-9a-f]*) exit 1;; esac; done\n")
    hook.chmod(0o755)
    (refused,) = of(scene.look(), "ledger", "wrong")
    assert "declined" in refused and "runs/*" in refused


def test_what_the_commit_says_is_looked_at_as_well(scene: Scene) -> None:
    world = scene.world
    world.write("jobs/job.yaml", "version: 1\nname: job\nbudgt: 3\n")
    world.write("pushtrain-policy.yaml", "version: 1\nmax_usd: 5\n")
    bad = "on: [pull_request_target]\njobs:\n  a:\n    env: {K: '${{ secrets.K }}'}\n"
    bad += "    steps: [{uses: actions/checkout@v4}]\n"
    world.write(".github/workflows/bad.yml", bad)
    (world.repository / ".github/workflows/review.yml").unlink()
    world.push()
    found = scene.look()
    assert len(of(found, "workflows", "wrong")) == 2, of(found, "workflows")
    own = [it for it in of(found, "workflows", "warning") if "bad.yml" in it]
    assert len(own) == 3, "a workflow of somebody's own"
    assert any("jobs/job.yaml:3" in it for it in of(found, "jobs", "wrong"))
    assert any("pushtrain-policy.yaml:2" in it for it in of(found, "jobs", "wrong"))


def test_without_a_remote_one_line_says_so_and_the_other_checks_go_on(scene: Scene) -> None:
    scene.world.git("remote", "remove", "origin")
    found = scene.look(PUSHTRAIN_SOURCE_URL="", PUSHTRAIN_LEDGER_URL="")
    (wrong,) = of(found, "source", "wrong")
    assert "no git remote" in wrong and "git remote add origin" in wrong
    assert {it.check for it in found} == set(CHECKS) - OTHERS.keys() and [
        it.check for it in found if it.verdict == "wrong"
    ] == ["source"]
    for check in ("branch", "environment", "ledger", "ledger's Actions"):
        assert of(found, check, "unknown") == ["not looked at: there is no git remote | "]
    assert "are in the account" in of(found, "runpod", "ok")[0] and of(found, "jobs", "ok") and exit_code(found) == 1
    assert any("written and removed" in it for it in of(scene.look(PUSHTRAIN_SOURCE_URL=""), "ledger", "ok"))
    done = scene.world.cli("doctor", **scene.env | {"PUSHTRAIN_SOURCE_URL": "", "PUSHTRAIN_LEDGER_URL": ""})
    assert done.returncode == 1 and "wrong   source" in done.stdout and "git remote add origin" in done.stdout


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed here")
def test_whether_pods_let_this_machine_in_is_told_with_the_verb_that_makes_it_so(scene: Scene) -> None:
    world = scene.world
    assert "no ssh key" in of(scene.look(SSH_AUTH_SOCK=""), "ssh", "warning")[0]
    register(world)
    mine = make_key(world)
    assert "the account at RunPod has no ssh key: pods will not let SHA256:" in of(scene.look(), "ssh", "warning")[0]
    register(world, OTHER)
    (said,) = of(scene.look(), "ssh", "warning")
    assert "1 ssh key, and none of this machine" in said and said.endswith("| pushtrain ssh-key")
    register(world, OTHER, mine)
    assert "let this machine's key in (SHA256:" in of(scene.look(), "ssh", "ok")[0]
    assert of(scene.look(RUNPOD_API_KEY=""), "ssh", "unknown")


def test_each_cloud_with_a_key_has_its_own_lines_at_its_emulator_and_what_its_jobs_go_without(scene: Scene) -> None:
    world, keys = scene.world, scene.world.simulator.keys.others
    every = others_env(world.simulator.urls, keys, *OTHERS)
    for name in OTHERS:
        world.write_job(f"at-{name}", cloud=name)
    world.push()
    names = [{"name": it} for it in (*_SECRETS, *(key for it in CLOUDS.values() for key in it.key_names))]
    scene.github.answers["GET environments/gpu/secrets"] = {"secrets": names}
    found = scene.look(**every)
    assert not [it for it in found if it.verdict == "wrong" and it.check != "hub"], found
    for name in OTHERS:
        (first, funds, *_) = of(found, name)
        assert "takes the key" in first and ("$100.00" in funds or "tells no balance" in funds), name
    assert "network volumes" in of(found, "lambda")[0] and "network volumes" not in of(found, "vast")[0]
    assert ["reconcile" in it for name in ("lambda", "jarvislabs") for it in of(found, name, "warning")] == [True] * 2
    assert not of(found, "vast", "warning") and not of(found, "modal", "warning")
    assert "at-vast: nothing outlives a lost pod" in of(found, "vast", "ok")[-1]
    assert "modal shell" in of(found, "modal", "ok")[-1]
    alone = {CLOUDS[name].key_name: "" for name in CLOUDS if name != "modal"}
    world.write_job("job", cloud="modal")
    for name in OTHERS:
        world.write_job(f"at-{name}", cloud="modal")
    world.push()
    found = scene.look(**every | alone | {"RUNPOD_S3_ACCESS_KEY": "", "RUNPOD_S3_SECRET_KEY": ""})
    assert "modal shell" in of(found, "ssh", "ok")[0] and not of(found, "volumes") and not of(found, "runpod")
    for name in OTHERS:
        world.write_job(f"at-{name}", cloud=name)
    world.push()

    world.write(
        ".github/workflows/train.yml", (ROOT / ".github/workflows/train.yml").read_text("utf-8").replace("VAST", "X")
    )
    world.push()
    scene.github.answers["GET environments/gpu/secrets"] = {
        "secrets": [it for it in names if it["name"] != "JL_API_KEY"]
    }
    found = scene.look(**every)
    (unhanded,) = [it for it in of(found, "workflows", "wrong") if "VAST_API_KEY" in it]
    assert "at-vast names vast" in unhanded and "secrets.VAST_API_KEY" in unhanded
    assert any("gpu has no secret JL_API_KEY" in it for it in of(found, "environment", "wrong"))


def test_a_key_that_is_missing_refused_or_of_another_cloud_is_said_and_the_last_is_sent_to_nobody(scene: Scene) -> None:
    world = scene.world
    world.write_job("job", cloud="lambda")
    world.write_job("two", cloud="[vast, runpod]")
    world.push()
    every = others_env(world.simulator.urls, world.simulator.keys.others, *OTHERS)
    found = scene.look()
    assert "LAMBDA_API_KEY is not set, and job needs Lambda Cloud" in of(found, "lambda", "wrong")[0]
    assert "two can only go to the other clouds" in of(found, "vast", "warning")[0] and exit_code(found) == 3
    for name in OTHERS:
        refused = of(scene.look(**every | {CLOUDS[name].key_name: "nobody"}), name, "wrong")
        assert len(refused) == 1 and CLOUDS[name].key_name in refused[0], (name, refused)
    elsewhere = {"LAMBDA_API_KEY": "rpa_" + CANARY + "0123456789", "MODAL_TOKEN_SECRET": "ak-" + CANARY}
    twins = {"VAST_API_KEY": CANARY + "one", "JL_API_KEY": CANARY + "one"}
    unreachable = {CLOUDS[name].pod.base_url: "http://127.0.0.1:9" for name in OTHERS}
    found = scene.look(**every | elsewhere | twins | unreachable)
    assert "LAMBDA_API_KEY holds a key that by its beginning is of RunPod; nothing was sent" in of(found, "lambda")[0]
    assert "is of Modal, and the id of a token" in of(found, "modal")[0]
    assert ["hold the same key" in it for name in ("vast", "jarvislabs") for it in of(found, name)] == [True, True]


def test_the_keys_of_volumes_are_told_and_what_they_are_for(scene: Scene) -> None:
    unset = {"RUNPOD_S3_ACCESS_KEY": "", "RUNPOD_S3_SECRET_KEY": ""}
    (said,) = of(scene.look(**unset), "volumes", "ok")
    assert "are not set" in said and "volumes put, get, ls, rm and copy" in said
    (half,) = of(scene.look(**unset | {"RUNPOD_S3_ACCESS_KEY": "user_a"}), "volumes", "wrong")
    assert half.startswith("RUNPOD_S3_SECRET_KEY is not set") and "S3 API Keys" in half
    both = {"RUNPOD_S3_ACCESS_KEY": "user_a", "RUNPOD_S3_SECRET_KEY": CANARY + "s3"}
    assert "are set" in of(scene.look(**both), "volumes", "ok")[0]


def test_a_check_that_hangs_or_breaks_is_a_line_and_holds_nothing_up(tmp_path: Path) -> None:
    def hangs(place: Place, check: Check) -> Iterator[Finding]:
        yield check.ok("first")
        time.sleep(120)

    def breaks(place: Place, check: Check) -> Iterator[Finding]:
        yield check.ok("before")
        raise ValueError(place.environ["HF_TOKEN"])

    def fails(place: Place, check: Check) -> Iterator[Finding]:
        raise LedgerUnavailable("away", hint="later")
        yield

    env = {"HF_TOKEN": CANARY + "hub"}
    place = Place(settings=None, environ=env, wanted=None)  # type: ignore[arg-type]
    began_s = time.monotonic()
    found = carried_out({"hangs": hangs, "breaks": breaks, "fails": fails}, place, limit_s=2)
    assert time.monotonic() - began_s < 100
    assert [(it.check, it.verdict) for it in found] == [
        ("hangs", "ok"),
        ("hangs", "wrong"),
        ("breaks", "ok"),
        ("breaks", "wrong"),
        ("fails", "wrong"),
    ]
    assert CANARY not in "\n".join(text_of(found)) and "not done within 2 s" in found[1].message
    assert (found[-1].message, found[-1].fix) == ("away", "later")


def test_the_command_prints_lines_or_json_and_ends_with_the_code(scene: Scene) -> None:
    done = scene.world.cli("doctor", **scene.env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong" in done.stderr and "ok      runpod" in done.stdout
    scene.github.answers["GET environments/gpu"] = PERMISSIVE
    broken = scene.world.cli("doctor", "--json", **scene.env)
    assert broken.returncode == 3
    assert {"check", "verdict", "message", "fix", "exit_code"} == set(json.loads(broken.stdout)[0])
    assert any(it.callback and it.callback.__name__ == "doctor" for it in app.registered_commands)


@pytest.mark.parametrize("refusal", ["", "stack export"])
def test_the_backend_is_written_read_and_cleaned_and_a_refusal_is_translated(refusal: str, tmp_path: Path) -> None:
    script = tmp_path / "bin" / "pulumi"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\n[ "$1" = version ] && echo v{MINIMUM} && exit\necho "$@" >>{tmp_path}/calls\n'
        f'case "$*" in *"{refusal or "nothing"}"*)\n'
        'echo "error: AccessDenied $AWS_SECRET_ACCESS_KEY" >&2; exit 255;; esac\n'
        "echo '{}'\n"
    )
    script.chmod(0o755)
    env = {"PATH": f"{script.parent}:/usr/bin:/bin", "PULUMI_BACKEND_URL": "s3://state?region=auto"}
    env["AWS_SECRET_ACCESS_KEY"] = CANARY + "bucket"
    if refusal:
        with pytest.raises(EngineError, match="does not take the credentials") as refused:
            probe(env)
        assert CANARY not in str(refused.value)
    else:
        assert probe(env) == "s3://state?region=auto"
    calls = [re.sub("doctor-[0-9a-f]{8}", "NAME", it) for it in (tmp_path / "calls").read_text().splitlines()]
    verbs = [it for it in calls if " stack " in it]
    assert [it.split(" stack ")[1].split()[0] for it in verbs] == ["init", "export", "rm"], calls
    assert all("NAME" in it for it in verbs)

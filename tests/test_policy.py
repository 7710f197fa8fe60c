"""The policy: what it says about a spec, where it is read from, and that nothing is claimed against it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from climb_world import World
from git_world import git_environ
from ruamel.yaml import YAML

from infra.simulator.loopback import Listener, Reply, Request
from pushtrain.check import check
from pushtrain.errors import SpecError
from pushtrain.policy.file import NO_POLICY, parse_policy, policy_at, policy_schema_json
from pushtrain.policy.licence import BELIEVED_S, Licences
from pushtrain.policy.model import Policy
from pushtrain.policy.outside import Outside
from pushtrain.policy.rules import Known, Violation, matches, owned, violations
from pushtrain.retry import retry
from pushtrain.spec import KINDS
from pushtrain.spec.file import parse

ROOT = Path(__file__).parents[1]
SPEC = """\
version: 1
name: job
task: sft
model: {id: Evil/Model, trust_remote_code: true}
data: {source: hf://datasets/someone/rows}
compute:
  gpus: [NVIDIA A40, NVIDIA B200]
  count: 8
  tiers: [COMMUNITY]
  image: docker.io/evil/miner:latest
budget: {max_hours: 100, max_usd: 500}
publish: {repo: stranger/adapter, private: false}
"""
COMMAND = """\
version: 1
name: job
task: command
command: {run: [bash, -c, "true"]}
compute: {gpus: [NVIDIA A40], data_centers: [EU-SE-1]}
budget: {max_hours: 1, max_usd: 1}
"""
POLICY = """\
version: 1
max_usd_per_run: 20
max_usd_per_month: 100
max_hours: 24
gpus: [NVIDIA A40, NVIDIA RTX *]
max_gpus: 1
data_centers: [EU-*]
tiers: [SECURE]
images: ["runpod/pytorch:*"]
command: false
model_owners: [Qwen, meta-llama/Llama-3.2-1B]
dataset_owners: [trl-lib]
licences: [apache-2.0, mit]
publish_owners: [acme]
public_results: false
trust_remote_code: false
"""


def broken(policy: str, spec: str = SPEC, **known: Any) -> list[Violation]:
    file = parse(spec, "jobs/job.yaml")
    assert file.spec is not None, file.problems
    return violations(parse_policy(policy.encode()), file.spec, file, Known(**known))


def test_each_rule_names_value_place_in_the_spec_and_place_in_the_policy() -> None:
    found = broken(POLICY, licence=lambda model, revision: "gpl-3.0", month_usd=95.0)
    assert [(it.rule, it.where.removeprefix("jobs/job.yaml:"), it.value) for it in found] == [
        ("max_usd_per_run", "11:35", "500"),
        ("max_usd_per_month", "11:35", "500"),
        ("max_hours", "11:21", "100"),
        ("gpus", "7:22", "NVIDIA B200"),
        ("max_gpus", "8:10", "8"),
        ("data_centers", "9:10", "COMMUNITY"),
        ("tiers", "9:11", "COMMUNITY"),
        ("images", "10:10", "docker.io/evil/miner:latest"),
        ("model_owners", "4:13", "Evil/Model"),
        ("dataset_owners", "5:16", "someone/rows"),
        ("trust_remote_code", "4:44", "true"),
        ("licences", "4:13", "gpl-3.0"),
        ("publish_owners", "12:17", "stranger/adapter"),
        ("public_results", "12:44", "false"),
    ]
    lines = POLICY.splitlines()
    for it in found:
        line = next(number for number, text in enumerate(lines, 1) if text.startswith(f"{it.rule}:"))
        assert f"(pushtrain-policy.yaml:{line}:1: {it.rule})" in it.problem.message


def test_a_policy_limits_nothing_that_it_does_not_name_but_code_of_others() -> None:
    assert [it.rule for it in broken("version: 1\n")] == ["trust_remote_code"]
    assert broken("version: 1\ntrust_remote_code: true\n") == []
    assert [it.rule for it in broken("version: 1\ncommand: false\n", COMMAND)] == ["command"]
    session = "version: 1\nname: job\ntask: session\ncompute: {gpus: [A]}\nbudget: {max_hours: 1, max_usd: 1}\n"
    assert [it.value for it in broken("version: 1\ncommand: false\n", session)] == ["session"]
    file = parse(SPEC, "jobs/job.yaml")
    assert file.spec is not None and violations(NO_POLICY, file.spec, file) == []


@pytest.mark.parametrize(
    ("owners", "may"),
    [("[stranger]", False), ("[stranger, 's3://ours']", True), ("[stranger, 's3://our']", False)],
)
def test_copies_of_checkpoints_go_where_results_may_go(owners: str, may: bool) -> None:
    spec = SPEC.replace("publish: {", "publish: {checkpoints: 's3://ours/team', ")
    policy = f"version: 1\ntrust_remote_code: true\npublish_owners: {owners}\n"
    assert [(it.rule, it.value) for it in broken(policy, spec)] == (
        [] if may else [("publish_owners", "s3://ours/team")]
    )


SESSION = """\
version: 1
name: job
task: session
session: {secrets: [HF_TOKEN]}
compute:
  gpus: [NVIDIA A40]
  ports: [8888/http, 22/tcp]
  volume: {size_gb: 10, name: models, keep: true}
budget: {max_hours: 1, max_usd: 1}
"""
CLOSED = """\
version: 1
session: false
ssh: false
ports: ["*/http"]
secrets: [WANDB_API_KEY]
kept_volumes: []
"""


def test_who_gets_in_what_is_given_and_what_stays_can_each_be_said_no_to() -> None:
    found = {it.rule: it for it in broken(CLOSED, SESSION)}
    assert {rule: (it.where.removeprefix("jobs/job.yaml:"), it.value) for rule, it in found.items()} == {
        "session": ("3:7", "session"),
        "ssh": ("6:3", "true"),
        "ports": ("7:22", "22/tcp"),
        "secrets": ("4:21", "HF_TOKEN"),
        "kept_volumes": ("8:31", "models"),
    }
    assert found["ssh"].hint == "ssh: false" and "none is allowed here" in found["kept_volumes"].message
    assert broken("version: 1\nports: [8888/http, 22/*]\nsecrets: [HF_TOKEN]\nkept_volumes: [mod*]\n", SESSION) == []
    assert [it.rule for it in broken("version: 1\nports: []\n", SESSION)] == ["ports", "ports"]
    command = COMMAND.replace('"true"]', '"true"], secrets: [HF_TOKEN]')
    assert [it.rule for it in broken("version: 1\nsecrets: []\nsession: false\n", command)] == ["secrets"]


ONLY_VAST = "version: 1\nclouds: [vast]\ntrust_remote_code: true\n"


@pytest.mark.parametrize(
    ("cloud", "where", "value"),
    [
        ("", "7:3", "runpod"),
        ("  cloud: runpod\n", "7:10", "runpod"),
        ("  cloud: [vast, runpod]\n", "7:17", "runpod"),
        ("  cloud: any\n", "7:10", "any"),
        ("  cloud: vast\n", None, ""),
        ("  cloud: [vast]\n", None, ""),
    ],
)
def test_a_job_goes_to_no_cloud_that_the_policy_does_not_name(cloud: str, where: str | None, value: str) -> None:
    found = broken(ONLY_VAST, SPEC.replace("compute:\n", f"compute:\n{cloud}"))
    expected = [] if where is None else [("clouds", f"jobs/job.yaml:{where}", value)]
    assert [(it.rule, it.where, it.value) for it in found] == expected
    assert all("pushtrain-policy.yaml:2:1: clouds" in it.problem.message for it in found)
    assert broken("version: 1\nclouds: [runpod, vast, lambda]\ntrust_remote_code: true\n", SPEC) == []


def test_every_rule_can_be_broken() -> None:
    """A rule that nothing breaks would be a promise that is not kept."""
    rules = {it.rule for it in broken(POLICY, licence=lambda *_: None, month_usd=0)}
    rules |= {it.rule for it in broken(POLICY, COMMAND)} | {"approval", "version", "max_usd_per_month"}
    rules |= {it.rule for it in broken(CLOSED, SESSION)} | {it.rule for it in broken(ONLY_VAST)}
    assert rules >= set(Policy.model_fields)


def test_a_licence_that_nobody_can_tell_is_refused_and_an_empty_list_of_data_centers_too() -> None:
    assert "licences" in [it.rule for it in broken(POLICY, licence=lambda *_: None)]
    some = COMMAND.replace(", data_centers: [EU-SE-1]", "")
    assert [it.rule for it in broken("version: 1\ndata_centers: [EU-*]\n", some)] == ["data_centers"]
    assert broken("version: 1\ndata_centers: [EU-*]\n", COMMAND) == []


def test_a_star_is_the_only_character_with_a_meaning() -> None:
    assert matches("NVIDIA RTX A6000", ["NVIDIA RTX *"]) and not matches("NVIDIA RTX", ["NVIDIA RTX *"])
    assert not matches("runpodXpytorch:1", ["runpod.pytorch:*"])
    assert not matches("evil/runpod/pytorch:1", ["runpod/pytorch:*"])
    assert owned("qwen/Qwen3-8B", ["Qwen"]) and owned("Qwen/Qwen3-8B", ["Qwen/Qwen3-8B"])
    assert not owned("Qwenn/x", ["Qwen"]) and not owned("Qwen/Other", ["Qwen/Qwen3-8B"])


def test_every_place_where_a_spec_names_somebody_elses_repository_is_known_to_the_policy() -> None:
    """A new key of the spec that reaches the Hub has to be held against the policy, too."""
    found = set()

    def walk(node: Any, definitions: dict[str, Any], path: str) -> None:
        if isinstance(node, list):
            for it in node:
                walk(it, definitions, path)
        if not isinstance(node, dict):
            return
        if "$ref" in node:
            walk(definitions[node["$ref"].rpartition("/")[2]], definitions, path)
        pattern = str(node.get("pattern", ""))
        if pattern.startswith("^[A-Za-z0-9][A-Za-z0-9_.-]{0,95}") or "://" in pattern:
            found.add(path)
        for key, child in node.get("properties", {}).items():
            walk(child, definitions, f"{path}.{key}".lstrip("."))
        for key in ("anyOf", "allOf", "oneOf", "items", "additionalProperties"):
            walk(node.get(key), definitions, path)

    for kind in KINDS:
        schema = kind.model_json_schema()
        walk(schema, schema.get("$defs", {}), "")
    assert found == {"model.id", "data.source", "publish.repo", "publish.checkpoints"}


def test_a_wrong_policy_is_told_with_its_place_and_lets_nothing_through() -> None:
    file = parse_policy(b"version: 1\nmax_usd_per_rum: 5\ngpus: A40\n")
    assert [problem.where for problem in file.problems] == ["pushtrain-policy.yaml:2:1", "pushtrain-policy.yaml:3:7"]
    assert file.problems[0].hint == "did you mean 'max_usd_per_run' or 'max_usd_per_month'?"
    with pytest.raises(SpecError, match=r"pushtrain-policy.yaml:2:1") as failure:
        file.required()
    assert failure.value.reason == "InvalidPolicy"
    for text in (b"", b"- a\n", b"version: 1\nbudget: 3\n", b"\xff", b"x" * 70_000):
        assert parse_policy(text).policy is None


def test_the_committed_schema_and_policy_are_what_the_model_says() -> None:
    fresh = (ROOT / "jobs" / "policy-schema.json").read_text(encoding="utf-8") == policy_schema_json()
    assert fresh, "jobs/policy-schema.json is old: run `pushtrain check --write-schema` and commit it"
    text = (ROOT / "pushtrain-policy.yaml").read_bytes()
    jsonschema.Draft202012Validator(json.loads(policy_schema_json())).validate(YAML(typ="safe").load(text))
    assert parse_policy(text).policy is not None


class Repo:
    """A work tree whose base branch `main` has a policy, and a branch on top that is the pull request."""

    def __init__(self, root: Path, env: dict[str, str]) -> None:
        self.root, self.env = root, env
        root.mkdir()
        self.git("init", "-q", "--initial-branch=main")
        self.write("pushtrain-policy.yaml", POLICY)
        self.commit()
        self.git("switch", "-q", "-c", "pull")

    def git(self, *args: str) -> None:
        subprocess.run(["git", *args], cwd=self.root, env=self.env, check=True, timeout=150)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(exist_ok=True)
        (self.root / path).write_text(text)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", "x")

    def rules(self, base: str | None) -> set[str]:
        found = check([], self.root, base=base)
        return {str(it).rpartition(": ")[2].rstrip(")") for it in found.problems if "pushtrain-policy" in str(it)}


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    env = git_environ(tmp_path)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return Repo(tmp_path / "repo", env)


def test_a_pull_request_cannot_change_the_policy_it_is_held_against(repo: Repo) -> None:
    repo.write("jobs/job.yaml", SPEC)
    repo.write("pushtrain-policy.yaml", "version: 1\ntrust_remote_code: true\n")
    repo.commit()
    assert repo.rules(base=None) == set()
    assert {"max_usd_per_run", "gpus", "images"} <= repo.rules(base="main")
    found = check([], repo.root, base="main")
    assert any("changes the policy" in warning for warning in found.warnings)
    (repo.root / "pushtrain-policy.yaml").unlink()
    assert "gpus" in repo.rules(base="main")


def test_a_pull_request_that_would_break_the_policy_fails_its_check(repo: Repo) -> None:
    repo.write("pushtrain-policy.yaml", "version: 1\nmax_usd: 5\n")
    (problem,) = check([], repo.root, base="main").problems
    assert problem.where == "pushtrain-policy.yaml:2:1"


def test_a_suspended_job_is_warned_and_not_refused(repo: Repo) -> None:
    repo.write("jobs/job.yaml", SPEC + "suspend: true\n")
    found = check([], repo.root, base="main")
    assert not found.problems and any("max_usd_per_run" in warning for warning in found.warnings)


@pytest.mark.parametrize("ref", ["nowhere", "--output=/tmp/x", "main:x"])
def test_a_base_that_is_not_there_is_not_taken_for_one_without_a_policy(repo: Repo, ref: str) -> None:
    with pytest.raises(SpecError, match="git has no commit"):
        policy_at(repo.root, ref)


def test_a_policy_that_is_a_link_in_the_base_lets_nothing_through(repo: Repo) -> None:
    repo.git("switch", "-q", "main")
    (repo.root / "pushtrain-policy.yaml").unlink()
    (repo.root / "pushtrain-policy.yaml").symlink_to("/etc/hostname")
    repo.commit()
    assert policy_at(repo.root, "main").policy is None
    assert "not a file of its own" in str(check([], repo.root, base="main").problems[0])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(folder=tmp_path)


def test_a_direct_push_does_not_go_round_the_policy_and_is_tried_again_when_that_changes(world: World) -> None:
    world.job(max_usd=10.0)
    world.checkout.policy = parse_policy(b"version: 1\nmax_usd_per_run: 5\n")
    control = world.control()
    for _ in range(3):
        failure = world.fails(SpecError, control)
        world.sleep(20)
    assert failure.reason == "PolicyViolation" and "max_usd_per_run" in str(failure)
    assert sum("job: not started: PolicyViolation" in line for line in world.said) == 1
    assert world.runpod.account.pods == {}
    world.checkout.policy = parse_policy(b"version: 1\nmax_usd_per_run: 10\n")
    assert world.tick(control).active == [world.record().run_id]


def test_nothing_is_claimed_while_the_policy_cannot_be_read(world: World) -> None:
    world.job()
    world.checkout.policy = parse_policy(b"version: 2\n")
    assert world.fails(SpecError).reason == "InvalidPolicy"
    assert world.control().ledger.refs() == {}


def test_a_month_counts_active_runs_by_their_cap_and_the_job_starts_when_there_is_room(world: World) -> None:
    world.checkout.policy = parse_policy(b"version: 1\nmax_usd_per_month: 15\n")
    world.job("first", max_usd=10.0)
    world.job("second", max_usd=10.0)
    control = world.control()
    done = world.tick(control)
    assert [run[:5] for run in done.active] == ["first"] and "$5.00 is left" in str(done.failures[0])
    world.job("third", max_usd=5.0)
    assert sorted(run[:5] for run in world.tick(control).active) == ["first", "third"]
    del world.checkout.jobs["first"]
    world.tick(control)
    world.sleep(61)
    assert [it.run["job"] for it in control.ledger.read_all(control.ledger.refs()).values() if not it.is_over]
    assert sorted(run[:5] for run in world.tick(control).active) == ["secon", "third"]


def test_a_retry_is_held_against_the_policy_of_today(world: World) -> None:
    world.job(max_usd=10.0)
    control = world.control()
    world.tick(control)
    job = world.checkout.jobs.pop("job")
    world.tick(control)
    assert world.record().is_over
    world.checkout.jobs["job"] = job
    world.checkout.policy = parse_policy(b"version: 1\nmax_usd_per_run: 5\n")
    with pytest.raises(SpecError, match="max_usd_per_run"):
        retry(control, "job", by="me", why="")


def test_what_needs_an_approval_waits_for_it_and_its_claim_says_who_gave_it(world: World) -> None:
    world.job(max_usd=10.0)
    world.checkout.policy = parse_policy(b"version: 1\napproval: {above_usd: 5}\n")
    control = world.control()
    done = world.tick(control)
    assert not done.failures and not done.active
    assert "no GitHub here to ask" in world.said[-1]
    control.outside = Outside(approved=lambda wanted, job: {"approved_by": ["ann"]})
    assert not world.tick(control).active  # asked again only after a while
    world.sleep(301)
    assert world.tick(control).active
    assert world.events("claimed")[0].data["approved_by"] == ["ann"]


def test_a_bucket_is_allowed_by_its_name_and_not_by_the_beginning_of_it() -> None:
    spec = SPEC.replace("hf://datasets/someone/rows", "s3://rows/2026/a.jsonl")
    for owners, may in (("s3://rows", True), ("s3://rows/2026", True), ("s3://row", False), ("rows", False)):
        found = broken(f"version: 1\ndataset_owners: ['{owners}']\n", spec)
        assert ("dataset_owners" not in [it.rule for it in found]) is may, owners


CARDS: dict[str, Any] = {
    "Qwen/Qwen3-8B": {"license": "apache-2.0"},
    "Qwen/Other": {"license": "other", "license_name": "qwen"},
    "no/card": None,
    "odd/card": {"license": ["mit", "gpl-3.0"]},
}


def test_a_licence_is_read_from_the_models_card_and_remembered_for_a_while() -> None:
    seen, now = list[str](), [0.0]

    def answer(request: Request) -> Reply:
        """The Hub's about a model, as huggingface.co/api/models/ID/revision/REV gives it."""
        seen.append(request.path)
        name = request.path.removeprefix("/api/models/").partition("/revision/")[0]
        return Reply.of({"id": name, "modelId": name, "cardData": CARDS.get(name)}, 200 if name in CARDS else 404)

    with Listener(answer) as listener:
        licences = Licences({"HF_ENDPOINT": listener.url}, lambda: now[0])
        names = ["Qwen/Qwen3-8B", "Qwen/Other", "no/card", "odd/card", "not/there", "Qwen/Qwen3-8B"]
        assert [licences(name, "main") for name in names] == ["apache-2.0", "qwen", None, None, None, "apache-2.0"]
        assert len(seen) == 5
        now[0] = BELIEVED_S + 1
        assert licences("Qwen/Qwen3-8B", "main") == "apache-2.0" and len(seen) == 6
    assert Licences({"HF_ENDPOINT": "http://127.0.0.1:9"})("Qwen/Qwen3-8B", "main") is None


def test_a_month_is_not_guessed_where_a_run_cannot_be_read(world: World) -> None:
    world.job(max_usd=1.0)
    world.checkout.policy = parse_policy(b"version: 1\nmax_usd_per_month: 15\n")
    control = world.control()
    junk = control.ledger._store.commit(None, {"README": b"no run"}, b"x", 0.0)
    ref = f"refs/heads/runs/stray-{'a' * 8}-{'b' * 8}"
    assert control.ledger._store.push({ref: junk}).returncode == 0
    done = world.tick(control)
    assert not done.active and any("holds no run" in str(it) for it in done.failures)

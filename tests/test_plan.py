"""The plan: fit, hours and dollars, what changed, what to beware of; in a terminal, a comment and JSON."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from git import Repo
from git_world import git_environ

from infra.simulator.server import RunningSimulator
from pushtrain.errors import PushtrainError
from pushtrain.estimate.correction import Past
from pushtrain.events import EventDraft
from pushtrain.ledger import Ledger
from pushtrain.placement import ladder
from pushtrain.plan import Plan, plan_of, plan_specs
from pushtrain.plan.document import document
from pushtrain.plan.expect import Expectations
from pushtrain.plan.markdown import markdown, plan_markdown
from pushtrain.plan.model import Plans
from pushtrain.plan.sources import open_sources
from pushtrain.plan.text import drawn
from pushtrain.plan.words import after_a_lost_pod, headline
from pushtrain.run import kept_volume_name
from pushtrain.spec.file import load
from pushtrain.terminal import out

pytest_plugins = ("simulator_fixtures",)

PROJECT = Path(__file__).parents[1]
OFFLINE = {"HF_HUB_OFFLINE": "1"}
ROWS = "".join(json.dumps({"prompt": "p" * 400, "completion": "c" * 1200}) + "\n" for _ in range(400))
SPEC: dict[str, Any] = {
    "version": 1,
    "name": "job",
    "model": {"id": "Qwen/Qwen3-8B"},
    "data": {"path": "data/rows.jsonl"},
    "method": {"kind": "qlora"},
    "train": {"packing": True},
    "compute": {"gpus": ["NVIDIA A40"]},
    "budget": {"max_hours": 2.0, "max_usd": 3.5},
    "publish": {"repo": "demo/job"},
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in git_environ(tmp_path).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text(ROWS)
    return tmp_path


@pytest.fixture
def repo(root: Path) -> Iterator[Repo]:
    with Repo.init(root, initial_branch="main") as repo:
        yield repo


def job(root: Path, name: str = "job", **changes: Any) -> Path:
    spec: dict[str, Any] = {**SPEC, "name": name}
    for key, value in changes.items():
        spec[key] = {**spec[key], **value} if isinstance(value, dict) and isinstance(spec.get(key), dict) else value
    file = root / "jobs" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(spec))
    return file


def one(root: Path, environ: dict[str, str] | None = None, **options: Any) -> Plan:
    plans, _ = plan_specs([], root, environ or OFFLINE, **options)
    return plans.plans[0]


def text_of(plans: Plans) -> str:
    with out.capture() as kept:
        out.print(drawn(plans))
    return kept.get()


def test_without_a_key_it_knows_fit_hours_and_dollars(root: Path) -> None:
    job(root)
    plan = one(root)
    place = plan.places[0]
    assert plan.fits is True and place.verdict == "fits"
    assert plan.memory is not None and 9 < plan.memory.need_gb < 12
    assert place.tokens_per_s == pytest.approx(760, rel=0.1), "what jobs/qwen3-8b-qlora.yaml reckons by hand"
    assert plan.work is not None and plan.work.tokens == pytest.approx(392 * 400, rel=0.1)
    assert place.hours is not None and place.money is not None
    assert place.money.low_usd < place.money.expected_usd < place.money.high_usd
    storage = place.usd_per_hour or 0
    assert 0.44 < storage < 0.46, "volume and disk are in it"
    assert place.money.expected_usd == pytest.approx(place.hours.total.expected * storage)
    assert place.money.cap_usd == pytest.approx(min(3.5, 2 * storage))


def test_every_figure_says_where_it_is_from(root: Path) -> None:
    job(root)
    plans, _ = plan_specs([], root, OFFLINE)
    notes = " ".join(plans.plans[0].notes)
    assert "pushtrain's table has it as Qwen/Qwen3-8B" in notes and "HF_HUB_OFFLINE" in notes
    assert "400 rows counted at 4 bytes a token" in notes and "planning value" in notes
    assert "2026-08-20" in plans.prices and "days ago" in plans.prices
    assert "$0.07" in plans.storage


def test_a_job_that_fits_nowhere_fails_with_the_smallest_changes_and_their_price(root: Path) -> None:
    big = {"per_device_train_batch_size": 8, "max_length": 4096, "gradient_checkpointing": False}
    job(root, compute={"gpus": ["NVIDIA GeForce RTX 4090"]}, method={"kind": "lora"}, train=big)
    plans, problems = plan_specs([], root, OFFLINE)
    (plan,) = plans.plans
    assert plan.fits is False and [problem.exit_code for problem in problems] == [2]
    assert "fits on none of its GPUs" in str(problems[0]) and problems[0].reason == "DoesNotFit"
    line = (root / "jobs" / "job.yaml").read_text().partition('"gpus": ')[0]
    assert problems[0].where == f"jobs/job.yaml:1:{len(line) + 9}", "an annotation stands at the cards"
    by_change = {suggestion.change: suggestion for suggestion in plan.suggestions}
    together = next(it for it in by_change if len(it) > 2)
    assert "train.gradient_checkpointing: true" in together and "method.kind: qlora" in together
    assert "train.gradient_accumulation_steps: 128" in together, "the effective batch is kept"
    assert all(it.need_gb <= 23.5 for it in plan.suggestions if it.gpu.endswith("4090"))
    assert all(it.usd is None or it.usd > 0 for it in plan.suggestions)
    assert problems[0].hint is not None and "qlora" in problems[0].hint


def test_one_change_is_proposed_alone_where_it_is_enough_and_the_cheapest_larger_card(root: Path) -> None:
    job(root, compute={"gpus": ["NVIDIA GeForce RTX 4090"]}, train={"gradient_checkpointing": False})
    plan = one(root)
    changes = [suggestion.change for suggestion in plan.suggestions]
    assert ("train.gradient_checkpointing: true",) in changes
    assert ("train.max_length: 1024",) in changes
    card = plan.suggestions[-1]
    assert card.change[0].startswith("compute.gpus: [") and card.usd is not None
    suspended = {"compute": {"gpus": ["NVIDIA GeForce RTX 4090"]}, "train": {"gradient_checkpointing": False}}
    job(root, **suspended, suspend=True)
    assert plan_specs([], root, OFFLINE)[1] == [], "what is suspended rents nothing"


def test_a_model_nobody_knows_and_a_command_have_no_estimate_and_say_so(root: Path) -> None:
    job(root, model={"id": "somebody/something"})
    plan = one(root)
    assert plan.memory is None and plan.fits is None and plan.places[0].money is None
    assert any("sizes of somebody/something are not known" in note for note in plan.notes)
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    keys = ("version", "name", "compute", "budget")
    command = {**{key: SPEC[key] for key in keys}, "task": "command", "command": {"run": "run.sh"}}
    (root / "jobs" / "job.yaml").write_text(json.dumps(command))
    plan = one(root)
    assert plan.memory is None and plan.places[0].cap_usd == pytest.approx(2 * 0.446, rel=0.02)
    assert any("no model of memory or time" in note for note in plan.notes)
    assert after_a_lost_pod(plan) == "the command starts again on the same volume"


def test_a_session_has_a_price_an_hour_and_a_cap_and_says_that_it_ends_when_idle(root: Path) -> None:
    session = {**{key: SPEC[key] for key in ("version", "name", "compute", "budget")}, "task": "session"}
    (root / "jobs").mkdir()
    (root / "jobs" / "job.yaml").write_text(json.dumps(session))
    plan = one(root)
    assert plan.fits is None and plan.places[0].cap_usd == pytest.approx(2 * 0.446, rel=0.02)
    assert any("after 30 idle minutes" in note and "costs $0.4" in note for note in plan.notes)
    assert headline(plan).endswith("it ends after 30 idle minutes") and "opens again" in after_a_lost_pod(plan)


def test_an_unknown_dataset_is_bounded_by_the_steps_where_the_spec_has_them(root: Path) -> None:
    spec = {**SPEC, "data": {"source": "hf://datasets/org/unknown"}}
    (root / "jobs").mkdir()
    for steps, tokens in ((None, None), (100, 100 * 16 * 2048)):
        train = {"packing": True} if steps is None else {"packing": True, "max_steps": steps}
        (root / "jobs" / "job.yaml").write_text(json.dumps({**spec, "train": train}))
        plan = one(root)
        assert (plan.work and plan.work.tokens) == tokens
        assert (plan.places[0].money is None) == (steps is None)
        assert any(("full rows" if steps else "at most the budget's") in note for note in plan.notes)


def test_of_a_bucket_it_says_what_it_does_not_know(root: Path) -> None:
    bucket = {"path": None, "source": "s3://acme/rows.jsonl", "eval_fraction": 0.1}
    job(root, data={name: value for name, value in bucket.items()}, train={"max_steps": 50})
    bounded = one(root)
    (said,) = (it.message for it in bounded.cautions if it.reason == "DataNotRead")
    assert "s3://acme/rows.jsonl is a bucket" in said and "those of 50 full steps, at most" in said
    job(root, data=bucket)
    (said,) = (it.message for it in one(root).cautions if it.reason == "DataNotRead")
    assert said.endswith("at most the budget's: train.max_steps would bound them")
    assert one(root).first is not None and "not known here" in " ".join(
        text_of(plan_specs([], root, OFFLINE)[0]).split()
    )


def test_what_a_reviewer_must_see_is_a_caution(root: Path) -> None:
    job(
        root,
        model={"trust_remote_code": True},
        publish={"private": False},
        compute={"tiers": ["SECURE", "COMMUNITY"], "gpus": ["NVIDIA GeForce RTX 4090"]},
        budget={"max_hours": 0.1, "max_usd": 50.0},
        train={"max_length": 131072, "bf16": False},
    )
    reasons = {caution.reason for caution in one(root).cautions}
    wanted = {"TrustRemoteCode", "PublishedOpenly", "CommunityMachine", "ImageWithoutDigest", "LongerThanTheModel"}
    wanted |= {"SlowInFp32"}
    assert wanted <= reasons
    job(root, budget={"max_hours": 0.1, "max_usd": 50.0})
    assert {"CapBelowExpectation", "GenerousCap"} <= {caution.reason for caution in one(root).cautions}
    job(root, budget={"max_hours": 20.0, "max_usd": 0.05}, limits={"first_step_minutes": 1.0})
    assert "FirstStepTooSoon" in {caution.reason for caution in one(root).cautions}
    assert "CapBelowExpectation" in {caution.reason for caution in one(root).cautions}
    pinned = "runpod/pytorch@sha256:" + "a" * 64
    job(root, compute={"image": pinned}, model={"revision": "b" * 40})
    plan = one(root)
    assert [revision.is_pinned for revision in plan.revisions] == [True, True]
    assert ("revisions", "pinned") in plan.facts
    assert {caution.reason for caution in plan.cautions} == set()
    job(root, model={"revision": "v1.0"})
    assert dict(one(root).facts)["revisions"].startswith("floating"), "a tag may be moved as a branch is"


def test_against_a_base_only_what_changed_is_planned_key_by_key(root: Path, repo: Repo) -> None:
    for name in ("kept", "edited", "deleted"):
        job(root, name)
    job(root, "broken").write_text("name: [")
    repo.git.add(".")
    repo.git.commit("-m", "base")
    job(root, "edited", train={"epochs": 2.0, "learning_rate": 1e-4}, method={"kind": "qlora", "rank": 16})
    job(root, "broken")
    (root / "jobs" / "deleted.yaml").unlink()
    moved = json.loads((root / "jobs" / "kept.yaml").read_text())
    (root / "jobs" / "moved.yaml").write_text(json.dumps({**moved, "name": "moved"}))
    plans, problems = plan_specs([], root, OFFLINE, base="main")
    assert problems == []
    found = {plan.spec.name: plan for plan in plans.plans}
    assert {name: plan.status for name, plan in found.items()} == {
        "broken": "changed",
        "edited": "changed",
        "moved": "new",
        "deleted": "deleted",
    }
    assert plans.unchanged == 1 and found["moved"].renamed_from == "jobs/deleted.yaml"
    changed = {difference.key: difference.after for difference in found["edited"].differences}
    assert changed == {"train.epochs": 2.0, "train.learning_rate": 1e-4}, "a default written down changes nothing"
    assert "cancels its active run" in text_of(plans)
    explicit, _ = plan_specs([root / "jobs" / "kept.yaml"], root, OFFLINE, base="main")
    assert [plan.status for plan in explicit.plans] == ["unchanged"]
    for wrong in ("nowhere", "--output=/tmp/x", "main:jobs"):
        with pytest.raises(PushtrainError, match="no commit"):
            plan_specs([], root, OFFLINE, base=wrong)


def test_against_a_base_the_month_and_licences_are_looked_at_for_what_a_merge_starts(root: Path, repo: Repo) -> None:
    (root / "pushtrain-policy.yaml").write_text("version: 1\nmax_usd_per_month: 10\nlicences: [mit]\n")
    for name in ("old", "edited"):
        job(root, name, budget={"max_usd": 9.0})
    repo.git.add(".")
    repo.git.commit("-m", "base")
    subprocess.run(["git", "init", "-q", "--bare", str(root / "runs.git")], check=True, timeout=150)
    for name in ("edited", "fresh"):
        job(root, name, budget={"max_usd": 6.0})
    environ = OFFLINE | git_environ(root) | {"PUSHTRAIN_SOURCE_URL": "x"}
    ledger = {"PUSHTRAIN_LEDGER_URL": f"file://{root}/runs.git"}
    plans, problems = plan_specs([], root, environ | ledger, base="main")
    assert [(str(it.where).partition(":")[0], "max_usd_per_month" in str(it)) for it in problems] == [
        ("jobs/fresh.yaml", True)
    ], "what is active already is not counted twice, and each new job finds the one before it"
    assert [plan.spec.name for plan in plans.plans if plan.is_refused] == ["fresh"]
    (warning,) = plans.warnings
    assert "licences were not looked at here" in warning and warning in " ".join(text_of(plans).split())
    assert document(plans)["warnings"] == [warning]
    plans, problems = plan_specs([], root, environ | {"PUSHTRAIN_LEDGER_URL": "file:///nowhere.git"}, base="main")
    assert problems == [] and any("max_usd_per_month was not looked at here" in it for it in plans.warnings)


def test_what_the_policy_refuses_is_planned_all_the_same_and_the_rule_is_named_everywhere(
    root: Path, repo: Repo
) -> None:
    (root / "pushtrain-policy.yaml").write_text("version: 1\nmax_usd_per_run: 3\n")
    repo.git.add(".")
    repo.git.commit("-m", "base")
    job(root)
    plans, problems = plan_specs([Path("jobs/job.yaml")], root, OFFLINE, base="main")
    (plan,) = plans.plans
    assert plan.is_refused and not plan.starts and plan.first is not None and plan.first.money is not None
    assert plan.status == "new" and plan.fits and plans.cap_usd == 0, "a merge starts nothing of it"
    assert headline(plan).startswith("refused by the policy; it would cost about $")
    (problem,) = problems
    assert "max_usd_per_run" in str(problem) and list(plans.problems) == problems
    terminal, comment, data = text_of(plans), markdown(plans), document(plans)
    for said in (terminal, comment):
        assert "refused by the policy" in said and "is changed" not in said and "NVIDIA A40" in said
    assert r"max\_usd\_per\_run" in comment and "`jobs/job.yaml:1:" in comment
    assert data["problems"] == [problem.as_json()] and data["plans"][0]["refused"] is True
    wanted = {"fits": True, "starts": False}
    assert {key: data["plans"][0][key] for key in wanted} == wanted and data["plans"][0]["places"][0]["usd"]


def test_a_spec_that_cannot_be_planned_is_never_called_unchanged(root: Path, repo: Repo) -> None:
    repo.git.commit("-m", "base", "--allow-empty")
    job(root, budget={"max_usd": -1.0})
    plans, problems = plan_specs([], root, OFFLINE, base="main")
    assert plans.plans == () and len(problems) == 1
    for said in (text_of(plans), markdown(plans).lower()):
        assert "no plan: see what is wrong" in said and "changed" not in said
    (root / "jobs" / "job.yaml").unlink()
    assert "no job spec is changed" in text_of(plan_specs([], root, OFFLINE, base="main")[0])


def test_a_policy_that_refuses_and_a_card_too_small_are_both_said(root: Path) -> None:
    (root / "pushtrain-policy.yaml").write_text("version: 1\nmax_usd_per_run: 3\n")
    job(root, compute={"gpus": ["NVIDIA GeForce RTX 4090"]}, method={"kind": "lora"}, train={"max_length": 16384})
    plans, problems = plan_specs([], root, OFFLINE)
    assert sorted(it.reason for it in problems) == ["DoesNotFit", "InvalidSpec"]
    assert headline(plans.plans[0]) == "refused by the policy; it fits on none of its GPUs, either"
    assert plans.plans[0].suggestions


def test_the_bases_prices_count_and_not_those_a_pull_request_writes(root: Path, repo: Repo) -> None:
    job(root)
    repo.git.add(".")
    repo.git.commit("-m", "base")
    (root / "prices.json").write_text("{")
    assert plan_specs([], root, OFFLINE, base="main")[0].plans == ()
    with pytest.raises(PushtrainError, match=r"prices\.json"):
        plan_specs([], root, OFFLINE)


def test_with_a_key_prices_stock_and_places_are_live(root: Path, simulator: RunningSimulator) -> None:
    job(root, compute={"gpus": ["NVIDIA A40", "NVIDIA RTX A6000"], "tiers": ["SECURE", "COMMUNITY"]})
    plans, _ = plan_specs([], root, simulator.env() | OFFLINE)
    assert plans.prices == "live from RunPod's catalogue"
    places = plans.plans[0].places
    assert [(place.gpu, place.tier) for place in places][:2] == [
        ("NVIDIA A40", "SECURE"),
        ("NVIDIA RTX A6000", "SECURE"),
    ]
    assert places[0].data_centers and places[0].stock in ("low", "medium", "high")
    assert ("NVIDIA RTX A6000", "COMMUNITY") in [(place.gpu, place.tier) for place in places]


def test_a_cloud_that_says_no_is_a_note_and_never_a_secret(root: Path, simulator: RunningSimulator) -> None:
    job(root)
    wrong_key = simulator.env() | OFFLINE | {"RUNPOD_API_KEY": "canary-secret-wrong"}
    plans, _ = plan_specs([], root, wrong_key)
    assert any(note.startswith("CloudAuthFailed: ") for note in plans.plans[0].notes)
    assert "canary" not in text_of(plans) + markdown(plans) + json.dumps(document(plans))
    nobody = simulator.env() | OFFLINE | {"RUNPOD_API_BASE_URL": "http://127.0.0.1:9"}
    plans, _ = plan_specs([], root, nobody)
    assert any(note.startswith("CloudUnavailable: ") for note in plans.plans[0].notes)
    assert plans.prices.startswith("of 20") and plans.prices.endswith("RunPod was asked and did not say")
    assert plans.plans[0].first and plans.plans[0].first.money, "the snapshot stands in"


def test_a_kept_volume_is_told_with_its_price_and_is_not_the_runs(root: Path) -> None:
    volume = {"name": "models", "keep": True, "size_gb": 100}
    job(root, compute={"gpus": ["NVIDIA A40"], "volume": volume})
    offline = one(root)
    assert any("$7.00 a month or more" in note and "not in this run's budget" in note for note in offline.notes)
    assert [it.kind for it in offline.resources] == ["Pod"], "the volume is not the run's"


def test_a_kept_volume_that_is_there_pins_the_places_or_fits_none(
    repo: Repo, root: Path, simulator: RunningSimulator
) -> None:
    env = simulator.env() | OFFLINE | {"PUSHTRAIN_SOURCE_URL": "https://git.example/o/r.git"}
    repo.index.add(["data/rows.jsonl"])
    repo.index.commit("data")
    volume = {"name": "models", "keep": True, "size_gb": 100}
    job(root, compute={"gpus": ["NVIDIA A40"], "volume": volume})
    assert any("made by its first run, in the first place's data center" in note for note in one(root, env).notes)
    body = {"name": kept_volume_name("models", env["PUSHTRAIN_SOURCE_URL"]), "size": 50, "dataCenter": "CA-MTL-1"}
    made = simulator.request("POST", "/v2/network-volumes", json=body).raise_for_status().json()["id"]
    try:
        plan = one(root, env)
        assert [place.data_centers for place in plan.places] == [("CA-MTL-1",)]
        assert any("$3.50 a month), grown to 100 GB" in note for note in plan.notes)
        job(root, compute={"gpus": ["NVIDIA A40"], "volume": volume, "data_centers": ["EU-SE-1"]})
        misfit = one(root, env)
        assert all(place.usd_per_hour is None for place in misfit.places)
        assert any(note.startswith("VolumeElsewhere: ") and "CA-MTL-1" in note for note in misfit.notes)
    finally:
        simulator.request("DELETE", f"/v2/network-volumes/{made}")


def test_past_runs_correct_hours_and_say_so(root: Path) -> None:
    spec = load(job(root), root)
    sources = open_sources(root, OFFLINE)
    before = plan_of(spec, sources, None).places[0]
    sources.learn([Past("NVIDIA A40", "qlora", 2.0)])
    after = plan_of(spec, sources, None)
    assert before.hours is not None and after.places[0].hours is not None and before.tokens_per_s
    assert after.places[0].hours.total.expected > before.hours.total.expected
    assert after.places[0].tokens_per_s == pytest.approx(before.tokens_per_s / 2)
    assert any("× 2.00 by 1 finished run on NVIDIA A40 with qlora" in note for note in after.notes)
    assert not any(note.startswith("memory: ") for note in after.notes)


def test_past_runs_that_took_more_memory_than_estimated_make_a_card_smaller_and_say_so(root: Path) -> None:
    spec = load(job(root, compute={"gpus": ["NVIDIA RTX A4000", "NVIDIA A40"]}), root)
    found = {}
    for ratio in (0.7, 1.6, 9.0):
        sources = open_sources(root, OFFLINE)
        sources.learn([Past("NVIDIA L4", "qlora", 1.0, ratio), Past("NVIDIA L4", "lora", 1.0, 5.0)])
        found[ratio] = plan_of(spec, sources, None)
    found[1.0] = plan_of(spec, open_sources(root, OFFLINE), None)
    verdicts = {ratio: {it.gpu.split()[-1]: it.verdict for it in plan.places} for ratio, plan in found.items()}
    assert verdicts[0.7] == verdicts[1.0] == {"A4000": "fits", "A40": "fits"}
    assert verdicts[1.6] == {"A4000": "tight", "A40": "fits"}
    said = [note for plan in found.values() for note in plan.notes if note.startswith("memory: ")]
    assert [re.findall(r"\d\.\d\d", note) for note in said] == [["0.70"], ["1.60", "1.60"], ["9.00", "2.00"]]
    assert "1 finished run with qlora" in said[0] and said[0].endswith("changes nothing")
    assert said[1].endswith("each card is taken for 1.60 times smaller")


def test_the_preview_is_what_the_pulumi_program_declares(root: Path, tmp_path: Path) -> None:
    """The plan lists resources without Pulumi: the same ones an engine's preview of the first attempt shows."""
    from infra.engine_embedded import EmbeddedEngine
    from infra.launch import stack_plan
    from infra.program import program
    from pushtrain.run import Run

    for tiers in (["SECURE"], ["COMMUNITY"]):
        spec = load(job(root, compute={"tiers": tiers, "gpus": ["NVIDIA GeForce RTX 4090"]}), root)
        sources = open_sources(root, OFFLINE)
        candidate = ladder(spec, sources.offers(spec)[0].offers)[0]
        run = Run(job=spec.name, commit="c" * 40, spec_digest=spec.digest, ledger_url="file:///ledger")
        wanted = program(stack_plan(run, spec, candidate, attempt=1, env={}), {})
        preview = EmbeddedEngine(tmp_path / "stacks").preview("run-x", wanted)
        shown = [(it.action, it.kind, it.name) for it in plan_of(spec, sources, None).resources]
        assert shown == [(it.action, it.kind, it.urn_name) for it in preview]


def test_a_terminal_a_comment_and_json_say_the_same(root: Path) -> None:
    job(root)
    plans, _ = plan_specs([], root, OFFLINE)
    plan = plans.plans[0]
    assert plan.places[0].money is not None
    usd = f"${plan.places[0].money.expected_usd:.2f}"
    told = json.loads(json.dumps(document(plans)))
    assert usd in text_of(plans) and usd.replace("$", "\\$") in markdown(plans)
    assert told["format"] == 1 and told["plans"][0]["places"][0]["usd"]["expected"] == pytest.approx(
        float(usd[1:]), abs=0.01
    )
    terms = told["plans"][0]["memory"]["terms_gb"]
    assert set(terms) == {"weights", "adapter", "optimizer", "gradients", "activations", "logits", "context"}
    assert sum(terms.values()) == pytest.approx(told["plans"][0]["memory"]["need_gb"], abs=0.01)


def test_strangers_text_means_nothing_in_markdown(root: Path) -> None:
    hostile = "pipe | <img src=x> @everyone [x](http://e.vil) `code` #1 ![i](http://e.vil/i.png)"
    job(root, data={"path": "data/rows.jsonl", "columns": {"prompt": hostile}})
    spec = load(root / "jobs" / "job.yaml", root)
    text = plan_markdown(plan_of(spec, open_sources(root, OFFLINE), None))
    for power in (r"(?<!\\)<img", "@everyone", r"(?<!\\)\]\(http", r"(?<!\\)!\[", "http://"):
        assert not re.search(power, text), power
    assert text.count("<details>") == text.count("</details>") > 0


def test_strangers_text_does_nothing_in_a_terminal(root: Path, repo: Repo) -> None:
    job(root)
    repo.git.add(".")
    repo.git.commit("-m", "base")
    job(root, data={"path": "data/rows.jsonl", "columns": {"prompt": "red\x1b[31m \u202eturned"}}, suspend=True)
    (root / "data" / "rows.jsonl").write_text(ROWS.replace('"prompt"', json.dumps("red\x1b[31m \u202eturned")))
    shown = text_of(plan_specs([], root, OFFLINE, base="main")[0])
    assert "data.columns" in shown and "\x1b" not in shown and "\u202e" not in shown


def test_a_claims_expectation_is_learned_from_when_the_run_is_over(root: Path, repo: Repo, tmp_path: Path) -> None:
    """From the claim's estimate over the receipt in a real ledger to the next expectation and the next plan."""
    remote = tmp_path / "ledger.git"
    Repo.init(remote, bare=True).close()
    ledger = Ledger(f"file://{remote}", cache_dir=tmp_path / "cache", environ=git_environ(tmp_path))
    spec = load(job(root), root)
    candidate = ladder(spec, open_sources(root, OFFLINE).offers(spec)[0].offers)[0]
    expect = Expectations(root, OFFLINE, ledger, print)
    first = expect(spec, [candidate])
    assert first["gpu"] == "NVIDIA A40" and first["kind"] == "qlora" and first["expected_usd"] > 0
    assert "no finished run" in first["correction"]
    run = json.dumps({"estimate": first}).encode()
    claimed = EventDraft(state="claimed", writer="control", attempt=1)
    ledger.claim("job-01234567-89abcdef", files={"spec.yaml": b"", "run.json": run}, event=claimed)
    took = {"training": first["training_s"] * 1.5}
    receipt = {"outcome": "succeeded", "phases_s": took, "history": [{"gpu": "NVIDIA A40"}]}
    ledger.append("job-01234567-89abcdef", files={"receipt.json": json.dumps(receipt).encode()})
    second = expect(spec, [candidate])
    assert second["training_s"] == first["training_s"], "what is learned from is never corrected itself"
    assert second["expected_hours"] > first["expected_hours"] and "× 1.50 by 1 finished run" in second["correction"]
    repo.git.add("jobs", "data")
    repo.git.commit("-m", "job")
    urls = {"PUSHTRAIN_LEDGER_URL": f"file://{remote}", "PUSHTRAIN_SOURCE_URL": "file:///nowhere"}
    plan = one(root, {**git_environ(tmp_path), **OFFLINE, **urls})
    assert any("× 1.50 by 1 finished run on NVIDIA A40 with qlora" in note for note in plan.notes), plan.notes
    assert expect(load(job(root, model={"id": "some/thing"}), root), [candidate]) == {}
    assert expect(spec, []) == {}


def test_the_plan_in_readme_is_what_the_program_prints(tmp_path: Path) -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## What a reviewer sees")[2].partition("\n## ")[0]
    shown = section.split("```")[1].strip("\n").splitlines()
    spec = (PROJECT / "jobs" / "qwen3-8b-qlora.yaml").read_text(encoding="utf-8")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "qwen3-8b-qlora.yaml").write_text(re.sub(r"(?m)^suspend.*\n", "", spec))
    environ = {**git_environ(tmp_path), **OFFLINE, "COLUMNS": "118", "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "pushtrain", "plan"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    places = [printed.index(line) for line in shown]
    assert places == sorted(places), "the same lines in the same order"


def test_a_batch_of_one_row_is_tried_with_each_other_change(root: Path) -> None:
    job(root, method={"kind": "lora"}, train={"per_device_train_batch_size": 4, "max_length": 32768})
    changes = [suggestion.change for suggestion in one(root).suggestions]
    alone = next(it for it in changes if it[0].startswith("train.max_length"))
    paired = next(it for it in changes if it[0] == "train.per_device_train_batch_size: 1" and "max_length" in it[-1])
    assert int(paired[-1].split()[-1]) > int(alone[0].split()[-1]), "rows stay longer with fewer of them at once"

"""The first plan: what it says without a key, at live prices, and in a table of somebody else's page."""

import json
from pathlib import Path

import pytest
from git_world import git_environ

from infra.simulator.server import RunningSimulator
from pushtrain.plan import plan_specs

pytest_plugins = ("simulator_fixtures",)

SPEC = """\
version: 1
name: {name}
model: {{id: demo/base{model}}}
data: {{source: hf://datasets/a/b}}
compute: {{gpus: [{gpus}]}}
budget: {{max_hours: 2, max_usd: 3.5}}
publish: {{repo: demo/{name}, private: {private}}}
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in git_environ(tmp_path).items():
        monkeypatch.setenv(name, value)
    return tmp_path


def job(root: Path, name: str = "job", *, gpus: str = "NVIDIA A40", model: str = "", private: str = "true") -> Path:
    file = root / "jobs" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(SPEC.format(name=name, gpus=gpus, model=model, private=private))
    return file


def test_without_a_key_it_names_what_is_rented_and_the_caps(root: Path) -> None:
    job(root)
    plans, problems = plan_specs([], root, {})
    text = plans[0].as_text()
    assert problems == []
    for part in ("lora on demo/base", "$3.5 and 2 h", "pod with 1 GPU", "private", "a merge starts it", "floating"):
        assert part in text
    assert "no RUNPOD_API_KEY" in text
    assert json.loads(json.dumps(plans[0].as_json()))["candidates"] is None


def test_what_a_reviewer_must_see_is_loud(root: Path) -> None:
    file = job(root, private="false")
    file.write_text(file.read_text().replace("demo/base", "demo/base, revision: abc") + "suspend: true\n")
    file.write_text(file.read_text().replace("datasets/a/b", "datasets/a/b, revision: def"))
    rows = dict(plan_specs([], root, {})[0][0].rows())
    assert rows["publishes"] == "demo/job (PUBLIC)"
    assert rows["revisions"] == "pinned"
    assert rows["state"].startswith("suspended")


def test_a_wrong_spec_is_a_problem_and_the_others_are_planned(root: Path) -> None:
    job(root)
    job(root, "wrong").write_text("name: [")
    plans, problems = plan_specs([], root, {})
    assert [plan.spec.name for plan in plans] == ["job"]
    assert len(problems) == 1


def test_with_a_key_there_are_candidates_at_live_prices(root: Path, simulator: RunningSimulator) -> None:
    job(root)
    plan = plan_specs([], root, simulator.env())[0][0]
    assert plan.note == ""
    assert plan.candidates
    for candidate, usd in plan.candidates:
        assert candidate.gpu == "NVIDIA A40"
        assert usd > candidate.usd_per_hour > 0
    row = plan.as_json()["candidates"][0]
    assert f"${row['usd_per_hour_all']:.3f}/h with storage" in plan.as_text()
    assert "| candidate 1 | NVIDIA A40" in plan.as_markdown()


def test_community_candidates_and_what_they_cost_a_lost_pod_are_shown(root: Path, simulator: RunningSimulator) -> None:
    file = job(root, gpus="NVIDIA RTX A6000")
    file.write_text(file.read_text().replace("compute: {", "compute: {tiers: [SECURE, COMMUNITY], "))
    plan = plan_specs([], root, simulator.env())[0][0]
    rows = dict(plan.rows())
    assert rows["creates"].startswith(
        "network volume 50 GB or 50 GB of the community machine's own disk, pod with 1 GPU"
    )
    assert "from the last checkpoint; on a community machine" in rows["after a lost pod"]
    assert [row for row in plan.candidate_rows() if "on a community machine: $0.342/h with storage" in row]
    file.write_text(file.read_text().replace("SECURE, COMMUNITY", "COMMUNITY"))
    rows = dict(plan_specs([], root, {})[0][0].rows())
    assert rows["after a lost pod"] == "the next attempt starts from step 0"


def test_a_volume_whose_price_is_not_certain_is_said_to_be_so(root: Path, simulator: RunningSimulator) -> None:
    job(root, gpus="NVIDIA H100 80GB HBM3")
    plan = plan_specs([], root, simulator.env())[0][0]
    dear = [candidate for candidate, _ in plan.candidates or () if candidate.volume_kind == "HIGH_PERFORMANCE"]
    assert bool(dear) == ("$0.14 per GB and month" in plan.note)
    assert dear, "the catalogue has a data center with high-performance volumes only"


def test_a_cloud_that_says_no_is_a_note_in_the_plan(root: Path, simulator: RunningSimulator) -> None:
    job(root)
    wrong_key = simulator.env() | {"RUNPOD_API_KEY": "canary-secret-wrong"}
    plan = plan_specs([], root, wrong_key)[0][0]
    assert plan.note.startswith("CloudAuthFailed: ")
    assert plan.as_json()["candidates"] in ([], ())
    assert "canary" not in plan.as_text()
    nobody = simulator.env() | {"RUNPOD_API_BASE_URL": "http://127.0.0.1:9"}
    assert plan_specs([], root, nobody)[0][0].note.startswith("CloudUnavailable: ")


def test_user_text_means_nothing_in_markdown(root: Path, simulator: RunningSimulator) -> None:
    plan = plan_specs([job(root, model="_x")], root, {})[0][0]
    assert "| trains | sft, lora on demo/base_x at main |" in plan.as_markdown()
    from pushtrain.plan import _cell

    for text in ("<img src=x>", "a | b", "@everyone", "`x`", "two\nlines", "&lt;"):
        cell = _cell(text)
        assert "\n" not in cell
        assert "`" not in cell
        assert "<" not in cell
        assert "@e" not in cell
        assert " | " not in cell.replace("\\|", "")

"""One job at every cloud: the plan's figures by dollars, with what is missing; as table, JSON, SVG and in README."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import RenderableType
from typer.testing import CliRunner

from infra.simulator.server import RunningSimulator
from pushtrain.cli import app
from pushtrain.compare import Comparison, compare
from pushtrain.compare.boots import boots_s, median_s
from pushtrain.compare.document import document
from pushtrain.compare.svg import drawn as svg
from pushtrain.compare.table import drawn, markdown, shown
from pushtrain.events import Event, now_text
from pushtrain.ledger import RunRecord
from pushtrain.plan import plan_specs
from pushtrain.plan.document import place_document, plan_document
from pushtrain.plan.markdown import plan_markdown
from pushtrain.plan.text import drawn as plan_drawn
from pushtrain.prices.snapshot import PRICED
from pushtrain.terminal import out

pytest_plugins = ("simulator_fixtures",)

PROJECT = Path(__file__).parents[1]
OFFLINE = {"HF_HUB_OFFLINE": "1"}
# The jobs whose tables README has, and how many rows of each.
REAL_JOBS, ROWS = ("qwen3-8b-qlora", "flan-t5-summarizer", "nanochat-speedrun"), 6


def compared(job: str, environ: Mapping[str, str] = OFFLINE) -> Comparison:
    found, problems = compare(PROJECT / "jobs" / f"{job}.yaml", PROJECT, environ)
    assert found is not None and not problems
    return found


@pytest.fixture(scope="module")
def qlora() -> Comparison:
    return compared("qwen3-8b-qlora")


def test_every_cloud_is_there_and_the_cheapest_is_first(qlora: Comparison) -> None:
    assert {row.cloud for row in qlora.rows} == set(PRICED)
    expected = [row.place.money.expected_usd for row in qlora.rows if row.place.money]
    assert len(expected) == len(qlora.rows) and expected == sorted(expected)
    assert all("days ago" in said for said in qlora.prices.values()), "each says how old its prices are"
    assert all(row.boot_s is None for row in qlora.rows), "no ledger, no boot times"
    assert {row.place.verdict for row in qlora.rows} <= {"fits", "tight"}


def test_its_figures_are_the_plan_s_and_not_its_own(qlora: Comparison) -> None:
    plans, _ = plan_specs([PROJECT / "jobs" / "qwen3-8b-qlora.yaml"], PROJECT, OFFLINE)
    for place in plans.plans[0].places:
        (row,) = [it for it in qlora.rows if it.goes_there and it.place.gpu == place.gpu]
        assert place_document(row.place) == place_document(place)


def test_what_is_missing_comes_from_the_spec_then_from_the_cloud(qlora: Comparison) -> None:
    (here,) = [row for row in qlora.rows if row.cloud == "runpod" and row.place.gpu == "NVIDIA A40"]
    assert here.goes_there and here.missing == ("no spot",)
    vast = next(row for row in qlora.rows if row.cloud == "vast")
    assert not vast.goes_there and vast.missing[0] == "needs cloud: vast"
    assert {"not in compute.gpus", "no volume across machines"} <= set(vast.missing)
    cheap = next(row for row in qlora.rows if row.place.gpu == "NVIDIA GeForce RTX 3090")
    assert cheap.missing[0] == "its budget ends it before"


def test_where_a_spec_bids_its_bids_are_rows_of_their_own(simulator: RunningSimulator, tmp_path: Path) -> None:
    text = (PROJECT / "jobs" / "qwen3-8b-qlora.yaml").read_text()
    text = text.replace("cloud: runpod", "cloud: vast\n  spot: {max_share: 0.8}")
    text = re.sub(r"publish: ?\n", "publish:\n  hub_strategy: checkpoint\n", text)
    path = tmp_path / "jobs" / "qwen3-8b-qlora.yaml"
    path.parent.mkdir()
    path.write_text(text)
    environ = OFFLINE | simulator.env("vast")
    found, problems = compare(path, tmp_path, environ)
    assert found is not None and not problems
    spot = {row.place.gpu: row for row in found.rows if row.place.is_spot and row.place.tier == "SECURE"}
    (on_demand,) = [
        it for it in found.rows
        if (it.cloud, it.place.gpu, it.place.tier, it.place.is_spot) == ("vast", "NVIDIA A40", "SECURE", False)
    ]  # fmt: skip
    bid = spot["NVIDIA A40"]
    assert bid.goes_there and (bid.place.usd_per_hour or 0) < (on_demand.place.usd_per_hour or 0)
    plans, _ = plan_specs([path], tmp_path, environ)
    (first, *_) = plans.plans[0].places
    assert first.is_spot and first == bid.place and ", spot" in plan_markdown(plans.plans[0])
    assert first.interruptions is not None and first.hours is not None and first.money is not None
    assert on_demand.place.interruptions is None and first.hours.interrupted.expected > 0
    assert any("interruptions expected" in it for it in bid.missing) and "assumed" in plan_markdown(plans.plans[0])
    assert any(note.startswith("interruptions at Vast.ai: one in 12 h is assumed") for note in found.notes)
    told = place_document(first)
    assert 0 < told["interruptions"]["expected"] <= 2 and told["interruptions"]["hours_between"] == 12
    often, _ = compare(path, tmp_path, environ | {"PUSHTRAIN_SPOT_HOURS": "1"})
    assert often is not None
    dearer = next(row for row in often.rows if row.place.is_spot and row.place.gpu == "NVIDIA A40")
    assert (dearer.place.money or first.money).expected_usd > first.money.expected_usd


def test_a_command_is_compared_on_the_gpus_that_it_names_by_dollars_an_hour() -> None:
    found = compared("nanochat-speedrun")
    assert {row.place.gpu for row in found.rows} == {"NVIDIA H100 80GB HBM3"} and found.memory is None
    hourly = [row.place.usd_per_hour or 0 for row in found.rows]
    assert hourly == sorted(hourly) and all(row.place.money is None for row in found.rows)
    assert any("no model of memory or time" in note for note in found.notes)
    assert any(note.startswith("Vast.ai: no price known") for note in found.notes), "said, not left out"


def test_json_has_the_plan_s_place_and_what_only_a_comparison_says(qlora: Comparison) -> None:
    told = json.loads(json.dumps(document(qlora)))
    assert (told["format"], told["name"], set(told["prices"])) == (1, "qwen3-8b-qlora", set(PRICED))
    assert told["prices"]["modal"]["asked"] == "2026-05-08" and told["prices"]["modal"]["is_live"] is False
    assert len(told["rows"]) == len(qlora.rows)
    place = set(place_document(qlora.rows[0].place))
    assert set(told["rows"][0]) == place | {"title", "boot_s", "missing", "goes_there"}
    assert set(told["rows"][0]["usd"]) == {"low", "expected", "high", "cap"}


def test_a_table_shows_the_cheapest_and_the_cheapest_of_each_cloud(qlora: Comparison) -> None:
    few = shown(qlora.rows, 3)
    assert {row.cloud for row in few} == set(PRICED) and len(few) == len(PRICED) + 1
    assert [row.place.gpu for row in few if row.goes_there] == ["NVIDIA A40"], "where the spec goes as it is"
    assert few[0] is qlora.rows[0] and [qlora.rows.index(row) for row in few] == sorted(map(qlora.rows.index, few))
    assert len(shown(qlora.rows, 12)) == 12 and shown((), 3) == []
    with out.capture() as kept:
        out.print(drawn(qlora))
    assert "dearer rows are in --json" in kept.get() and "JarvisLabs" in kept.get()


def test_the_drawing_is_one_svg_with_a_dot_for_each_place_and_takes_hostile_words(qlora: Comparison) -> None:
    def dots(found: Comparison) -> list[str]:
        root = ElementTree.fromstring(svg(found))
        assert root.tag.endswith("}svg")
        return [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]

    assert len(dots(qlora)) == len(shown(qlora.rows)) and any("Modal" in text for text in dots(qlora))
    assert len(dots(compared("nanochat-speedrun"))) == 4, "to the end of the budget, where no time is known"
    assert dots(replace(qlora, rows=())) == []
    row = qlora.rows[0]
    hostile = replace(row, place=replace(row.place, gpu="<script>&\"'"))
    assert "<script>&\"'" in dots(replace(qlora, rows=(hostile,)))[0], "as text"


def test_boot_times_are_of_pods_that_spoke_and_by_cloud() -> None:
    def record(cloud: str | None, *events: tuple[str, int, float]) -> RunRecord:
        made = tuple(
            Event(seq=seq, time=now_text(at), state=state, writer="", attempt=attempt, reason="", message="",
                  data={}, prev=None, digest="")
            for seq, (state, attempt, at) in enumerate(events, 1)
        )  # fmt: skip
        run = {} if cloud is None else {"cloud": cloud}
        return RunRecord(run_id="r", tip="t", spec=b"", run=run, events=made, result=None, receipt=None, paths={})

    runs = [
        record(None, ("provisioned", 1, 100), ("booting", 1, 140), ("booting", 1, 400), ("provisioned", 2, 500)),
        record(None, ("provisioned", 1, 0), ("booting", 1, 60), ("provisioned", 2, 200), ("booting", 2, 280)),
        record("vast", ("booting", 1, 5), ("provisioned", 1, 10)),
    ]
    assert boots_s(runs) == {"runpod": [40, 60, 80]}
    assert (median_s(boots_s(runs).get("runpod")), median_s(None)) == (60, None)


def test_a_cloud_whose_key_is_set_is_asked_live_and_one_that_does_not_answer_is_said(
    simulator: RunningSimulator,
) -> None:
    found = compared("qwen3-8b-qlora", OFFLINE | simulator.env("vast"))
    live = {row.cloud for row in found.rows if not row.place.stock.startswith("not asked")}
    assert live == {"runpod", "vast"} == {cloud for cloud, day in found.days.items() if day is None}
    assert found.prices["vast"] == "live from Vast.ai's catalogue"
    wrong = OFFLINE | simulator.env() | {"RUNPOD_API_KEY": "rpa_canary_secret_of_nobody"}
    found = compared("qwen3-8b-qlora", wrong)
    assert {"runpod", "vast", "modal"} <= {row.cloud for row in found.rows}, "a snapshot stands in"
    assert found.prices["runpod"].endswith("was asked and did not say") and found.days["runpod"]
    assert any(note.startswith("RunPod: CloudAuthFailed") for note in found.notes)
    assert "canary" not in json.dumps(document(found)) + svg(found)


@pytest.mark.parametrize(
    "text", [b"\xff\x00", b"a: [", b"version: 1\nname: x\nsteal: yes\n", b"a: &a [*a, *a]\n", b"x" * 2_000_000, b""]
)
def test_a_hostile_spec_is_refused_as_the_plan_refuses_it(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "jobs" / "x.yaml"
    path.parent.mkdir()
    path.write_bytes(text)
    found, problems = compare(path, tmp_path, OFFLINE)
    _, planned = plan_specs([path], tmp_path, OFFLINE)
    assert found is None and problems and [str(it) for it in problems] == [str(it) for it in planned]
    assert {it.exit_code for it in problems} == {2}


def test_the_verb_writes_json_alone_on_stdout_and_the_drawing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    for name in ("RUNPOD_API_KEY", "VAST_API_KEY", "PUSHTRAIN_LEDGER_URL"):
        monkeypatch.delenv(name, raising=False)
    target = tmp_path / "plot.svg"
    done = CliRunner().invoke(app, ["compare", "jobs/qwen3-8b-qlora.yaml", "--json", "--svg", str(target)])
    assert done.exit_code == 0 and json.loads(done.stdout)["rows"]
    assert ElementTree.parse(target).getroot().tag.endswith("}svg")
    assert CliRunner().invoke(app, ["compare", "jobs/nowhere.yaml"]).exit_code == 2


def test_readme_has_the_table_of_the_three_real_jobs() -> None:
    readme = (PROJECT / "README.md").read_text()
    for job in REAL_JOBS:
        wanted = markdown(compared(job), ROWS)
        found = re.search(rf"\*\*`{job}`\*\*.*?\n\n((?:\|.*\n)+)", readme)
        assert found, f"README has no table of {job}"
        assert found[1].splitlines() == wanted, f"the table of {job} should be\n" + "\n".join(wanted)


def test_of_several_clouds_a_plan_shows_the_three_best_in_a_terminal_a_comment_and_json(tmp_path: Path) -> None:
    text = (PROJECT / "jobs" / "qwen3-8b-qlora.yaml").read_text()
    gpus = "gpus: [NVIDIA A40, NVIDIA H100 80GB HBM3]"
    text = re.sub(r"gpus: \[.*\]", f"{gpus}\n  tiers: [SECURE, COMMUNITY]", text)
    text = re.sub(r"cloud: runpod", "cloud: [runpod, vast]", text)
    path = tmp_path / "jobs" / "qwen3-8b-qlora.yaml"
    path.parent.mkdir()
    path.write_text(text)
    plans, problems = plan_specs([path], tmp_path, OFFLINE)
    (plan,) = plans.plans
    assert not problems and plans.prices.startswith("RunPod: of 2026-") and "; Vast.ai: of 2026-" in plans.prices
    assert [(place.cloud, place.gpu) for place in plan.places[:2]] == [
        ("runpod", "NVIDIA A40"),
        ("runpod", "NVIDIA H100 80GB HBM3"),
    ], "the order of the ladder is the spec's"
    best = [(place.cloud, place.gpu, place.tier) for place in plan.best]
    assert best == [
        ("runpod", "NVIDIA A40", "SECURE"),
        ("runpod", "NVIDIA H100 80GB HBM3", "COMMUNITY"),
        ("vast", "NVIDIA H100 80GB HBM3", "COMMUNITY"),
    ], "an hour of the H100 and its traffic cost more than seven of the A40"
    expected = [place.money.expected_usd for place in plan.best if place.money]
    assert expected == sorted(expected)
    assert [it["cloud"] for it in plan_document(plan)["best"]] == ["runpod", "runpod", "vast"]
    for shown_in in (plan_markdown(plan), _drawn(plan_drawn(plans))):
        assert "cheapest, 3" in shown_in and "Vast.ai, 1 × NVIDIA H100 80GB HBM3, community" in shown_in
    alone, _ = plan_specs([PROJECT / "jobs" / "qwen3-8b-qlora.yaml"], PROJECT, OFFLINE)
    assert alone.plans[0].best == () and "cheapest" not in plan_markdown(alone.plans[0])


def _drawn(what: RenderableType) -> str:
    with out.capture() as kept:
        out.print(what)
    return " ".join(kept.get().split())

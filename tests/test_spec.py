"""The model of a job spec: what it takes, and what makes a new run."""

import copy
import hashlib
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from pushtrain.spec import KINDS, CommandSpec, JobSpec, SessionSpec, TrainingSpec, job_spec

SPEC: dict[str, Any] = {
    "version": 1,
    "name": "support",
    "model": {"id": "Qwen/Qwen3-8B"},
    "data": {"path": "data/x.jsonl"},
    "compute": {"gpus": ["NVIDIA A40"]},
    "budget": {"max_hours": 6, "max_usd": 5},
    "publish": {"repo": "org/support-lora"},
}


def with_value(path: str, value: object) -> dict[str, Any]:
    document = copy.deepcopy(SPEC)
    *sections, key = path.split(".")
    place = document
    for section in sections:
        place = place.setdefault(section, {})
    place[key] = value
    return document


def spec(path: str = "version", value: object = 1) -> JobSpec:
    return job_spec(with_value(path, value))


def test_a_whole_number_is_taken_where_a_float_is_meant() -> None:
    assert spec("budget.max_usd", 5).budget.max_usd == 5.0
    assert spec("train.epochs", 3).train.epochs == 3.0


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("budget.max_usd", "5"),
        ("budget.max_usd", True),
        ("budget.max_usd", -1),
        ("budget.max_usd", 0),
        ("budget.max_usd", float("nan")),
        ("budget.max_hours", float("inf")),
        ("method.rank", 16.0),
        ("method.rank", "16"),
        ("method.target_modules", []),
        ("method.target_modules", ["q_proj; reboot"]),
        ("publish.private", "yes"),
        ("publish.private", 1),
        ("publish.repo", "support-lora"),
        ("model.id", "org/../other"),
        ("model.id", "org/name/third"),
        ("model.revision", "main/../../other"),
        ("model.revision", "-main"),
        ("data.split", "../train"),
        ("compute.image", "image; reboot"),
        ("compute.gpus", []),
        ("compute.gpus", ["NVIDIA A40\n"]),
        ("compute.data_centers", ["eu-se-1"]),
        ("compute.volume.size_gb", 5),
        ("compute.unknown", 1),
        ("version", 2),
        ("task", "grpo"),
    ],
)
def test_a_value_of_the_wrong_type_or_size_is_refused(path: str, value: object) -> None:
    with pytest.raises(ValidationError):
        spec(path, value)


@pytest.mark.parametrize(
    "path", ["../x.jsonl", "/etc/x.jsonl", "~/x.jsonl", "C:/x.jsonl", "a\\..\\x.jsonl", "a\n.jsonl", "x.txt", ""]
)
def test_a_data_path_out_of_the_repository_is_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        spec("data.path", path)


@pytest.mark.parametrize("source", ["hf://datasets/../x", "org/name", "https://example.org/x", "hf://datasets/a/b/c"])
def test_a_source_that_is_no_dataset_of_the_hub_is_refused(source: str) -> None:
    with pytest.raises(ValidationError):
        spec("data", {"source": source})


@pytest.mark.parametrize("data", [{}, {"path": "x.jsonl", "source": "hf://datasets/a/b"}])
def test_data_comes_from_exactly_one_place(data: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="exactly one of"):
        spec("data", data)


COMMAND: dict[str, Any] = {
    "version": 1,
    "name": "speedrun",
    "task": "command",
    "command": {"run": ["bash", "runs/speedrun.sh"]},
    "compute": {"gpus": ["NVIDIA A40"]},
    "budget": {"max_hours": 6, "max_usd": 5},
}


def test_a_command_needs_no_model_and_a_training_no_command() -> None:
    assert isinstance(job_spec(COMMAND), CommandSpec) and isinstance(spec(), TrainingSpec)
    for key in ("model", "data", "method", "train", "track"):
        with pytest.raises(ValidationError, match=key):
            job_spec({**COMMAND, key: SPEC.get(key, {})})
    with pytest.raises(ValidationError, match="command"):
        spec("command", {"run": ["true"]})


SESSION: dict[str, Any] = {
    "version": 1,
    "name": "dev",
    "task": "session",
    "compute": {"gpus": ["NVIDIA A40"], "ports": ["8888/http"]},
    "budget": {"max_hours": 8, "max_usd": 5},
}


def test_a_session_needs_nothing_but_a_place_and_a_budget_and_has_no_steps() -> None:
    made = job_spec(SESSION)
    assert isinstance(made, SessionSpec) and made.session.idle_minutes == 30
    assert made.watched["step_gap_minutes"] > made.budget.max_hours * 60 and made.watched["closing_minutes"] > 0
    assert made.secrets == () and made.extras == ("session",) and made.silence_s == 1800
    named = job_spec({**SESSION, "session": {"secrets": ["HF_TOKEN"], "branch": "my-work", "start": ["make"]}})
    assert named.secrets == ("HF_TOKEN",)
    for key in ("model", "data", "command", "publish", "track"):
        with pytest.raises(ValidationError, match=key):
            job_spec({**SESSION, key: {}})
    with pytest.raises(ValidationError, match="no steps"):
        job_spec({**SESSION, "limits": {"step_gap_minutes": 5}})


@pytest.mark.parametrize(
    "session",
    [
        {"idle_minutes": 0},
        {"idle_minutes": -1},
        {"idle_minutes": float("nan")},
        {"autosave_minutes": 0},
        {"branch": "refs/heads/main"},
        {"branch": "../runs/x"},
        {"branch": "a..b"},
        {"branch": "a.lock"},
        {"branch": "-f"},
        {"branch": "x."},
        {"branch": ""},
        {"start": []},
        {"start": "bash setup.sh"},
        {"secrets": ["PUSHTRAIN_LEDGER_TOKEN"]},
        {"secrets": ["RUNPOD_API_KEY"]},
        {"tmux": True},
    ],
)
def test_a_session_that_could_not_be_meant_is_refused(session: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        job_spec({**SESSION, "session": session})


@pytest.mark.parametrize(
    "command",
    [
        {"run": []},
        {"run": ["a\0b"]},
        {"run": "/bin/sh"},
        {"run": "../run.sh"},
        {"run": ["true"], "workdir": "../.."},
        {"run": ["true"], "env": {"A B": "x"}},
        {"run": ["true"], "env": {"HF_TOKEN": "x"}},
        {"run": ["true"], "env": {"MY_API_KEY": "x"}},
        {"run": ["true"], "env": {"password": "x"}},
        {"run": ["true"], "env": {"NOTE": "hf_" + "a" * 20}},
        {"run": ["true"], "env": {"URL": "https://user:pass@host/"}},
        {"run": ["true"], "env": {"PUSHTRAIN_RUN_DIR": "/"}},
        {"run": ["true"], "env": {"HOME": "/"}},
        {"run": ["true"], "secrets": ["PUSHTRAIN_LEDGER_TOKEN"]},
        {"run": ["true"], "secrets": ["RUNPOD_API_KEY"]},
        {"run": ["true"], "artifacts": ["../*"]},
        {"run": ["true"], "artifacts": ["/etc/passwd"]},
        {"run": ["true"], "success_exit_codes": [75]},
        {"run": ["true"], "success_exit_codes": []},
        {"run": ["true"], "progress": {"step": "step"}},
        {"run": ["true"], "progress": {"step": "(a)(b)"}},
        {"run": ["true"], "progress": {"step": "(" * 300}},
        {"run": ["true"], "progress": {"loss": "(a)"}},
        {"run": ["true"], "progress": {"step": "(a)", "metrics": {"loss": "(b)"}}},
    ],
    ids=str,
)
def test_a_command_that_leads_out_tells_a_secret_or_cannot_be_read_is_refused(command: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        job_spec({**COMMAND, "command": command})


def test_variables_that_only_sound_like_secrets_are_allowed() -> None:
    env = {"TOKENIZERS_PARALLELISM": "false", "MAX_TOKENS": "10", "KEYBOARD": "no", "PATH": "/opt/bin:/bin"}
    assert job_spec({**COMMAND, "command": {"run": ["true"], "env": env}})


def test_a_key_of_a_command_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"limits\.step_gap_minutes"):
        job_spec({**COMMAND, "limits": {"step_gap_minutes": 5}})
    with pytest.raises(ValidationError, match=r"command\.artifacts"):
        job_spec({**COMMAND, "publish": {"repo": "org/name"}})


def test_a_command_without_steps_is_held_to_none() -> None:
    silent = job_spec(COMMAND).watched
    assert silent["first_step_minutes"] == silent["step_gap_minutes"] == 720 * 60
    assert "max_attempts" not in silent
    assert job_spec({**COMMAND, "command": {"run": ["true"], "restart": False}}).watched["max_attempts"] == 1
    told = job_spec({**COMMAND, "command": {"run": ["true"], "progress": {"step": r"(\d+)"}}}).watched
    assert (told["first_step_minutes"], told["step_gap_minutes"]) == (60, 30)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("model.revision", "main", r"model\.revision 'main'"),
        ("model.revision", "a" * 39, r"model\.revision 'aaa"),
        ("data", {"source": "hf://datasets/org/chats"}, r"data\.revision 'main'"),
        ("compute.image", "runpod/pytorch:2.8", r"compute\.image 'runpod/pytorch:2\.8' has no digest"),
    ],
)
def test_strict_refuses_what_can_mean_something_else_tomorrow(path: str, value: object, named: str) -> None:
    pinned = with_value("strict", True)
    pinned["model"]["revision"] = "a" * 40
    pinned["compute"]["image"] = "runpod/pytorch@sha256:" + "b" * 64
    assert TrainingSpec.model_validate(pinned).floating == []
    section, _, key = path.partition(".")
    pinned[section] = {**pinned[section], key: value} if key else value
    with pytest.raises(ValidationError, match=named) as refused:
        job_spec(pinned)
    assert [error["loc"] for error in refused.value.errors()] == [("strict",)]
    assert job_spec(pinned | {"strict": False}).name == "support"


@pytest.mark.parametrize(
    ("count", "parallel", "method", "said"),
    [
        (1, "ddp", {}, "would do nothing on one GPU"),
        (2, "fsdp2", {"kind": "qlora"}, "ddp, or kind lora"),
        (2, "deepspeed_zero3", {"init_lora_weights": "pissa"}, "init_lora_weights pissa"),
    ],
)
def test_a_way_to_share_the_work_that_the_job_cannot_take_is_refused(
    count: int, parallel: str, method: dict[str, Any], said: str
) -> None:
    document = with_value("train.parallel", parallel) | {"method": method}
    document["compute"]["count"] = count
    with pytest.raises(ValidationError, match=said):
        job_spec(document)
    document["compute"]["count"], document["method"] = 2, {"kind": "full"}
    assert job_spec(document).train.parallel == parallel
    if parallel != "ddp":
        with pytest.raises(ValidationError, match="is for task sft without"):
            job_spec(document | {"task": "dpo"})
    assert job_spec(document).extras == (("deepspeed",) if parallel == "deepspeed_zero3" else ())


@pytest.mark.parametrize("name", ["$(reboot)", "a\n", "A", "-a", "a/b", "", "a" * 42, "a.b"])
def test_a_name_that_is_not_safe_in_a_ref_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        spec("name", name)


def test_defaults_and_number_spelling_do_not_make_a_new_run() -> None:
    assert spec("budget.max_usd", 5).digest == spec("budget.max_usd", 5.0).digest
    assert spec("suspend", True).digest == spec().digest


def test_what_the_user_wrote_makes_a_new_run() -> None:
    assert spec("budget.max_usd", 6).digest != spec().digest
    assert spec("method.rank", 16).digest != spec().digest


def test_the_digest_of_a_spec_never_changes_with_pushtrain() -> None:
    """Another digest would start every job of every user again: see `JobSpec.digest`."""
    canonical = (
        b'{"budget":{"max_hours":6.0,"max_usd":5.0},"compute":{"gpus":["NVIDIA A40"]},"data":{"path":"data/x.jsonl"},'
        b'"model":{"id":"Qwen/Qwen3-8B"},"name":"support","publish":{"repo":"org/support-lora"},"version":1}'
    )
    assert spec().digest == hashlib.sha256(canonical).hexdigest()


def test_every_field_says_what_it_is() -> None:
    waiting: list[type[BaseModel]] = list(KINDS)
    while waiting:
        model = waiting.pop()
        assert model.__doc__
        for name, known in model.model_fields.items():
            if isinstance(known.annotation, type) and issubclass(known.annotation, BaseModel):
                waiting.append(known.annotation)
            else:
                assert known.description, f"{model.__name__}.{name} has no docstring"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({"path": "x.jsonl", "split": "test"}, "has split, which is for a dataset of the Hub"),
        ({"path": "x.jsonl", "eval_split": "test"}, "has eval_split, which is for a dataset of the Hub"),
        ({"source": "hf://datasets/a/b", "eval_split": "test", "eval_fraction": 0.1}, "by one of them"),
        ({"source": "hf://datasets/a/b", "eval_split": "train"}, "the same split twice"),
        ({"path": "x.jsonl", "columns": {"promt": "question"}}, "promt"),
    ],
)
def test_keys_of_data_that_do_nothing_together_are_refused(data: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        spec("data", data)

"""A spec file to a JobSpec: every problem, at its line and column, with what to do."""

import json
import os
import time
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from pushtrain.errors import SpecError
from pushtrain.spec.file import load, loads, parse, schema_json, spec_error, write_text
from pushtrain.spec.yaml_tree import MAX_BYTES, MAX_DEPTH, Problem

GOOD = """\
# a comment
version: 1
name: support
model: {id: Qwen/Qwen3-8B, revision: main}
data:
  path: data/x.jsonl
method:
  kind: qlora
  rank: 16
train:
  learning_rate: 2e-4
compute:
  gpus: [NVIDIA A40, NVIDIA RTX A6000]
budget:
  max_hours: 6
  max_usd: 5
publish:
  repo: org/support-lora
  private: true
suspend: false
"""
NAME = "jobs/support.yaml"


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, f"{old!r} must be in GOOD once"
    return GOOD.replace(old, new)


def only_problem(text: str | bytes) -> Problem:
    problems = parse(text, NAME).problems
    assert len(problems) == 1, problems
    return problems[0]


def test_a_good_file_is_a_spec() -> None:
    spec = loads(GOOD, NAME)
    assert (spec.name, spec.method.rank, spec.compute.gpus[1]) == ("support", 16, "NVIDIA RTX A6000")
    assert spec.budget.max_usd == 5.0


def test_bytes_text_and_a_byte_order_mark_read_the_same() -> None:
    assert loads(GOOD, NAME) == loads(GOOD.encode(), NAME) == loads(b"\xef\xbb\xbf" + GOOD.encode(), NAME)
    assert loads("\ufeff" + GOOD, NAME) == loads(GOOD.replace("\n", "\r\n"), NAME)


@pytest.mark.parametrize("written", ["2e-4", "2.0e-4", "0.0002", "2E-4", "+2e-04"])
def test_every_way_to_write_a_learning_rate_is_a_number(written: str) -> None:
    assert loads(changed("learning_rate: 2e-4", f"learning_rate: {written}"), NAME).train.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("old", "new", "at", "message", "hint"),
    [
        ("rank: 16", "rnak: 16", "9:3", "method.rnak is not a key that is known here", "did you mean 'rank'?"),
        ("suspend: false", "suspended: false", "20:1", "suspended is not a key", "did you mean 'suspend'?"),
        ("kind: qlora", "epochs: 3", "8:3", "method.epochs is not a key", "'epochs' belongs in 'train'"),
        ("kind: qlora", "zzz: 3", "8:3", "method.zzz is not a key", "known here: kind, rank, alpha"),
        ("suspend: false", "<<: {suspend: false}", "20:1", "<< is not a key", "known here: version"),
        ("max_usd: 5", "max_usd: '5'", "16:12", "budget.max_usd must be a number, not '5'", "write 5 without quotes"),
        ("max_usd: 5", "max_usd: five", "16:12", "budget.max_usd must be a number, not 'five'", "US dollars"),
        ("max_usd: 5", "max_usd: true", "16:12", "budget.max_usd must be a number, not true", "US dollars"),
        ("max_usd: 5", "max_usd:", "16:3", "budget.max_usd must be a number, not nothing", "US dollars"),
        ("max_usd: 5", "max_usd: -5", "16:12", "budget.max_usd must be greater than 0, not -5", "US dollars"),
        ("max_usd: 5", "max_usd: .nan", "16:12", ".nan is not a finite number", "ordinary number"),
        ("max_usd: 5", "max_usd: -.inf", "16:12", "-.inf is not a finite number", "ordinary number"),
        ("max_usd: 5", "max_usd: 1e999", "16:12", "1e999 is not a finite number", "ordinary number"),
        ("rank: 16", "rank: 5.0", "9:9", "method.rank must be a whole number, not 5.0", "write 5"),
        ("rank: 16", "rank: '16'", "9:9", "method.rank must be a whole number, not '16'", "write 16"),
        ("rank: 16", f"rank: {'9' * 5000}", "9:9", "is no number that can be read", None),
        ("rank: 16", "rank: 99999", "9:9", "method.rank must be less than or equal to 1024, not 99999", "LoRA rank"),
        ("kind: qlora", "kind: QLoRA", "8:9", "method.kind must be 'lora', 'qlora' or 'full', not 'QLoRA'", "adapters"),
        ("kind: qlora", "target_modules: 5", "8:19", "must be 'all-linear' or a list, not 5", "Layers that get"),
        ("kind: qlora", "target_modules: [a, 5]", "8:23", "method.target_modules[1] must be text", '"5"'),
        (
            "private: true",
            "private: yes",
            "19:12",
            "publish.private must be true or false, not 'yes'",
            "without quotes",
        ),
        ("revision: main", "revision: 1234567", "4:38", "model.revision must be text, not 1234567", '"1234567"'),
        ("revision: main", "revision: 9e92", "4:38", "model.revision must be text, not 9e92", '"9e92"'),
        ("revision: main", "revision: a b", "4:38", "model.revision must match", "Branch, tag or commit"),
        ("gpus: [NVIDIA A40, NVIDIA RTX A6000]", "gpus: NVIDIA A40", "13:9", "compute.gpus must be a list", "order"),
        ("gpus: [NVIDIA A40, NVIDIA RTX A6000]", "gpus: [4]", "13:10", "compute.gpus[0] must be text, not 4", '"4"'),
        ("version: 1", "version: 2", "2:10", "version must be 1, not 2", "Version of this format"),
        ("version: 1", "version: '1'", "2:10", "version must be 1, not '1'", "write 1 without quotes"),
        ("path: data/x.jsonl", "path: ../x.jsonl", "6:9", "data.path must be a relative path inside the rep", None),
        ("  path: data/x.jsonl", "  split: train", "6:3", "data needs exactly one of 'path'", None),
        ("name: support", "name: other", "3:7", "name is 'other', but the file is support.yaml", "name: support"),
        ("name: support", 'name: "$(reboot)"', "3:7", "name must match ^[a-z0-9]", "hyphens, at most 41: reboot"),
        ("name: support", 'name: "support\\n"', "3:7", r"not 'support\n'", "at most 41: support"),
    ],
)
def test_a_wrong_key_or_value_is_reported_where_it_stands(
    old: str, new: str, at: str, message: str, hint: str | None
) -> None:
    problem = only_problem(changed(old, new))
    assert problem.where == f"{NAME}:{at}"
    assert message in problem.message
    assert (hint is None and problem.hint is None) or (hint is not None and hint in (problem.hint or ""))


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        (changed("  rank: 16", "\trank: 16"), "9:1", "a tab"),
        (changed("rank: 16", "rank:\t16"), "9:8", "a tab"),
        (changed("rank: 16", "kind: lora"), "9:3", "the key 'kind' is here twice, first on line 8"),
        (changed("rank: 16", "rank: &r 16"), "9:9", "YAML anchors (&r) are not allowed"),
        (changed("rank: 16", "rank: *r"), "9:9", "YAML aliases (*r) are not allowed"),
        (changed("rank: 16", "rank: !!int 16"), "9:9", "YAML tags (tag:yaml.org,2002:int) are not allowed"),
        (changed("rank: 16", "rank: @16"), "9:9", "cannot start any token"),
        (changed("rank: 16", "rank: [16"), "10:6", "expected ',' or ']'"),
        (changed("rank: 16", "rank: 1: 6"), "9:10", "mapping values are not allowed here"),
        (changed("rank: 16", "? [a, b]\n  : 1"), "9:5", "a key must be a plain word"),
        (changed("suspend: false", "---\nname: b"), "20:1", "a second document starts here"),
        (changed("suspend: false", "suspend: fal\x07se"), "20:13", "U+0007"),
        ("%YAML 1.1\n---\n" + GOOD, "2:1", "YAML directives"),
        ("- 1\n- 2\n", "1:1", "a job spec is a mapping of keys, not a list"),
        ("just words\n", "1:1", "a job spec is a mapping of keys, not 'just words'"),
        ("", "1:1", "the file is empty"),
        ("# only a comment\n", "1:1", "the file is empty"),
        (b"name: caf\xe9\n", "1:10", "not UTF-8: byte 0xE9"),
        (b"\xff\xfe" + GOOD.encode("utf-16-le"), "1:1", "not UTF-8: byte 0xFF"),
    ],
)
def test_what_is_not_plain_yaml_is_reported_where_it_stands(text: str | bytes, at: str, message: str) -> None:
    problem = only_problem(text)
    assert problem.where == f"{NAME}:{at}"
    assert message in problem.message


def test_a_missing_key_is_reported_at_the_mapping_it_belongs_in() -> None:
    assert only_problem(changed("  max_usd: 5\n", "")) == Problem(
        where=f"{NAME}:15:3", message="budget.max_usd is missing", hint="US dollars, storage included."
    )
    missing = parse("version: 1\n", NAME).problems
    assert [problem.message for problem in missing] == [
        f"{key} is missing" for key in ("name", "compute", "budget", "model", "data", "publish")
    ]
    assert {problem.where for problem in missing} == {f"{NAME}:1:1"}


def test_one_call_reports_every_problem_of_a_file() -> None:
    text = GOOD.replace("rank: 16", "rnak: 16").replace("max_usd: 5", "max_usd: .nan").replace("  max_hours: 6\n", "")
    with pytest.raises(SpecError) as caught:
        loads(text, NAME)
    lines = str(caught.value).splitlines()
    assert {line.split(": ")[0] for line in lines} == {f"{NAME}:9:3", f"{NAME}:15:3", f"{NAME}:15:12"}
    assert len(lines) == 3
    assert caught.value.where == lines[0].split(": ")[0]
    assert "did you mean 'rank'?" in str(caught.value)
    assert caught.value.exit_code == 2


def test_problems_come_in_the_order_of_the_file() -> None:
    reversed_file = "suspend: 1\ntrack: 1\ntask: 1\nname: support\nversion: 1\nunknown: 1\n"
    lines = [int(problem.where.split(":")[1]) for problem in parse(reversed_file, NAME).problems]
    assert lines == sorted(lines)
    assert set(lines) == {1, 2, 3, 6}


def test_one_problem_keeps_its_hint_apart() -> None:
    error = spec_error(parse(changed("rank: 16", "rnak: 16"), NAME).problems)
    assert (error.where, error.hint) == (f"{NAME}:9:3", "did you mean 'rank'?")
    assert str(error).startswith(f"{NAME}:9:3: method.rnak")


def test_thousands_of_problems_are_cut_short() -> None:
    problems = parse("".join(f"key{number}: 1\n" for number in range(3000)), NAME).problems
    assert len(problems) == 51
    assert "2957 more problems" in problems[-1].message  # 3000 unknown keys and 7 missing ones


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 1_000_000, "larger than 64 KiB"),
        ("{a: " * 250_000, "larger than 64 KiB"),
        ("[" * 60_000, f"nested deeper than {MAX_DEPTH} levels"),
        ("- " * 30_000, f"nested deeper than {MAX_DEPTH} levels"),
        ("? " * 30_000, f"nested deeper than {MAX_DEPTH} levels"),
        ("x: " + "{a: " * 15_000, f"nested deeper than {MAX_DEPTH} levels"),
        ("a: &a [x, x]\n" + "".join(f"k{n}: [*a, *a]\n" for n in range(1000)), "YAML anchors (&a)"),
    ],
)
def test_a_hostile_file_fails_fast_and_clean(text: str, message: str) -> None:
    started = time.process_time()
    problems = parse(text, NAME).problems
    assert message in problems[0].message
    assert time.process_time() - started < 30


def test_no_cut_of_a_good_file_raises_anything_but_a_spec_error() -> None:
    cuts = [parse(GOOD[:end], NAME) for end in range(0, len(GOOD), 3)]
    assert all(cut.spec is not None or cut.problems for cut in cuts)
    assert any(cut.spec is not None for cut in cuts[-6:])


def test_control_characters_of_a_file_reach_no_message() -> None:
    text = changed("name: support", 'name: "\\e[31m\\n::error::x"\n"\\e[0m\\nkey": 1')
    for problem in parse(text, "jobs/a\n::error::.yaml").problems:
        assert f"{problem.where}{problem.message}{problem.hint}".isprintable()


def test_the_name_is_not_compared_where_the_caller_says_so() -> None:
    assert loads(GOOD, "spec.yaml", check_name=False).name == "support"
    with pytest.raises(SpecError, match=r"but the file is spec\.yaml"):
        loads(GOOD, "spec.yaml")


def test_a_file_is_loaded_under_its_path_in_the_repository(tmp_path: Path) -> None:
    path = tmp_path / "jobs" / "support.yaml"
    path.parent.mkdir()
    path.write_text(changed("rank: 16", "rnak: 16"))
    with pytest.raises(SpecError) as caught:
        load(path, tmp_path)
    assert caught.value.where == "jobs/support.yaml:9:3"
    path.write_text(GOOD)
    assert load(path, tmp_path) == load(path) == loads(GOOD, NAME)


def test_what_is_no_file_of_the_repository_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "repo"
    root.mkdir()
    outside = tmp_path / "support.yaml"
    outside.write_text(GOOD)
    (root / "support.yaml").symlink_to(outside)
    (root / "loop.yaml").symlink_to("loop.yaml")
    (root / "folder.yaml").mkdir()
    os.mkfifo(root / "pipe.yaml")
    for name, message in [
        ("support.yaml", "is a symlink"),
        ("loop.yaml", "is a symlink"),
        ("../support.yaml", "is not in the repository"),
        ("gone.yaml", "is not there"),
        ("folder.yaml", "is not a file"),
        ("pipe.yaml", "is not a file"),
    ]:
        with pytest.raises(SpecError, match=message):
            load(root / name, root)


def test_a_file_too_large_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    with path.open("wb") as file:
        file.truncate(50 * 1024**3)
    with pytest.raises(SpecError, match=f"larger than {MAX_BYTES // 1024} KiB"):
        load(path, tmp_path)


def test_a_page_of_yaml_loads_within_30_ms() -> None:
    loads(GOOD, NAME)
    times = []
    for _ in range(5):
        started = time.process_time()
        loads(GOOD, NAME)
        times.append(time.process_time() - started)
    assert min(times) < 0.030


def test_the_schema_takes_what_the_model_takes() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema_json()))
    validator.check_schema(validator.schema)
    assert validator.is_valid(YAML(typ="safe").load(GOOD))
    for old, new in [
        ("rank: 16", "rnak: 16"),
        ("max_usd: 5", "max_usd: -5"),
        ("name: support", 'name: "$(reboot)"'),
        ("  path: data/x.jsonl", "  split: train"),
        ("  max_hours: 6\n", ""),
    ]:
        assert not validator.is_valid(YAML(typ="safe").load(changed(old, new))), new


COMMAND = """\
version: 1
name: support
task: command
command:
  run: [bash, train.sh]
  progress: {step: 'step (\\d+)'}
  artifacts: ['out/*']
compute: {gpus: [NVIDIA A40]}
budget: {max_hours: 6, max_usd: 5}
"""


@pytest.mark.parametrize(
    ("old", "new", "at", "message", "hint"),
    [
        ("budget:", "model: {id: a/b}\nbudget:", "9:1", "model is not for task 'command'", "'model' is for task 'sft'"),
        (
            "task: command",
            "task: comand",
            "3:7",
            "task must be 'sft', 'dpo', 'seq2seq', 'command' or 'session', not 'comand'",
            None,
        ),
        ("task: command\n", "", "3:1", "command is not for task 'sft', which it is when left out", "task 'command'"),
        ("'out/*'", "'../*'", "7:15", "command.artifacts[0] must be a relative path inside the run's folder", None),
        ("(\\d+)", "\\d+", "6:20", "command.progress.step must have one group ( ) around the number", None),
        ("(\\d+)", "(\\d+", "6:20", "command.progress.step must be a regular expression: missing )", None),
        ("progress: {step:", "progress: {stop:", "6:14", "command.progress.stop is not a key that is", "'step'"),
        ("[bash, train.sh]", "[bash, 5]", "5:15", "command.run[1] must be text, not 5", '"5"'),
        ("[bash, train.sh]", "/bin/sh", "5:8", "command.run must be a relative path inside the repository", None),
    ],
)
def test_a_command_is_told_where_it_is_wrong(old: str, new: str, at: str, message: str, hint: str | None) -> None:
    assert COMMAND.count(old) == 1
    problem = {problem.where: problem for problem in parse(COMMAND.replace(old, new), NAME).problems}[f"{NAME}:{at}"]
    assert message in problem.message
    assert hint is None or hint in (problem.hint or "")


def test_the_schema_knows_a_command_by_its_task() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema_json()))
    assert loads(COMMAND, NAME) and validator.is_valid(YAML(typ="safe").load(COMMAND))
    for old, new in [
        ("task: command\n", ""),
        ("budget:", "model: {id: a/b}\nbudget:"),
        ("[bash, train.sh]", "[]"),
        ("progress:", "progres:"),
    ]:
        assert COMMAND.count(old) == 1
        assert not validator.is_valid(YAML(typ="safe").load(COMMAND.replace(old, new))), new


def test_the_schema_is_written_only_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    assert write_text(path, schema_json())
    assert not write_text(path, schema_json())
    assert path.read_text(encoding="utf-8") == schema_json()

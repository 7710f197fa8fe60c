"""The parts of a command's attempt: lines, steps, environment, files. The whole of it is in test_whole_command.py."""

import hashlib
import json
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pushtrain.spec.command import Command, Progress
from trainer.command.artifacts import MOST_FILES, collect
from trainer.command.environment import command_env, grace_s
from trainer.command.output import BAR_EVERY_S, LONGEST_LINE, folded
from trainer.command.progress import ProgressReader
from trainer.report import Report

ROOT = Path(__file__).parents[1]


def reading(*chunks: bytes) -> Callable[[int], bytes]:
    left = iter(chunks)
    return lambda _: next(left, b"")


def shown(*chunks: bytes, every_s: float = 0.0) -> list[str]:
    """Lines written down, where each look at the clock is `every_s` after the one before."""
    times: Iterator[float] = iter(float(i) * every_s for i in range(10_000))
    return [line.text for line in folded(reading(*chunks), lambda: next(times)) if line.is_shown]


def test_lines_are_lines_however_they_are_cut() -> None:
    text = "one\ntwo\r\nthree\r\n\nfünf\nsix".encode()
    whole = ["one", "two", "three", "", "fünf", "six"]
    assert shown(text) == whole
    assert shown(*(text[i : i + 1] for i in range(len(text)))) == whole


def test_a_progress_bar_is_one_line_now_and_then_and_all_of_it_is_read() -> None:
    bar = b"".join(b"\r%3d%%|#| %d/100" % (i, i) for i in range(101)) + b"\nend\n"
    assert shown(bar) == ["100%|#| 100/100", "end"]
    assert [line.text for line in folded(reading(bar))][50] == " 50%|#| 50/100"
    slow = shown(bar, every_s=BAR_EVERY_S / 10)
    assert 5 < len(slow) < 30 and slow[-2:] == ["100%|#| 100/100", "end"]


def test_a_bar_that_ends_in_nothing_leaves_its_last_state() -> None:
    assert shown(b"10%\r20%\r", b"\nnext\n") == ["20%", "next"]
    assert shown(b"10%\r20%\r") == ["20%"]
    assert shown(b"10%\rdone\n") == ["done"]


def test_what_a_terminal_would_obey_is_taken_out() -> None:
    assert shown(b"\x1b[31mred\x1b[0m \x1b]0;title\x07plain\x1b[2K\x08\x1bM\n") == ["red plain"]


def test_a_line_without_end_is_cut_where_no_word_is() -> None:
    lines = shown(*([b"word " * 1000] * 20), b"\n")
    assert all(len(line) < 2 * LONGEST_LINE for line in lines) and len(lines) == 2
    assert " ".join(line.strip() for line in lines).split() == ["word"] * 20_000


def progress(tmp_path: Path, lines: list[str], **asked: Any) -> tuple[ProgressReader, list[dict[str, Any]]]:
    report = Report(tmp_path / "attempt")
    reader = ProgressReader(Progress(step=r"step (\d+)", **asked), report, tmp_path / "first-step")
    for line in lines:
        reader.read(line)
    reader.flush()
    report.close()
    path = tmp_path / "attempt" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return reader, [{key: value for key, value in row.items() if key != "time"} for row in rows]


def events(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "attempt" / "events.jsonl").read_text().splitlines()]


def test_a_step_and_its_loss_make_a_row_on_one_line_or_on_two(tmp_path: Path) -> None:
    lines = ["hello", "step 1 | loss: 2.5", "step 2", "loss: 2.25", "eval: 7", "step 3", "step 3", "step 4 loss: nan"]
    reader, rows = progress(tmp_path, lines, loss=r"loss: (\S+)", metrics={"score": r"eval: (\d+)"})
    assert rows == [
        {"step": 1, "loss": 2.5},
        {"step": 2, "loss": 2.25},
        {"step": 2, "score": 7.0},
        {"step": 3},
        {"step": 4, "loss": None},
    ]
    assert (reader.step, reader.resumed_from_step) == (4, 0)
    assert (tmp_path / "attempt" / "step").exists()


def test_figures_before_any_step_and_words_in_place_of_numbers_are_no_rows(tmp_path: Path) -> None:
    _, rows = progress(tmp_path, ["loss: 1", "step 1 loss: none", "x" * 5000 + "step 2"], loss=r"loss: (\S+)")
    assert rows == [{"step": 1}]


def test_an_output_is_followed_to_its_end_whatever_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Report(tmp_path / "attempt")
    asked = Progress(step=r"step (\S+)", total_steps=r"of (\S+)", loss=r"loss (\S+)")
    reader = ProgressReader(asked, report, tmp_path / "first-step")
    text = "step inf\nstep nan of inf\nstep 1 of 1e3\nloss 2\nstep 2\n10%\r20%\rstep 3\n"
    reader.follow(reading(text.encode()))
    rows = [json.loads(line) for line in (tmp_path / "attempt" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row.get("loss"), row["total_steps"]) for row in rows] == [
        (1, 2, 1000),
        (2, None, 1000),
        (3, None, 1000),
    ]
    said = capsys.readouterr().out
    assert "step inf\n" in said and "10%" not in said and "step 3\n" in said

    def full(row: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "metrics", full)
    reader.follow(reading(b"step 4 loss 1\nstep 5 loss 1\nthe end\n"))
    said = capsys.readouterr().out
    assert said.count("No space left") == 1 and said.endswith("the end\n")


@pytest.mark.parametrize(("total", "lines"), [(9, ["step 1"]), (r"step \d+/([\d,]+)", ["step 1/9"])])
def test_the_number_of_steps_is_said_or_read(tmp_path: Path, total: Any, lines: list[str]) -> None:
    assert progress(tmp_path, lines, total_steps=total)[1] == [{"step": 1, "total_steps": 9}]


@pytest.mark.parametrize(
    ("first", "then", "resumed"),
    [
        ([1, 2, 3, 4], [3, 4], 2),  # told of each step, saved after 2
        ([0, 1, 2, 3], [2, 3], 2),  # counts from 0
        ([10, 20, 30], [20, 30], 10),  # tells of each tenth
        ([1, 2, 3], [1, 2], 0),  # does not resume
    ],
)
def test_where_an_attempt_went_on_is_told_by_its_first_step(
    tmp_path: Path, first: list[int], then: list[int], resumed: int
) -> None:
    reader, _ = progress(tmp_path, [f"step {step}" for step in first])
    assert reader.resumed_from_step == 0
    reader, _ = progress(tmp_path, [f"step {step}" for step in then])
    assert reader.resumed_from_step == resumed
    assert events(tmp_path)[-1]["data"] == {"resumed_from_step": resumed}


def command(**asked: Any) -> Command:
    return Command.model_validate({"run": ["true"], **asked})


def test_a_command_gets_the_images_environment_and_nothing_of_ours(tmp_path: Path) -> None:
    image = {
        "PATH": "/bin",
        "CUDA_VERSION": "12.8",
        "LD_LIBRARY_PATH": "/usr/lib",
        "RUNPOD_POD_ID": "p1",
        "HOME": "/root",
    }
    ours = {"VIRTUAL_ENV": "/v", "PYTHONPATH": "/source", "UV_CACHE_DIR": "/c", "HF_HOME": "/h", "PYTHONHASHSEED": "0"}
    ours |= {"PUSHTRAIN_LEDGER_URL": "u", "PUSHTRAIN_BOOT": "b", "PUSHTRAIN_STOP_FILE": "s"}
    secrets = dict.fromkeys(("HF_TOKEN", "WANDB_API_KEY", "RUNPOD_API_KEY", "PUSHTRAIN_LEDGER_TOKEN"), "canary-secret")
    told = {"PUSHTRAIN_ATTEMPT": "2", "PUSHTRAIN_RUN_ID": "r", "PUSHTRAIN_GRACE_S": "30"}
    env = command_env(command(), image | ours | secrets | told, tmp_path)
    own = {"HOME": f"{tmp_path}/home", "PUSHTRAIN_RUN_DIR": str(tmp_path), "PUSHTRAIN_GRACE_S": "18"}
    assert env == image | told | own | {"PYTHONUNBUFFERED": "1"}
    env = command_env(command(secrets=["WANDB_API_KEY"], home="image", env={"A": "b"}), image | secrets, tmp_path)
    assert (env["WANDB_API_KEY"], env["HOME"], env["A"]) == ("canary-secret", "/root", "b")
    assert [name for name, value in env.items() if value == "canary-secret"] == ["WANDB_API_KEY"]


def test_the_grace_of_a_command_ends_before_that_of_the_process_around_it() -> None:
    assert grace_s({}) == grace_s({"PUSHTRAIN_GRACE_S": "30"}) == pytest.approx(18)
    assert grace_s({"PUSHTRAIN_GRACE_S": "3"}) < 2


def test_files_are_kept_by_pattern_with_their_hash(tmp_path: Path) -> None:
    for name in ("out/a.bin", "out/deep/b.bin", "home/.cache/c.md", "not.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "out" / "link.bin").symlink_to("a.bin")
    kept = collect(tmp_path, ["out/**/*.bin", "home/.cache/*", "out/a.bin", "gone/*"], 1e9, {})
    assert list(kept.files) == ["out/a.bin", "out/deep/b.bin", "out/link.bin", "home/.cache/c.md"]
    assert kept.files["out/deep/b.bin"] == hashlib.sha256(b"out/deep/b.bin").hexdigest()
    assert kept.unmatched == ["gone/*"] and kept.complaints == ["'gone/*' matches no file"]


def test_what_leads_out_is_too_large_or_holds_a_secret_stays(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    for folder in (run, outside, run / ".git"):
        folder.mkdir()
    (outside / "passwd").write_text("root")
    (run / "link").symlink_to(outside / "passwd")
    (run / "folder").symlink_to(outside)
    (run / ".git" / "config").write_text("x")
    (run / "small").write_bytes(b"x" * 10)
    (run / "large").write_bytes(b"x" * 100)
    secret = "canary-secret-token"
    (run / "told").write_bytes(b"x" * (1024 * 1024 - 5) + secret.encode())
    asked = ["link", "folder/*", ".git/*", "small", "large", "told"]
    kept = collect(run, asked, 50, {})
    assert list(kept.files) == ["small"] and set(kept.left_out) == {
        "link",
        "folder/passwd",
        ".git/config",
        "large",
        "told",
    }
    kept = collect(run, ["told", "small"], 1e9, {"HF_TOKEN": secret})
    assert list(kept.files) == ["small"] and kept.left_out == {"told": "it holds the value of a secret"}
    assert secret not in str(kept.complaints)


def test_a_pattern_that_matches_far_too_much_is_cut_off(tmp_path: Path) -> None:
    for number in range(MOST_FILES + 3):
        (tmp_path / f"{number:05}").touch()
    kept = collect(tmp_path, ["*"], 1e9, {})
    assert len(kept.files) == MOST_FILES and len(kept.left_out) == 3


LIGHT = """
import sys
blocked = set(sys.argv.pop(1).split(","))

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError("not in the light environment: " + name)

sys.meta_path.insert(0, Absent())
from trainer.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_command_needs_nothing_of_the_extras(tmp_path: Path) -> None:
    """What a pod installs for it: the dependencies without any extra (`pushtrain.pod.environment`)."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {re.split(r"[<>=;\[ ]", line)[0].replace("-", "_") for extra in extras.values() for line in extra}
    names |= {"numpy", "pandas", "graphql", "sentencepiece", "tokenizers", "safetensors"}
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "light.yaml").write_text(LIGHT_JOB)
    command = [sys.executable, "-c", LIGHT, ",".join(names), "jobs/light.yaml", "--run-dir", "run"]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "run" / "attempt-1" / "result.json").read_text())
    assert set(result["artifacts"]["files"]) == {"kept"} and result["metrics"]["steps"] == 1


LIGHT_JOB = """\
version: 1
name: light
task: command
command:
  run: [sh, -c, 'echo step 1; echo kept > $PUSHTRAIN_RUN_DIR/kept']
  progress: {step: 'step (\\d+)'}
  artifacts: [kept]
compute: {gpus: [NVIDIA A40]}
budget: {max_hours: 1, max_usd: 1}
publish: {repo: org/light}
"""
RUN = """
import sys, time
from pathlib import Path
from trainer.checkpoint import stop_on_signals
from trainer.command.output import folded
from trainer.command.process import Program, run_program

def read(source):
    for line in folded(source):
        print(line.text, flush=True)

with stop_on_signals() as stop:
    code = run_program(Program(argv=sys.argv[2:], env={"PATH": "/usr/bin:/bin"}, cwd=Path.cwd(), read=read), stop,
                       float(sys.argv[1]))
print("code", code, flush=True)
"""


def started(*argv: str, grace_s: float = 3.0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", RUN, str(grace_s), *argv]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    while word not in (line := process.stdout.readline()):
        assert line, f"it ended without saying {word!r}"


PYTHON = "import signal, sys, time; signal.signal(15, lambda *_: (print('saved', flush=True), sys.exit(4)))"


def test_a_program_under_a_shell_hears_that_it_is_to_stop(tmp_path: Path) -> None:
    (tmp_path / "save.py").write_text(f"{PYTHON}\nprint('ready', flush=True)\ntime.sleep(60)\n")
    process = started("bash", "-c", f"bash -c '{sys.executable} {tmp_path}/save.py; echo after'; echo after")
    until(process, "ready")
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=150)
    assert "saved" in said and "code -15" in said


def test_a_program_that_does_not_hear_is_killed_when_its_time_is_over() -> None:
    process = started("bash", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done", grace_s=0.5)
    until(process, "ready")
    began_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=150)
    assert "code -9" in said and time.monotonic() - began_s < 100


def test_workers_of_a_program_are_not_told_to_stop_under_it() -> None:
    worker = "import time; time.sleep(60)"
    main = f"import subprocess; w = subprocess.Popen([sys.executable, '-c', {worker!r}]); print('ready', flush=True)"
    main += "; signal.signal(15, lambda *_: (time.sleep(0.5), print('worker', w.poll(), flush=True), sys.exit(4)))"
    process = started(sys.executable, "-c", f"import signal, sys, time; {main}; time.sleep(60)")
    until(process, "ready")
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=150)
    assert "worker None" in said and "code 4" in said

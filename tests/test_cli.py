"""The command line: exit codes, two lines for an error, annotations, JSON alone on stdout, never a traceback."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from git_world import RUN_ID, Remote, claim, event
from whole import World, make_world

from pushtrain.claim import claim as claim_job
from pushtrain.cli import app, main
from pushtrain.cloud import VolumeRequest
from pushtrain.desired import desired
from pushtrain.run import ledger_prefix

SPEC = """\
version: 1
name: job
model: {id: demo/base}
data: {path: data/x.jsonl}
compute: {gpus: [NVIDIA A40]}
budget: {max_hours: 1, max_usd: 1}
publish: {repo: demo/job}
"""
VERBS = sorted(it.name or it.callback.__name__.replace("_", "-") for it in app.registered_commands if it.callback)


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


class Shell:
    """Calls the command line in a work tree, with an environment of its own."""

    def __init__(self, root: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: object) -> None:
        self.root, self.env = root, env
        self._patch, self._capture = monkeypatch, capfd

    def __call__(self, *args: str, **more: str) -> Done:
        """In this process, through `main`: as fast as it can be, with all that a process would print."""
        with self._patch.context() as patch:
            for name in os.environ:
                patch.delenv(name)
            for name, value in (self.env | more).items():
                patch.setenv(name, value)
            patch.chdir(self.root)
            patch.setattr(sys, "argv", ["pushtrain", *args])
            with pytest.raises(SystemExit) as ended:
                main()
        said = self._capture.readouterr()  # type: ignore[attr-defined]
        assert "Traceback" not in said.out + said.err
        return Done(int(ended.value.code or 0), said.out, said.err)

    def start(self, *args: str, **more: str) -> "subprocess.Popen[str]":
        env = self.env | {"PYTHONPATH": str(Path(__file__).parents[1])} | more
        command = [sys.executable, "-m", "pushtrain", *args]
        return subprocess.Popen(
            command, cwd=self.root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def process(self, *args: str, **more: str) -> Done:
        with self.start(*args, **more) as child:
            out, err = child.communicate(timeout=150)
        assert "Traceback" not in out + err, err
        return Done(child.returncode, out, err)


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path)


@pytest.fixture
def shell(remote: Remote, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
    """A work tree with one good job, committed; its origin is the remote; no key."""
    root = remote.folder / "repo"
    (root / "jobs").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "jobs" / "job.yaml").write_text(SPEC)
    (root / "data" / "x.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    remote.git("init", "-q", str(root))
    remote.git("-C", str(root), "remote", "add", "origin", remote.file_url)
    commit_all(remote, root)
    return Shell(root, remote.env | {"PUSHTRAIN_ENGINE": "embedded", "COLUMNS": "80"}, monkeypatch, capfd)


def commit_all(remote: Remote, root: Path) -> None:
    remote.git("-C", str(root), "add", "-A")
    remote.git("-C", str(root), "commit", "-qm", "a commit")


def two_lines(done: Done) -> tuple[str, str]:
    lines = [line for line in done.err.splitlines() if not line.startswith("engine: ")]
    assert len(lines) == 2, done
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint:  ")
    return lines[0], lines[1]


# Help and versions.


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(shell: Shell, verb: str) -> None:
    done = shell(verb, "--help")
    assert done.code == 0
    assert f"pushtrain {verb}" in done.out
    assert done.err == ""


def test_help_names_every_verb(shell: Shell) -> None:
    done = shell("--help")
    assert {"check", "plan", "reconcile", "retry", "run", "runs", "logs", "cancel", "sweep", "demo"} <= set(VERBS)
    assert done.code == 0
    assert all(verb in done.out for verb in VERBS)
    assert shell("--version").out.startswith("pushtrain ")


@pytest.mark.parametrize(
    "args", [[], ["nonsense"], ["runs", "--nonsense"], ["logs"], ["reconcile", "--max-minutes", "x"]]
)
def test_a_call_that_means_nothing_is_a_usage_error(shell: Shell, args: list[str]) -> None:
    assert shell(*args).code == 2


# check and plan.


def test_a_good_spec_is_fine(shell: Shell) -> None:
    done = shell("check")
    assert (done.code, done.out, done.err) == (0, "1 job specs are fine: job\n", "")
    assert [spec["name"] for spec in json.loads(shell("check", "--json").out)["specs"]] == ["job"]
    assert json.loads(shell("plan", "--json").out)["plans"][0]["name"] == "job"
    assert "### `job`" in shell("plan", "--markdown").out


def test_within_a_folder_of_the_work_tree_its_top_counts(shell: Shell) -> None:
    (shell.root / "job-outside.yaml").write_text(SPEC.replace("name: job", "name: job-outside"))
    shell.root = shell.root / "jobs"
    assert shell("check").out == shell("check", "job.yaml").out == "1 job specs are fine: job\n"
    assert "job: a merge starts it" in shell("plan", "job.yaml").out
    outside = shell("plan", "../job-outside.yaml").out
    assert "job-outside: not in jobs/ itself, so that nothing ever starts it" in outside


def test_a_name_that_no_run_has_is_exit_code_2(shell: Shell) -> None:
    for args in (["logs", "nobodys"], ["cp", "a", "b"], ["tunnel", "job", "http"], ["check", "nobodys.yaml"]):
        done = shell(*args)
        assert (done.code, done.err.count("hint:")) == (2, 1), args


def test_a_wrong_spec_is_two_lines_and_exit_code_2(shell: Shell) -> None:
    (shell.root / "jobs/job.yaml").write_text(SPEC.replace("max_usd: 1", "max_usd: -1"))
    for verb in ("check", "plan"):
        done = shell(verb)
        assert done.code == 2
        message, _ = two_lines(done)
        assert message.startswith("error: jobs/job.yaml:6:33: ")


def test_a_place_in_a_file_is_no_emoji(shell: Shell) -> None:
    (shell.root / "jobs/job.yaml").write_text(SPEC + "#\n" * 92 + "colour: blue\n")
    assert "jobs/job.yaml:100:1: " in two_lines(shell("check"))[0]


def test_json_stands_alone_on_stdout(shell: Shell) -> None:
    (shell.root / "jobs/job.yaml").write_text(SPEC.replace("NVIDIA A40", "abacus"))
    for more in ({}, {"GITHUB_ACTIONS": "true"}, {"FORCE_COLOR": "1", "TERM": "xterm-256color"}):
        done = shell.process("check", "--json", **more)
        assert done.code == 2
        assert json.loads(done.out)["problems"][0]["where"] == "jobs/job.yaml:5:18"


def test_github_gets_an_annotation_at_the_place(shell: Shell) -> None:
    file = shell.root / "jobs" / "a,b.yaml"
    file.write_text(SPEC.replace("name: job", "name: [100%]"))
    done = shell("check", "jobs/a,b.yaml", GITHUB_ACTIONS="true")
    annotations = [line for line in done.err.splitlines() if line.startswith("::error")]
    assert annotations
    assert annotations[0].startswith("::error file=jobs/a%2Cb.yaml,line=2,col=7::jobs/a,b.yaml:2:7: ")
    assert "::error" not in shell("check", "jobs/a,b.yaml").err
    assert "::error::RUNPOD_API_KEY is not set" in shell("reconcile", GITHUB_ACTIONS="true").err


@pytest.mark.parametrize("path", ["jobs/none.yaml", "jobs", "/etc/hostname", "../outside.yaml"])
def test_a_path_that_is_no_spec_is_two_lines(shell: Shell, path: str) -> None:
    done = shell("check", path)
    assert done.code == 2
    assert done.err.startswith("error: ")


def test_a_schema_that_cannot_be_written_is_no_traceback(shell: Shell) -> None:
    assert shell("check", "--write-schema").code == 0
    (shell.root / "jobs/schema.json").unlink()
    (shell.root / "jobs/schema.json").mkdir()
    done = shell("check", "--write-schema")
    assert done.code == 1
    assert "schema.json: Is a directory" in done.err


# The ledger: runs, logs.


def test_runs_and_logs_are_read_without_a_key(shell: Shell, remote: Remote) -> None:
    assert json.loads(shell("runs", "--json").out) == []
    ledger = remote.ledger("other", url=remote.file_url)
    claim(ledger)
    done = shell("runs", "--json")
    assert json.loads(done.out)[0] | {"claimed": ""} == {
        "run_id": RUN_ID,
        "state": "claimed",
        "reason": "",
        "outcome": "",
        "attempt": 1,
        "claimed": "",
        "spent_usd": 0.0,
        "spent_source": "time × price",
        "steps_lost": 0,
        "cap_usd": 0.0,
        "published": "",
    }
    ledger.append(RUN_ID, events=[event("training", reason="[/x]", message=":100: [b]x")], log="Größe 1\n".encode())
    table = shell("runs")
    assert (table.code, table.err) == (0, "")
    assert RUN_ID in table.out
    assert "[/x]" in table.out
    text = shell("logs", "job").out
    assert "training [/x]: :100: [b]x\nGröße 1\n" in text
    rows = [json.loads(row) for row in shell("logs", RUN_ID[:8], "--json").out.splitlines()]
    assert [row["event"]["state"] for row in rows if "event" in row] == ["claimed", "training"]
    assert rows[-1] == {"log": "Größe 1\n"}


def test_verify_says_what_was_tampered_with(shell: Shell, remote: Remote) -> None:
    assert shell("verify").code == shell("verify", "job", "--all").code == 2
    assert json.loads(shell("verify", "--all", "--json").out) == []
    ledger = remote.ledger("other", url=remote.file_url)
    claim(ledger)
    ledger.append(RUN_ID, events=[event("training")])
    found = shell("verify", "job", "--json")
    (row,) = json.loads(found.out)
    assert (found.code, row["ok"], row["run_id"], row["events"], row["commits"]) == (1, False, RUN_ID, 2, 3)
    assert [problem["file"] for problem in row["problems"]] == ["run.json", "run.json"], "a claim of the tests' own"
    remote.show("update-ref", f"refs/heads/runs/{RUN_ID}", f"runs/{RUN_ID}~2")
    done = shell("verify", "--all")
    assert done.code == 1 and done.out.startswith(f"{RUN_ID}: TAMPERED, 0 events in 1 commits\n")
    assert "  events/: dropped (expected events/000001-claimed.json, found nothing)\n" in done.out
    assert f"runs/{RUN_ID}: the branch was rewritten" in done.out
    assert shell("verify", "nobody").code == 1


def test_a_secret_is_masked_on_its_way_out(shell: Shell, remote: Remote) -> None:
    claim(remote.ledger("other", url=remote.file_url))
    remote.ledger("other", url=remote.file_url).append(RUN_ID, log=b"canary-secret-late\n")
    for args in (["logs", "job"], ["logs", "job", "--json"], ["logs", "canary-secret-late"]):
        done = shell(*args, HF_TOKEN="canary-secret-late")
        assert "canary" not in done.out + done.err
        assert "***" in done.out + done.err


def test_following_ends_with_the_run(shell: Shell, remote: Remote) -> None:
    ledger = remote.ledger("other", url=remote.file_url)
    claim(ledger)
    with shell.start("logs", "job", "--follow", PUSHTRAIN_TICK_S="0.1") as child:
        assert child.stdout is not None
        assert "claimed" in child.stdout.readline()
        ledger.append(RUN_ID, log=b"a line\n", events=[event("closed")], files={"receipt.json": b'{"billed_usd": 0}'})
        out, err = child.communicate(timeout=150)
    assert "a line" in out
    assert (child.returncode, err) == (0, "")


def test_an_interrupt_ends_following_without_a_traceback(shell: Shell, remote: Remote) -> None:
    claim(remote.ledger("other", url=remote.file_url))
    with shell.start("logs", "job", "--follow", PUSHTRAIN_TICK_S="5") as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=150)
    assert child.returncode == 130
    assert "Traceback" not in err


def test_an_interrupt_while_modules_are_imported_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "pushtrain"], env=env, capture_output=True, text=True, timeout=150)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_reader_that_leaves_is_no_traceback(shell: Shell, remote: Remote) -> None:
    ledger = remote.ledger("other", url=remote.file_url)
    claim(ledger)
    ledger.append(RUN_ID, log=b"x" * 200_000)
    with shell.start("logs", "job") as child:
        assert child.stdout is not None
        child.stdout.close()
        assert child.stderr is not None
        assert "Traceback" not in child.stderr.read()
        child.wait(150)


@pytest.mark.parametrize("args", [["logs", "nobody"], ["cancel", "nobody"]])
def test_an_unknown_run_is_named_with_the_known_ones(shell: Shell, remote: Remote, args: list[str]) -> None:
    claim(remote.ledger("other", url=remote.file_url))
    done = shell(*args, RUNPOD_API_KEY="canary-secret-key")
    assert done.code == 2
    assert two_lines(done) == ("error: no run 'nobody' in the ledger", f"hint:  known runs: {RUN_ID}")


# What is missing.


@pytest.mark.parametrize(
    "args",
    [["reconcile"], ["reconcile", "--follow"], ["run", "job"], ["cancel", "job"], ["sweep"], ["sweep", "--json"]],
)
def test_without_a_key_it_is_exit_code_3_and_where_to_get_one(shell: Shell, args: list[str]) -> None:
    done = shell(*args)
    assert (done.code, done.out) == (3, "")
    message, hint = two_lines(done)
    assert "RUNPOD_API_KEY is not set" in message
    assert "https://console.runpod.io" in hint


NEED_A_LEDGER = [
    ["runs"],
    ["runs", "--json"],
    ["logs", "x"],
    ["verify", "x"],
    ["reconcile"],
    ["run", "x"],
    ["cancel", "x"],
    ["sweep"],
]


@pytest.mark.parametrize("args", NEED_A_LEDGER)
def test_without_a_remote_it_says_what_to_do(shell: Shell, remote: Remote, args: list[str]) -> None:
    remote.git("-C", str(shell.root), "remote", "remove", "origin")
    done = shell(*args, RUNPOD_API_KEY="canary-secret-key")
    assert (done.code, done.out) == (1, "")
    message, hint = two_lines(done)
    assert "no git remote" in message
    assert "git remote add origin" in hint


@pytest.mark.parametrize("args", NEED_A_LEDGER)
def test_outside_a_repository_it_says_so(shell: Shell, tmp_path: Path, args: list[str]) -> None:
    shell.root = tmp_path / "plain"
    shell.root.mkdir()
    done = shell(*args, RUNPOD_API_KEY="canary-secret-key", GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert (done.code, done.out) == (2, "")
    assert "not inside a git work tree" in two_lines(done)[0]


@pytest.mark.parametrize("args", [["runs", "--json"], ["logs", "job"]])
def test_a_ledger_that_is_not_there_is_exit_code_3(shell: Shell, remote: Remote, args: list[str]) -> None:
    done = shell(*args, PUSHTRAIN_LEDGER_URL=f"file://{remote.folder}/nowhere.git")
    assert (done.code, done.out) == (3, "")
    assert "nowhere.git" in two_lines(done)[0]


@pytest.mark.parametrize(("name", "value", "code"), [("PUSHTRAIN_TICK_S", "soon", 1), ("PUSHTRAIN_ENGINE", "steam", 3)])
def test_a_setting_that_means_nothing_is_named(shell: Shell, name: str, value: str, code: int) -> None:
    done = shell("reconcile", RUNPOD_API_KEY="canary-secret-key", **{name: value})
    assert done.code == code
    assert name in done.err
    assert value in done.err


@pytest.mark.parametrize("args", [["check"], ["runs"], ["reconcile"]])
def test_without_git_it_says_so(shell: Shell, args: list[str], tmp_path: Path) -> None:
    done = shell.process(*args, PATH=str(tmp_path / "empty"), RUNPOD_API_KEY="canary-secret-key")
    assert done.code in (2, 3)
    assert "git" in done.err


def test_a_job_that_is_not_at_head_or_suspended_is_refused(shell: Shell, remote: Remote) -> None:
    done = shell("run", "other", RUNPOD_API_KEY="canary-secret-key")
    assert done.code == 2
    assert two_lines(done) == (
        "error: no job 'other' in jobs/ at HEAD",
        "hint:  jobs at HEAD: job; commit the spec first",
    )
    (shell.root / "jobs/job.yaml").write_text(SPEC + "suspend: true\n")
    commit_all(remote, shell.root)
    done = shell("run", "job", RUNPOD_API_KEY="canary-secret-key")
    assert done.code == 2
    assert "suspended" in two_lines(done)[0]


# With a cloud.


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = make_world(tmp_path_factory.mktemp("world"))
    world.write_job()
    world.push()
    yield world
    world.close()


@pytest.fixture
def clouded(world: World, shell: Shell) -> Shell:
    shell.root, shell.env = world.repository, world.env
    return shell


def test_a_plan_with_a_key_has_prices(clouded: Shell) -> None:
    assert json.loads(clouded("plan", "--json").out)["plans"][0]["places"][0]["usd_per_hour"] > 0


def test_a_refused_key_is_exit_code_3_and_never_shown(clouded: Shell) -> None:
    for args in (["reconcile"], ["sweep", "--json"]):
        done = clouded(*args, RUNPOD_API_KEY="canary-secret-wrong")
        assert (done.code, done.out) == (3, "")
        assert "canary" not in done.err


def test_what_no_run_owns_is_exit_code_4_until_it_is_swept(world: World, clouded: Shell) -> None:
    assert clouded("sweep").out == "nothing is left: pods 0, volumes 0\n"
    control = world.control()
    name = ledger_prefix(control.settings.ledger_url) + "old-v"
    place = next(offer.data_center for offer in control.cloud.offers() if offer.has_network_volumes)
    volume = control.cloud.create_volume(VolumeRequest(name=name, size_gb=10, data_center=str(place)))
    listed = clouded("sweep", "--json")
    assert listed.code == 4
    found = [f"network volume {volume.id} ({name})"]
    assert json.loads(listed.out) == {"orphans": found, "owned": [], "kept": [], "ledger": True, "removed": False}
    assert volume.id in clouded("sweep").out
    swept = clouded("sweep", "--yes", "--json")
    assert swept.code == 0
    assert json.loads(swept.out)["removed"] is True
    assert json.loads(clouded("sweep", "--json").out)["orphans"] == []


def test_a_run_that_is_over_is_told_and_not_repeated(world: World, clouded: Shell) -> None:
    first = clouded("run", "job", "--max-minutes", "2")
    assert first.code == 0, first.err
    again = clouded("run", "job")
    assert again.code == 0
    assert "succeeded already" in again.err
    assert "one spec runs once" in again.err
    assert [row["outcome"] for row in json.loads(clouded("runs", "--json").out)] == ["succeeded"]
    world.assert_nothing_left()


def test_an_interrupt_cancels_the_run_whatever_commit_it_was_claimed_at(world: World, clouded: Shell) -> None:
    world.orders(steps=1000, step_s=0.1)
    world.write_job("slow", seed=2)
    world.push()
    control = world.control()
    claim_job(control, desired(world.repository).jobs["slow"], [], trigger="push")
    world.push("another commit, the same spec")
    with clouded.start("run", "slow") as child:
        assert child.stderr is not None
        assert any("attempt 1 on" in line for line in child.stderr)  # it has a pod by now
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=150)
    assert child.returncode == 130, err
    assert "Traceback" not in err
    outcomes = {row["run_id"][:4]: row["outcome"] for row in json.loads(clouded("runs", "--json").out)}
    assert outcomes["slow"] == "cancelled"
    world.assert_nothing_left()

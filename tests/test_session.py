"""The parts of a session's pod: who is at work on it, when it ends, and its work as commits, with real git."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pushtrain.errors import LedgerError, PushtrainError
from pushtrain.gitcmd import REFUSED, git, git_env
from pushtrain.pod.context import read_context
from pushtrain.pod.session import look, tmux
from pushtrain.pod.session.end import Moment, closing_s, end_of, warning
from pushtrain.pod.session.idle import Seen, Use, at_work, used, working
from pushtrain.pod.session.push import Branch
from pushtrain.pod.session.settings import read_settings, shell_env
from pushtrain.pod.session.tree import Place, keep_branch, names, open_tree

CANARY = "canary-secret-of-a-pod"
RUN = "dev-0123abcd-4567cdef"


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (Seen(), ""),
        (Seen(connections=1), "1 ssh connection"),
        (Seen(connections=2), "2 ssh connections"),
        (Seen(gpu_percent=0.0, commands=["bash", "-zsh"]), ""),
        (Seen(gpu_percent=37.4), "GPU at 37 %"),
        (Seen(gpu_percent=None, commands=["bash", "python3"]), "python3 in tmux"),
        (Seen(commands=["bash", "vim", "nvitop", "tail", "less"]), ""),
        (Seen(commands=["bash", "sleep", "make", "cc1plus", "ld"]), "cc1plus, ld, make in tmux"),
        (Seen(connections=2, gpu_percent=90), "2 ssh connections; GPU at 90 %"),
    ],
)
def test_what_counts_as_use(seen: Seen, why: str) -> None:
    assert at_work(seen) == why


def test_a_long_silent_job_keeps_a_session_open_and_its_end_starts_the_clock() -> None:
    use = Use(at_s=0.0)
    for now_s in range(0, 7200, 60):
        use = used(use, Seen(gpu_percent=3.0 if now_s % 600 == 0 else 0.0), now_s)
        assert use.idle_s(now_s) < 600, "some looks between two batches see nothing"
    use = used(used(use, Seen(commands=["sleep"]), 7200), Seen(), 9000)
    assert use.idle_s(9000) == 1800 and use.why == "sleep in tmux"


def test_programs_that_wait_for_a_person_are_no_work() -> None:
    assert working(["bash", "tmux: server", "nvim", "python"]) == ["python"]


TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0100007F:0016 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 2 1
   2: 0100007F:0016 0100007F:C351 06 00000000:00000000 00:00000000 00000000     0        0 3 1
   3: 0100007F:C350 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0        0 4 1
   4: 0100007F:1F90 0100007F:C352 01 00000000:00000000 00:00000000 00000000     0        0 5 1
"""


def test_only_established_connections_to_the_ssh_port_are_people() -> None:
    assert look.established(TABLE, 22) == 1
    assert look.established(TABLE, 8080) == 1 and look.established("", 22) == 0
    assert look.connections(22, [Path("/proc/net/nothing")]) == 0
    assert look.ssh_port({}) == 22
    assert look.ssh_port({"RUNPOD_API_BASE_URL": "http://127.0.0.1:1", "RUNPOD_TCP_PORT_22": "40022"}) == 40022


@pytest.mark.parametrize(
    ("printed", "percent", "count"),
    [
        ("0, 4, 46068\n", 0.0, 1),
        ("3, 100, 81559\n97, 40000, 81559\n", 97.0, 2),
        ("[N/A], 100, 24564\n", 0.0, 1),
        ("No devices were found\n", None, 0),
    ],
)
def test_the_gpus_use_is_what_nvidia_smi_tells_of_the_busiest(
    tmp_path: Path, printed: str, percent: float | None, count: int
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{printed}'\n".replace("%", "%%"))
    program.chmod(0o755)
    found = look.gpu({"PATH": f"{tmp_path}:/bin:/usr/bin"})
    assert (found.percent if found else None) == percent and (found.count if found else 0) == count
    if count == 2:
        assert found is not None and found.total_gb == pytest.approx(171.0, abs=0.1)


def test_a_session_ends_for_one_reason_each_and_says_it() -> None:
    def reason(**changes: object) -> str:
        moment = Moment(**{"idle_s": 0.0, "left_s": 9000.0, **changes})  # type: ignore[arg-type]
        end = end_of(moment, idle_limit_s=1800, closing_s=60)
        return end.reason if end else ""

    assert reason() == "" and reason(idle_s=1799.0, left_s=61.0) == ""
    assert reason(idle_s=1800.0) == "SessionIdle"
    assert reason(left_s=60.0) == "DeadlineReached" == reason(stopped="Deadline", idle_s=9999.0)
    assert reason(asked=True) == "SessionClosed"
    assert reason(cancelled="CancelledByHand", asked=True) == "CancelledByHand"
    assert reason(stopped="") == "Preempted" == reason(stopped="Stall")
    preempted = end_of(Moment(idle_s=0, left_s=1, stopped=""), idle_limit_s=1, closing_s=0)
    assert preempted is not None and not preempted.is_over, "the next attempt opens it again"
    assert closing_s(8 * 3600) == 60 and closing_s(100) == 10


def test_people_are_warned_once_before_the_end() -> None:
    def words(before: tuple[float, float], now: tuple[float, float]) -> str:
        earlier, later = (Moment(idle_s=idle, left_s=left) for idle, left in (before, now))
        return warning(earlier, later, idle_limit_s=1800)

    assert words((0, 605), (0, 600)).startswith("the budget of this session ends in 10 minutes")
    assert words((0, 600), (0, 595)) == ""
    assert words((1499, 9000), (1500, 9000)).endswith("ends in 5 minutes")
    assert words((1500, 9000), (1505, 9000)) == "" and words((0, 9000), (5, 9000)) == ""


def desk_of(tmp_path: Path, said: list[str]) -> tmux.Desk:
    """Of an image that has nothing."""
    bin_dir = tmp_path / "desk" / "bin"
    bin_dir.mkdir(parents=True)
    env = {"PATH": str(bin_dir), "SHELL": "/bin/sh"}
    return tmux.Desk(env=env, work=tmp_path, files=tmp_path, bin=bin_dir, say=said.append)


def test_an_image_without_tmux_and_tools_says_so_and_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    desk = desk_of(tmp_path, said)
    assert not tmux.find_tmux(desk, {"RUNPOD_API_BASE_URL": "http://127.0.0.1:1"})
    assert "there is no tmux here" in said[0] and "nohup" in said[0]
    assert not tmux.open_desk(desk, ()) and not tmux.is_open(desk)
    assert tmux.open_nvitop(desk, has_gpu=False) == "nvitop: there is no GPU here"
    assert tmux.open_nvitop(desk, has_gpu=True) == "nvitop: not in this environment"
    assert tmux.start_tensorboard(desk, [], tmp_path / "log") == (None, "TensorBoard: not in this environment")
    assert look.commands(desk.env) == [] and look.gpu(desk.env) is None


def test_a_tensorboard_that_ends_says_its_last_word(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, [])
    program = desk.bin / "tensorboard"
    program.write_text('#!/bin/sh\necho "TensorBoard could not bind to port 6006 of $4"; exit 255\n')
    program.chmod(0o755)
    for ports, host in (([], "127.0.0.1"), (["6006/http"], "0.0.0.0")):
        server, told = tmux.start_tensorboard(desk, ports, desk.tensorboard_log)
        assert server is not None and told.startswith("TensorBoard: port 6006")
        server.wait(10)
        assert tmux.why_ended(server, desk.tensorboard_log).endswith(
            f"255: TensorBoard could not bind to port 6006 of {host}"
        )


def test_a_start_command_that_ends_leaves_its_exit_code_and_a_shell(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, [])
    line = tmux.started(desk, ["sh", "-c", "exit 3"])
    env = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["sh", "-c", line], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=150
    )
    assert desk.start_ended.read_text() == "3\n" and "start: exit code 3" in done.stdout


def test_exit_session_is_one_command_on_the_path_of_whoever_is_logged_in(tmp_path: Path) -> None:
    others, mine = tmp_path / "pyenv" / "bin", tmp_path / "pod" / "bin"
    for path in (others, mine):
        path.mkdir(parents=True)
    environ = {
        "RUNPOD_API_BASE_URL": "http://127.0.0.1:1",
        "PATH": f"{others}:{mine}:{os.environ['PATH']}",
        "HOME": str(mine.parent / "home"),
    }
    folder = tmux.make_bin(environ)
    try:
        assert not list(others.iterdir()), "a folder that other pods have, too"
        subprocess.run([mine / "exit-session"], env=environ, check=True, timeout=150, capture_output=True)
        assert (folder.parent / "closing").exists()
    finally:
        shutil.rmtree(folder.parent)


def test_the_shells_have_the_images_environment_and_the_named_secrets_alone(tmp_path: Path) -> None:
    environ = {
        "PUSHTRAIN_RUN_ID": RUN,
        "PUSHTRAIN_ATTEMPT": "1",
        "PUSHTRAIN_COMMIT": "a" * 40,
        "PUSHTRAIN_SPEC_PATH": "jobs/dev.yaml",
        "PUSHTRAIN_SOURCE_URL": "file:///s",
        "PUSHTRAIN_LEDGER_URL": "file:///l",
        "PUSHTRAIN_DEADLINE_EPOCH_S": "1",
        "PUSHTRAIN_STALL_S": "1",
        "PUSHTRAIN_WORKSPACE": str(tmp_path),
        "PUSHTRAIN_LEDGER_TOKEN": CANARY,
        "HF_TOKEN": "named",
        "WANDB_API_KEY": CANARY,
        "PYTHONPATH": "/ours",
        "IMAGE": "kept",
        "PATH": "/usr/bin",
    }
    told = '{"idle_s": 60, "autosave_s": 60, "branch": "", "start": [], "tensorboard": true, "secrets": ["HF_TOKEN"]}'
    settings = read_settings({"PUSHTRAIN_SESSION": told})
    env = shell_env(read_context(environ), settings, environ, first=Path("/first"), last=Path("/last"))
    assert env["PATH"] == "/first:/usr/bin:/last" and env["HF_TOKEN"] == "named" and env["IMAGE"] == "kept"
    assert env["PUSHTRAIN_WORK"] == f"{tmp_path}/runs/{RUN}/work"
    assert not {"PUSHTRAIN_LEDGER_TOKEN", "WANDB_API_KEY", "PYTHONPATH"} & set(env) and CANARY not in str(env)
    with pytest.raises(PushtrainError, match="PUSHTRAIN_SESSION"):
        read_settings({"PUSHTRAIN_SESSION": '{"idle_s": "soon"}'})


# The work tree, with real git.

Make = Callable[..., Place]


def run(folder: Path, *args: str) -> str:
    return git(list(args), env=git_env("", None, identity()), cwd=folder).stdout.decode().strip()


def identity() -> dict[str, str]:
    named = {f"GIT_{who}_{key}": "somebody" for who in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    return {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **named}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A source with two commits, a ledger of its own, and nothing on the volume yet."""
    source, ledger, made = tmp_path / "source.git", tmp_path / "ledger.git", tmp_path / "made"
    for bare in (source, ledger):
        run(tmp_path, "init", "-q", "--bare", "--initial-branch=main", str(bare))
    run(tmp_path, "clone", "-q", str(source), str(made))
    for number in (1, 2):
        (made / "code.py").write_text(f"print({number})\n")
        (made / ".gitignore").write_text("*.log\n")
        run(made, "add", "--all")
        run(made, "commit", "-q", "-m", f"commit {number}")
    run(made, "push", "-q", "origin", "HEAD:main")
    return place_of(tmp_path, run(made, "rev-parse", "HEAD"))


def place_of(tmp_path: Path, commit: str, wanted: str = "", work: str = "work") -> Place:
    env = git_env("", None, identity())
    return Place(
        work=tmp_path / "volume" / work,
        checkout=tmp_path / "made",
        run_id=RUN,
        commit=commit,
        source_url=f"file://{tmp_path / 'source.git'}",
        ledger_url=f"file://{tmp_path / 'ledger.git'}",
        names=names(RUN, wanted),
        plain=env,
        to_source=env,
        to_ledger=env,
    )


def opened(place: Place, said: list[str], environ: dict[str, str] | None = None) -> Branch:
    return Branch(place, open_tree(place, said.append).branch, environ or {}, said.append)


def ledger(place: Place) -> Path:
    return Path(place.ledger_url.removeprefix("file://"))


def files(place: Place, branch: str) -> dict[str, str]:
    """What the branch of the ledger holds."""
    listed = run(ledger(place), "ls-tree", "-r", "--name-only", branch).splitlines()
    return {name: run(ledger(place), "show", f"{branch}:{name}") for name in listed}


def test_the_commit_is_on_a_branch_with_its_history_and_comes_back_with_what_is_not_committed(place: Place) -> None:
    said: list[str] = []
    branch = opened(place, said)
    assert run(place.work, "branch", "--show-current") == f"session/{RUN}" == branch.name
    assert run(place.work, "log", "--format=%s").splitlines() == ["commit 2", "commit 1"]
    assert run(place.work, "config", "user.name") == "somebody"
    assert branch.save("open").commit == place.commit and not branch.save("open").is_new
    (place.work / "code.py").write_text("print(3)\n")
    (place.work / "new.py").write_text("new\n")
    (place.work / "noise.log").write_text("noise\n")
    run(place.work, "add", "code.py")
    saved = branch.save("autosave")
    assert saved.is_new and saved.files == 2
    assert files(place, branch.name) == {".gitignore": "*.log", "code.py": "print(3)", "new.py": "new"}
    assert run(place.work, "status", "--porcelain") == "M  code.py\n?? new.py", "nobody's index is touched"
    assert run(place.work, "rev-parse", "HEAD") == place.commit
    assert not branch.save("autosave").is_new, "nothing changed since"


def test_every_push_goes_forward_whatever_people_do_to_their_branch(place: Place) -> None:
    branch = opened(place, [])
    for number, words in enumerate((["commit", "-qam", "mine"], ["commit", "-q", "--amend", "-m", "again"])):
        (place.work / "code.py").write_text(f"print({number + 10})\n")
        branch.save("autosave")
        run(place.work, *words)
        saved = branch.save("autosave")
        first = run(place.work, "rev-parse", "HEAD")
        assert run(ledger(place), "rev-parse", f"{branch.name}^1") == first or saved.commit == first
        assert files(place, branch.name)["code.py"] == f"print({number + 10})"
    run(place.work, "checkout", "-qf", "--detach", f"{place.commit}~1")
    (place.work / "code.py").unlink()
    branch.save("autosave")
    assert "code.py" not in files(place, branch.name), "a deletion and a detached HEAD, too"
    assert not branch.save("again").is_new


def test_an_attempt_finds_the_work_tree_as_it_was(place: Place) -> None:
    branch = opened(place, [])
    (place.work / "half.py").write_text("half\n")
    (place.work / ".git" / "index.lock").write_text("")
    again = open_tree(place, print)
    assert again.is_found and again.branch == branch.name and "1 files changed" in again.how
    assert (place.work / "half.py").read_text() == "half\n"
    assert run(place.work, "status", "--porcelain") == "?? half.py"


def test_a_work_tree_that_git_cannot_read_is_set_aside_and_not_removed(place: Place) -> None:
    branch, said = opened(place, []), list[str]()
    (place.work / "half.py").write_text("half\n")
    (place.work / ".git" / "config").write_text("no config of git's")
    again = open_tree(place, said.append)
    assert not again.is_found and again.branch == branch.name
    assert (place.work.parent / "work-unreadable-1" / "half.py").read_text() == "half\n"
    assert "work-unreadable-1" in said[-1] and (place.work / "code.py").exists()


def test_a_named_branch_goes_on_where_the_session_before_left_it(place: Place, tmp_path: Path) -> None:
    first = place_of(tmp_path, place.commit, "dev", "first")
    branch = opened(first, [])
    (first.work / "kept.py").write_text("kept\n")
    run(first.work, "add", "kept.py")
    run(first.work, "commit", "-qm", "kept")
    branch.save("end")
    second = place_of(tmp_path, place.commit, "dev", "second")
    found = open_tree(second, print)
    assert found.branch == "session/dev" and found.how.startswith("where session/dev was left")
    assert (second.work / "kept.py").read_text() == "kept\n"
    after = Branch(second, found.branch, {}, print)
    (second.work / "kept.py").write_text("more\n")
    assert after.save("end").branch == "session/dev"


def test_a_branch_with_other_commits_is_left_alone(place: Place, tmp_path: Path) -> None:
    made = tmp_path / "made"
    run(made, "checkout", "-q", "--orphan", "other")
    run(made, "commit", "-q", "--allow-empty", "-m", "another history")
    run(made, "push", "-q", place.ledger_url, "HEAD:refs/heads/session/dev")
    theirs = run(made, "rev-parse", "HEAD")
    said: list[str] = []
    branch = opened(place_of(tmp_path, place.commit, "dev"), said)
    assert branch.name == f"session/{RUN}" and any("other commits" in line for line in said)
    branch.save("open")
    assert run(ledger(place), "rev-parse", "session/dev") == theirs


def test_who_pushes_to_the_branch_meanwhile_keeps_their_commits(place: Place, tmp_path: Path) -> None:
    said: list[str] = []
    branch = opened(place, said)
    branch.save("open")
    made = tmp_path / "made"
    (made / "theirs.py").write_text("theirs\n")
    run(made, "add", "--all")
    run(made, "commit", "-qm", "theirs")
    run(made, "push", "-q", place.ledger_url, f"HEAD:refs/heads/session/{RUN}")
    (place.work / "mine.py").write_text("mine\n")
    saved = branch.save("autosave")
    assert saved.branch == f"runs/{RUN}.work" and any("somebody else" in line for line in said)
    assert "theirs.py" in files(place, f"session/{RUN}") and "mine.py" in files(place, saved.branch)


def hook(place: Place, script: str) -> None:
    path = ledger(place) / "hooks" / "update"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_remote_that_takes_only_runs_gets_the_work_there(place: Place) -> None:
    hook(place, 'case "$1" in refs/heads/runs/*) exit 0;; esac; echo "declined by a rule" >&2; exit 1')
    said: list[str] = []
    branch = opened(place, said)
    (place.work / "new.py").write_text("new\n")
    assert branch.save("end").branch == f"runs/{RUN}.work"
    assert any("declined" in line for line in said)


def test_a_push_that_is_refused_everywhere_is_a_failure_that_says_why(place: Place) -> None:
    hook(place, 'echo "GH013: Repository rule violations found" >&2; exit 1')
    branch = opened(place, [])
    (place.work / "new.py").write_text("new\n")
    with pytest.raises(LedgerError, match="GH013") as caught:
        branch.save("end")
    assert caught.value.reason == REFUSED


def test_secrets_and_huge_files_and_repositories_in_it_stay_on_the_pod(place: Place) -> None:
    branch = opened(place, [], {"HF_TOKEN": CANARY})
    (place.work / "new.py").write_text("new\n")
    (place.work / ".env").write_text(f"HF_TOKEN={CANARY}\n")
    with (place.work / "model.bin").open("wb") as large:
        large.truncate(51_000_000)
    run(place.work, "init", "-q", "inner")
    (place.work / "inner" / "file").write_text("inner\n")
    run(place.work, "add", ".env")
    saved = branch.save("autosave")
    assert set(saved.left_out) == {".env", "model.bin", "inner/"} and "new.py" in files(place, branch.name)
    assert run(place.work, "diff", "--cached", "--name-only") == ".env", "what is staged stays staged"


def test_a_secret_that_somebody_committed_is_not_pushed_and_the_rest_of_the_work_is(place: Place) -> None:
    branch = opened(place, [], {"HF_TOKEN": CANARY})
    branch.save("open")
    (place.work / "config.py").write_text(f"TOKEN = '{CANARY}'\n")
    (place.work / "work.py").write_text("work\n")
    run(place.work, "add", "--all")
    run(place.work, "commit", "-qm", "with a secret")
    run(place.work, "rm", "-q", "config.py")
    run(place.work, "commit", "-qm", "and without it")
    saved = branch.save("autosave")
    assert "(history)" in saved.left_out and files(place, branch.name)["work.py"] == "work"
    every = subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--batch"], cwd=ledger(place), capture_output=True, check=True
    ).stdout
    assert CANARY.encode() not in every
    assert not branch.save("autosave").is_new


def test_a_remote_without_answer_is_no_refusal(place: Place) -> None:
    branch = opened(place, [])
    ledger(place).rename(ledger(place).with_suffix(".away"))
    (place.work / "new.py").write_text("new\n")
    with pytest.raises(LedgerError) as caught:
        branch.save("end")
    assert caught.value.reason != REFUSED
    keep_branch(place, branch.name)

"""The ledger over real git: claims, appends and reads, with two writers, lost answers and remotes that go away."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from git_world import RUN_ID, Remote, claim, event

from pushtrain.bounds import FILE_BYTES
from pushtrain.branch import Addition, Head, chunk_path
from pushtrain.branch import number as number_of
from pushtrain.errors import AlreadyClaimed, LedgerError, LedgerUnavailable, PushtrainError
from pushtrain.events import broken_links
from pushtrain.gitcmd import git_env
from pushtrain.ledger import Ledger
from pushtrain.lookup import newest_run


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path)


def states(ledger: Ledger, run_id: str = RUN_ID) -> list[str]:
    record = ledger.read(run_id)
    assert broken_links(record.events) == []
    return [event.state for event in record.events]


# The claim.


def test_a_claim_is_a_run_that_everybody_can_read(remote: Remote) -> None:
    tip = claim(remote.ledger())
    other = remote.ledger("elsewhere")
    assert other.refs() == {RUN_ID: tip}
    assert other.look().claimed == {"job-89abcdef"}
    record = other.read(RUN_ID)
    assert (record.spec, record.run, record.last.state, record.is_over) == (
        b"version: 1\n",
        {"job": "job"},
        "claimed",
        False,
    )


def test_one_spec_is_claimed_once_also_at_two_commits(remote: Remote) -> None:
    claim(remote.ledger())
    with pytest.raises(AlreadyClaimed):
        claim(remote.ledger("elsewhere"), "job-ffffffff-89abcdef")
    assert list(remote.ledger().refs()) == [RUN_ID]  # the claim of the spec and the run's branch are one atomic push
    with pytest.raises(AlreadyClaimed):
        claim(remote.ledger("elsewhere"))
    claim(remote.ledger(), "job-01234567-11111111")
    assert len(remote.ledger().refs()) == 2


def test_two_reconciles_at_once_give_one_claim(remote: Remote) -> None:
    outcomes: list[str] = []

    def reconcile(number: int) -> None:
        try:
            claim(remote.ledger(f"cache{number}"), f"job-0000000{number}-89abcdef")
            outcomes.append("claimed")
        except AlreadyClaimed:
            outcomes.append("taken")

    run_together([lambda n=n: reconcile(n) for n in range(4)])
    assert sorted(outcomes) == ["claimed", "taken", "taken", "taken"]
    assert len(remote.ledger().refs()) == 1


def test_a_claim_whose_answer_is_lost_is_ours(remote: Remote) -> None:
    remote.order("mute")
    tip = claim(remote.ledger())
    assert remote.ledger().refs() == {RUN_ID: tip}


def test_a_claim_that_a_hook_cuts_off_after_the_update_is_ours(remote: Remote) -> None:
    remote.hook("post-receive", 'kill -9 "$PPID"')
    tip = claim(remote.ledger())
    assert remote.show("rev-parse", f"runs/{RUN_ID}") == tip


def test_a_claim_without_a_remote_may_be_repeated(remote: Remote) -> None:
    ledger = remote.ledger()
    remote.order("down")
    with pytest.raises(LedgerUnavailable, match="Connection refused"):
        claim(ledger)
    remote.order("well")
    claim(ledger)
    assert states(ledger) == ["claimed"]


@pytest.mark.parametrize("half", ["runs", "claims"])
def test_half_of_a_claim_is_completed(remote: Remote, half: str) -> None:
    """A remote that dies while it moves two refs may keep one of them, whatever atomic means to it."""
    ledger = remote.ledger(url=remote.file_url)
    other = {"runs": "claims/job-89abcdef", "claims": f"runs/{RUN_ID}"}[half]
    remote.hook("post-receive", f'rm -f hooks/post-receive; git update-ref -d refs/heads/{other}; kill -9 "$PPID"')
    tip = claim(ledger)
    look = remote.ledger("elsewhere").look()
    assert (look.runs, look.claimed, look.unborn, look.open_runs) == (
        {RUN_ID: tip},
        {"job-89abcdef"},
        set(),
        {RUN_ID: tip},
    )
    assert remote.show("rev-list", "--max-parents=0", tip) == look.claims["job-89abcdef"]


def test_a_rule_against_one_of_the_branches_is_not_somebody_elses_claim(remote: Remote) -> None:
    """With --atomic a remote says of the other branch 'atomic push failure', which is no race."""
    remote.hook("update", 'case "$1" in refs/heads/claims/*) echo "GH013: rule violations" >&2; exit 1;; esac')
    with pytest.raises(LedgerError) as caught:
        claim(remote.ledger())
    assert (caught.type, caught.value.reason) == (LedgerError, "PushRefused")
    assert "claims/*" in (caught.value.hint or "")
    assert remote.ledger().look().claimed == set()


def test_a_remote_without_atomic_pushes_is_refused_for_good(remote: Remote) -> None:
    remote.show("config", "receive.advertiseAtomic", "false")
    with pytest.raises(LedgerError, match="atomic") as caught:
        claim(remote.ledger())
    assert caught.type is LedgerError


def test_a_claim_whose_run_was_deleted_is_known(remote: Remote) -> None:
    claim(remote.ledger())
    remote.show("update-ref", "-d", f"refs/heads/runs/{RUN_ID}")
    look = remote.ledger().look()
    assert (look.claimed, look.unborn, look.open_runs) == ({"job-89abcdef"}, {"job-89abcdef"}, {})


def test_a_refused_claim_is_not_a_claim_of_somebody_else(remote: Remote) -> None:
    remote.hook("pre-receive", "echo no ledger here >&2; exit 1")
    with pytest.raises(LedgerError, match="pre-receive hook declined") as caught:
        claim(remote.ledger())
    assert caught.type is LedgerError
    assert caught.value.hint


def test_chunks_beyond_a_hundred_lie_in_folders_of_a_hundred() -> None:
    paths = [chunk_path("logs", seq) for seq in (1, 99, 100, 199, 200, 12345)]
    assert paths == [
        "logs/000001.log",
        "logs/000099.log",
        "logs/0001/000100.log",
        "logs/0001/000199.log",
        "logs/0002/000200.log",
        "logs/0123/012345.log",
    ]
    assert paths == sorted(paths) and [number_of(path) for path in paths] == [1, 99, 100, 199, 200, 12345]
    head = Head.of("tip", dict.fromkeys(paths, "blob"), None)
    added = head.files_for(Addition(log=b"x", metrics=b"y"), clean=bytes, now_s=0)
    assert list(added) == ["logs/0123/012346.log", "metrics/000001.jsonl"]


@pytest.mark.parametrize(
    "name", ["job", f"{RUN_ID}\n", f"{RUN_ID}/..", "Job-01234567-89abcdef", "-x-01234567-89abcdef"]
)
def test_a_claim_needs_a_run_id(remote: Remote, name: str) -> None:
    with pytest.raises(ValueError, match="not a run id"):
        claim(remote.ledger(), name)


# Appending.


def test_appends_are_read_back_in_order(remote: Remote) -> None:
    pod, control = remote.ledger("pod"), remote.ledger("control")
    claim(control)
    pod.append(RUN_ID, events=[event("booting", writer="pod"), event("training", writer="pod")], log=b"one\n")
    pod.append(RUN_ID, log=b"two\n", metrics=b'{"step": 1}\n')
    tip = control.append(RUN_ID, events=[event("closed")], files={"receipt.json": b'{"outcome": "succeeded"}'})
    record = control.read(RUN_ID)
    assert states(control) == ["claimed", "booting", "training", "closed"]
    assert (record.tip, record.is_over, record.receipt) == (tip, True, {"outcome": "succeeded"})
    assert control.text(record, "logs") == (b"one\ntwo\n", 2)
    assert control.text(record, "logs", 1) == (b"two\n", 2)
    assert control.text(record, "logs", 2) == (b"", 2)
    assert control.text(record, "metrics") == (b'{"step": 1}\n', 1)


def test_a_run_that_is_over_is_told_by_the_tips_alone(remote: Remote) -> None:
    pod, control = remote.ledger("pod"), remote.ledger("control")
    tip = claim(control)
    assert control.look().open_runs == {RUN_ID: tip}, "claimed and never touched again is not over"
    pod.append(RUN_ID, events=[event("training", writer="pod")])
    closed = control.append(RUN_ID, events=[event("closed")], files={"receipt.json": b"{}"})
    look = control.look()
    assert look.open_runs == {} and look.runs == {RUN_ID: closed} and look.claims == {"job-89abcdef": closed}
    late = pod.append(RUN_ID, log=b"a late word\n")
    assert control.look().open_runs == {RUN_ID: late}, "then it is read, and its receipt says that it is over"
    assert control.read(RUN_ID).is_over


def test_a_receipt_lands_also_where_the_claim_cannot_move(remote: Remote) -> None:
    ledger = remote.ledger()
    claim(ledger)
    claim(remote.ledger(), "job-fffffffe-00000001")
    elsewhere = remote.show("rev-parse", "claims/job-00000001")
    remote.show("update-ref", "refs/heads/claims/job-89abcdef", elsewhere)
    ledger.append(RUN_ID, events=[event("closed")], files={"receipt.json": b"{}"})
    assert ledger.read(RUN_ID).is_over and RUN_ID in ledger.look().open_runs


def test_a_run_that_has_not_moved_is_not_read_again(remote: Remote, tmp_path: Path) -> None:
    calls = recording_git(tmp_path, remote)
    ledger = remote.ledger(url=remote.file_url)
    claim(ledger)
    claim(ledger, "job-01234567-00000001")
    ledger.read_all(ledger.look().open_runs)
    ledger.append(RUN_ID, events=[event("training")])
    before = len(calls())
    records = ledger.read_all(ledger.look().open_runs)
    assert {run_id: record.last.state for run_id, record in records.items()} == {
        RUN_ID: "training",
        "job-01234567-00000001": "claimed",
    }
    verbs = [call.split()[0] for call in calls()[before:] if not call.startswith("upload-pack")]
    assert verbs == ["ls-remote", "for-each-ref", *["cat-file"] * (len(verbs) - 2)]
    again = len(calls())
    assert ledger.read_all(ledger.look().open_runs) == records
    assert [call.split()[0] for call in calls()[again:]][:1] == ["ls-remote"] and len(calls()) - again <= 2


def test_logs_stay_at_the_remote_until_somebody_reads_them(remote: Remote) -> None:
    remote.show("config", "uploadpack.allowFilter", "true")  # as at GitHub
    pod, other = remote.ledger("pod", url=remote.file_url), remote.ledger("other", url=remote.file_url)
    claim(other)
    chunks = [os.urandom(40_000).hex().encode() for _ in range(3)]
    for chunk in chunks:
        pod.append(RUN_ID, events=[event("training")], log=chunk, metrics=b'{"step": 1}\n')
    reader = remote.ledger("reader", url=remote.file_url)
    record = reader.read(RUN_ID)
    assert (len(record.events), size_of(remote.folder / "reader") < 60_000) == (4, True)
    assert reader.text(record, "metrics")[0] == b'{"step": 1}\n' * 3
    assert reader.text(record, "logs")[0] == b"".join(chunks)
    assert size_of(remote.folder / "reader") > 120_000
    second = remote.ledger("second", url=remote.file_url)
    second.append(RUN_ID, events=[event("closed")], files={"receipt.json": b"{}"})
    pod.append(RUN_ID, log=b"a late word\n")
    assert states(second) == ["claimed", *["training"] * 3, "closed"]
    assert second.text(second.read(RUN_ID), "logs", 2)[0] == chunks[2] + b"a late word\n"
    assert len(remote.ledger("checker", url=remote.file_url).evidence([RUN_ID])[0].commits) == 7
    remote.order("down")
    with pytest.raises(LedgerUnavailable):
        third = remote.ledger("reader2")
        third.text(third.read(RUN_ID), "logs")


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_file_too_large_for_a_remote_is_refused_before_it_is_sent(remote: Remote) -> None:
    ledger = remote.ledger()
    claim(ledger)
    with pytest.raises(LedgerError, match="at most") as caught:
        ledger.append(RUN_ID, files={"result.json": b" " * (FILE_BYTES + 1)})
    assert caught.value.reason == "TooLarge"
    assert states(ledger) == ["claimed"]


def test_anybody_reads_it_with_plain_git(remote: Remote) -> None:
    ledger = remote.ledger()
    claim(ledger)
    ledger.append(RUN_ID, events=[event("training", message="step 1")], log=b"hello\n")
    assert json.loads(remote.show("show", f"runs/{RUN_ID}:run.json")) == {"job": "job"}
    assert json.loads(remote.show("show", f"runs/{RUN_ID}:events/000002-training.json"))["message"] == "step 1"
    assert remote.show("show", f"runs/{RUN_ID}:logs/000001.log") == "hello"
    assert remote.show("log", "--format=%s", f"runs/{RUN_ID}").splitlines() == [
        f"{RUN_ID}: training",
        f"{RUN_ID}: claimed",
        f"{RUN_ID}: claim",
    ]


def test_a_file_that_is_there_is_never_overwritten(remote: Remote) -> None:
    ledger = remote.ledger()
    claim(ledger)
    ledger.append(RUN_ID, files={"result.json": b'{"adapter": 1}'})
    ledger.append(RUN_ID, files={"result.json": b'{"adapter": 2}'}, log=b"x\n")
    assert ledger.append(RUN_ID, files={"result.json": b"{}"}) == ledger.refs()[RUN_ID]
    assert ledger.read(RUN_ID).result == {"adapter": 1}
    for old, new in pairs_of_commits(remote):
        assert remote.show("diff", "--diff-filter=a", "--name-only", old, new) == ""


def test_two_writers_at_once_lose_nothing(remote: Remote) -> None:
    claim(remote.ledger())
    writers = [remote.ledger("pod"), remote.ledger("control"), remote.ledger("third")]

    def write(number: int) -> None:
        for turn in range(8):
            writers[number].append(RUN_ID, events=[event("training", message=f"{number}.{turn}")])

    run_together([lambda n=n: write(n) for n in range(3)])
    record = remote.ledger("reader").read(RUN_ID)
    assert broken_links(record.events) == []
    said = [event.message for event in record.events[1:]]
    assert sorted(said) == sorted(f"{number}.{turn}" for number in range(3) for turn in range(8))
    for number in range(3):
        mine = [text for text in said if text.startswith(f"{number}.")]
        assert mine == [f"{number}.{turn}" for turn in range(8)]


_WRITER = """\
import os, sys
from pathlib import Path
from pushtrain.events import EventDraft
from pushtrain.ledger import Ledger
url, cache, run_id, who = sys.argv[1:]
ledger = Ledger(url, cache_dir=Path(cache), environ=os.environ)
for turn in range(5):
    ledger.append(run_id, events=[EventDraft(state="training", writer="pod", attempt=1, message=f"{who}.{turn}")])
    ledger.read(run_id)
"""


def test_processes_may_share_one_cache(remote: Remote) -> None:
    ledger = remote.ledger()
    claim(ledger)
    command = [sys.executable, "-c", _WRITER, remote.url, str(remote.folder / "cache"), RUN_ID]
    env = remote.env | {"PYTHONPATH": str(Path(__file__).parents[1])}
    writers = [subprocess.Popen([*command, str(n)], env=env, stderr=subprocess.PIPE) for n in range(3)]
    for writer in writers:
        _, said = writer.communicate(timeout=150)
        assert writer.returncode == 0, said.decode()
    assert len(states(ledger)) == 16


def test_an_append_whose_answer_is_lost_is_not_added_twice(remote: Remote) -> None:
    ledger = remote.ledger()
    claim(ledger)
    again = {"events": [event("training")], "log": b"once\n", "files": {"result.json": b"{}"}}
    remote.order("mute")
    with pytest.raises(LedgerUnavailable):
        ledger.append(RUN_ID, **again)
    landed = remote.ledger("elsewhere").refs()[RUN_ID]
    assert ledger.append(RUN_ID, **again) == landed
    ledger.append(RUN_ID, log=b"next\n")
    record = ledger.read(RUN_ID)
    assert states(ledger) == ["claimed", "training"]
    assert ledger.text(record, "logs")[0] == b"once\nnext\n"


def test_a_lost_answer_is_found_under_what_others_wrote_since(remote: Remote) -> None:
    ledger, other = remote.ledger(), remote.ledger("elsewhere")
    claim(ledger)
    remote.order("mute")
    with pytest.raises(LedgerUnavailable):
        ledger.append(RUN_ID, events=[event("training")])
    other.append(RUN_ID, events=[event("cancelled")])
    ledger.append(RUN_ID, events=[event("training")])
    assert states(ledger) == ["claimed", "training", "cancelled"]


def test_the_same_words_said_again_later_are_added_again(remote: Remote) -> None:
    ledger = remote.ledger()
    claim(ledger)
    ledger.append(RUN_ID, log=b"step\n")
    ledger.append(RUN_ID, log=b"step\n")
    assert ledger.text(ledger.read(RUN_ID), "logs")[0] == b"step\nstep\n"


def test_a_push_that_lands_after_it_was_given_up_is_not_added_twice(remote: Remote) -> None:
    """The server is slow: the client gives up, the next try starts, and only then the first push lands."""
    ledger = remote.ledger()
    claim(ledger)
    remote.order("late")
    for _ in range(2):
        with contextlib.suppress(LedgerUnavailable):
            ledger.append(RUN_ID, events=[event("training")], log=b"once\n")
    assert states(ledger) == ["claimed", "training"]
    assert ledger.text(ledger.read(RUN_ID), "logs")[0] == b"once\n"


def test_what_could_not_be_sent_arrives_when_the_remote_is_back(remote: Remote) -> None:
    ledger = remote.ledger()
    claim(ledger)
    remote.order("down")
    for _ in range(3):
        with pytest.raises(LedgerUnavailable, match="Connection refused"):
            ledger.append(RUN_ID, events=[event("training")], log=b"a\n")
    with pytest.raises(LedgerUnavailable):
        ledger.refs()
    remote.order("well")
    ledger.append(RUN_ID, events=[event("training")], log=b"a\n")
    assert states(ledger) == ["claimed", "training"]
    assert ledger.text(ledger.read(RUN_ID), "logs")[0] == b"a\n"


def test_a_refused_append_says_so_at_once(remote: Remote) -> None:
    ledger = remote.ledger()
    claim(ledger)
    remote.hook("update", 'echo "GH013: Repository rule violations found" >&2; exit 1')
    with pytest.raises(LedgerError, match=r"hook declined|rule violations") as caught:
        ledger.append(RUN_ID, events=[event("training")], timeout_s=150)
    assert caught.type is LedgerError


def test_the_cache_may_be_deleted_at_any_time(remote: Remote) -> None:
    ledger = remote.ledger()
    claim(ledger)
    shutil.rmtree(remote.folder / "cache")
    ledger.append(RUN_ID, events=[event("training")])
    shutil.rmtree(remote.folder / "cache")
    assert states(ledger) == ["claimed", "training"]
    shutil.rmtree(remote.folder / "cache")
    claim(ledger, "job-01234567-22222222")
    assert len(ledger.refs()) == 2


def test_an_event_that_is_no_json_is_refused_and_leaves_nothing(remote: Remote) -> None:
    ledger = remote.ledger()
    claim(ledger)
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.append(RUN_ID, events=[event("training", data={"loss": float("nan")})])
    assert states(ledger) == ["claimed"]


# Reading.


def test_a_broken_chain_is_named(remote: Remote) -> None:
    ledger = remote.ledger()
    claim(ledger)
    ledger.append(RUN_ID, events=[event("training"), event("closed")])
    work = remote.folder / "work"
    remote.git("clone", "-q", "--branch", f"runs/{RUN_ID}", remote.file_url, str(work))
    forged = work / "events" / "000002-training.json"
    forged.write_text(forged.read_text().replace('"attempt": 1', '"attempt": 2'))
    remote.git("-C", str(work), "commit", "-qam", "forged")
    remote.git("-C", str(work), "push", "-q")
    assert broken_links(ledger.read(RUN_ID).events) == ["event 3 (closed) does not follow from the event before it"]
    remote.git("-C", str(work), "rm", "-q", "events/000002-training.json")
    remote.git("-C", str(work), "commit", "-qm", "removed")
    remote.git("-C", str(work), "push", "-q")
    assert broken_links(ledger.read(RUN_ID).events) == ["event 2 is missing or out of order: found number 3"]


def test_an_unknown_run_is_an_error_a_person_can_read(remote: Remote) -> None:
    with pytest.raises(LedgerError, match="there is no branch"):
        remote.ledger().read(RUN_ID)


@pytest.mark.parametrize(
    ("path", "content"), [("README.md", "hello"), ("events/000001-claimed.json", "{}"), ("run.json", "[1]")]
)
def test_a_branch_that_no_run_wrote_is_named(remote: Remote, path: str, content: str) -> None:
    work = remote.folder / "work"
    remote.git("init", "-q", str(work))
    (work / path).parent.mkdir(exist_ok=True)
    (work / path).write_text(content)
    remote.git("-C", str(work), "add", ".")
    remote.git("-C", str(work), "commit", "-qm", "stray")
    remote.git("-C", str(work), "push", "-q", remote.file_url, f"HEAD:refs/heads/runs/{RUN_ID}")
    with pytest.raises(LedgerError, match=f"branch runs/{RUN_ID} holds no run") as caught:
        remote.ledger().read(RUN_ID)
    assert "git log" in (caught.value.hint or "")


def test_files_and_branches_of_other_people_do_no_harm(remote: Remote) -> None:
    ledger = remote.ledger()
    tip = claim(ledger)
    for branch in ("main", "runs/README", "runs/job", "claims/job-89abcdef-x", f"old/refs/heads/runs/{RUN_ID}"):
        remote.show("update-ref", f"refs/heads/{branch}", tip)
    assert list(ledger.refs()) == [RUN_ID]
    ledger.append(RUN_ID, files={"logs/README": b"not a chunk\n"})
    ledger.append(RUN_ID, log=b"chunk\n")
    assert ledger.text(ledger.read(RUN_ID), "logs") == (b"chunk\n", 1)


def test_hundreds_of_runs_are_read_with_a_handful_of_processes(remote: Remote, tmp_path: Path) -> None:
    claim(remote.ledger())
    tip = remote.show("rev-parse", f"runs/{RUN_ID}")
    names = [f"job{n}-01234567-{n:08x}" for n in range(300)]
    updates = "".join(f"create refs/heads/runs/{name} {tip}\n" for name in names)
    subprocess.run(
        ["git", "-C", str(remote.path), "update-ref", "--stdin"],
        input=updates.encode(),
        env=remote.env,
        check=True,
        timeout=150,
    )
    calls = recording_git(tmp_path, remote)
    ledger = remote.ledger("fresh", url=remote.file_url)
    records = ledger.read_all(ledger.refs())
    assert len(records) == 301
    assert {record.last.state for record in records.values()} == {"claimed"}
    assert len(calls()) <= 12
    before = len(calls())
    ledger.read_all(ledger.refs())
    assert len(calls()) - before <= 6


def test_a_run_is_found_by_job_id_or_beginning(remote: Remote) -> None:
    ledger = remote.ledger(clock=iter(range(10**6)).__next__)
    for run_id in ("job-00000001-00000001", "job-00000002-00000002", "job-b-00000003-00000003"):
        claim(ledger, run_id)
    assert newest_run(ledger, "job").run_id == "job-00000002-00000002"
    assert newest_run(ledger, "job-00000001").run_id == "job-00000001-00000001"
    assert newest_run(ledger, "job-b-0").run_id == "job-b-00000003-00000003"
    for nobody in ("nobody", ""):
        with pytest.raises(PushtrainError, match="no run") as unknown:
            newest_run(ledger, nobody)
        assert "job-00000001-00000001" in (unknown.value.hint or "")
    with pytest.raises(PushtrainError, match="begins runs of 2 jobs: job, job-b"):
        newest_run(ledger, "jo")


# Secrets.


def test_no_secret_reaches_the_branch(remote: Remote) -> None:
    secrets = {"HF_TOKEN": "canary-secret-hub", "PULUMI_CONFIG_PASSPHRASE": 'canary-secret-"quoted\\'}
    ledger = remote.ledger(environ=remote.env | secrets)
    hub, passphrase = secrets.values()
    files = {"spec.yaml": f"# {hub}".encode(), "run.json": json.dumps({"job": passphrase}).encode()}
    ledger.claim(RUN_ID, files=files, event=event("claimed", message=hub))
    ledger.append(
        RUN_ID,
        events=[event("training", message=passphrase, reason=hub, data={"why": [hub, passphrase]})],
        log=f"token {hub} https://u:canary-secret-url@host/x\n".encode(),
        metrics=json.dumps({"note": passphrase}).encode() + b"\n",
        files={"result.json": json.dumps({"by": hub}).encode()},
    )
    everything = remote.show("log", "-p", "--format=%B%an%ae%cn%ce", f"runs/{RUN_ID}")
    assert "canary" not in everything
    assert everything.count("***") >= 9
    assert ledger.read(RUN_ID).last.data == {"why": ["***", "***"]}


def test_a_token_is_neither_in_argv_nor_in_a_url_nor_on_disk(remote: Remote, tmp_path: Path) -> None:
    token = "canary-secret-token"
    calls = recording_git(tmp_path, remote)
    ledger = remote.ledger(url="https://git.example.invalid/o/r.git", token=token)
    with pytest.raises(LedgerError) as caught:
        ledger.refs()
    assert calls()
    values = git_env(ledger.url, token, remote.env).values()
    basic = next(value for value in values if value.startswith("Authorization: ")).split()[-1]
    assert len(basic) > 20
    files = [file for file in (remote.folder / "cache").rglob("*") if file.is_file()]
    assert any(file.name == "config" for file in files)
    on_disk = b"".join(file.read_bytes() for file in files).decode(errors="replace")
    for text in ("\n".join(calls()), on_disk, str(caught.value)):
        assert token not in text
        assert basic not in text


def test_a_token_goes_to_the_host_of_the_url_only() -> None:
    env = git_env("https://user@git.example:8443/o/r.git", "canary-secret-token", {})
    keys = {value: env[name.replace("KEY", "VALUE")] for name, value in env.items() if "CONFIG_KEY" in name}
    assert [key for key in keys if "extraHeader" in key] == ["http.https://git.example:8443/.extraHeader"]
    for url in ("ssh://git@git.example/o/r.git", "git@git.example:o/r.git", "file:///r.git"):
        assert "canary" not in str(git_env(url, "canary-secret-token", {})) and "Basic" not in str(
            git_env(url, "canary-secret-token", {})
        )


# Helpers.


def run_together(calls: list[Callable[[], None]]) -> None:
    """All at once; the first failure of any of them is raised here."""
    with ThreadPoolExecutor(len(calls)) as pool:
        for future in [pool.submit(call) for call in calls]:
            future.result(timeout=150)


def recording_git(folder: Path, remote: Remote) -> Callable[[], list[str]]:
    """Puts a git on PATH that writes its arguments down; returns a function that reads them."""
    real, record = shutil.which("git"), folder / "calls"
    shim = folder / "bin" / "git"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {record}\nexec {real} "$@"\n')
    shim.chmod(0o755)
    remote.env["PATH"] = f"{shim.parent}:{remote.env['PATH']}"
    return lambda: record.read_text().splitlines() if record.exists() else []


def pairs_of_commits(remote: Remote) -> list[tuple[str, str]]:
    commits = remote.show("rev-list", "--reverse", f"runs/{RUN_ID}").split()
    return list(pairwise(commits))

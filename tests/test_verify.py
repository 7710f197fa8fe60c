"""`pushtrain verify`: each way to tamper with a run's branch, done with real git, is named."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from git_world import SHA, Remote, event

from pushtrain.errors import PushtrainError
from pushtrain.events import EventDraft, encode
from pushtrain.ledger import Ledger
from pushtrain.spec.file import loads
from pushtrain.verify import Verdict, verify

SPEC = b"""\
version: 1
name: job
model: {id: demo/base}
data: {path: data/x.jsonl}
compute: {gpus: [NVIDIA A40]}
budget: {max_hours: 1, max_usd: 1}
publish: {repo: demo/job}
"""
DIGEST = loads(SPEC, "jobs/job.yaml").digest
RUN = f"job-{SHA[:8]}-{DIGEST[:8]}"
CLAIM = f"claims/job-{DIGEST[:8]}"
PROVISIONED = {"pod_id": "p1", "volume_id": "v1"}
RECEIPT = {
    "run_id": RUN,
    "outcome": "succeeded",
    "attempts": 1,
    "pods": ["p1"],
    "volumes": ["v1"],
    "proof": {"pods": 0, "volumes": 0, "asked_at": ["2026-11-21T10:00:00.000Z"] * 2},
}
RESULT = {"adapter": {"repo": "o/m", "revision": "a" * 40, "files": {"adapter.safetensors": "b" * 64}}, "metrics": {}}
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A remote with one closed run; copied for each test."""
    remote = Remote(tmp_path_factory.mktemp("whole"))
    ledger = remote.ledger(url=remote.file_url)
    run = {"job": "job", "commit": SHA, "spec_digest": DIGEST, "spec_path": "jobs/job.yaml"}
    ledger.claim(RUN, files={"spec.yaml": SPEC, "run.json": json.dumps(run).encode()}, event=event("claimed"))
    ledger.append(RUN, events=[event("provisioned", data=PROVISIONED)])
    for state in ("booting", "training", "evaluating"):
        ledger.append(RUN, events=[event(state, writer="pod")], log=f"{state}\n".encode(), metrics=b'{"step": 1}\n')
    result = {"result.json": json.dumps(RESULT).encode()}
    ledger.append(RUN, events=[event("finished", writer="pod")], files=result)
    receipt = {"receipt.json": json.dumps(RECEIPT).encode()}
    ledger.append(RUN, events=[event("closed", data={"outcome": "succeeded"})], files=receipt)
    return remote.path


@pytest.fixture
def remote(whole: Path, tmp_path: Path) -> Remote:
    made = Remote(tmp_path)
    made.git("clone", "-q", "--mirror", str(whole), str(made.path) + ".new")
    subprocess.run(["rm", "-rf", str(made.path)], check=True)
    Path(str(made.path) + ".new").rename(made.path)
    return made


def verdict(remote: Remote, cache: str = "fresh") -> Verdict:
    (found,) = verify(remote.ledger(cache, url=remote.file_url), RUN)
    return found


def said(remote: Remote, cache: str = "fresh") -> list[str]:
    return [str(problem) for problem in verdict(remote, cache).problems]


def files_of(remote: Remote) -> Files:
    paths = remote.show("ls-tree", "-r", "--name-only", f"runs/{RUN}").splitlines()
    show = ["git", "-C", str(remote.path), "show"]
    return {
        path: subprocess.run([*show, f"runs/{RUN}:{path}"], env=remote.env, capture_output=True, check=True).stdout
        for path in paths
    }


def tamper(remote: Remote, change: Callable[[Files], None], *, rewrite: bool = False) -> None:
    """Change the branch's files by one more commit, or by a history of its own that is forced over it."""
    files = files_of(remote)
    change(files)
    parent = "" if rewrite else f"from refs/heads/runs/{RUN}\n"
    head = "reset refs/heads/tampered\n\ncommit refs/heads/tampered\ncommitter x <x@x> 0 +0000\ndata 1\nx\n"
    stream = f"{head}{parent}deleteall\n".encode()
    for path, raw in files.items():
        stream += f"M 100644 inline {path}\ndata {len(raw)}\n".encode() + raw + b"\n"
    command = ["git", "-C", str(remote.path), "fast-import", "--quiet", "--force"]
    subprocess.run(command, input=stream, env=remote.env, check=True, timeout=150)
    remote.show("update-ref", f"refs/heads/runs/{RUN}", "refs/heads/tampered")
    remote.show("update-ref", "-d", "refs/heads/tampered")


def name(files: Files, number: int) -> str:
    return next(path for path in files if path.startswith(f"events/{number:06d}-"))


def sha(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def test_a_run_nobody_touched_is_fine(remote: Remote) -> None:
    found = verdict(remote)
    assert (found.problems, found.events, found.commits, found.tip) == (
        (),
        7,
        8,
        remote.show("rev-parse", f"runs/{RUN}"),
    )
    assert found.as_json()["ok"] and found.as_text() == f"{RUN}: ok, 7 events in 8 commits"


def test_a_changed_event_is_named_by_git_and_by_the_event_after_it(remote: Remote) -> None:
    before = files_of(remote)
    raw = before["events/000004-training.json"]

    def change(files: Files) -> None:
        files["events/000004-training.json"] = raw.replace(b'"message": ""', b'"message": "x"')

    tamper(remote, change)
    after = files_of(remote)["events/000004-training.json"]
    commit = remote.show("rev-parse", f"runs/{RUN}")[:12]
    first, second = said(remote)
    assert first.startswith(f"events/000004-training.json: changed by commit {commit} (expected blob ")
    assert second == (
        "events/000004-training.json: changed: events/000005-evaluating.json was written after other bytes "
        f"(expected SHA-256 {sha(raw)}, found SHA-256 {sha(after)})"
    )


def test_a_dropped_event_is_named_with_the_digest_it_had(remote: Remote) -> None:
    raw = files_of(remote)["events/000004-training.json"]
    tamper(remote, lambda files: files.pop("events/000004-training.json") and None)
    first, second = said(remote)
    assert first.startswith("events/000004-training.json: removed by commit ") and first.endswith("found nothing)")
    assert second == (
        f"events/000004-*.json: dropped (expected an event number 4 with SHA-256 {sha(raw)}, "
        "as the event after it says, found nothing)"
    )


def test_reordered_events_are_named(remote: Remote) -> None:
    def change(files: Files) -> None:
        four, five = files.pop("events/000004-training.json"), files.pop("events/000005-evaluating.json")
        files["events/000004-evaluating.json"] = five.replace(b'"seq": 5', b'"seq": 4')
        files["events/000005-training.json"] = four.replace(b'"seq": 4', b'"seq": 5')

    tamper(remote, change, rewrite=True)
    text = "\n".join(said(remote))
    assert "events/000004-evaluating.json" in text and "events/000005-training.json: out of order" in text
    assert "written after events/000003-booting.json" in text


def test_swapped_names_are_named(remote: Remote) -> None:
    def change(files: Files) -> None:
        four, five = files.pop("events/000004-training.json"), files.pop("events/000005-evaluating.json")
        files["events/000004-evaluating.json"], files["events/000005-training.json"] = five, four

    tamper(remote, change, rewrite=True)
    text = "\n".join(said(remote))
    assert (
        "events/000004-evaluating.json: moved: it says that it is another event "
        "(expected events/000005-evaluating.json, found events/000004-evaluating.json)"
    ) in text


def test_a_duplicated_event_is_named(remote: Remote) -> None:
    def change(files: Files) -> None:
        files["events/000008-training.json"] = files["events/000004-training.json"]

    tamper(remote, change)
    assert "events/000008-training.json: duplicated: the same bytes as events/000004-training.json" in said(remote)


def forged(files: Files, seq: int, prev: str | None) -> bytes:
    draft = EventDraft(state="training", writer="pod", attempt=1, message="forged")
    return encode(draft, seq=seq, prev=prev, now_s=0)[1]


def test_an_inserted_event_is_named(remote: Remote) -> None:
    def change(files: Files) -> None:
        before = sha(files["events/000003-booting.json"])
        files["events/000004-aaa.json"] = forged(files, 4, before).replace(b'"state": "training"', b'"state": "aaa"')

    tamper(remote, change)
    text = "\n".join(said(remote))
    assert text == (
        "events/000004-aaa.json: inserted: events/000004-training.json has that number, too "
        "(expected one event with that number, found two)"
    )


def test_an_event_in_the_place_of_another_is_named(remote: Remote) -> None:
    def change(files: Files) -> None:
        files["events/000004-training.json"] = forged(files, 4, sha(files["events/000003-booting.json"]))

    tamper(remote, change, rewrite=True)
    assert any(text.startswith("events/000004-training.json: changed: events/000005") for text in said(remote))


def test_an_inserted_event_that_shifts_the_others_is_named(remote: Remote) -> None:
    def change(files: Files) -> None:
        for number in (7, 6, 5, 4):
            path = name(files, number)
            raw = files.pop(path).replace(f'"seq": {number}'.encode(), f'"seq": {number + 1}'.encode())
            files[path.replace(f"{number:06d}", f"{number + 1:06d}")] = raw
        files["events/000004-training.json"] = forged(files, 4, sha(files["events/000003-booting.json"]))

    tamper(remote, change, rewrite=True)
    assert any(text.startswith("events/000005-training.json: out of order") for text in said(remote))


def rebuilt(files: Files) -> None:
    """Somebody drops an event and writes the whole chain anew behind it, every digest right."""
    paths = sorted(path for path in files if path.startswith("events/"))
    raws = [files.pop(path) for path in paths]
    prev = None
    for seq, raw in enumerate([raw for raw in raws if b'"training"' not in raw], 1):
        body = json.loads(raw)
        body.pop("seq"), body.pop("prev")
        path, again = encode(EventDraft(**body), seq=seq, prev=prev, now_s=0)
        files[path], prev = again, sha(again)


def test_a_history_written_anew_lacks_the_claims_commit(remote: Remote) -> None:
    claimed = remote.show("rev-parse", CLAIM)
    tamper(remote, rebuilt, rewrite=True)
    assert said(remote) == [
        f"runs/{RUN}: the branch was rewritten (expected commit {claimed}, where {CLAIM} points, "
        "found a history without it)"
    ]


def test_a_history_written_anew_with_its_claim_is_seen_by_who_had_seen_the_old_one(remote: Remote) -> None:
    tip = remote.show("rev-parse", f"runs/{RUN}")
    assert said(remote, "witness") == []
    tamper(remote, rebuilt, rewrite=True)
    remote.show("update-ref", f"refs/heads/{CLAIM}", f"refs/heads/runs/{RUN}")
    assert said(remote, "stranger") == [], "as far as git lets one"
    for _ in range(2):
        assert said(remote, "witness") == [
            f"runs/{RUN}: the branch was rewritten (expected commit {tip}, its tip when this machine last looked, "
            "found a history without it)"
        ]


def test_a_history_cut_off_after_the_claim_is_named(remote: Remote) -> None:
    remote.show("update-ref", f"refs/heads/runs/{RUN}", f"runs/{RUN}~3")
    assert any("the branch was rewritten" in text for text in said(remote))


def test_a_claim_that_hides_a_run_from_the_control_plane_is_named(remote: Remote) -> None:
    """A claim at its run's tip says that the run is over, and nobody looks after it any more."""
    remote.show("update-ref", f"refs/heads/runs/{RUN}", f"runs/{RUN}~2")
    remote.show("update-ref", f"refs/heads/{CLAIM}", f"refs/heads/runs/{RUN}")
    (problem,) = said(remote)
    assert problem.startswith(f"{CLAIM}: the claim says that the run is over, and there is no receipt")
    remote.show("update-ref", "-d", f"refs/heads/{CLAIM}")
    (problem,) = said(remote)
    assert problem.startswith(f"{CLAIM}: the claim was removed")


def edited(path: str, **changes: object) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        files[path] = json.dumps({**json.loads(files[path]), **changes}).encode()

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (edited("receipt.json", outcome="failed"), "receipt.json: outcome (expected 'succeeded', found 'failed')"),
        (edited("receipt.json", run_id="other"), f"receipt.json: run_id (expected '{RUN}', found 'other')"),
        (edited("receipt.json", attempts=2), "receipt.json: attempts (expected 1, found 2)"),
        (edited("receipt.json", pods=[]), "receipt.json: pods: events/000002-provisioned.json rented one"),
        (edited("receipt.json", volumes=["v2"]), "receipt.json: volumes: events/000002-provisioned.json rented one"),
        (edited("receipt.json", proof={"pods": 1}), "receipt.json: proof (expected pods 0, volumes 0"),
        (lambda files: files.update({"receipt.json": b"[]"}), "receipt.json: not a JSON object"),
        (lambda files: files.update({"receipt.json": b"["}), "receipt.json: not JSON"),
        (lambda files: files.pop("receipt.json") and None, "receipt.json: dropped: the run was closed with one"),
        (edited("result.json", adapter="x"), "result.json: adapter (expected repo, revision and files, found 'x')"),
        (edited("result.json", adapter={"revision": "main", "files": {}}), "result.json: adapter.revision"),
        (
            edited("result.json", adapter={"revision": "a" * 40, "files": {"x": "short"}}),
            "result.json: adapter.files['x'] (expected a SHA-256 of 64 digits, found 'short')",
        ),
        (
            edited("result.json", artifacts={"repo": None, "revision": None, "files": {"x": "short"}}),
            "result.json: artifacts.files['x'] (expected a SHA-256 of 64 digits, found 'short')",
        ),
        (edited("result.json", artifacts={"repo": "o/m", "files": {}}), "result.json: artifacts.revision"),
        (edited("run.json", job="other"), "run.json: job is another run's (expected job, found other)"),
        (edited("run.json", commit="f" * 40), "run.json: commit is another run's"),
        (
            lambda files: files.update({"spec.yaml": SPEC.replace(b"max_usd: 1", b"max_usd: 100")}),
            f"spec.yaml: not the spec that was claimed (expected digest {DIGEST}",
        ),
        (lambda files: files.pop("logs/000002.log") and None, "logs/000002.*: dropped (expected chunk 2"),
        (lambda files: files.update({"logs/README": b"x"}), "logs/README: inserted: not the name of a chunk"),
        (lambda files: files.update({"events/note.txt": b"x"}), "events/note.txt: inserted: not the name of an event"),
        (
            lambda files: files.update({"events/000004-training.json": b"["}),
            "events/000004-training.json: not an event",
        ),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_named(
    remote: Remote, change: Callable[[Files], None], expected: str
) -> None:
    """In a history of its own, so that the file's own check has to find it, and not git's."""
    tamper(remote, change, rewrite=True)
    assert [text for text in said(remote) if text.startswith(expected)], said(remote)


def test_a_merge_and_a_foreign_first_event_are_named(remote: Remote) -> None:
    tip = remote.show("rev-parse", f"runs/{RUN}")
    merge = remote.show("commit-tree", "-p", tip, "-p", f"{tip}~1", "-m", "x", f"{tip}^{{tree}}")
    remote.show("update-ref", f"refs/heads/runs/{RUN}", merge)
    assert said(remote) == [f"runs/{RUN}: commit {merge[:12]} is a merge (expected one parent, found more)"]
    tamper(remote, lambda files: files.update({name(files, 1): forged(files, 1, "0" * 64)}), rewrite=True)
    assert any("changed: a first event follows from none" in text for text in said(remote))


def test_names_and_all(remote: Remote) -> None:
    ledger: Ledger = remote.ledger(url=remote.file_url)
    other = "job-b-00000001-00000001"
    ledger.claim(other, files={"spec.yaml": b"", "run.json": b"{}"}, event=event("claimed"))
    assert [found.run_id for found in verify(ledger, "job")] == [RUN]
    assert [found.run_id for found in verify(ledger, "job-b")] == [other]
    assert [found.run_id for found in verify(ledger, RUN[:12])] == [RUN]
    assert {found.run_id: bool(found.problems) for found in verify(ledger, None)} == {RUN: False, other: True}
    with pytest.raises(PushtrainError, match="no run 'nobody'"):
        verify(ledger, "nobody")
    assert verify(Remote(remote.folder / "empty").ledger(), None) == []

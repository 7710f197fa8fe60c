"""Does a run's branch still say what was written? Whatever was tampered with is named: where, what belongs there, what
is there.

Three things hold a branch together: each event carries the digest of the one before; git's commits only ever add files;
and the spec's claim points into the branch, at its first commit and, once the run is over, at its last file's. Who can
move both branches at will can still forge a whole run, but not before a machine that has seen the old tip.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pushtrain.branch import FOLDERS, chunk_path, number
from pushtrain.errors import PushtrainError, SpecError
from pushtrain.events import EVENT_FILE, Event, decode
from pushtrain.ledger import Ledger
from pushtrain.record import RECEIPT, Evidence
from pushtrain.refs import claim_of
from pushtrain.run import RUN_ID
from pushtrain.spec.file import loads

_SHA256, _COMMIT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is not as it was written. `file` is a path of the branch, or the branch itself."""

    file: str
    what: str
    expected: str = ""
    found: str = ""

    def __str__(self) -> str:
        difference = f" (expected {self.expected}, found {self.found})" if self.expected or self.found else ""
        return f"{self.file}: {self.what}{difference}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    run_id: str
    tip: str
    events: int
    commits: int
    problems: tuple[Problem, ...]

    def as_json(self) -> dict[str, Any]:
        return {"ok": not self.problems, **asdict(self)}

    def as_text(self) -> str:
        state = "TAMPERED" if self.problems else "ok"
        first = f"{self.run_id}: {state}, {self.events} events in {self.commits} commits"
        return "\n".join([first, *(f"  {problem}" for problem in self.problems)])


def verify(ledger: Ledger, name: str | None) -> list[Verdict]:
    """Verdicts on the runs of that name (a run id, its beginning, or a job), or on all of them.

    Raises PushtrainError when no run is called so, LedgerUnavailable when the remote cannot be reached.
    """
    run_ids = sorted(ledger.refs())
    chosen = run_ids if name is None else _named(run_ids, name)
    if not chosen and name is not None:
        known = ", ".join(run_ids[:5]) or "none"
        raise PushtrainError(f"no run '{name}' in the ledger", hint=f"known runs: {known}", reason="UnknownRun")
    verdicts = [examine(evidence) for evidence in ledger.evidence(chosen)]
    for verdict in verdicts:
        if not verdict.problems:
            ledger.witness(verdict.run_id, verdict.tip)
    return verdicts


def examine(evidence: Evidence) -> Verdict:
    """Everything that is wrong with one run. Pure."""
    checks = (_history, _anchors, _events, _chunks, _identity, _result, _receipt)
    problems = tuple(problem for check in checks for problem in check(evidence))
    count = sum(path.startswith("events/") for path in evidence.paths)
    return Verdict(
        run_id=evidence.run_id, tip=evidence.tip, events=count, commits=len(evidence.commits), problems=problems
    )


def _named(run_ids: Sequence[str], name: str) -> list[str]:
    if name in run_ids:
        return [name]
    of_job = [run_id for run_id in run_ids if (match := RUN_ID.fullmatch(run_id)) and match["job"] == name]
    return of_job or [run_id for run_id in run_ids if name and run_id.startswith(name)]


def _history(evidence: Evidence) -> Iterator[Problem]:
    for commit in evidence.commits:
        by = f"commit {commit.id[:12]}"
        if len(commit.parents) > 1:
            yield Problem(file=f"runs/{evidence.run_id}", what=f"{by} is a merge", expected="one parent", found="more")
        for change in commit.changes:
            if change.old is not None and change.new is None:
                yield Problem(file=change.path, what=f"removed by {by}", expected=f"blob {change.old}", found="nothing")
            elif change.old is not None:
                expected, found = f"blob {change.old}", f"blob {change.new}"
                yield Problem(file=change.path, what=f"changed by {by}", expected=expected, found=found)


def _anchors(evidence: Evidence) -> Iterator[Problem]:
    ids = [commit.id for commit in evidence.commits]
    branch, claim = f"runs/{evidence.run_id}", f"claims/{claim_of(evidence.run_id)}"
    if evidence.claim is None:
        yield Problem(file=claim, what="the claim was removed", expected=f"a commit of {branch}", found="nothing")
    elif evidence.claim not in ids:
        expected, found = f"commit {evidence.claim}, where {claim} points", "a history without it"
        yield Problem(file=branch, what="the branch was rewritten", expected=expected, found=found)
    elif evidence.claim != ids[0]:
        until = evidence.commits[: ids.index(evidence.claim) + 1]
        if not any(change.path == RECEIPT for commit in until for change in commit.changes):
            what = "the claim says that the run is over, and there is no receipt"
            yield Problem(file=claim, what=what, expected=f"commit {ids[0]}", found=f"commit {evidence.claim}")
    if evidence.seen is not None and evidence.seen not in ids:
        expected, found = f"commit {evidence.seen}, its tip when this machine last looked", "a history without it"
        yield Problem(file=branch, what="the branch was rewritten", expected=expected, found=found)


def _events(evidence: Evidence) -> Iterator[Problem]:
    for path in sorted(evidence.paths):
        if path.startswith("events/") and not EVENT_FILE.match(path):
            yield Problem(file=path, what="inserted: not the name of an event")
    read: dict[str, Event] = {}
    for path in sorted(evidence.files):
        if EVENT_FILE.match(path):
            try:
                read[path] = decode(evidence.files[path])
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                yield Problem(file=path, what="not an event", expected="JSON of an event", found=f"{error}"[:200])
    if not any(path.startswith("events/") for path in evidence.paths):
        yield Problem(file="events/", what="dropped", expected="events/000001-claimed.json", found="nothing")
    strangers = _strangers(read)
    yield from strangers.values()
    for path, event in read.items():
        name = f"events/{event.seq:06d}-{event.state}.json"
        if path not in strangers and name != path:
            yield Problem(file=path, what="moved: it says that it is another event", expected=name, found=path)
    yield from _missing(evidence, read)
    yield from _links([(path, event) for path, event in read.items() if path not in strangers])


def _strangers(read: dict[str, Event]) -> dict[str, Problem]:
    """Copies of an event, and of several with one number those that no other event was written after."""
    followed = {event.prev for event in read.values()}
    order = sorted(read, key=lambda path: (number(path), read[path].digest not in followed, path))
    found: dict[str, Problem] = {}
    first: dict[str, str] = {}
    taken: dict[int, str] = {}
    for path in order:
        digest = read[path].digest
        if digest in first:
            found[path] = Problem(file=path, what=f"duplicated: the same bytes as {first[digest]}")
        elif number(path) in taken:
            what = f"inserted: {taken[number(path)]} has that number, too"
            found[path] = Problem(file=path, what=what, expected="one event with that number", found="two")
        first.setdefault(digest, path)
        taken.setdefault(number(path), path)
    return found


def _missing(evidence: Evidence, read: dict[str, Event]) -> Iterator[Problem]:
    there = {number(path) for path in evidence.paths if path.startswith("events/")}
    for seq in range(1, max(there, default=0)):
        if seq not in there:
            after = next((event for path, event in read.items() if number(path) == seq + 1), None)
            said = f" with SHA-256 {after.prev}, as the event after it says" if after and after.prev else ""
            yield Problem(
                file=f"events/{seq:06d}-*.json",
                what="dropped",
                expected=f"an event number {seq}{said}",
                found="nothing",
            )


def _links(chain: Sequence[tuple[str, Event]]) -> Iterator[Problem]:
    """Whether each event was written after the one before it; a gap in the numbers is named by `_missing`."""
    paths = {event.digest: path for path, event in chain}
    if chain and number(chain[0][0]) == 1 and chain[0][1].prev is not None:
        yield Problem(
            file=chain[0][0], what="changed: a first event follows from none", found=f"prev {chain[0][1].prev}"
        )
    for index in range(1, len(chain)):
        (before_path, before), (path, event) = chain[index - 1], chain[index]
        if event.prev == before.digest or number(path) > number(before_path) + 1:
            continue
        following = chain[index + 1][1] if index + 1 < len(chain) else None
        expected, found = f"prev {before.digest}", f"prev {event.prev}"
        if following is not None and following.prev == before.digest:
            what = f"inserted: {chain[index + 1][0]} was written right after {before_path}"
            yield Problem(file=path, what=what, expected=expected, found=found)
        elif event.prev in paths or event.prev is None:
            what = f"out of order: written after {paths.get(event.prev or '', 'no other event')}, not {before_path}"
            yield Problem(file=path, what=what, expected=expected, found=found)
        else:
            what = f"changed: {path} was written after other bytes"
            yield Problem(
                file=before_path, what=what, expected=f"SHA-256 {event.prev}", found=f"SHA-256 {before.digest}"
            )


def _chunks(evidence: Evidence) -> Iterator[Problem]:
    for folder in FOLDERS[1:]:
        mine = [path for path in sorted(evidence.paths) if path.startswith(folder + "/")]
        for path in mine:
            if path != chunk_path(folder, number(path)):
                yield Problem(file=path, what=f"inserted: not the name of a chunk of {folder}")
        there = {number(path) for path in mine}
        for seq in sorted(set(range(1, max(there, default=0))) - there):
            yield Problem(file=f"{folder}/{seq:06d}.*", what="dropped", expected=f"chunk {seq}", found="nothing")


def _identity(evidence: Evidence) -> Iterator[Problem]:
    match = RUN_ID.fullmatch(evidence.run_id)
    run, wrong = _object(evidence, "run.json")
    if wrong or run is None or match is None:
        yield wrong or Problem(file="run.json", what="dropped", expected="what was claimed", found="nothing")
        return
    for key, size, expected in (("job", None, "job"), ("commit", 8, "commit"), ("spec_digest", 8, "spec")):
        if (found := str(run.get(key, ""))[:size]) != match[expected]:
            yield Problem(file="run.json", what=f"{key} is another run's", expected=match[expected], found=found)
    spec = evidence.files.get("spec.yaml", b"")
    try:
        digest = loads(spec, str(run.get("spec_path", "spec.yaml")), check_name=False).digest
    except SpecError:
        return  # a key that this version does not know, or no spec at all: then nobody can tell
    # A spec that held a secret was written without it.
    if digest != run.get("spec_digest") and b"***" not in spec:
        expected, found = f"digest {run.get('spec_digest')}", f"digest {digest}"
        yield Problem(file="spec.yaml", what="not the spec that was claimed", expected=expected, found=found)


def _result(evidence: Evidence) -> Iterator[Problem]:
    result, wrong = _object(evidence, "result.json")
    if wrong:
        yield wrong
    for key in ("adapter", "artifacts"):
        if (kept := (result or {}).get(key)) is not None:
            yield from _published(key, kept)


def _published(key: str, kept: Any) -> Iterator[Problem]:
    """What is wrong with what was published, or with what a command without `publish` only had hashed."""
    if not isinstance(kept, dict) or not isinstance(files := kept.get("files"), dict):
        yield Problem(file="result.json", what=key, expected="repo, revision and files", found=repr(kept)[:200])
        return
    is_nowhere = key == "artifacts" and kept.get("repo") is None
    if not is_nowhere and not _COMMIT.fullmatch(str(kept.get("revision"))):
        found = repr(kept.get("revision"))[:80]
        yield Problem(file="result.json", what=f"{key}.revision", expected="a commit of 40 digits", found=found)
    for path, digest in files.items():
        if not _SHA256.fullmatch(str(digest)):
            expected, found = "a SHA-256 of 64 digits", repr(digest)[:80]
            yield Problem(file="result.json", what=f"{key}.files['{path}']", expected=expected, found=found)


def _receipt(evidence: Evidence) -> Iterator[Problem]:
    receipt, wrong = _object(evidence, RECEIPT)
    if wrong:
        yield wrong
        return
    events = [event for path in sorted(evidence.files) if (event := _readable(evidence, path)) is not None]
    closed = next((event for event in events if event.state == "closed"), None)
    if receipt is None:
        if closed is not None:
            yield Problem(file=RECEIPT, what="dropped: the run was closed with one", expected="a file", found="nothing")
        return
    if closed is None:
        yield Problem(file=RECEIPT, what="inserted: no event says that the run was closed")
    told = {
        "run_id": evidence.run_id,
        "outcome": closed.data.get("outcome") if closed else None,
        "attempts": max((event.attempt for event in events if closed and event.seq <= closed.seq), default=None),
    }
    for key, expected in told.items():
        if expected is not None and receipt.get(key) != expected:
            yield Problem(file=RECEIPT, what=key, expected=repr(expected), found=repr(receipt.get(key)))
    for event in events:
        for kind in ("pod", "volume"):
            rented = event.data.get(f"{kind}_id") if event.state == "provisioned" else None
            if rented and rented not in (receipt.get(f"{kind}s") or ()):
                what = f"{kind}s: events/{event.seq:06d}-provisioned.json rented one that is not on it"
                yield Problem(file=RECEIPT, what=what, expected=str(rented), found=repr(receipt.get(f"{kind}s")))
    proof = receipt.get("proof")
    if not isinstance(proof, dict) or (proof.get("pods"), proof.get("volumes")) != (0, 0) or not proof.get("asked_at"):
        yield Problem(file=RECEIPT, what="proof", expected="pods 0, volumes 0, and when", found=repr(proof)[:200])


def _readable(evidence: Evidence, path: str) -> Event | None:
    try:
        return decode(evidence.files[path]) if EVENT_FILE.match(path) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _object(evidence: Evidence, path: str) -> tuple[dict[str, Any] | None, Problem | None]:
    """A root file as a JSON object, None when it is not there; and what is wrong with it."""
    if path not in evidence.files:
        return None, None
    try:
        value = json.loads(evidence.files[path])
    except (ValueError, RecursionError) as error:
        return None, Problem(file=path, what="not JSON", expected="an object", found=str(error)[:200])
    if not isinstance(value, dict):
        return None, Problem(file=path, what="not a JSON object", expected="an object", found=type(value).__name__)
    return value, None

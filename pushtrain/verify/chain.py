"""The order of a run's branch: git's commits only ever add files, the claim points into it, each event follows from the
one before, and no number is missing. Pure."""

from collections.abc import Iterator, Sequence

from pushtrain.branch import FOLDERS, chunk_path, number
from pushtrain.events import EVENT_FILE, Event, decode
from pushtrain.record import RECEIPT, Evidence
from pushtrain.refs import claim_of
from pushtrain.verify.problem import Problem


def history(evidence: Evidence) -> Iterator[Problem]:
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


def anchors(evidence: Evidence) -> Iterator[Problem]:
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


def events(evidence: Evidence) -> Iterator[Problem]:
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


def chunks(evidence: Evidence) -> Iterator[Problem]:
    for folder in FOLDERS[1:]:
        mine = [path for path in sorted(evidence.paths) if path.startswith(folder + "/")]
        for path in mine:
            if path != chunk_path(folder, number(path)):
                yield Problem(file=path, what=f"inserted: not the name of a chunk of {folder}")
        there = {number(path) for path in mine}
        for seq in sorted(set(range(1, max(there, default=0))) - there):
            yield Problem(file=f"{folder}/{seq:06d}.*", what="dropped", expected=f"chunk {seq}", found="nothing")

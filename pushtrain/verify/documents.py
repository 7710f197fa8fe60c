"""The documents at the root of a run's branch: whose run it is, what it published, and the receipt, each compared with
what the run's name and its events say. Pure."""

import json
import re
from collections.abc import Iterator
from typing import Any

from pushtrain.errors import SpecError
from pushtrain.events import EVENT_FILE, Event, decode
from pushtrain.record import RECEIPT, Evidence
from pushtrain.run import RUN_ID
from pushtrain.spec.file import loads
from pushtrain.verify.problem import Problem

_SHA256, _COMMIT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


def identity(evidence: Evidence) -> Iterator[Problem]:
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


def result(evidence: Evidence) -> Iterator[Problem]:
    found, wrong = _object(evidence, "result.json")
    if wrong:
        yield wrong
    for key in ("adapter", "artifacts"):
        if (kept := (found or {}).get(key)) is not None:
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


def receipt(evidence: Evidence) -> Iterator[Problem]:
    found, wrong = _object(evidence, RECEIPT)
    if wrong:
        yield wrong
        return
    events = [event for path in sorted(evidence.files) if (event := _readable(evidence, path)) is not None]
    closed = next((event for event in events if event.state == "closed"), None)
    if found is None:
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
        if expected is not None and found.get(key) != expected:
            yield Problem(file=RECEIPT, what=key, expected=repr(expected), found=repr(found.get(key)))
    for event in events:
        for kind in ("pod", "volume"):
            rented = event.data.get(f"{kind}_id") if event.state == "provisioned" else None
            if rented and rented not in (found.get(f"{kind}s") or ()):
                what = f"{kind}s: events/{event.seq:06d}-provisioned.json rented one that is not on it"
                yield Problem(file=RECEIPT, what=what, expected=str(rented), found=repr(found.get(f"{kind}s")))
    proof = found.get("proof")
    named = [proof.get(name) for name in ("pods", "volumes")] if isinstance(proof, dict) else []
    if not isinstance(proof, dict) or [*named, proof.get("scripts", 0)] != [0, 0, 0] or not proof.get("asked_at"):
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

"""What a job does, in words for who reviews it."""

import re
import shlex

from pushtrain.spec import CommandSpec, JobSpec, SessionSpec, TrainingSpec
from pushtrain.spec.publish import Destination

_COMMIT = re.compile("[0-9a-f]{40}")
_FLOATING = "floating: pin a commit to be able to repeat it"


def told(spec: JobSpec) -> list[tuple[str, str]]:
    """Rows of key and value: what is run, on what, and where its result goes."""
    if isinstance(spec, CommandSpec):
        command = spec.command
        run = command.run if isinstance(command.run, str) else shlex.join(command.run)
        given = [("is given", ", ".join(command.secrets))] if command.secrets else []
        return [("runs", f"{run} in {command.workdir} of the commit"), *given, ("publishes", _where_to(spec.publish))]
    if isinstance(spec, SessionSpec):
        return _told_of_a_session(spec)
    assert isinstance(spec, TrainingSpec)
    revisions = [spec.model.revision, *([spec.data.revision] if spec.data.is_on_hub else [])]
    return [
        ("trains", f"{spec.task}, {spec.method.kind} on {spec.model.id} at {spec.model.revision}"),
        ("data", f"{spec.data.source} at {spec.data.revision}" if spec.data.is_on_hub else spec.data.place),
        ("publishes", _where_to(spec.publish)),
        ("revisions", "pinned" if all(map(_COMMIT.fullmatch, revisions)) else _FLOATING),
    ]


def _told_of_a_session(spec: SessionSpec) -> list[tuple[str, str]]:
    session = spec.session
    starts = [("starts", shlex.join(session.start))] if session.start else []
    given = [("its shells get", ", ".join(session.secrets))] if session.secrets else []
    return [
        ("opens", f"a session to work in by hand; it ends after {session.idle_minutes:g} idle minutes"),
        *starts,
        *given,
        ("pushes", f"its work to session/{session.branch or 'RUN-ID'} of the ledger's repository"),
    ]


def _where_to(destination: Destination | None) -> str:
    if destination is None:
        return "nothing"
    return f"{destination.repo} ({'private' if destination.private else 'PUBLIC'})"

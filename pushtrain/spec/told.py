"""What a job does, in words for who reviews it."""

import shlex

from pushtrain.spec import CommandSpec, JobSpec, TrainingSpec
from pushtrain.spec.publish import Destination


def told(spec: JobSpec) -> list[tuple[str, str]]:
    """Rows of key and value: what is run, on what, and where its result goes."""
    if isinstance(spec, CommandSpec):
        command = spec.command
        run = command.run if isinstance(command.run, str) else shlex.join(command.run)
        given = [("is given", ", ".join(command.secrets))] if command.secrets else []
        return [("runs", f"{run} in {command.workdir} of the commit"), *given, ("publishes", _where_to(spec.publish))]
    assert isinstance(spec, TrainingSpec)
    revisions = [spec.model.revision, *([spec.data.revision] if spec.data.is_on_hub else [])]
    return [
        ("trains", f"{spec.task}, {spec.method.kind} on {spec.model.id} at {spec.model.revision}"),
        ("data", f"{spec.data.source} at {spec.data.revision}" if spec.data.is_on_hub else spec.data.place),
        ("publishes", _where_to(spec.publish)),
        ("revisions", "floating: pin a commit to be able to repeat it" if "main" in revisions else "pinned"),
    ]


def _where_to(destination: Destination | None) -> str:
    if destination is None:
        return "nothing"
    return f"{destination.repo} ({'private' if destination.private else 'PUBLIC'})"

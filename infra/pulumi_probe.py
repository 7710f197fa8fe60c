"""Whether Pulumi's backend can be written, read and deleted from: a stack without resources, made and removed."""

import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pulumi.automation import CommandError, ProjectSettings

from infra.program import PROJECT
from infra.pulumi_cli import PulumiCli
from infra.pulumi_settings import error_of, pulumi_environ
from infra.pulumi_workspace import Workspace
from pushtrain.redact import redact

_TIMEOUT_S = 25.0


def probe(environ: Mapping[str, str]) -> str:
    """Where the state is, redacted. Raises EngineError for what the backend refuses, or when it takes too long.

    Without PULUMI_BACKEND_URL the state is in a folder, and a folder of the system's temporary ones stands for it.
    """
    with tempfile.TemporaryDirectory(prefix="pushtrain-doctor-") as folder:
        (Path(folder) / "state").mkdir()
        given = pulumi_environ(environ, Path(folder) / "state")
        given.setdefault("PULUMI_HOME", f"{folder}/home")
        workspace = Workspace(
            work_dir=folder,
            env_vars=given,
            project_settings=ProjectSettings(name=PROJECT, runtime="python", main=folder),
            pulumi_command=PulumiCli(given, timeout_s=_TIMEOUT_S),
        )
        stack = f"doctor-{secrets.token_hex(4)}"
        try:
            workspace.create_stack(stack)
            try:
                workspace.exported(stack)
            finally:
                workspace.forget_stack(stack)
        except CommandError as error:
            raise error_of(str(error), given) from None
        return redact(given["PULUMI_BACKEND_URL"], environ) if environ.get("PULUMI_BACKEND_URL") else "a local folder"

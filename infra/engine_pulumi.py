"""The Pulumi engine: the Automation API and the real CLI, on any state backend Pulumi has."""

import gc
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

from pulumi.automation import (
    CommandError,
    ConcurrentUpdateError,
    EngineEvent,
    LocalWorkspace,
    OutputMap,
    OutputValue,
    ProjectSettings,
    Stack,
    StackNotFoundError,
)

from infra import clouds
from infra.border import decode
from infra.operations import OPERATIONS, kind_of
from infra.program import PROJECT, checked_stack_name
from infra.pulumi_cli import PulumiCli
from pushtrain.engine import Change, Outputs, Program
from pushtrain.errors import EngineError, PushtrainError
from pushtrain.redact import redact

T = TypeVar("T")
Action = Literal["create", "same", "update", "replace", "delete"]

# Pulumi's step names; a replacement is announced as several steps of one resource.
_ACTIONS: Mapping[str, Action] = {
    "create": "create",
    "same": "same",
    "update": "update",
    "delete": "delete",
    "replace": "replace",
    "create-replacement": "replace",
    "delete-replaced": "replace",
}
_LOCK_OWNER = re.compile(r"created by (?P<user>[^\s@]+)@(?P<host>\S+) \(pid (?P<pid>\d+)\)(?: at (?P<since>\S+))?")


class _Workspace(LocalWorkspace):
    def stack_outputs(self, stack_name: str) -> OutputMap:
        """One call where the SDK makes two, one of them with secrets in clear: no output of ours is one."""
        arguments = ["stack", "output", "--json", "--stack", stack_name]
        answer = self.pulumi_command.run(arguments, self.work_dir, self.env_vars)
        return {name: OutputValue(value=value, secret=False) for name, value in json.loads(answer.stdout).items()}


class PulumiEngine:
    """State: `$PULUMI_BACKEND_URL`, by default the folder `<state_dir>/pulumi`. Blocking; Pulumi locks each stack."""

    name = "pulumi"

    def __init__(self, state_dir: Path, environ: Mapping[str, str]) -> None:
        """`environ` reaches the CLI and, through it, the provider that calls the cloud. Raises EngineError.

        An empty variable counts as unset: that is what a workflow makes of a secret nobody has set.
        """
        self._folder = state_dir.absolute() / "pulumi"
        self._environ = {
            "PULUMI_BACKEND_URL": self._folder.as_uri(),
            # State holds no secret, so that there is nothing for a passphrase to protect; the CLI insists on one.
            "PULUMI_CONFIG_PASSPHRASE": "",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            **{name: value for name, value in environ.items() if value},
            "PULUMI_PYTHON_CMD": sys.executable,
            "PULUMI_SKIP_UPDATE_CHECK": "1",
        }
        self._cli = PulumiCli(self._environ)

    @property
    def version(self) -> str:
        return str(self._cli.version)

    @property
    def backend_url(self) -> str:
        """Redacted: an S3 URL may carry a key."""
        return redact(self._environ["PULUMI_BACKEND_URL"], self._environ)

    def preview(self, stack: str, program: Program) -> list[Change]:
        steps: dict[str, Change] = {}

        def note(event: EngineEvent) -> None:
            metadata = event.resource_pre_event.metadata if event.resource_pre_event else None
            if metadata and metadata.op in _ACTIONS and not metadata.type.startswith("pulumi:"):
                steps[metadata.urn] = Change(
                    action=_ACTIONS[metadata.op],
                    kind=kind_of(metadata.type),
                    urn_name=metadata.urn.rsplit("::", 1)[-1],
                )

        with self._existing(stack, program) as existing:
            if existing is not None:
                existing.preview(on_event=note, refresh=True, color="never")
                return list(steps.values())
        # An unknown stack is previewed in a backend that lives as long as this call: nothing of it stays.
        with TemporaryDirectory(prefix="pushtrain-preview-") as folder, self._workspace(program, folder) as workspace:
            Stack.create(checked_stack_name(stack), workspace).preview(on_event=note, color="never")
        return list(steps.values())

    def up(self, stack: str, program: Program) -> Outputs:
        if self._environ["PULUMI_BACKEND_URL"] == self._folder.as_uri():
            self._folder.mkdir(parents=True, exist_ok=True)
        with self._workspace(program) as workspace:
            target = Stack.create_or_select(checked_stack_name(stack), workspace)
            done = self._unlocking(target, lambda: target.up(refresh=True, color="never", show_secrets=False))
            return {name: output.value for name, output in done.outputs.items()}

    def outputs(self, stack: str) -> Outputs:
        with self._existing(stack) as existing:
            return {} if existing is None else {name: it.value for name, it in existing.outputs().items()}

    def destroy(self, stack: str) -> None:
        with self._existing(stack) as existing:
            if existing is not None:
                self._unlocking(existing, lambda: self._destroy(existing))

    def _destroy(self, target: Stack) -> None:
        self._delete_half_created(target)
        target.destroy(color="never", show_secrets=False)
        target.workspace.remove_stack(target.name)

    def _delete_half_created(self, target: Stack) -> None:
        """Pulumi forgets a create it was killed in the middle of; the resource would stay, and be billed."""
        half_created = _half_created(target)
        if half_created:
            # Only a refresh asks for the lock: what is half created by a process that lives is not ours to delete.
            target.refresh(color="never", show_secrets=False)
        for resource in half_created:
            operations, wanted = OPERATIONS[kind_of(resource["type"])], resource["inputs"]
            operations.delete_by_name(clouds.connect(wanted["cloud"], self._environ), wanted)

    @contextmanager
    def _existing(self, stack: str, program: Program | None = None) -> Iterator[Stack | None]:
        """The stack as the backend has it, None when it has none of that name. Never creates one."""
        checked_stack_name(stack)
        if self._environ["PULUMI_BACKEND_URL"] == self._folder.as_uri() and not self._folder.exists():
            yield None
            return
        with self._workspace(program) as workspace:
            try:
                selected = Stack.select(stack, workspace)
            except StackNotFoundError:
                selected = None
            yield selected

    @contextmanager
    def _workspace(self, program: Program | None, backend_folder: str | None = None) -> Iterator[_Workspace]:
        """A workspace in a folder of its own, gone afterwards: no stack settings, selection or Pulumi home outlives a
        call, and the provider process, which starts there, imports nothing from the caller's folder."""
        with TemporaryDirectory(prefix="pushtrain-pulumi-") as folder, self._translated(), _leftovers_unreported():
            environ = {"PULUMI_HOME": f"{folder}/.pulumi-home", **self._environ}
            if backend_folder is not None:
                environ["PULUMI_BACKEND_URL"] = Path(backend_folder).as_uri()
            yield _Workspace(
                work_dir=folder,
                program=program,
                env_vars=environ,
                project_settings=ProjectSettings(name=PROJECT, runtime="python", main=folder),
                pulumi_command=self._cli,
            )

    def _unlocking(self, target: Stack, work: Callable[[], T]) -> T:
        """Does `work`, after taking over a lock whose owner was a process of this machine that no longer lives."""
        try:
            return work()
        except ConcurrentUpdateError as error:
            owners = list(_LOCK_OWNER.finditer(str(error)))
            if not owners or any(_may_live(owner["host"], int(owner["pid"])) for owner in owners):
                raise
        target.cancel()
        return work()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Pulumi's errors as ours."""
        try:
            yield
        except ConcurrentUpdateError as error:
            raise self._locked(str(error)) from None
        except CommandError as error:
            raise decode(str(error)) or self._failed(str(error)) from None

    def _locked(self, text: str) -> PushtrainError:
        owner = _LOCK_OWNER.search(text)
        who = owner.group(0).removeprefix("created by ") if owner else "somebody"
        return EngineError(
            redact(f"the Pulumi stack is locked by {who}", self._environ),
            reason="StackLocked",
            hint=f"wait until {who} is done; if that process is dead, run 'pulumi cancel' on the stack and try again",
        )

    def _failed(self, text: str) -> PushtrainError:
        """What the lines say after 'error:', or the last lines: a CommandError's text is the CLI's whole output."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line.partition("error: ")[2] for line in lines if "error: " in line]
        said = [error.removeprefix("an unhandled error occurred: ") for error in errors] or lines[-8:]
        return EngineError(redact(f"pulumi: {' | '.join(dict.fromkeys(said))[:2000]}", self._environ))


@contextmanager
def _leftovers_unreported() -> Iterator[None]:
    """When the CLI ends before the program does, as at every failed step, the SDK leaves coroutines unfinished, and
    Python prints a traceback for each one it collects. They are collected here, and only theirs are not printed."""
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        code = getattr(unraisable.object, "cr_code", None)
        if code is None or f"{os.sep}pulumi{os.sep}runtime{os.sep}" not in code.co_filename:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        gc.collect()
        sys.unraisablehook = before


def _half_created(target: Stack) -> list[dict[str, Any]]:
    """Our resources that the state saw the create of begin and neither end nor be done again; the last one first."""
    deployment: Mapping[str, Any] = target.export_stack().deployment or {}
    known = {it["urn"] for it in deployment.get("resources") or () if it.get("id")}
    begun = [it["resource"] for it in deployment.get("pending_operations") or () if it["type"] == "creating"]
    return [it for it in reversed(begun) if it["urn"] not in known and kind_of(it["type"]) in OPERATIONS]


def _may_live(host: str, pid: int) -> bool:
    """False only for a process id of this machine that nobody has."""
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

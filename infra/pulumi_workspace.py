"""One stack of the Automation API: the few calls of it that ours differ from, and what it leaves behind tidied up."""

import gc
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pulumi.automation import EngineEvent, LocalWorkspace, OutputMap, OutputValue, Stack, StackSettings

from infra.operations import kind_of
from infra.pulumi_state import passphrase_salt
from pushtrain.engine import Change

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


class Workspace(LocalWorkspace):
    """Calls of the SDK without `--show-secrets`: nothing of ours is one, and what is should stay encrypted."""

    state: Mapping[str, Any] = MappingProxyType({})
    """The deployment of the selected stack, as `exported` returns it; empty for one that was just made."""

    def select_stack(self, stack_name: str) -> None:
        """Reads the stack's state, which fails as a selection would; each later call names its stack itself.

        The salt in it goes into the workspace's settings: without it the CLI would take any passphrase for the right
        one until it meets a secret.
        """
        self.state = self.exported(stack_name)
        salt = passphrase_salt(self.state)
        if salt is not None:
            self.save_stack_settings(stack_name, StackSettings(encryption_salt=salt))

    def stack_outputs(self, stack_name: str) -> OutputMap:
        said = self._said(["stack", "output", "--json", "--stack", stack_name])
        return {name: OutputValue(value=value, secret=False) for name, value in said.items()}

    def exported(self, stack_name: str) -> dict[str, Any]:
        """The stack's deployment: `{"version": 3, "deployment": {"resources": …, "pending_operations": …, …}}`."""
        return self._said(["stack", "export", "--stack", stack_name])

    def forget_stack(self, stack_name: str) -> None:
        """The stack with its history and backups, which the SDK's own call leaves in the bucket."""
        self.pulumi_command.run(
            ["stack", "rm", "--yes", "--remove-backups", "--stack", stack_name], self.work_dir, self.env_vars
        )

    def break_locks(self, stack_name: str) -> None:
        """Every lock of the stack, whoever has it: the caller knows that nobody does."""
        self.pulumi_command.run(["cancel", "--yes", "--stack", stack_name], self.work_dir, self.env_vars)

    def _said(self, arguments: list[str]) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.pulumi_command.run(arguments, self.work_dir, self.env_vars).stdout)
        return said


def workspace_of(stack: Stack) -> Workspace:
    assert isinstance(stack.workspace, Workspace)
    return stack.workspace


def previewed(target: Stack, refresh: bool = False) -> list[tuple[Change, str | None]]:
    """What an update would do to each resource, and the name in the cloud that the program wants for it."""
    steps: dict[str, tuple[Change, str | None]] = {}

    def note(event: EngineEvent) -> None:
        metadata = event.resource_pre_event.metadata if event.resource_pre_event else None
        if metadata and metadata.op in _ACTIONS and not metadata.type.startswith("pulumi:"):
            change = Change(
                action=_ACTIONS[metadata.op],
                kind=kind_of(metadata.type),
                urn_name=metadata.urn.rsplit("::", 1)[-1],
            )
            inputs = (metadata.new.inputs if metadata.new else None) or {}
            steps[metadata.urn] = change, inputs.get("name")

    target.preview(on_event=note, refresh=refresh, color="never")
    return list(steps.values())


def remove_empty_folders(folder: Path, stack: str) -> None:
    """The folders that a removed stack leaves empty, one set for each run that ever was."""
    for empty in folder.glob(f"**/{stack}"):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


@contextmanager
def leftovers_unreported() -> Iterator[None]:
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

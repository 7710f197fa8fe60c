"""The Pulumi engine: the Automation API and the real CLI, on any state backend Pulumi has."""

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from pulumi.automation import (
    CommandError,
    ConcurrentUpdateError,
    ProjectSettings,
    Stack,
    StackNotFoundError,
)

from infra import clouds
from infra.operations import OPERATIONS, kind_of
from infra.plugin import lend_plugins
from infra.plugin_guard import beside_state, guarded, informed, patient, refuse_mixture, released
from infra.plugin_key import renew
from infra.program import PROJECT, checked_stack_name
from infra.pulumi_cli import PulumiCli
from infra.pulumi_lock import Calls, owners
from infra.pulumi_settings import error_of, is_service, pulumi_environ
from infra.pulumi_state import Resource, half_created, outputs_of, resources_of
from infra.pulumi_workspace import Workspace, leftovers_unreported, previewed, remove_empty_folders, workspace_of
from pushtrain.engine import Change, Outputs, Program
from pushtrain.errors import StackLocked
from pushtrain.redact import redact

T = TypeVar("T")
Say = Callable[[str], None]


class PulumiEngine:
    """State: `$PULUMI_BACKEND_URL`, by default the folder `<state_dir>/pulumi`. Blocking; Pulumi locks each stack."""

    name = "pulumi"

    def __init__(self, state_dir: Path, environ: Mapping[str, str], say: Say = lambda text: None) -> None:
        """`environ` reaches the CLI and, through it, the provider that calls the cloud. Raises EngineError.

        `say` gets one line for each lock that is broken.
        """
        self._folder = state_dir.absolute() / "pulumi"
        self._environ = pulumi_environ(environ, self._folder)
        self._calls = Calls(state_dir.absolute() / "pulumi-calls")
        self._cli = PulumiCli(self._environ, self._calls)
        self._say = say

    @property
    def version(self) -> str:
        return str(self._cli.version)

    @property
    def backend_url(self) -> str:
        """Redacted: an S3 URL may carry a key."""
        return redact(self._environ["PULUMI_BACKEND_URL"], self._environ)

    def preview(self, stack: str, program: Program) -> list[Change]:
        with self._existing(stack, program) as existing:
            if existing is not None:
                resources = resources_of(workspace_of(existing).state)
                refuse_mixture(program, resources)
                existing.workspace.program = informed(program, resources)
                steps = previewed(existing, refresh=True)
                return [change for change, _ in steps]
        # An unknown stack is previewed in a backend that lives as long as this call: nothing of it stays.
        with TemporaryDirectory(prefix="pushtrain-preview-") as folder, self._workspace(program, folder) as workspace:
            return [change for change, _ in previewed(Stack.create(stack, workspace))]

    def up(self, stack: str, program: Program) -> Outputs:
        checked_stack_name(stack)
        if self._is_own_folder:
            self._folder.mkdir(parents=True, exist_ok=True)
        with self._workspace(program) as workspace:
            target = self._selected(stack, workspace)
            exported = workspace.state
            refuse_mixture(program, resources_of(exported))
            begun = half_created(exported)

            def work() -> Outputs:
                nonlocal target
                made = target = target or Stack.create(stack, workspace)

                def carry_out(wanted: Program) -> Outputs:
                    workspace.program = wanted
                    done = made.up(refresh=True, color="never", show_secrets=False)
                    return {name: output.value for name, output in done.outputs.items()}

                renew(workspace, stack, exported, self._environ)
                if begun:
                    self._delete_unwanted(made, begun)
                return guarded(program, resources_of(exported), carry_out, lambda: self._resources(made))

            return self._unlocking(stack, workspace, work)

    def outputs(self, stack: str) -> Outputs:
        with self._existing(stack) as existing:
            return {} if existing is None else outputs_of(workspace_of(existing).state)

    def export(self, stack: str) -> Mapping[str, Any] | None:
        with self._existing(stack) as existing:
            return None if existing is None else workspace_of(existing).state

    def destroy(self, stack: str) -> None:
        with self._existing(stack) as existing:
            if existing is None:
                return
            exported = workspace_of(existing).state
            self._unlocking(stack, workspace_of(existing), lambda: self._destroy(existing, exported))
        if self._is_own_folder:
            remove_empty_folders(self._folder / ".pulumi", stack)

    def _destroy(self, target: Stack, exported: Mapping[str, Any]) -> None:
        begun, beside = half_created(exported), beside_state(resources_of(exported))
        renew(workspace_of(target), target.name, exported, self._environ)
        if begun or beside:
            # Only a refresh asks for the lock: what a process that lives is at work on is not ours to delete.
            target.refresh(color="never", show_secrets=False)
            self._delete_by_name(begun)
        with released(beside, self._environ):
            patient(lambda: target.destroy(color="never", show_secrets=False))
        workspace_of(target).forget_stack(target.name)

    def _delete_unwanted(self, target: Stack, begun: list[Mapping[str, Any]]) -> None:
        """What an update was killed in the middle of creating is adopted by its name, or deleted where the program now
        wants another: a pod of the attempt before would be a second one, billed."""
        target.refresh(color="never", show_secrets=False)
        wanted = {(change.kind, name) for change, name in previewed(target) if change.action != "delete"}
        self._delete_by_name([it for it in begun if (kind_of(it["type"]), it["inputs"]["name"]) not in wanted])

    def _delete_by_name(self, resources: list[Mapping[str, Any]]) -> None:
        for resource in resources:
            cloud = clouds.connect(resource["inputs"].get("cloud", "runpod"), self._environ)
            OPERATIONS[kind_of(resource["type"])].delete_by_name(cloud, resource["inputs"])

    def _resources(self, target: Stack) -> list[Resource]:
        return resources_of(workspace_of(target).exported(target.name))

    @property
    def _is_own_folder(self) -> bool:
        return self._environ["PULUMI_BACKEND_URL"] == self._folder.as_uri()

    @contextmanager
    def _existing(self, stack: str, program: Program | None = None) -> Iterator[Stack | None]:
        """The stack as the backend has it, None when it has none of that name. Never creates one."""
        checked_stack_name(stack)
        if self._is_own_folder and not self._folder.exists():
            yield None
            return
        with self._workspace(program) as workspace:
            yield self._selected(stack, workspace)

    @staticmethod
    def _selected(stack: str, workspace: Workspace) -> Stack | None:
        try:
            return Stack.select(stack, workspace)
        except StackNotFoundError:
            return None

    @contextmanager
    def _workspace(self, program: Program | None, backend_folder: str | None = None) -> Iterator[Workspace]:
        """A workspace in a folder of its own, gone afterwards: no stack settings, selection or Pulumi home outlives a
        call, and the provider process, which starts there, imports nothing from the caller's folder."""
        with TemporaryDirectory(prefix="pushtrain-pulumi-") as folder, self._translated(), leftovers_unreported():
            environ = {"PULUMI_HOME": f"{folder}/.pulumi-home", **self._environ}
            lend_plugins(self._environ, Path(environ["PULUMI_HOME"]))
            if backend_folder is not None:
                environ["PULUMI_BACKEND_URL"] = Path(backend_folder).as_uri()
            yield Workspace(
                work_dir=folder,
                program=program,
                env_vars=environ,
                project_settings=ProjectSettings(name=PROJECT, runtime="python", main=folder),
                pulumi_command=self._cli if backend_folder is None else self._cli.unrecorded(),
            )

    def _unlocking(self, stack: str, workspace: Workspace, work: Callable[[], T]) -> T:
        """Does `work`, after breaking a lock whose owner was a process of this machine that no longer lives."""
        try:
            return work()
        except ConcurrentUpdateError as error:
            if not self._all_dead(stack, error):
                raise self._locked(stack, error) from None
        with self._calls.alone(stack):
            try:
                return work()  # somebody may have been quicker, and hold the lock now
            except ConcurrentUpdateError as error:
                if not self._all_dead(stack, error):
                    raise self._locked(stack, error) from None
                dead = owners(str(error))
            now_s = time.time()
            for owner in dead:
                self._say(f"stack {stack}: breaking the lock of {owner.described(now_s)}: that process is gone")
            self._calls.end_leftovers(stack)
            workspace.break_locks(stack)
            try:
                return work()
            except ConcurrentUpdateError as error:
                raise self._locked(stack, error) from None

    def _all_dead(self, stack: str, error: ConcurrentUpdateError) -> bool:
        found = owners(str(error))
        return bool(found) and all(self._calls.is_dead(stack, owner) for owner in found)

    def _locked(self, stack: str, error: ConcurrentUpdateError) -> StackLocked:
        """A lock that is not ours to break: whose, since when, and what a person does about it."""
        found, now_s = owners(str(error)), time.time()
        who = " and ".join(owner.described(now_s) for owner in found) or "another update"
        message = redact(f"the Pulumi stack {stack} is locked by {who}", self._environ)
        if is_service(self._environ["PULUMI_BACKEND_URL"]) or all(
            self._calls.may_work(owner, now_s) for owner in found
        ):
            return StackLocked.for_now(message, hint="the next tick goes on, once that process is done")
        return StackLocked(message, hint=f"make sure that process is dead, then: {self._cancel_command(stack)}")

    def _cancel_command(self, stack: str) -> str:
        """For a shell, in any folder. The passphrase is not asked for, so that it is not shown."""
        backend = shlex.quote(self.backend_url)
        return f"PULUMI_BACKEND_URL={backend} pulumi cancel --yes --stack organization/{PROJECT}/{stack}"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Pulumi's errors as ours."""
        try:
            yield
        except CommandError as error:
            raise error_of(str(error), self._environ) from None

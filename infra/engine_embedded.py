"""The embedded engine: the same Pulumi program, in this process, on the Pulumi SDK's own mock monitor.

The monitor hands over each resource when its inputs are known, and the engine carries it out on the cloud. Covered:
our two resource kinds, replacement (old first), drift of a resource that is gone, crash at any line. Not covered:
other Pulumi resources, components, secrets in outputs, remote state.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime import mocks
from pulumi.runtime.settings import SETTINGS
from pulumi.runtime.stack import Stack, run_pulumi_func

from infra import clouds
from infra.operations import Operations, changed, kind_of, operations_of
from infra.program import PROJECT, checked_stack_name
from infra.state_file import Record, StackState, StateFile
from pushtrain.cloud import Cloud
from pushtrain.engine import Change, Outputs, Program
from pushtrain.errors import EngineError, PushtrainError
from pushtrain.redact import redact

Connect = Callable[[str], Cloud]
OperationsOf = Callable[[str], Operations]


class EmbeddedEngine:
    """State: `<state_dir>/<stack>.json`. Blocking; one process per stack at a time, others get EngineError."""

    name = "embedded"

    def __init__(
        self, state_dir: Path, connect: Connect = clouds.connect, operations_of: OperationsOf = operations_of
    ) -> None:
        self.state_dir = state_dir
        self._reach = _Reach(connect, operations_of)

    def preview(self, stack: str, program: Program) -> list[Change]:
        known = self._file(stack).load() or StackState()
        monitor = _Preview(known, self._reach)
        _run_program(monitor, stack, program, preview=True)
        gone = [record for record in reversed(known.resources) if record.name not in monitor.declared]
        return [*monitor.changes, *(Change(action="delete", kind=it.kind, urn_name=it.name) for it in gone)]

    def up(self, stack: str, program: Program) -> Outputs:
        file = self._file(stack)
        with file.locked():
            state = file.load() or StackState()
            steps = _Steps(state, file, self._reach)
            monitor = _Up(steps)
            outputs = _run_program(monitor, stack, program, preview=False)
            for record in [it for it in reversed(state.resources) if it.name not in monitor.declared]:
                steps.delete(record)
            if state.outputs != outputs or not file.path.exists():
                state.outputs = outputs
                file.save(state)
        return dict(outputs)

    def outputs(self, stack: str) -> Outputs:
        state = self._file(stack).load()
        return {} if state is None else state.outputs

    def export(self, stack: str) -> Mapping[str, Any] | None:
        state = self._file(stack).load()
        return None if state is None else asdict(state)

    def destroy(self, stack: str) -> None:
        file = self._file(stack)
        if not self.state_dir.exists():
            return
        with file.locked():
            state = file.load() or StackState()
            steps = _Steps(state, file, self._reach)
            for record in list(reversed(state.resources)):
                steps.delete(record)
            file.forget()

    def _file(self, stack: str) -> StateFile:
        return StateFile(self.state_dir, checked_stack_name(stack))


@dataclass(frozen=True)
class _Reach:
    """How resources are carried out: by whose operations, on which cloud."""

    connect: Connect
    operations_of: OperationsOf

    def cloud(self, record: Record) -> Cloud:
        return self.connect(record.inputs["cloud"])

    def read(self, record: Record) -> dict[str, Any] | None:
        """The resource's properties now, None when it is gone."""
        assert record.id is not None, "only a created resource can be read"
        return self.operations_of(record.kind).read(self.cloud(record), record.id, record.properties)


class _Steps:
    """The steps that change the cloud, each between two writes of the state."""

    def __init__(self, state: StackState, file: StateFile, reach: _Reach) -> None:
        self.state = state
        self.reach = reach
        self._file = file

    def create(self, name: str, kind: str, inputs: dict[str, Any]) -> Record:
        record = Record(name=name, kind=kind, phase="creating", inputs=inputs)
        self.state.resources.append(record)
        return self.finish_create(record)

    def finish_create(self, record: Record) -> Record:
        self._file.save(self.state)
        record.id, record.properties = self.reach.operations_of(record.kind).create(
            self.reach.cloud(record), record.inputs
        )
        record.phase = "created"
        self._file.save(self.state)
        return record

    def refresh(self, record: Record) -> bool:
        """False when the cloud says it is gone; the record goes too."""
        found = self.reach.read(record)
        if found is None:
            self._drop(record)
            return False
        if found != record.properties:
            record.properties = found
            self._file.save(self.state)
        return True

    def delete(self, record: Record) -> None:
        operations, cloud = self.reach.operations_of(record.kind), self.reach.cloud(record)
        if record.id is None:
            operations.delete_by_name(cloud, record.inputs)
        else:
            record.phase = "deleting"
            self._file.save(self.state)
            operations.delete(cloud, record.id)
        self._drop(record)

    def _drop(self, record: Record) -> None:
        self.state.resources.remove(record)
        self._file.save(self.state)


class _Monitor(mocks.Mocks):
    """Receives resources from the program, one at a time, and stops carrying any out at the first failure.

    `failure` is kept, not raised: raised into the SDK it would reach every future that waits for the resource, and
    asyncio prints each of them, thousands of lines, whenever they are collected.
    """

    def __init__(self, reach: _Reach) -> None:
        self.declared: set[str] = set()
        self.failure: BaseException | None = None
        self._operations_of = reach.operations_of
        self._one_at_a_time = threading.Lock()

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]] | None]:
        raise EngineError(f"the embedded engine has no function {args.token}")

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        with self._one_at_a_time:
            self.declared.add(args.name)
            if self.failure is None:
                try:
                    kind = kind_of(args.typ)
                    compared = self._operations_of(kind).inputs
                    wanted = {name: value for name, value in args.inputs.items() if name in compared}
                    return self.carry_out(args.name, kind, wanted)
                except BaseException as failure:  # noqa: BLE001  (raised again by _run_program)
                    self.failure = failure
            return None, {}

    def carry_out(self, name: str, kind: str, wanted: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        raise NotImplementedError


class _Up(_Monitor):
    def __init__(self, steps: _Steps) -> None:
        super().__init__(steps.reach)
        self._steps = steps

    def carry_out(self, name: str, kind: str, wanted: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        record = self._settled(name, kind, wanted) or self._steps.create(name, kind, wanted)
        return record.id, {**wanted, **record.properties}

    def _settled(self, name: str, kind: str, wanted: dict[str, Any]) -> Record | None:
        """The resource as it stands when it is what is wanted; whatever stood in the way is gone when this is None."""
        record = self._steps.state.find(name)
        if record is None:
            return None
        operations = self._operations_of(kind)
        if record.phase == "creating" and not changed(operations.inputs, record.inputs, wanted):
            return self._steps.finish_create(record)
        if record.phase == "created":
            if not self._steps.refresh(record):
                return None  # gone: nothing is left of it that could not become another one
            if not operations.must_replace(record.inputs, wanted):
                return record
        self._steps.delete(record)
        return None


class _Preview(_Monitor):
    """Reads, never writes: neither the cloud nor the state."""

    def __init__(self, known: StackState, reach: _Reach) -> None:
        super().__init__(reach)
        self.changes: list[Change] = []
        self._known = known
        self._reach = reach

    def carry_out(self, name: str, kind: str, wanted: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        record = self._known.find(name)
        if record is None or record.phase != "created" or self._reach.read(record) is None:
            self.changes.append(Change(action="create", kind=kind, urn_name=name))
            return None, wanted
        replaced = self._operations_of(kind).must_replace(record.inputs, wanted)
        self.changes.append(Change(action="replace" if replaced else "same", kind=kind, urn_name=name))
        return (None, wanted) if replaced else (record.id, {**wanted, **record.properties})


def _run_program(monitor: _Monitor, stack: str, program: Program, *, preview: bool) -> dict[str, Any]:
    """Runs `program` against `monitor` and returns its exports. Raises what the monitor met first, else EngineError."""

    async def main() -> dict[str, Any]:
        # The mocks leave both at the whole process's default: a program would wait for another thread's outputs.
        SETTINGS.outputs, SETTINGS.lock = set(), threading.Lock()
        mocks.set_mocks(monitor, PROJECT, stack, preview=preview)
        await run_pulumi_func(program)
        root = pulumi.runtime.get_root_resource()
        assert isinstance(root, Stack), "set_mocks makes the root"
        exports = {name: await pulumi.Output.from_input(value).future() for name, value in root.outputs.items()}
        return {name: value for name, value in exports.items() if value is not None}

    try:
        # Pulumi keeps its settings in context variables: a copy of the context leaves nothing behind.
        outputs = contextvars.copy_context().run(asyncio.run, main())
    except Exception as error:
        raise monitor.failure or _engine_error(stack, error) from error
    if monitor.failure is not None:
        raise _engine_error(stack, monitor.failure) from monitor.failure.__cause__
    return outputs


def _engine_error(stack: str, error: BaseException) -> BaseException:
    """A pushtrain error as it is; so is what is no failure at all but somebody who ends this process."""
    if isinstance(error, PushtrainError) or not isinstance(error, Exception):
        return error
    wrapped = EngineError(redact(f"the program of stack {stack} failed: {type(error).__name__}: {error}"))
    wrapped.__cause__ = error
    return wrapped

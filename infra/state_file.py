"""The embedded engine's memory: one JSON file per stack, whole at every moment, and a lock that dies with its owner.

A record is written before a step (intent) and after it (fact), so a crash at any line leaves either the old truth
or an intent that says which name to look up in the cloud.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pushtrain.errors import EngineError, StackLocked

_VERSION = 1


@dataclass(kw_only=True, slots=True)
class Record:
    """One resource. `creating`: it may exist under its name, `id` unknown. `deleting`: it may be gone already."""

    name: str
    kind: str
    phase: Literal["creating", "created", "deleting"]
    inputs: dict[str, Any]
    id: str | None = None
    properties: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class StackState:
    """Resources in the order they were created, and the exports of the last complete `up`."""

    resources: list[Record] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)

    def find(self, name: str) -> Record | None:
        return next((record for record in self.resources if record.name == name), None)


class StateFile:
    """`<folder>/<stack>.json`, with `<folder>/<stack>.lock` beside it while somebody works on the stack."""

    def __init__(self, folder: Path, stack: str) -> None:
        self.path = folder / f"{stack}.json"
        self._temporary_path = folder / f"{stack}.json.tmp"
        self._lock_path = folder / f"{stack}.lock"

    def load(self) -> StackState | None:
        """None for an unknown stack. Raises EngineError for a file that is not ours to read."""
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            if document["version"] != _VERSION:
                raise EngineError(
                    f"{self.path}: version {document['version']} of the state, this pushtrain reads {_VERSION}",
                    hint="use the pushtrain that wrote it to destroy the stack",
                )
            records = [Record(**record) for record in document["resources"]]
            return StackState(resources=records, outputs=document["outputs"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(
                f"{self.path}: not a state file of the embedded engine: {error}",
                hint="move it away and run 'pushtrain sweep': it finds the run's pod and volume by name",
            ) from error

    def save(self, state: StackState) -> None:
        """Atomic: temporary file, fsync, rename, fsync of the folder."""
        resources = [
            {field.name: getattr(record, field.name) for field in fields(record)} for record in state.resources
        ]
        document = {"version": _VERSION, "resources": resources, "outputs": state.outputs}
        with self._temporary_path.open("w", encoding="utf-8") as stream:
            # In one piece: `json.dump` with an indent is written in Python, and a state is saved around every step.
            stream.write(json.dumps(document, sort_keys=True))
            stream.flush()
            os.fsync(stream.fileno())
        self._temporary_path.replace(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def forget(self) -> None:
        """Removes every file of the stack. Only for who holds the lock; the lock itself goes last."""
        for path in (self.path, self._temporary_path, self._lock_path):
            path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the stack for one process. The kernel lets go of it when the owner dies, however it dies.

        Raises StackLocked at once when another process holds it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = self._take()
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def _take(self) -> int:
        while True:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(descriptor, 20).decode() or "unknown"
                os.close(descriptor)
                raise StackLocked.for_now(
                    f"stack {self.path.stem} is being worked on by process {owner}",
                    hint="the next tick goes on, once it has ended; nothing has to be unlocked by hand",
                ) from None
            # The one before us may have removed the file after we opened it: then we hold the lock of nothing.
            try:
                if os.path.samestat(os.fstat(descriptor), self._lock_path.stat()):
                    return descriptor
            except FileNotFoundError:
                os.close(descriptor)
                continue
            os.close(descriptor)

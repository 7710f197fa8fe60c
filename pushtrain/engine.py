"""The engine seam: `preview`, `up`, `export`, `destroy` over one Pulumi program, which is a plain Python function."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Program = Callable[[], None]
Outputs = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One resource a preview would touch. `urn_name` is the Pulumi resource name, `kind` its last type part."""

    action: Literal["create", "same", "update", "replace", "delete"]
    kind: str
    urn_name: str


class Engine(Protocol):
    """Carries a program out. One stack per run; state holds no secret."""

    name: str

    def preview(self, stack: str, program: Program) -> list[Change]:
        """What `up` would do. Creates nothing, not even the stack."""
        ...

    def up(self, stack: str, program: Program) -> Outputs:
        """Make the stack match the program; running it again with nothing changed does nothing.

        Raises the cloud's own error when one of its calls failed (NoCapacity and the others), StackLocked when another
        process works on the stack, else EngineError. Whatever had been created by then is in the state, and `destroy`
        removes it.
        """
        ...

    def outputs(self, stack: str) -> Outputs:
        """The stack's exports as of the last `up`; empty for an unknown stack."""
        ...

    def export(self, stack: str) -> Mapping[str, Any] | None:
        """What the engine remembers of the stack, as JSON of its own shape; None for an unknown stack. No secret."""
        ...

    def destroy(self, stack: str) -> None:
        """Remove every resource of the stack, then the stack. An unknown stack, or a resource gone, is success."""
        ...

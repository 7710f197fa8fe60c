"""Which engine carries a program out: said by a person or seen on PATH, and always said aloud."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from infra import clouds
from infra.engine_embedded import EmbeddedEngine
from infra.engine_pulumi import PulumiEngine
from infra.plugin import check_usable
from pushtrain.engine import Engine
from pushtrain.errors import EngineError


def select(environ: Mapping[str, str], *, state_dir: Path, say: Callable[[str], None] = lambda text: None) -> Engine:
    """The engine `PUSHTRAIN_ENGINE` names; unset, `pulumi` when its CLI is on PATH, else `embedded`.

    Raises EngineError for an unknown name and for `pulumi` without a usable CLI: there is no silent fallback, because
    the two engines do not know each other's state; and where PUSHTRAIN_RUNPOD_PROVIDER asks for what cannot be had.
    `say` hears of each lock that the engine breaks.
    """
    name = environ.get("PUSHTRAIN_ENGINE") or ("pulumi" if _cli_on(environ) else "embedded")
    check_usable(environ, name)
    match name:
        case "pulumi":
            return PulumiEngine(state_dir, environ, say)
        case "embedded":
            return EmbeddedEngine(state_dir, lambda cloud: clouds.connect(cloud, environ))
    raise EngineError(f"PUSHTRAIN_ENGINE={name!r} is no engine", hint="pulumi or embedded")


def engine_line(engine: Engine) -> str:
    """The first line a command prints: which engine, and where its state is."""
    match engine:
        case PulumiEngine():
            return f"engine: pulumi {engine.version}, state in {engine.backend_url}"
        case EmbeddedEngine():
            return f"engine: embedded, state in {engine.state_dir}"
    return f"engine: {engine.name}"


def _cli_on(environ: Mapping[str, str]) -> bool:
    return shutil.which("pulumi", path=environ.get("PATH", "")) is not None

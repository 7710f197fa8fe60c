"""Engines in processes of their own, to be killed: `python engine_driver.py up|destroy|crashes STATE_DIR PREFIX`.

`up` and `destroy` do that once, with the engine of PUSHTRAIN_ENGINE. `crashes` runs the embedded engine again and
again, dying at the first, second … moment at which it touches its state or the network, and prints what it saw as JSON.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine_world import stack_plan

from infra import clouds
from infra.engine_embedded import EmbeddedEngine
from infra.engines import select
from infra.program import program
from pushtrain.engine import Engine
from pushtrain.errors import EngineError

_DIED = 77
_MOMENTS = {"open", "os.rename", "os.remove", "socket.connect"}
_MOST_MOMENTS = 100


def main(verb: str, state_dir: Path, prefix: str) -> None:
    if verb in ("up", "destroy"):
        engine = select(os.environ, state_dir=state_dir, say=print)
        stack = f"run-{prefix}"
        engine.up(stack, program(stack_plan(prefix))) if verb == "up" else engine.destroy(stack)
        return
    report = {
        "up, then destroy": list(_up_then_destroy(state_dir, prefix)),
        "new attempt, then again": list(_new_attempt_then_again(state_dir, prefix)),
        "destroy, then again": list(_destroy_then_again(state_dir, prefix)),
    }
    json.dump(report, sys.stdout)


def _up_then_destroy(state_dir: Path, prefix: str) -> Iterator[dict[str, Any]]:
    engine, stack = EmbeddedEngine(state_dir), f"run-{prefix}"
    for moment in _moments():
        died = _dies_at(moment, state_dir, lambda: engine.up(stack, program(stack_plan(prefix))))
        engine.destroy(stack)
        yield {"died": died, "left": _live(prefix) + _files(state_dir, stack)}
        if not died:
            return


def _new_attempt_then_again(state_dir: Path, prefix: str) -> Iterator[dict[str, Any]]:
    """The pod asked for at first has another GPU than the one asked for after the crash, and the same name."""
    engine, stack = EmbeddedEngine(state_dir), f"run-{prefix}"
    wanted = program(stack_plan(prefix, attempt=2, gpu="NVIDIA RTX A6000"))
    for moment in _moments():
        first = engine.up(stack, program(stack_plan(prefix)))
        died = _dies_at(moment, state_dir, lambda: engine.up(stack, program(stack_plan(prefix, attempt=2))))
        outputs = engine.up(stack, wanted)
        same_volume = outputs["volume_id"] == first["volume_id"]
        yield {"died": died, "live": _live(prefix), "outputs_true": _true(engine, stack, prefix), "same": same_volume}
        if not died:
            return


def _destroy_then_again(state_dir: Path, prefix: str) -> Iterator[dict[str, Any]]:
    engine, stack = EmbeddedEngine(state_dir), f"run-{prefix}"
    for moment in _moments():
        engine.up(stack, program(stack_plan(prefix)))
        died = _dies_at(moment, state_dir, lambda: engine.destroy(stack))
        engine.destroy(stack)
        yield {"died": died, "left": _live(prefix) + _files(state_dir, stack)}
        if not died:
            return


def _moments() -> Iterator[int]:
    yield from range(1, _MOST_MOMENTS)
    raise AssertionError(f"still not through after {_MOST_MOMENTS} moments")


def _dies_at(moment: int, state_dir: Path, work: Callable[[], object]) -> bool:
    """Does `work` in a fork that ends, without a word, as it reaches the `moment`-th of its moments."""
    child = os.fork()
    if child == 0:
        reached = 0

        def hook(event: str, args: tuple[Any, ...]) -> None:
            nonlocal reached
            if event in _MOMENTS and (event != "open" or str(args[0]).startswith(str(state_dir))):
                reached += 1
                if reached == moment:
                    os._exit(_DIED)

        sys.addaudithook(hook)
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, _DIED):
        raise AssertionError(f"at moment {moment} the engine failed instead of dying: {status}")
    return status == _DIED


def _live(prefix: str) -> list[str]:
    live = clouds.connect("runpod", os.environ).find(prefix)
    return [f"{pod.name} {pod.gpu}" for pod in live.pods] + [volume.name for volume in live.volumes]


def _files(state_dir: Path, stack: str) -> list[str]:
    return [path.name for path in state_dir.glob(f"{stack}*")]


def _true(engine: Engine, stack: str, prefix: str) -> bool:
    live = clouds.connect("runpod", os.environ).find(prefix)
    known = engine.outputs(stack)
    return [known["pod_id"], known["volume_id"]] == [it.id for it in (*live.pods, *live.volumes)]


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    except EngineError as error:
        sys.exit(f"{error.reason}: {error}")

"""Many processes of the trainer for the price of one import of torch.

A process imports the trainer's libraries once and is then forked for each training, before it has ever computed a
gradient (torch cannot be forked after that). Children are real processes: they can be killed, at any moment or at a
point in the code that they are told, and they leave what a killed process leaves.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent

# `at` names a function of the trainer's libraries and at which call, before or after it, the process kills itself.
_PROGRAM = """
import gc, importlib, json, os, signal, sys
from trainer.__main__ import _quiet_libraries, main
_quiet_libraries()
import torch
import trainer.run
import transformers.models.llama.modeling_llama
torch.set_num_threads(1)
gc.collect()
gc.freeze()  # what was imported is never looked through again: half a second for each collection of a child

def die_at(at):
    place, name = at["function"].rsplit(".", 1)
    module, _, owner = place.partition(":")
    holder = importlib.import_module(module)
    holder = getattr(holder, owner) if owner else holder
    whole, calls = getattr(holder, name), [0]
    def dying(*args, **options):
        calls[0] += 1
        if calls[0] < at["call"]:
            return whole(*args, **options)
        if at["when"] == "after":
            whole(*args, **options)
        os.kill(os.getpid(), at["signal"])
        return whole(*args, **options)
    setattr(holder, name, dying)

def gloo_as_gpu():
    # accelerate divides weights on GPUs alone; torch's fully_shard and gloo do it on the CPU, too.
    import accelerate.state as state
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    state.PartialState._prepare_backend = lambda *_: ("gloo", state.DistributedType.MULTI_GPU)
    os.environ["DS_ACCELERATOR"] = "cpu"
    of_deepspeed = state.AcceleratorState.__init__
    state.AcceleratorState.__init__ = lambda self, mixed_precision=None, cpu=False, *more, **options: of_deepspeed(
        self, mixed_precision, False, *more, **options
    )
    whole = state.PartialState.__init__
    state.PartialState.__init__ = lambda self, cpu=False, **options: whole(self, **options)

for line in sys.stdin:
    order = json.loads(line)
    children = []
    for rank in range(order["processes"]):
        child = os.fork()
        if child == 0:
            break
        children.append(child)
    if child == 0:
        with open(order["log"], "ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.chdir(order["cwd"])
        os.environ.update(order["environ"])
        if order["processes"] > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(order["processes"]))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(order["port"]))
        if order["gloo_as_gpu"]:
            gloo_as_gpu()
        if order["at"]:
            die_at(order["at"])
        code = 99
        try:
            code = main(order["argv"])
        finally:
            sys.stdout.flush()
            os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(next((code for code in codes if code), 0), flush=True)
"""


class Zygote:
    """Forks one training at a time, of one process or more. `at` is where it kills itself, see `point`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def train(
        self,
        argv: list[str],
        cwd: Path,
        *,
        at: Mapping[str, object] | None = None,
        environ: Mapping[str, str] = {},
        processes: int = 1,
        gloo_as_gpu: bool = False,
    ) -> int:
        """`python -m trainer ARGV` in `cwd` to its end; the exit code, minus the signal for one that was killed.

        Several `processes` are the workers that `trainer.launch` would start, and the code is the first that is not 0.
        """
        order = {"argv": argv, "cwd": str(cwd), "log": str(cwd / "log"), "at": at, "environ": dict(environ)}
        order |= {"processes": processes, "gloo_as_gpu": gloo_as_gpu, "port": _free_port()}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def point(function: str, *, call: int = 1, when: str = "before", signal: int = 9) -> dict[str, object]:
    """`package.module:Class.method`, or `package.module.function` without a class."""
    return {"function": function, "call": call, "when": when, "signal": signal}


@contextlib.contextmanager
def zygote(environ: Mapping[str, str]) -> Iterator[Zygote]:
    """Ready in about 7 s, gone with the block. `environ` is that of every child."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        env={"PATH": os.environ["PATH"], **environ},
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Zygote(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

"""One job, three ways: our trainer, `trl sft`, and a bare loop of transformers and PEFT, on the same Hub and volume.

On the CPU a small random Llama from a Hub on loopback. With a real model's id (and a GPU, and the real Hub) the same
scripts measure that: `--model Qwen/Qwen3-1.7B`.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_DISABLE_XET", "1")  # read when huggingface_hub is imported; the loopback Hub has none
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

TINY = "demo/bench"
REPO = "demo/result"
LIMIT_S = 900
WORDS = tuple("abcdefghijklmnopqrstuvwxyz")

BARE = """
import json, sys
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
model_id, data, batch, accumulation, length, checkpointing = sys.argv[1:]
device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = torch.bfloat16 if device == "cuda" else torch.float32
tokenizer = AutoTokenizer.from_pretrained(model_id)
rows = []
for line in open(data):
    row = json.loads(line)
    prompt = tokenizer(row["prompt"])["input_ids"]
    ids = tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token)["input_ids"][: int(length)]
    rows.append((ids, [-100] * min(len(prompt), len(ids)) + ids[len(prompt):]))
model = AutoModelForCausalLM.from_pretrained(model_id, dtype=dtype).to(device)
model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
if checkpointing == "1":
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
model.train()
optimizer = torch.optim.AdamW([it for it in model.parameters() if it.requires_grad], lr=2e-4, fused=True)
step = 0
for start in range(0, int(batch) * int(accumulation), int(batch)):
    chosen = rows[start : start + int(batch)]
    width = max(len(ids) for ids, _ in chosen)
    pad = tokenizer.pad_token_id or tokenizer.eos_token_id
    ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in chosen], device=device)
    labels = torch.tensor([it + [-100] * (width - len(it)) for _, it in chosen], device=device)
    mask = torch.tensor([[1] * len(it) + [0] * (width - len(it)) for it, _ in chosen], device=device)
    (model(input_ids=ids, attention_mask=mask, labels=labels).loss / int(accumulation)).backward()
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
optimizer.step()
print("step 1 of the bare loop", flush=True)
"""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama to draw at random."""

    hidden: int = 128
    layers: int = 4
    length: int = 512


@dataclass(kw_only=True)
class World:
    """A folder with data and a volume, and the Hub that `environ` names."""

    folder: Path
    model: str
    environ: Mapping[str, str]
    rows: list[dict[str, str]]
    train: dict[str, Any] = field(default_factory=dict)

    def ours(self, run_dir: Path, track: Sequence[str] = (), **train: Any) -> list[str]:
        """The command of our trainer; `train` changes what the world says."""
        spec = {
            "version": 1,
            "name": "bench",
            "model": {"id": self.model},
            "data": {"path": "data/rows.jsonl", "eval_fraction": 0},
            "method": {"kind": "lora", "rank": 16, "alpha": 32, "target_modules": "all-linear"},
            "train": {**self.train, **train},
            "compute": {"gpus": ["NVIDIA A40"]},
            "budget": {"max_hours": 1.0, "max_usd": 1.0},
            "publish": {"repo": REPO},
            "track": list(track),
        }
        jobs = self.folder / "jobs"
        jobs.mkdir(exist_ok=True)
        (jobs / "bench.yaml").write_text(json.dumps(spec))
        return [sys.executable, "-m", "trainer", "jobs/bench.yaml", "--run-dir", str(run_dir)]

    def trl(self, out: Path, **train: Any) -> list[str]:
        """`trl sft` with the same recipe; TRL's own defaults where it names none."""
        given = {**self.train, **train}
        options = {
            "model_name_or_path": self.model,
            "dataset_name": str(self.folder / "data"),
            "output_dir": str(out),
            "use_peft": True,
            "lora_r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.0,
            "lora_target_modules": "all-linear",
            "learning_rate": given.get("learning_rate", 2e-4),
            "max_steps": given["max_steps"],
            "per_device_train_batch_size": given["per_device_train_batch_size"],
            "gradient_accumulation_steps": given["gradient_accumulation_steps"],
            "max_length": given["max_length"],
            "packing": given.get("packing", False),
            "gradient_checkpointing": given["gradient_checkpointing"],
            "logging_steps": given.get("logging_steps", 1),
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": 17,
            **({} if _has_gpu() else {"bf16": False, "use_cpu": True}),
            **({"dtype": "bfloat16"} if _has_gpu() else {}),
        }
        given_options = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        return [str(Path(sys.executable).with_name("trl")), "sft", *given_options]

    def bare(self) -> list[str]:
        recipe = self.train
        return [
            *(sys.executable, "-c", BARE, self.model, str(self.folder / "data" / "rows.jsonl")),
            str(recipe["per_device_train_batch_size"]),
            str(recipe["gradient_accumulation_steps"]),
            str(recipe["max_length"]),
            str(int(recipe["gradient_checkpointing"])),
        ]


def arguments(description: str, repeats: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="an ungated model of the real Hub; else a small random one on loopback")
    parser.add_argument("--repeats", type=int, default=repeats)
    return parser.parse_args()


@contextlib.contextmanager
def world(folder: Path, rows: list[dict[str, str]], model: str | None, shape: Shape | None = None) -> Iterator[World]:
    """The loopback Hub ends with the block."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "HF_HOME": str(folder / "volume" / "huggingface"),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Threads of torch wait for each other by spinning: on a machine with other work two of them cost twice as much.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1" if model is None else str(os.cpu_count() or 1)),
        # No token: nothing is uploaded then. So `--model` has to be one that everybody may read.
        **{name: value for name, value in os.environ.items() if name == "CUDA_VISIBLE_DEVICES"},
    }
    if model is not None:
        yield World(folder=folder, model=model, environ=base, rows=rows)
        return
    from hub_server import ALICE, USERS, running_server

    from infra.simulator.hub_store import HubStore

    _write_model(folder / "model", shape or Shape())
    with running_server() as server:
        hub = server.serve(HubStore(folder / "hub", USERS))
        hub.alice.create_repo(TINY, exist_ok=True)
        hub.alice.upload_folder(repo_id=TINY, folder_path=folder / "model")
        local = {"HF_ENDPOINT": hub.url, "HF_TOKEN": ALICE, "HF_HUB_DISABLE_XET": "1"}
        yield World(folder=folder, model=TINY, environ={**base, **local}, rows=rows)


def rows_of(count: int, least: int, most: int, seed: int = 7) -> list[dict[str, str]]:
    """Prompts and completions of `least` to `most` words in all, each a letter; short ones are more frequent."""
    chance = random.Random(seed)
    sizes = [round(least * (most / least) ** chance.random()) for _ in range(count)]
    texts = [" ".join(chance.choices(WORDS, k=size)) for size in sizes]
    return [{"prompt": text[: len(text) // 2], "completion": text[len(text) // 2 :]} for text in texts]


class Took(NamedTuple):
    """Seconds by the clock, and of processors, children included: a busy machine changes the second less."""

    wall_s: float
    cpu_s: float


def seconds_to(line_has: str, command: Sequence[str], world: World) -> Took:
    """From the start of `command` to the first line that holds a text; the command is ended there.

    Raises RuntimeError with its last lines when it ends without one.
    """
    began = time.perf_counter()
    seen: list[str] = []
    with started(command, world) as process:
        for line in process.stdout or ():
            seen.append(line)
            if line_has in line:
                return Took(time.perf_counter() - began, _cpu_s(process.pid))
    raise RuntimeError("".join(seen[-30:]))


def seconds_between(line_has: str, command: Sequence[str], world: World) -> tuple[float, int]:
    """From the first line that holds a text to the last, and how many lie between: the steps without the start.

    Raises RuntimeError with the last lines when there are less than three.
    """
    at: list[float] = []
    seen: list[str] = []
    with started(command, world) as process:
        for line in process.stdout or ():
            seen.append(line)
            if line_has in line:
                at.append(time.perf_counter())
    if len(at) < 3:
        raise RuntimeError("".join(seen[-30:]))
    return at[-1] - at[0], len(at) - 1


@contextlib.contextmanager
def started(command: Sequence[str], world: World) -> Iterator["subprocess.Popen[str]"]:
    """A command in a session of its own, which is gone when the block is left: `trl` starts a process, too."""
    process = subprocess.Popen(
        command,
        cwd=world.folder,
        env=dict(world.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    timer = threading.Timer(LIMIT_S, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    try:
        yield process
    finally:
        timer.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ran(command: Sequence[str], world: World) -> str:
    """The output of a command that ends by itself. Raises RuntimeError with its last lines when it fails."""
    done = subprocess.run(
        command, cwd=world.folder, env=dict(world.environ), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode != 0:
        raise RuntimeError((done.stdout + done.stderr)[-3000:])
    return done.stdout


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, and least to most."""
    middle, least, most = (f"{value:.{digits}f}" for value in (median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"


def machine() -> str:
    """For the figures: what they were measured on."""
    load = os.getloadavg()[0]
    gpu = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpu = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    return f"{os.cpu_count()} cores, {gpu or 'no GPU'}, load {load:.1f}"


def _cpu_s(session: int) -> float:
    """Of every process of a session, those that have ended in it included (fields 14 to 17 of proc_pid_stat(5))."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def _has_gpu() -> bool:
    return machine().find("no GPU") < 0


def _write_model(folder: Path, shape: Shape) -> None:
    import torch
    from tiny_model import tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=shape.hidden,
        intermediate_size=2 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=shape.length,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)

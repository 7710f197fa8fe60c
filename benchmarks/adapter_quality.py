"""Adapter quality: loss on held-out rows after the same training by our trainer and by `trl sft`.

The same model, rows, seed and recipe for both, by both command lines; PEFT then loads both adapters, judged by
the same code: nats a token of the completions. Each seed draws other adapters and another order of the rows; how far
the losses of one side lie apart over the seeds is the noise. Goal: equal within it.
"""

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.training import World, arguments, machine, ran, spread, world

STEPS, TRAINED, HELD_OUT = 60, 512, 128
COLOURS = ("red", "green", "blue", "one", "two", "three", "four")
THINGS = ("bird", "fish", "stone", "river")


def main() -> None:
    asked = arguments(__doc__ or "", repeats=3)
    rows = _rows(TRAINED + HELD_OUT)
    trained, held_out = rows[:TRAINED], rows[TRAINED:]
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as scratch, world(Path(scratch), trained, asked.model) as job:
        job.train = {
            "max_steps": STEPS,
            "learning_rate": 3e-3,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "max_length": 128,
            "gradient_checkpointing": False,
            "logging_steps": STEPS,
        }
        before = _loss(job, None, held_out)
        for seed in range(1, asked.repeats + 1):
            run_dir, out = job.folder / f"run-{seed}", job.folder / f"trl-{seed}"
            ran(job.ours(run_dir, seed=seed, save_steps=STEPS, packing=False, padding_free=False), job)
            ran(_trl(job, out, seed), job)
            ours.append(_loss(job, run_dir / "adapter", held_out))
            theirs.append(_loss(job, out, held_out))
            print(f"  seed {seed}: ours {ours[-1]:.4f}, trl sft {theirs[-1]:.4f}, ratio {ours[-1] / theirs[-1]:.4f}")
    print(f"{machine()}; {asked.model or 'a random Llama of 0.7 M parameters'}; {STEPS} steps; untrained {before:.4f}")
    print(f"  ours     {spread(ours)} nats a token\n  trl sft  {spread(theirs)}")
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    noise = (max(theirs) - min(theirs)) / min(theirs)
    print(f"  ours / trl sft  {sum(ratios) / len(ratios):.4f} on average ({min(ratios):.4f} to {max(ratios):.4f})")
    print(f"  noise: trl sft alone varies by {noise:.2%} over the seeds   goal: the ratio is 1 within it")


def _rows(count: int) -> list[dict[str, str]]:
    """Questions whose answer follows from two of their words, a little at chance."""
    chance = random.Random(7)
    found = []
    for _ in range(count):
        colour, thing = chance.choice(COLOURS), chance.choice(THINGS)
        answer = COLOURS[(COLOURS.index(colour) + THINGS.index(thing)) % len(COLOURS)]
        tail = " " + chance.choice(THINGS)
        found.append({"prompt": f"where is the {colour} {thing}?", "completion": f" the {answer} one is a{tail}"})
    return found


def _trl(job: World, out: Path, seed: int) -> list[str]:
    """What our spec says where it says nothing: a cosine after 3 % of warm-up."""
    command = job.trl(out)
    command[command.index("--seed") + 1] = str(seed)
    return [*command, "--data_seed", str(seed), "--lr_scheduler_type", "cosine", "--warmup_steps", "0.03"]


def _loss(job: World, adapter: Path | None, rows: Sequence[dict[str, str]]) -> float:
    """Mean over the tokens of all completions, end token included, in nats; of the base without an adapter."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    local = job.folder / "model"
    source = str(local) if local.exists() else job.model
    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    model: Any = AutoModelForCausalLM.from_pretrained(source)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    model.eval()
    total, count = 0.0, 0
    for row in rows:
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token)["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0, len(prompt) - 1 : -1]
        wanted = torch.tensor(ids[len(prompt) :])
        total += float(torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum"))
        count += len(wanted)
    return total / count


if __name__ == "__main__":
    main()

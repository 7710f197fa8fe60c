"""The GPUs that are really there, asked of nvidia-smi: no torch, so no import and none of their memory."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pushtrain.spec import TrainingSpec
from trainer.failures import GpuUnavailable

# The driver may take some seconds for its first answer where no process holds it open.
_TIMEOUT_S = 20.0
_MIB = 1024 * 1024
# Compute capability of Ampere (NVIDIA, CUDA C++ Programming Guide, table of arithmetic throughput).
_FIRST_WITH_BF16 = 8.0
_QUERY = "--query-gpu=name,memory.total,memory.used,driver_version,compute_cap"


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """`total_bytes` is what the driver lends out, a little less than the card's name says; `capability` is its compute
    capability, None where the driver does not say."""

    name: str
    total_bytes: int
    used_bytes: int
    driver: str
    capability: float | None = None


def cards(environ: Mapping[str, str] = os.environ) -> list[Card]:
    """Those that CUDA_VISIBLE_DEVICES leaves this process, in its order; none where there is no driver that answers."""
    try:
        done = subprocess.run(
            ["nvidia-smi", _QUERY, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
            env=dict(environ),
        )
    except (OSError, subprocess.SubprocessError):
        return []
    found = [card for line in done.stdout.splitlines() if (card := _card(line)) is not None]
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return found
    numbers = [name.strip() for name in listed.split(",")]
    if not all(number.isdigit() for number in numbers):
        return [] if listed.strip() in ("", "-1") else found  # names of cards: which is which does not matter to us
    return [found[int(number)] for number in numbers if int(number) < len(found)]


def check_bf16(spec: TrainingSpec, found: Sequence[Card]) -> None:
    """Raises GpuUnavailable for a card without bf16 where the job computes in bf16."""
    for card in found if spec.train.bf16 else ():
        if card.capability is not None and card.capability < _FIRST_WITH_BF16:
            raise no_bf16(card.name)


def no_bf16(name: str) -> GpuUnavailable:
    return GpuUnavailable(
        f"{name} has no bf16, in which the job computes unless train.bf16 is false",
        hint="another of compute.gpus (Ampere or newer has it); or train.bf16: false: fp32, with twice the memory",
    )


def _card(line: str) -> Card | None:
    parts = [part.strip() for part in line.split(",")]
    if len(parts) != 5 or not parts[1].isdigit():  # "[N/A]": a card with memory of the whole machine's
        return None
    used = int(parts[2]) if parts[2].isdigit() else 0
    capability = float(parts[4]) if parts[4].replace(".", "", 1).isdigit() else None
    return Card(
        name=parts[0],
        total_bytes=int(parts[1]) * _MIB,
        used_bytes=used * _MIB,
        driver=parts[3],
        capability=capability,
    )

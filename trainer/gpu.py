"""The GPUs that are really there, asked of nvidia-smi: no torch, so no import and none of their memory."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

# The driver may take some seconds for its first answer where no process holds it open.
_TIMEOUT_S = 20.0
_MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """`total_bytes` is what the driver lends out, a little less than the card's name says."""

    name: str
    total_bytes: int
    used_bytes: int
    driver: str


def cards(environ: Mapping[str, str] = os.environ) -> list[Card]:
    """Those that CUDA_VISIBLE_DEVICES leaves this process, in its order; none where there is no driver that answers."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total,memory.used,driver_version", "--format=csv,noheader,nounits"],
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


def _card(line: str) -> Card | None:
    parts = [part.strip() for part in line.split(",")]
    if len(parts) != 4 or not parts[1].isdigit():  # "[N/A]": a card with memory of the whole machine's
        return None
    used = int(parts[2]) if parts[2].isdigit() else 0
    return Card(name=parts[0], total_bytes=int(parts[1]) * _MIB, used_bytes=used * _MIB, driver=parts[3])

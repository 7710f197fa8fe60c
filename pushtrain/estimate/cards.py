"""GPUs: how fast they multiply, and how much of their memory a program gets.

`bf16_tflops`: dense bf16 with fp32 accumulation. NVIDIA's datasheets of A10, A100, A30, A40, H100, H200, B200, L4, L40,
L40S and RTX A-series; elsewhere from the architecture's whitepaper: RTX Ada and RTX PRO multiply bf16 at 4 × their
fp32 rate, GeForce at 2 × (fp32 accumulation is halved there).
`usable_gb`: what nvidia-smi shows as total (cards with ECC on GDDR6 lose a sixteenth), less half a GB.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Card:
    name: str
    bf16_tflops: float
    usable_gb: float


_CARDS = (
    Card("NVIDIA A10", 125, 22.0),
    Card("NVIDIA A100 80GB PCIe", 312, 78.7),
    Card("NVIDIA A100-PCIE-40GB", 312, 38.9),
    Card("NVIDIA A100-SXM4-40GB", 312, 38.9),
    Card("NVIDIA A100-SXM4-80GB", 312, 78.7),
    Card("NVIDIA A30", 165, 23.5),
    Card("NVIDIA A40", 149.7, 44.5),
    Card("NVIDIA B200", 2250, 178.0),
    Card("NVIDIA B300 SXM6 AC", 2250, 268.0),
    Card("NVIDIA GeForce RTX 3070", 40.6, 7.5),
    Card("NVIDIA GeForce RTX 3080", 59.5, 9.5),
    Card("NVIDIA GeForce RTX 3080 Ti", 68.2, 11.5),
    Card("NVIDIA GeForce RTX 3090", 71.2, 23.5),
    Card("NVIDIA GeForce RTX 3090 Ti", 80.0, 23.5),
    Card("NVIDIA GeForce RTX 4070 Ti", 80.2, 11.5),
    Card("NVIDIA GeForce RTX 4080", 97.5, 15.5),
    Card("NVIDIA GeForce RTX 4080 SUPER", 104.4, 15.5),
    Card("NVIDIA GeForce RTX 4090", 165.2, 23.5),
    Card("NVIDIA GeForce RTX 5080", 112.6, 15.4),
    Card("NVIDIA GeForce RTX 5090", 209.5, 31.3),
    Card("NVIDIA H100 80GB HBM3", 989.4, 79.0),
    Card("NVIDIA H100 NVL", 835, 93.0),
    Card("NVIDIA H100 PCIe", 756, 79.0),
    Card("NVIDIA H200", 989.4, 139.5),
    Card("NVIDIA H200 NVL", 835, 139.5),
    Card("NVIDIA L4", 121, 22.0),
    Card("NVIDIA L40", 181, 44.5),
    Card("NVIDIA L40S", 362, 44.5),
    Card("NVIDIA RTX 2000 Ada Generation", 48, 15.2),
    Card("NVIDIA RTX 4000 Ada Generation", 106.9, 19.2),
    Card("NVIDIA RTX 4000 SFF Ada Generation", 76.7, 19.2),
    Card("NVIDIA RTX 5000 Ada Generation", 261, 31.2),
    Card("NVIDIA RTX 6000 Ada Generation", 364, 47.4),
    Card("NVIDIA RTX A2000", 31.9, 5.4),
    Card("NVIDIA RTX A4000", 76.7, 15.2),
    Card("NVIDIA RTX A4500", 94.6, 19.2),
    Card("NVIDIA RTX A5000", 111.1, 23.2),
    Card("NVIDIA RTX A6000", 154.8, 47.2),
    Card("NVIDIA RTX PRO 4000 Blackwell", 187.6, 23.2),
    Card("NVIDIA RTX PRO 4500 Blackwell", 219.8, 31.2),
    Card("NVIDIA RTX PRO 4500 Blackwell Server Edition", 219.8, 31.2),
    Card("NVIDIA RTX PRO 5000 Blackwell", 294.8, 47.2),
    Card("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 439, 94.8),
    Card("NVIDIA RTX PRO 6000 Blackwell Server Edition", 503.8, 94.8),
    Card("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 503.8, 94.8),
)
_BY_NAME = {card.name: card for card in _CARDS}


def card(name: str) -> Card | None:
    """By RunPod's id; None for a card this table does not have."""
    return _BY_NAME.get(name)


def usable_gb(name: str, sold_as_gb: int) -> float:
    """What a program gets of a card sold with so many GB; of one the table lacks a sixteenth and half a GB less."""
    known = card(name)
    return known.usable_gb if known else sold_as_gb * 15 / 16 - 0.5

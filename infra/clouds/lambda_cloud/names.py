"""GPU types: what Lambda calls them and the ids that job specs use. Pure.

A spec keeps its `compute.gpus` when it moves, so what it names is RunPod's id on every cloud. Lambda's words are those
of `gpu_description`, e.g. `A100 (40 GB SXM4)` (Lambda's API reference and dstackai/gpuhunt). RunPod has no id
for A10 and for the A100 of PCIe with 40 GB: they are called as their driver shows them. Not here: V100 and RTX 6000,
which the locked torch cannot use or which have no bf16, and GH200, whose CPU is an Arm.
"""

import re

_LAMBDA: dict[tuple[str, int, str], str] = {
    ("A10", 24, "PCIe"): "NVIDIA A10",
    ("A100", 40, "PCIe"): "NVIDIA A100-PCIE-40GB",
    ("A100", 40, "SXM4"): "NVIDIA A100-SXM4-40GB",
    ("A100", 80, "SXM4"): "NVIDIA A100-SXM4-80GB",
    ("A6000", 48, ""): "NVIDIA RTX A6000",
    ("B200", 180, "SXM6"): "NVIDIA B200",
    ("H100", 80, "PCIe"): "NVIDIA H100 PCIe",
    ("H100", 80, "SXM5"): "NVIDIA H100 80GB HBM3",
}
_DESCRIPTION = re.compile(r"(?:NVIDIA )?(?:RTX )?(?P<name>\S+) \((?P<gb>\d+) GB(?: (?P<form>\w+))?\)")


def gpu_ids() -> list[str]:
    return sorted(_LAMBDA.values())


def sold_as(description: str) -> tuple[str, int] | None:
    """The id of a spec and its GB for what Lambda describes; None for a type nobody here trains on."""
    found = _DESCRIPTION.fullmatch(description.strip())
    if found is None:
        return None
    name, gb, form = found["name"], int(found["gb"]), found["form"] or ""
    # Of the A6000 there is one form, which is written by some and left out by others.
    gpu = _LAMBDA.get((name, gb, form)) or _LAMBDA.get((name, gb, ""))
    return None if gpu is None else (gpu, gb)

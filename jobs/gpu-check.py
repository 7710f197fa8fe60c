"""Multiply matrices on whatever torch finds, and say how fast: jobs/gpu-check.yaml runs it with the image's torch."""

import json
import os
import time
from pathlib import Path

import torch


def main() -> None:
    seconds = float(os.environ.get("SECONDS_TO_RUN", "120"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (512, torch.float32)
    print(f"{name}, torch {torch.__version__}, {size} × {size}, {dtype}", flush=True)
    left = torch.randn(size, size, device=device, dtype=dtype)
    best, step, end = 0.0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        tflops = measured(left, min(2.0, seconds / 4))
        best, step = max(best, tflops), step + 1
        print(f"step {step}: {tflops:.2f} TFLOP/s", flush=True)
    report = {"device": name, "torch": torch.__version__, "best_tflops": round(best, 3), "steps": step}
    target = Path(os.environ.get("PUSHTRAIN_RUN_DIR", ".")) / "report.json"
    target.write_text(json.dumps(report, indent=1) + "\n")


def measured(left: torch.Tensor, seconds: float) -> float:
    """TFLOP/s over about `seconds`: a product of two n × n matrices is 2 n³ operations."""
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        for _ in range(10):
            product = left @ left
        product.sum().item()  # waits until they are all done
        count += 10
    return 2 * left.shape[0] ** 3 * count / (time.monotonic() - began) / 1e12


if __name__ == "__main__":
    main()

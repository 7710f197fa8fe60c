"""`train.determinism`: seeded, the default, or strict: the same kernels on the same card give the same bits.

transformers' `full_determinism` sets the same and `CUDA_LAUNCH_BLOCKING=1` with it, which waits for every kernel; that
finds an error's place and makes nothing reproducible, so it is left out (https://docs.pytorch.org/docs/stable/notes/randomness.html).
"""

import os

CUBLAS_SETTING = "CUBLAS_WORKSPACE_CONFIG"


def set_environment(asked: str) -> None:
    """Before torch is imported: cuBLAS and flash attention read theirs when they start."""
    if asked == "strict":
        os.environ.setdefault(CUBLAS_SETTING, ":4096:8")
        os.environ.setdefault("FLASH_ATTENTION_DETERMINISTIC", "1")


def set_kernels(asked: str) -> None:
    """After torch is imported. A kernel that has no deterministic kind is said in the log, and not refused."""
    import torch

    is_strict = asked == "strict"
    torch.use_deterministic_algorithms(is_strict, warn_only=True)
    torch.backends.cudnn.deterministic = is_strict
    torch.backends.cudnn.benchmark = False

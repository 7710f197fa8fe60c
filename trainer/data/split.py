"""Which rows are held out for evaluation: the same ones on every machine, in every version, in every attempt."""

import hashlib


def held_out_indexes(count: int, fraction: float, seed: int) -> set[int]:
    """Which of `count` rows are held out, ranked by a hash of seed and index: one at least, and one is left to train.

    None where `fraction` is 0 or there is one row alone.
    """
    if fraction == 0 or count < 2:
        return set()
    wanted = min(max(1, round(count * fraction)), count - 1)
    ranked = sorted(range(count), key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest())
    return set(ranked[:wanted])

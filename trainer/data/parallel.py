"""Rows to examples by several processes where they are many: the GPU is billed while the template writes."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

from pushtrain.rows import Row
from trainer.data.encode import Encoder, Example
from trainer.report import say_if_quiet

# Starting the processes is a moment, since they are forked with tokenizer and template in memory; with fewer rows it
# would still not pay.
MANY_ROWS = 20_000
MAX_PROCESSES = 8
BATCH = 512

_WINDOW = 4  # batches in flight for each process: rows are read as they are needed
_encoder: list[Encoder] = []


def encoded(rows: Iterator[Row], count: int, encode: Encoder) -> Iterator[list[Example]]:
    """What `encode` makes of about `count` rows, in their order, batch by batch. Raises what it raises."""
    done = 0
    for examples in _batches(rows, processes(count), encode):
        done += len(examples)
        say_if_quiet(f"data: {done} of {count} rows are tokens now")
        yield examples


def processes(count: int) -> int:
    """As many as there are cores, for many rows; a container that shows the machine's cores has fewer, so not all."""
    return min(len(os.sched_getaffinity(0)), MAX_PROCESSES) if count >= MANY_ROWS else 1


def _batches(rows: Iterator[Row], workers: int, encode: Encoder) -> Iterator[list[Example]]:
    batches = iter(lambda: list(islice(rows, BATCH)), list[Row]())
    if workers == 1:
        yield from map(encode.encode, batches)
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(encode,)) as pool:
        while window := list(islice(batches, _WINDOW * workers)):
            yield from pool.map(_encode, window)


def _begin(encode: Encoder) -> None:
    """In each process: it ends when it is told, and makes no threads beside the others."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _encoder.append(encode)


def _encode(rows: list[Row]) -> list[Example]:
    return _encoder[-1].encode(rows)

"""How rows lie in the sequences of a batch: padded to the longest, joined without padding, or several in one sequence.

    padded          rows × longest row, the rest padding
    padding-free    the same rows one after the other in one sequence; positions begin anew with each
    packing         sequences of `max_length`, filled with whole rows; a batch has fewer and fuller sequences

Joined rows do not see each other where the model takes the borders from the positions. That is so for the families in
`JOINS`: `tests/test_trainer_layout.py` compares joined with single rows for each. Without a flash-attention kernel the
mask of a joined sequence has the square of its length, so that it pays up to some length only: measured on a CPU, one
sequence of 4 × 1024 tokens takes twice the time of four of 1024.
"""

from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    from datasets import Dataset

    from pushtrain.spec.recipe import Train

    Sizes = numpy.ndarray[tuple[int], numpy.dtype[numpy.int64]]

JOINS = frozenset((
    "cohere", "cohere2", "exaone4", "gemma", "gemma3_text", "glm4", "gpt2", "gpt_bigcode", "gpt_neox", "granite",
    "llama", "ministral", "mistral", "mixtral", "olmo", "olmo2", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_moe", "smollm3", "stablelm", "starcoder2",
))  # fmt: skip
# Packing puts more rows into each optimizer step. Where the spec does not ask for it, this many steps have to be left.
MIN_STEPS = 100
JOINED_TOKENS = 8192

_BLOCK = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """`why` completes a line of the log."""

    packing: bool
    padding_free: bool
    why: str


def choose(train: "Train", sizes: "Sizes", model_type: str, processes: int) -> Layout:
    """What the spec says, and where it says nothing, what is right and fast for rows of these sizes.

    Raises ValueError, saying which key asks for what this family of models cannot do.
    """
    batch = train.per_device_train_batch_size
    joins = model_type in JOINS
    asked = [name for name in ("packing", "padding_free") if getattr(train, name)]
    if asked and not joins:
        raise ValueError(f"train.{asked[0]}: rows of a {model_type} model would see each other in one sequence")
    if train.packing:
        slow = f"; {batch} sequences a batch need a mask of {batch}² of one" if batch > 1 else ""
        return Layout(packing=True, padding_free=True, why=f"as train.packing says{slow}")
    if train.padding_free and batch > 1:
        return Layout(packing=False, padding_free=True, why="as train.padding_free says")
    if not joins:
        return _padded(f"it is not known that {model_type} models keep joined rows apart")
    if train.packing is None and batch == 1 and (steps := _packed_steps(train, sizes, processes)) >= MIN_STEPS:
        return Layout(packing=True, padding_free=True, why=f"rows are short, and about {steps} steps remain")
    largest = int(sum(sorted(sizes.tolist())[-batch:])) if batch > 1 else 0
    if train.padding_free is None and 0 < largest <= JOINED_TOKENS:
        return Layout(packing=False, padding_free=True, why=f"a batch has {largest} tokens at most")
    if batch == 1:
        return _padded("one row a batch needs no padding")
    return _padded("as the spec says" if train.padding_free is False else f"a batch may have {largest} tokens")


def lengths(dataset: "Dataset", columns: Sequence[str]) -> "Sizes":
    """Token ids of each row in these columns together, without a Python object for each of them."""
    import numpy
    import pyarrow.compute

    total = numpy.zeros(len(dataset), dtype=numpy.int64)
    for name in columns:
        total += pyarrow.compute.list_value_length(dataset.data.column(name)).to_numpy()
    return total


def best_fit(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Which rows share a sequence of `room` tokens: the longest first, each into the fullest sequence that has room.

    Best-fit decreasing. No row may be longer than `room`.
    """
    filled: list[list[int]] = []
    spaces: list[int] = []  # ascending, each once: those that some sequence has left
    with_space: defaultdict[int, deque[int]] = defaultdict(deque)
    for row in sorted(range(len(sizes)), key=lambda row: -sizes[row]):
        at = bisect_left(spaces, sizes[row])
        if at < len(spaces):
            space = spaces[at]
            sequence = with_space[space].popleft()
            if not with_space[space]:
                del spaces[at]
        else:
            space, sequence = room, len(filled)
            filled.append([])
        filled[sequence].append(row)
        left = space - sizes[row]
        if left and not with_space[left]:
            insort(spaces, left)
        with_space[left].append(sequence)
    return filled


def packed(table: Any, room: int) -> Any:
    """An Arrow table whose rows are sequences of several rows, and `seq_lengths` what each of those had.

    Packed block by block, so that a million rows need no memory of their own and neighbours stay near.
    """
    import pyarrow

    blocks = [_packed_block(table.slice(start, _BLOCK), room) for start in range(0, len(table), _BLOCK)]
    return pyarrow.concat_tables(blocks)


def _packed_block(block: Any, room: int) -> Any:
    import numpy
    import pyarrow
    import pyarrow.compute

    block = block.combine_chunks()
    sizes = pyarrow.compute.list_value_length(block.column(0)).to_pylist()
    filled = best_fit(sizes, room)
    taken = block.take(
        pyarrow.array([row for sequence in filled for row in sequence], pyarrow.int64())
    ).combine_chunks()
    ends = numpy.cumsum([0, *(sum(sizes[row] for row in sequence) for sequence in filled)], dtype=numpy.int32)
    columns = {
        name: pyarrow.ListArray.from_arrays(ends, taken.column(name).chunk(0).flatten()) for name in block.column_names
    }
    kind = pyarrow.list_(pyarrow.int32())
    columns["seq_lengths"] = pyarrow.array([[sizes[row] for row in sequence] for sequence in filled], kind)
    return pyarrow.table(columns)


def _padded(why: str) -> Layout:
    return Layout(packing=False, padding_free=False, why=why)


def _packed_steps(train: "Train", sizes: "Sizes", processes: int) -> int:
    """Optimizer steps that packing would leave; 0 where rows are so long that it joins hardly any."""
    tokens = int(sizes.sum())
    if 2 * tokens > train.max_length * len(sizes):
        return 0
    in_one_step = train.gradient_accumulation_steps * processes
    passes = train.epochs if train.max_steps is None else 1.0
    return int(passes * (tokens // train.max_length) / in_one_step)

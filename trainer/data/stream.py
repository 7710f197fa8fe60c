"""Rows that are read while they are trained on (`data.streaming`), for datasets larger than the volume.

A thousand rows are read, shuffled by seed and place, encoded, perhaps packed, and given out; then the next thousand;
after the last one the first again. A position is such a block and how many of its examples are trained on. It lies in
each checkpoint (stream.json), so that a resumed run reads from that block on and goes on with the very next example.

The held-out rows are chosen among the first thousand, or are the first thousand of `data.eval_split`.
"""

import json
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch.utils.data import IterableDataset
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState

from pushtrain.rows import Reading, judged
from trainer.data.encode import Encoder, Example
from trainer.data.layout import best_fit
from trainer.data.sources import as_dataset_error
from trainer.failures import DatasetError
from trainer.report import say, write_whole

if TYPE_CHECKING:
    from datasets import Dataset

BLOCK_ROWS = 1000
POSITION = "stream.json"


class Source(Protocol):
    """What `datasets` gives for a streamed split: going through it goes on from the state it was given."""

    def __iter__(self) -> Iterator[dict[str, Any]]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How records become examples. `held_out` are the numbers of the rows, from 0, that are not trained on; rows
    are packed into sequences of `max_length` where `is_packed`."""

    shown: str
    reading: Reading
    encode: Encoder
    seed: int
    max_length: int
    held_out: frozenset[int] = frozenset()
    is_packed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """The start of a block: after `given` examples of this run, in pass `turn` over the data, at row `row`, from 0.
    `state` is the source's own, None at the start of a pass."""

    given: int = 0
    turn: int = 0
    row: int = 0
    state: dict[str, Any] | None = None


class Stream(IterableDataset):  # type: ignore[type-arg]
    """Examples without an end. Going through them raises DatasetError at the first bad row, under its number.

    `lost` counts, since this start, the rows that were cut and left out, and the tokens cut off.
    """

    def __init__(self, source: Source, recipe: Recipe) -> None:
        self.lost = {"rows": 0, "cut": 0, "lost_tokens": 0, "dropped": 0}
        self.column_names = [*recipe.encode.columns, *(["seq_lengths"] if recipe.is_packed else [])]
        self.max_length = recipe.max_length
        self._source = source
        self._first = source.state_dict()
        self._recipe = recipe
        self._start, self._passed = Position(), 0
        self._blocks: deque[Position] = deque(maxlen=64)

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        # The trainer asks for every example from the start and drops those an earlier attempt was trained on.
        for _ in range(self._passed):
            yield {name: [] for name in self.column_names}
        self._blocks.clear()
        skipped = self._passed - self._start.given
        for block, examples in self._made():
            self._blocks.append(block)
            yield from examples[skipped:]
            skipped = 0

    def stand_in(self) -> "Dataset":
        """A row to make a trainer with: TRL takes streams of `datasets` only, which know no position of ours."""
        from datasets import Dataset

        return Dataset.from_dict({name: [[0]] for name in self.column_names})

    def save(self, folder: Path, given: int) -> None:
        """Keep in `folder` where to go on after `given` examples of this run."""
        block = next(block for block in reversed(self._blocks) if block.given <= given)
        write_whole(folder / POSITION, json.dumps({"given": given, "block": asdict(block)}) + "\n")

    def resume(self, folder: Path) -> None:
        """Go on where `folder` says."""
        kept = json.loads((folder / POSITION).read_text(encoding="utf-8"))
        self._start, self._passed = Position(**kept["block"]), kept["given"]
        say(f"data: the stream goes on from row {self._start.row + 1}, pass {self._start.turn + 1}")

    def _made(self) -> Iterator[tuple[Position, list[dict[str, list[int]]]]]:
        at = self._start
        while True:
            began = at
            self._source.load_state_dict(at.state or self._first)
            found = iter(self._source)
            while records := list(islice(found, BLOCK_ROWS)):
                examples = self._examples(records, at)
                yield at, examples
                given, row = at.given + len(examples), at.row + len(records)
                at = Position(given=given, turn=at.turn, row=row, state=self._source.state_dict())
            if began.row == 0 and at.given == began.given:
                raise DatasetError(f"{self._recipe.shown}: of {at.row} rows none has anything to learn")
            at = Position(given=at.given, turn=at.turn + 1)

    def _examples(self, records: Sequence[dict[str, Any]], at: Position) -> list[dict[str, list[int]]]:
        recipe, chance = self._recipe, random.Random(f"{self._recipe.seed}:{at.turn}:{at.row}")
        numbered = enumerate(records, start=at.row + 1)
        rows = [
            row
            for row in as_dataset_error(judged(numbered, recipe.shown, recipe.reading))
            if row.number - 1 not in recipe.held_out
        ]
        chance.shuffle(rows)
        encoded = recipe.encode.encode(rows) if rows else []
        kept = [example for example in encoded if example.learned]
        self.lost["rows"] += len(rows)
        self.lost["cut"] += sum(example.lost > 0 for example in encoded)
        self.lost["lost_tokens"] += sum(example.lost for example in encoded)
        self.lost["dropped"] += len(encoded) - len(kept)  # bad ones, too
        if not recipe.is_packed:
            return [example.columns for example in kept]
        sequences = best_fit([example.tokens for example in kept], recipe.max_length)
        packed = [_joined([kept[row] for row in sequence]) for sequence in sequences]
        chance.shuffle(packed)
        return packed


class KeepPosition(TrainerCallback):  # type: ignore[misc]
    """Puts the stream's position into each checkpoint, before the marker that vouches for its files is written."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def on_save(self, args: Any, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        given = state.global_step * args.gradient_accumulation_steps * args.per_device_train_batch_size
        self._stream.save(Path(args.output_dir) / f"checkpoint-{state.global_step}", given)
        lost = self._stream.lost
        cut = f"{lost['cut']} cut by {lost['lost_tokens']} tokens, {lost['dropped']} left out"
        say(f"data: {lost['rows']} rows were read since this start, {cut}")


def _joined(examples: Sequence[Example]) -> dict[str, list[int]]:
    columns = {name: [it for example in examples for it in example.columns[name]] for name in examples[0].columns}
    return columns | {"seq_lengths": [example.tokens for example in examples]}

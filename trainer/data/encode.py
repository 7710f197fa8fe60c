"""Rows to what the trainer of each task takes, cut at `max_length`, with what was lost counted.

sft        input_ids, labels
dpo        prompt_ids, chosen_ids, rejected_ids: both ends follow the same prompt ids, and both are learned
seq2seq    input_ids (the source, ended by the tokenizer), labels (the target)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pushtrain.rows import Row
from trainer.data.pieces import Piece, Writer
from trainer.data.tokens import IGNORED, Labelled, check_tokenizer, label, learned
from trainer.failures import DatasetError
from trainer.job import Job

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Example:
    """One row as columns of token ids. `tokens` are those left after cutting, `learned` those of them that carry the
    loss, `lost` those cut off. With no `learned` token a row teaches nothing and is left out; `is_bad`: nothing could
    be written of it."""

    columns: dict[str, list[int]]
    tokens: int
    learned: int
    lost: int
    is_merged: bool = False
    is_bad: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt to try the model on, as text and as token ids, and what the row answers."""

    prompt: str
    prompt_ids: list[int]
    expected: str


class Encoder(Protocol):
    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of an example."""
        ...

    def is_chat(self, row: Row) -> bool:
        """Whether the chat template writes this row."""
        ...

    def encode(self, rows: Sequence[Row]) -> list[Example]:
        """One example for each row. Raises DatasetError naming a row that cannot be written."""
        ...

    def question(self, row: Row) -> Question | None:
        """None where the prompt is too long to be answered as it was trained."""
        ...


def texts(job: Job, tokenizer: "PreTrainedTokenizerBase") -> "Texts":
    """The encoder of sft. Raises ModelUnsupported for a tokenizer that cannot do what it needs."""
    train = job.spec.train
    check_tokenizer(tokenizer)
    writer = Writer(tokenizer, completion_only=train.completion_only_loss, assistant_only=train.assistant_only_loss)
    return Texts(writer, train.max_length)


def pairs(job: Job, tokenizer: "PreTrainedTokenizerBase") -> "Pairs":
    """The encoder of dpo. Raises as `texts` does."""
    check_tokenizer(tokenizer)
    return Pairs(Writer(tokenizer), job.spec.train.max_length)


class Texts:
    """For SFTTrainer."""

    columns = ("input_ids", "labels")

    def __init__(self, writer: Writer, max_length: int) -> None:
        self._writer = writer
        self._max_length = max_length

    def encode(self, rows: Sequence[Row]) -> list[Example]:
        pieces = [self._writer.pieces(row) for row in rows]
        labelled = label(self._writer.tokenizer, pieces, is_chat=self._writer.is_chat(rows[0]))
        return [self._cut(row) for row in labelled]

    def is_chat(self, row: Row) -> bool:
        return self._writer.is_chat(row)

    def question(self, row: Row) -> Question | None:
        return _question(self._writer, self._writer.parts(row), self._writer.is_chat(row), self._max_length)

    def _cut(self, row: Labelled) -> Example:
        ids, labels = row.input_ids[: self._max_length], row.labels[: self._max_length]
        lost = len(row.input_ids) - len(ids)
        return Example({"input_ids": ids, "labels": labels}, len(ids), learned(labels), lost, row.is_merged)


class Pairs:
    """For DPOTrainer, which would otherwise tokenise by itself and leave out the end of a prompt without a count."""

    columns = ("prompt_ids", "chosen_ids", "rejected_ids")

    def __init__(self, writer: Writer, max_length: int) -> None:
        self._writer = writer
        self._max_length = max_length

    def encode(self, rows: Sequence[Row]) -> list[Example]:
        pieces = [end for row in rows for end in self._writer.pair(row)]
        ends = label(self._writer.tokenizer, pieces, is_chat=self._writer.is_chat(rows[0]))
        return [self._pair(chosen, rejected) for chosen, rejected in zip(ends[::2], ends[1::2], strict=True)]

    def is_chat(self, row: Row) -> bool:
        return self._writer.is_chat(row)

    def question(self, row: Row) -> Question | None:
        chosen, _ = self._writer.pair(row)
        return _question(self._writer, chosen, self._writer.is_chat(row), self._max_length)

    def _pair(self, chosen: Labelled, rejected: Labelled) -> Example:
        """Where a token reaches over the border, the prompt ends before it, in both: they must share the prompt."""
        asked = min(_prompt_length(chosen), _prompt_length(rejected))
        alike = zip(chosen.input_ids[:asked], rejected.input_ids[:asked], strict=True)
        asked = next((index for index, (one, other) in enumerate(alike) if one != other), asked)
        prompt = chosen.input_ids[:asked]
        ends = [row.input_ids[asked : self._max_length] for row in (chosen, rejected)]
        lost = sum(len(row.input_ids) - asked - len(end) for row, end in zip((chosen, rejected), ends, strict=True))
        told = sum(map(len, ends)) if all(ends) else 0
        columns = {"prompt_ids": prompt, "chosen_ids": ends[0], "rejected_ids": ends[1]}
        is_merged = chosen.is_merged or rejected.is_merged
        return Example(columns, 2 * len(prompt) + sum(map(len, ends)), told, lost, is_merged)


class Seq2Seq:
    """For Seq2SeqTrainer: an encoder reads the source, a decoder learns to write the target.

    `prefix` is put before each source. Raises ModelUnsupported for a tokenizer that cannot do what it needs.
    """

    columns = ("input_ids", "labels")

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", max_length: int, max_target_length: int, prefix: str
    ) -> None:
        check_tokenizer(tokenizer)
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._max_target_length = max_target_length
        self._prefix = prefix

    def encode(self, rows: Sequence[Row]) -> list[Example]:
        texts = [_source_and_target(row) for row in rows]
        sources = self._ids([self._prefix + source for source, _ in texts], self._max_length)
        targets = self._ids([target for _, target in texts], self._max_target_length, is_target=True)
        return [
            Example({"input_ids": ids, "labels": labels}, len(ids) + len(labels), len(labels), lost + lost_target)
            for (ids, lost), (labels, lost_target) in zip(sources, targets, strict=True)
        ]

    def is_chat(self, row: Row) -> bool:
        return False

    def question(self, row: Row) -> Question | None:
        source, target = _source_and_target(row)
        [(ids, lost)] = self._ids([self._prefix + source], self._max_length)
        return None if lost else Question(self._prefix + source, ids, target.strip())

    def _ids(self, texts: list[str], limit: int, *, is_target: bool = False) -> list[tuple[list[int], int]]:
        """Ids of each text and how many were cut; the tokenizer cuts, so that the end token stays."""
        given = {"text_target" if is_target else "text": texts}
        options = {"return_attention_mask": False, "verbose": False}
        whole = self._tokenizer(**given, **options)["input_ids"]
        if all(len(ids) <= limit for ids in whole):
            return [(ids, 0) for ids in whole]
        cut = self._tokenizer(**given, truncation=True, max_length=limit, **options)["input_ids"]
        return [(ids, len(full) - len(ids)) for ids, full in zip(cut, whole, strict=True)]


class Lenient:
    """As the encoder it is made of, but a row that cannot be written ends nothing: it becomes a bad example."""

    def __init__(self, encode: Encoder) -> None:
        self.columns = encode.columns
        self.is_chat = encode.is_chat
        self._strict = encode

    def encode(self, rows: Sequence[Row]) -> list[Example]:
        try:
            return self._strict.encode(rows)
        except DatasetError:
            if len(rows) == 1:
                return [Example({name: [] for name in self.columns}, 0, 0, 0, is_bad=True)]
        half = len(rows) // 2
        return self.encode(rows[:half]) + self.encode(rows[half:])

    def question(self, row: Row) -> Question | None:
        try:
            return self._strict.question(row)
        except DatasetError:
            return None


def _prompt_length(row: Labelled) -> int:
    """Tokens before the first learned one."""
    return next((index for index, label in enumerate(row.labels) if label != IGNORED), len(row.labels))


def _source_and_target(row: Row) -> tuple[str, str]:
    record = row.record
    if row.form == "source/summary":
        return record["source"], record["summary"]
    if row.form == "prompt/completion":
        return record["prompt"], record["completion"]
    return "\n\n".join(part for part in (record["instruction"], record.get("input")) if part), record["output"]


def _question(writer: Writer, pieces: Sequence[Piece], is_chat: bool, max_length: int) -> Question | None:
    """Everything before the last learned piece asks, that piece answers; a text is asked its first half."""
    last = max(index for index, piece in enumerate(pieces) if piece.is_learned)
    prompt, expected = "".join(piece.text for piece in pieces[:last]), pieces[last].text
    if not prompt:
        middle = expected.rfind(" ", 0, len(expected) // 2 + 1)
        prompt, expected = expected[:middle], expected[middle:]
    [asked] = label(writer.tokenizer, [[Piece(prompt, False)]], is_chat=is_chat)
    if len(asked.input_ids) > max_length or not asked.input_ids:
        return None
    answer = writer.tokenizer(expected, add_special_tokens=False)["input_ids"]
    return Question(prompt, asked.input_ids, writer.tokenizer.decode(answer, skip_special_tokens=True).strip())

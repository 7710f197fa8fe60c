"""One row as pieces of text, each learned or not, and those pieces as tokens with labels.

    prompt/completion    prompt | COMPLETION <eos>; of messages: as messages, learned from the completion on
    instruction/output   as messages when the model has a chat template, else a prompt with headings | OUTPUT <eos>
    messages             what the chat template makes of them, the ASSISTANT TURNS <end of turn> learned
    text                 TEXT <eos>

The whole text is tokenised at once, as inference will see it, and labelled by the characters each token covers.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pushtrain.rows import Message, Row, tools_of
from trainer.failures import DatasetError, ModelUnsupported

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that torch's cross-entropy leaves out


class Piece(NamedTuple):
    text: str
    is_learned: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """`is_merged`: a token reaches over the border where learning begins, so inference sees other tokens there."""

    input_ids: list[int]
    labels: list[int]
    is_cut: bool
    is_merged: bool

    @property
    def learned(self) -> int:
        """Tokens that carry the loss; the first token of a row is never predicted."""
        return sum(label != IGNORED for label in self.labels[1:])


class Writer:
    """Turns rows into pieces, and pieces into tokens, for one tokenizer.

    Raises ModelUnsupported for a tokenizer that has no end token or cannot say which characters a token covers.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> None:
        if not tokenizer.is_fast:
            raise ModelUnsupported("the model's tokenizer does not map tokens to characters (it is not a fast one)")
        if tokenizer.eos_token is None:
            raise ModelUnsupported("the model's tokenizer has no end-of-sequence token")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._template = _training_template(tokenizer)

    def is_chat(self, row: Row) -> bool:
        """Whether the chat template writes this row."""
        if row.form == "instruction/output":
            return bool(self.tokenizer.chat_template)
        return row.form == "messages" or isinstance(row.record.get("prompt"), list)

    def pieces(self, row: Row) -> list[Piece]:
        """Raises DatasetError when the chat template cannot write the row so that its turns can be told apart."""
        record = row.record
        if self.is_chat(row):
            return self._chat(row)
        if row.form == "text":
            return [self._ended(record["text"])]
        if row.form == "prompt/completion":
            return [Piece(record["prompt"], False), self._ended(record["completion"])]
        return [Piece(_headings(record), False), self._ended(record["output"])]

    def encode(self, rows: Sequence[Sequence[Piece]], *, is_chat: bool) -> list[Encoded]:
        """Tokens and labels of several rows, cut at `max_length`. A chat template writes its own special tokens."""
        encoding = self.tokenizer(
            ["".join(piece.text for piece in pieces) for pieces in rows],
            add_special_tokens=not is_chat,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        spans = zip(rows, encoding["input_ids"], encoding["offset_mapping"], strict=True)
        return [self._labelled(pieces, ids, offsets) for pieces, ids, offsets in spans]

    def marked(self, encoded: Encoded, limit: int = 600) -> str:
        """The row as text for people, what carries the loss between « and »."""
        text, is_open = "", False
        for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
            if (label != IGNORED) != is_open:
                text, is_open = text + ("»" if is_open else "«"), not is_open
            text += self.tokenizer.decode([token])
        text += "»" if is_open else ""
        return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"

    def _ended(self, text: str) -> Piece:
        eos = str(self.tokenizer.eos_token)
        return Piece(text if text.endswith(eos) else text + eos, True)

    def _chat(self, row: Row) -> list[Piece]:
        messages, asked = _messages(row.record)
        whole = self._render(row, messages)
        pieces, position = [], 0
        for index, message in enumerate(messages):
            if message["role"] != "assistant" or index < asked:
                continue
            before = self._render(row, messages[:index]) if index else ""
            opened = self._render(row, messages[:index], add_generation_prompt=True) if index else ""
            after = self._render(row, messages[: index + 1])
            # Some templates open a turn with an empty thought that the finished turn leaves out.
            start = _common_length(opened, after)
            if not whole.startswith(after) or start < max(len(before), position):
                hint = "write the rows as prompt and completion"
                text = f"row {row.number}: the model's chat template writes earlier turns differently once more follow"
                raise DatasetError(text, hint=hint)
            pieces += [Piece(whole[position:start], False), Piece(whole[start : len(after)], True)]
            position = len(after)
        return [*pieces, Piece(whole[position:], False)]

    def _render(self, row: Row, messages: list[dict[str, Any]], *, add_generation_prompt: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                tools=tools_of(row.record),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                chat_template=self._template,
            )
        except (TemplateError, TypeError, ValueError) as error:
            hint = None if self.tokenizer.chat_template else "use rows of prompt and completion with this model"
            raise DatasetError(f"row {row.number}: no chat text can be made of it: {error}", hint=hint) from error
        return str(text)

    def _labelled(self, pieces: Sequence[Piece], ids: list[int], offsets: list[tuple[int, int]]) -> Encoded:
        is_learned = b"".join((b"\1" if piece.is_learned else b"\0") * len(piece.text) for piece in pieces)
        labels = [
            token if _covers_learned(is_learned, start, end) else IGNORED
            for token, (start, end) in zip(ids, offsets, strict=True)
        ]
        starts = [start for start, _ in offsets]
        is_merged, position = False, 0
        for piece in pieces:
            if piece.is_learned and position:
                last = bisect_left(starts, position) - 1
                is_merged = is_merged or offsets[last][1] != position
            position += len(piece.text)
        is_cut = len(ids) > self.max_length
        return Encoded(ids[: self.max_length], labels[: self.max_length], is_cut, is_merged)


def _common_length(one: str, other: str) -> int:
    """Characters at the start that both texts share."""
    length = min(len(one), len(other))
    return next((index for index in range(length) if one[index] != other[index]), length)


def _covers_learned(is_learned: bytes, start: int, end: int) -> bool:
    if end > start:
        return 1 in is_learned[start:end]
    # Nothing covered: a token added around the text at 0, or a lone space whose span byte-level tokenizers trim away.
    return start > 0 and is_learned[start - 1] == 1


def _messages(record: dict[str, Any]) -> tuple[list[Message], int]:
    """The conversation, and how many messages at its start are the prompt, of which nothing is learned."""
    if record.get("messages") is not None:
        return _without_none(record["messages"]), 0
    if isinstance(record.get("prompt"), list):
        return _without_none([*record["prompt"], *record["completion"]]), len(record["prompt"])
    question = "\n\n".join(part for part in (record["instruction"], record.get("input")) if part)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": record["output"]}], 1


def _without_none(messages: Sequence[Message]) -> list[Message]:
    """A dataset from the Hub has every key in every row, None where the row has none."""
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def _headings(record: dict[str, Any]) -> str:
    """Instruction and input under the headings Stanford Alpaca made customary for models without a chat template."""
    parts = [f"### Instruction:\n{record['instruction']}"]
    parts += [f"### Input:\n{record['input']}"] if record.get("input") else []
    return "\n\n".join([*parts, "### Response:\n"])


def _training_template(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """TRL's variant of the template for the families it knows, in which a turn never changes once more follow."""
    from jinja2 import TemplateError
    from trl import get_training_chat_template

    if not tokenizer.chat_template:
        return None
    try:
        template: str | None = get_training_chat_template(tokenizer)
    except (TemplateError, TypeError, ValueError):  # TRL tries the template on conversations of its own
        return None
    return template

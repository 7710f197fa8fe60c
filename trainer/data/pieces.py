"""One row as pieces of text, each learned or not.

    prompt/completion    prompt | COMPLETION <eos>; of messages: as messages, learned from the completion on
    instruction/output   as messages when the model has a chat template, else a prompt with headings | OUTPUT <eos>
    messages             what the chat template makes of them, the ASSISTANT TURNS <end of turn> learned
    text                 TEXT <eos>
    preference           the prompt with CHOSEN, and with REJECTED, as two rows of prompt/completion

`train.completion_only_loss` and `train.assistant_only_loss`, where they are false, make every piece a learned one.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pushtrain.rows import Message, Row, split_pair, tools_of
from trainer.failures import DatasetError, ModelUnsupported

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Piece(NamedTuple):
    text: str
    is_learned: bool


class Writer:
    """Turns rows into pieces, for one tokenizer and its chat template."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", *, completion_only: bool = True, assistant_only: bool = True
    ) -> None:
        self.tokenizer = tokenizer
        self._completion_only = completion_only
        self._assistant_only = assistant_only
        self._template = _training_template(tokenizer)

    def is_chat(self, row: Row) -> bool:
        """Whether the chat template writes this row."""
        if row.form == "instruction/output":
            return bool(self.tokenizer.chat_template)
        if row.form == "preference":
            return isinstance(row.record["chosen"], list)
        return row.form == "messages" or isinstance(row.record.get("prompt"), list)

    def parts(self, row: Row) -> list[Piece]:
        """What is asked and what is answered.

        Raises DatasetError when the chat template cannot write the row so that its turns can be told apart, and
        ModelUnsupported when there is none.
        """
        record = row.record
        if self.is_chat(row):
            return self._chat(row, *_messages(record))
        if row.form == "text":
            return [self._ended(record["text"])]
        if row.form == "prompt/completion":
            return [Piece(record["prompt"], False), self._ended(record["completion"])]
        return [Piece(_headings(record), False), self._ended(record["output"])]

    def pieces(self, row: Row) -> list[Piece]:
        """As `parts`, with everything learned where the spec wants that."""
        pieces = self.parts(row)
        if not (self._assistant_only if row.form == "messages" else self._completion_only):
            return [Piece(piece.text, True) for piece in pieces]
        return pieces

    def pair(self, row: Row) -> tuple[list[Piece], list[Piece]]:
        """The prompt with the chosen end, and with the rejected one, of a row of preference."""
        record, parts = row.record, split_pair(row.record)
        if parts is None:
            prompt = Piece(record["prompt"], False)
            return [prompt, self._ended(record["chosen"])], [prompt, self._ended(record["rejected"])]
        asked = len(parts.prompt)
        chosen, rejected = (self._chat(row, [*parts.prompt, *end], asked) for end in (parts.chosen, parts.rejected))
        return chosen, rejected

    def _ended(self, text: str) -> Piece:
        eos = str(self.tokenizer.eos_token)
        return Piece(text if text.endswith(eos) else text + eos, True)

    def _chat(self, row: Row, messages: Sequence[Message], asked: int) -> list[Piece]:
        """What the template makes of `messages`; of the first `asked` nothing is learned."""
        messages = _without_none(messages)
        whole = self._render(row, messages)
        pieces, position = [], 0
        for index, message in enumerate(messages):
            if message["role"] != "assistant" or index < asked:
                continue
            before = self._render(row, messages[:index]) if index else ""
            opened = self._render(row, messages[:index], add_generation_prompt=True) if index else ""
            after = whole if index + 1 == len(messages) else self._render(row, messages[: index + 1])
            # Some templates open a turn with an empty thought that the finished turn leaves out.
            start = _common_length(opened, after)
            if not whole.startswith(after) or start < max(len(before), position):
                hint = "write the rows as prompt and completion"
                text = f"row {row.number}: the model's chat template writes earlier turns differently once more follow"
                raise DatasetError(text, hint=hint)
            pieces += [Piece(whole[position:start], False), Piece(whole[start : len(after)], True)]
            position = len(after)
        return [*pieces, Piece(whole[position:], False)]

    def _render(self, row: Row, messages: list[Message], *, add_generation_prompt: bool = False) -> str:
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            hint = "train.chat_template_path names one, or use rows of prompt and completion with this model"
            raise ModelUnsupported("rows of messages need a chat template, the model's tokenizer has none", hint=hint)
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                tools=tools_of(row.record),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                chat_template=self._template,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise DatasetError(f"row {row.number}: no chat text can be made of it: {error}") from error
        return str(text)


def _common_length(one: str, other: str) -> int:
    """Characters at the start that both texts share."""
    length = min(len(one), len(other))
    return next((index for index in range(length) if one[index] != other[index]), length)


def _messages(record: dict[str, Any]) -> tuple[list[Message], int]:
    """The conversation, and how many messages at its start are the prompt, of which nothing is learned."""
    if record.get("messages") is not None:
        return record["messages"], 0
    if isinstance(record.get("prompt"), list):
        return [*record["prompt"], *record["completion"]], len(record["prompt"])
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

"""The forms a row may have, and what keeps a record from being one.

messages             messages (a list of {role, content}), or conversations (of {from, value}); perhaps tools
preference           prompt, chosen, rejected: three texts, or three lists of messages; without prompt, chosen and
                     rejected are whole conversations that begin alike
prompt/completion    two texts, or two lists of messages
instruction/output   instruction, output, perhaps input
source/summary       two texts: one to read, one to write
text                 one text
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

Form = Literal["messages", "preference", "prompt/completion", "instruction/output", "source/summary", "text"]
Message = dict[str, Any]

# Order matters: Hub datasets often carry a rendered `text` or a lone `prompt` beside the columns they mean.
FORMS: dict[Form, tuple[str, ...]] = {
    "messages": ("messages",),
    "preference": ("chosen", "rejected"),
    "prompt/completion": ("prompt", "completion"),
    "instruction/output": ("instruction", "output"),
    "source/summary": ("source", "summary"),
    "text": ("text",),
}
TASK_FORMS: dict[str, tuple[Form, ...]] = {
    "sft": ("messages", "prompt/completion", "instruction/output", "text"),
    "dpo": ("preference",),
    "seq2seq": ("source/summary", "prompt/completion", "instruction/output"),
}
FORMS_HINT = (
    "a row is one JSON object a line (or a record of CSV or Parquet) with prompt and completion, with instruction, "
    "output and perhaps input, with messages (a list of {role, content}), or with text; for dpo with prompt, chosen "
    "and rejected; for seq2seq with source and summary; data.columns says which columns hold them under other names"
)
# What is learned must not be empty: a batch without one target token has a loss of NaN.
_LEARNED = ("completion", "output", "text", "summary", "chosen", "rejected")


SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "observation": "tool"}


class Pair(NamedTuple):
    """A preference between two conversations that begin with the same messages."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


def with_messages(record: dict[str, Any]) -> dict[str, Any]:
    """The record with `messages`, where it has `conversations` instead; what it has no role for stays as it is."""
    turns = record.get("conversations")
    if record.get("messages") is not None or not isinstance(turns, list):
        return record
    return {**record, "messages": [_turn(turn) if isinstance(turn, dict) else turn for turn in turns]}


def form_of(record: Mapping[str, Any], forms: Iterable[Form] = tuple(FORMS)) -> Form | None:
    """The first of `forms` all of whose fields the record has, else the first it has a field of, else None."""
    wanted = [form for form in FORMS if form in forms]
    for form in wanted:
        if all(record.get(field) is not None for field in FORMS[form]):
            return form
    return next((form for form in wanted if any(field in record for field in FORMS[form])), None)


def fault(record: Mapping[str, Any], form: Form | None) -> str | None:
    """What keeps this record from being a row of `form`, as half a sentence; None when it is one."""
    if form is None:
        names = ", ".join(sorted(map(str, record))[:8])
        return f"has none of the known forms (its fields: {names[:200]})"
    for field in FORMS[form]:
        if record.get(field) is None:
            return _missing(record, form, field)
    if form == "messages":
        return _conversation_fault(record["messages"], "messages") or _tools_fault(record.get("tools"))
    if form == "preference":
        return _preference_fault(record) or _tools_fault(record.get("tools"))
    if form == "prompt/completion" and isinstance(record["prompt"], list):
        return (
            _messages_fault(record["prompt"], "prompt")
            or _conversation_fault(record["completion"], "completion")
            or _tools_fault(record.get("tools"))
        )
    for field in FORMS[form]:
        if (what := _text_fault(record, field)) is not None:
            return what
    if form == "source/summary" and not record["source"].strip():
        return "'source' is empty: nothing to read"
    if form == "instruction/output" and (extra := record.get("input")) is not None and not isinstance(extra, str):
        return f"'input' must be text, not {kind(extra)}"
    return None


def split_pair(record: Mapping[str, Any]) -> Pair | None:
    """The prompt and the two ends of a conversational preference; None where they are texts, or begin differently."""
    prompt, chosen, rejected = record.get("prompt"), record["chosen"], record["rejected"]
    if not isinstance(chosen, list) or not isinstance(rejected, list):
        return None
    if isinstance(prompt, list):
        return Pair(prompt, chosen, rejected)
    alike = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        alike += 1
    if alike:
        return Pair(chosen[:alike], chosen[alike:], rejected[alike:])
    return Pair([{"role": "user", "content": prompt}], chosen, rejected) if isinstance(prompt, str) else None


def kind(value: object) -> str:
    if value in ("", []):
        return "an empty one"
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def tools_of(record: Mapping[str, Any]) -> list[Any] | None:
    """What a chat template gets as tools: a list, which many datasets hold as JSON text; None where there are none.

    Raises ValueError for text that is no JSON."""
    tools = record.get("tools")
    if isinstance(tools, str):
        tools = json.loads(tools) if tools.strip() else None
    return tools or None


def _turn(turn: Message) -> Message:
    if not isinstance(turn.get("from"), str) or "value" not in turn:
        return turn
    rest = {name: value for name, value in turn.items() if name not in ("from", "value")}
    return {"role": SHAREGPT_ROLES.get(turn["from"], turn["from"]), "content": turn["value"], **rest}


def _missing(record: Mapping[str, Any], form: Form, field: str) -> str:
    other = form_of(record)
    if other not in (None, form) and all(record.get(name) is not None for name in FORMS[other]):
        return f"has the form {other}, not {form}: {field!r} is missing"
    return f"{field!r} is missing"


def _text_fault(record: Mapping[str, Any], field: str) -> str | None:
    value = record[field]
    if not isinstance(value, str):
        return f"{field!r} must be text, not {kind(value)}"
    if field in _LEARNED and not value.strip():
        return f"{field!r} is empty: nothing to learn"
    return None


def _preference_fault(record: Mapping[str, Any]) -> str | None:
    if not isinstance(record["chosen"], list):
        for field in ("prompt", "chosen", "rejected"):
            if record.get(field) is None:
                return f"{field!r} is missing"
            if (what := _text_fault(record, field)) is not None:
                return what
    else:
        if isinstance(prompt := record.get("prompt"), list) and (what := _messages_fault(prompt, "prompt")):
            return what
        for field in ("chosen", "rejected"):
            if (what := _conversation_fault(record[field], field)) is not None:
                return what
        if record["chosen"] != record["rejected"] and not _are_apart(split_pair(record)):
            return "'chosen' and 'rejected' must begin with the same messages, the prompt, and each go on from there"
    return "'chosen' and 'rejected' are the same: nothing to prefer" if record["chosen"] == record["rejected"] else None


def _are_apart(pair: Pair | None) -> bool:
    return pair is not None and bool(pair.prompt and pair.chosen and pair.rejected)


def _conversation_fault(messages: object, field: str) -> str | None:
    """As `_messages_fault`, and the assistant has to say something in it."""
    if (what := _messages_fault(messages, field)) is not None:
        return what
    assert isinstance(messages, list)
    answers = [it for it in messages if it["role"] == "assistant"]
    if any((it.get("content") or "").strip() or it.get("tool_calls") for it in answers):
        return None
    return f"{field!r} has no assistant message with content: nothing to learn"


def _messages_fault(messages: object, field: str) -> str | None:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        return f"{field!r} must be a list of {{role, content}}, not {kind(messages)}"
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            return f"{field}[{index}] must be an object with role and content, not {kind(message)}"
        for name in ("role", "content"):
            if name == "content" and message.get(name) is None and message.get("tool_calls"):
                continue
            if not isinstance(message.get(name), str):
                what = f"must be text, not {kind(message[name])}" if name in message else "is missing"
                return f"{field}[{index}]: {name!r} {what}"
    return None


def _tools_fault(tools: object) -> str | None:
    try:
        listed = tools_of({"tools": tools})
    except ValueError:
        return "'tools' is text, but not JSON"
    if listed is not None and not (isinstance(listed, list) and all(isinstance(tool, dict) for tool in listed)):
        return "'tools' must be a list of objects, or the JSON of one"
    return None

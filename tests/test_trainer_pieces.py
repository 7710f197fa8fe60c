"""Which tokens of a row carry the loss, for every form of row and several kinds of chat template."""

import pathlib
from typing import Any

import pytest
import trl
from tiny_model import CHAT_TEMPLATE, END, tokenizer

from pushtrain.rows import Row, form_of
from trainer.failures import DatasetError, ModelUnsupported
from trainer.pieces import Encoded, Writer

THINKING = pathlib.Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"
TURNS = [
    {"role": "system", "content": "be one"},
    {"role": "user", "content": "what is red"},
    {"role": "assistant", "content": "a bird"},
    {"role": "user", "content": "who"},
    {"role": "assistant", "content": "the fish"},
]


def row(record: dict[str, Any], number: int = 1) -> Row:
    form = form_of(record)
    assert form is not None
    return Row(number, form, record)


def encoded(record: dict[str, Any], *, template: str | None = CHAT_TEMPLATE, max_length: int = 256) -> Encoded:
    writer = Writer(tokenizer(template), max_length)
    [result] = writer.encode([writer.pieces(row(record))], is_chat=writer.is_chat(row(record)))
    return result


def shown(record: dict[str, Any], *, template: str | None = CHAT_TEMPLATE) -> str:
    """The row as the log shows it, what carries the loss between « and »."""
    return Writer(tokenizer(template), 256).marked(encoded(record, template=template))


def test_of_prompt_and_completion_the_completion_is_learned_and_the_end() -> None:
    assert shown({"prompt": "what is red", "completion": " a bird"}) == f"what is red« a bird{END}»"


def test_an_end_that_is_there_already_is_not_doubled() -> None:
    assert shown({"prompt": "red", "completion": f" bird{END}"}) == f"red« bird{END}»"


def test_a_text_is_learned_whole() -> None:
    assert shown({"text": "red green blue"}) == f"«red green blue{END}»"


def test_an_instruction_becomes_a_chat_where_the_model_has_a_template() -> None:
    record = {"instruction": "name one", "input": "red", "output": "bird"}
    assert shown(record) == f"<|user|>name one\n\nred{END}<|assistant|>«bird{END}»"


def test_an_instruction_gets_headings_where_the_model_has_no_template() -> None:
    record = {"instruction": "name one", "input": "red", "output": "bird"}
    expected = f"### Instruction:\nname one\n\n### Input:\nred\n\n### Response:\n«bird{END}»"
    assert shown(record, template=None) == expected
    assert "Input" not in shown({**record, "input": None}, template=None)


def test_every_assistant_turn_is_learned_with_its_end_and_nothing_else() -> None:
    text = shown({"messages": TURNS})
    assert text == (
        f"<|system|>be one{END}<|user|>what is red{END}<|assistant|>«a bird{END}»"
        f"<|user|>who{END}<|assistant|>«the fish{END}»"
    )


def test_keys_a_dataset_fills_with_none_are_left_out_of_a_message() -> None:
    padded = [{**message, "tool_calls": None} for message in TURNS]
    assert shown({"messages": padded}) == shown({"messages": TURNS})


def test_a_template_that_drops_earlier_thoughts_is_replaced_by_the_one_for_training() -> None:
    text = shown({"messages": TURNS[1:]}, template=THINKING.read_text())
    assert text.count("«") == 2
    assert "a bird<|im_end|>" in text.split("»")[0]
    assert "the fish<|im_end|>" in text.split("«")[2]


def test_a_template_whose_turns_change_later_is_refused_with_the_row() -> None:
    changing = "{% for m in messages %}{% if loop.last or m.role == 'user' %}[{{ m.content }}]{% endif %}{% endfor %}"
    with pytest.raises(DatasetError, match=r"row 1: .*earlier turns"):
        encoded({"messages": TURNS[1:]}, template=changing)


def test_a_template_that_refuses_a_role_names_the_row() -> None:
    strict = (
        "{% for m in messages %}{{ raise_exception('no system') if m.role == 'system' else m.content }}{% endfor %}"
    )
    with pytest.raises(DatasetError, match=r"row 1: .*no system"):
        encoded({"messages": TURNS}, template=strict)


def test_messages_for_a_model_without_a_template_are_refused_with_what_to_do() -> None:
    with pytest.raises(DatasetError) as refused:
        encoded({"messages": TURNS}, template=None)
    assert "prompt and completion" in str(refused.value.hint)


def test_a_row_that_is_too_long_is_cut_and_counted() -> None:
    long = encoded({"prompt": "red", "completion": " bird" * 300}, max_length=16)
    assert (len(long.input_ids), len(long.labels), long.is_cut) == (16, 16, True)
    nothing = encoded({"prompt": "red " * 300, "completion": "bird"}, max_length=16)
    assert (nothing.learned, nothing.is_cut) == (0, True)


def test_a_token_over_the_border_is_counted_and_learned() -> None:
    apart = encoded({"prompt": "what is red", "completion": " bird"})
    together = encoded({"prompt": "what is red ", "completion": "bird"})
    assert (apart.is_merged, together.is_merged) == (False, True)
    assert together.input_ids == apart.input_ids
    assert together.learned == apart.learned


def test_letters_of_several_bytes_are_learned_whole() -> None:
    assert shown({"prompt": "red", "completion": " 猫🐈"}).endswith("»")
    tokens = encoded({"prompt": "猫", "completion": "🐈"})
    assert tokens.labels.count(-100) == 3
    assert tokens.learned == len(tokens.labels) - 3


def test_a_tokenizer_that_cannot_end_a_text_is_refused() -> None:
    endless = tokenizer()
    endless.eos_token = None
    with pytest.raises(ModelUnsupported, match="end-of-sequence"):
        Writer(endless, 16)


def test_of_a_prompt_in_messages_only_the_completion_is_learned() -> None:
    record = {"prompt": TURNS[:4], "completion": TURNS[4:]}
    assert shown(record) == (
        f"<|system|>be one{END}<|user|>what is red{END}<|assistant|>a bird{END}"
        f"<|user|>who{END}<|assistant|>«the fish{END}»"
    )


def test_tools_reach_the_template_as_a_list_or_as_the_text_of_one() -> None:
    template = "{% for tool in tools or [] %}[{{ tool.name }}]{% endfor %}" + CHAT_TEMPLATE
    tools = [{"name": "river"}]
    called = [*TURNS[1:2], {"role": "assistant", "content": "bird", "tool_calls": None}]
    for given in (tools, '[{"name": "river"}]'):
        text = shown({"messages": called, "tools": given}, template=template)
        assert text == f"[river]<|user|>what is red{END}<|assistant|>«bird{END}»"
    assert shown({"messages": called, "tools": ""}, template=template).startswith("<|user|>")

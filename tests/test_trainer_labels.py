"""Which tokens of a row carry the loss, for every form of row and several kinds of chat template."""

import pathlib
from typing import Any

import pytest
import trl
from tiny_model import CHAT_TEMPLATE, END, tokenizer

from pushtrain.rows import Row, form_of
from trainer.data.batch import marked
from trainer.data.encode import Example, Pairs, Seq2Seq, Texts
from trainer.data.pieces import Writer
from trainer.data.tokens import check_tokenizer
from trainer.failures import DatasetError, ModelUnsupported

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


def encoded(
    record: dict[str, Any], *, template: str | None = CHAT_TEMPLATE, max_length: int = 256, **loss: bool
) -> Example:
    [result] = Texts(Writer(tokenizer(template), **loss), max_length).encode([row(record)])
    return result


def shown(record: dict[str, Any], *, template: str | None = CHAT_TEMPLATE, **loss: bool) -> str:
    """The row as the log shows it, what carries the loss between « and »."""
    columns = encoded(record, template=template, **loss).columns
    return marked(tokenizer(template), columns["input_ids"], columns["labels"])


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
    with pytest.raises(ModelUnsupported) as refused:
        encoded({"messages": TURNS}, template=None)
    assert "prompt and completion" in str(refused.value.hint)


def test_a_row_that_is_too_long_is_cut_and_counted() -> None:
    long = encoded({"prompt": "red", "completion": " bird" * 300}, max_length=16)
    assert [len(ids) for ids in long.columns.values()] == [16, 16]
    assert (long.tokens, long.learned, long.lost) == (16, 15, 302 - 16)
    nothing = encoded({"prompt": "red " * 300, "completion": "bird"}, max_length=16)
    assert (nothing.learned, nothing.lost > 0) == (0, True)


def test_a_token_over_the_border_is_counted_and_learned() -> None:
    apart = encoded({"prompt": "what is red", "completion": " bird"})
    together = encoded({"prompt": "what is red ", "completion": "bird"})
    assert (apart.is_merged, together.is_merged) == (False, True)
    assert together.columns["input_ids"] == apart.columns["input_ids"]
    assert together.learned == apart.learned


def test_letters_of_several_bytes_are_learned_whole() -> None:
    assert shown({"prompt": "red", "completion": " 猫🐈"}).endswith("»")
    tokens = encoded({"prompt": "猫", "completion": "🐈"})
    assert tokens.columns["labels"].count(-100) == 3
    assert tokens.learned == tokens.tokens - 3


def test_a_tokenizer_that_cannot_end_a_text_is_refused() -> None:
    endless = tokenizer()
    endless.eos_token = None
    with pytest.raises(ModelUnsupported, match="end-of-sequence"):
        check_tokenizer(endless)


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


def test_a_tokenizer_without_the_pad_token_it_names_is_refused() -> None:
    padless = tokenizer()
    padless._pad_token = padless._special_tokens_map["pad_token"] = "<nowhere>"
    assert padless.pad_token == "<nowhere>"
    with pytest.raises(ModelUnsupported, match=r"pad_token '<nowhere>' .* is not in its vocabulary"):
        check_tokenizer(padless)


def test_prompts_and_users_are_learned_too_where_the_spec_says_so() -> None:
    record = {"prompt": "what is red", "completion": " a bird"}
    assert shown(record, completion_only=False) == f"«what is red a bird{END}»"
    assert shown(record, assistant_only=False) == f"what is red« a bird{END}»"
    turns = {"messages": TURNS[1:3]}
    assert shown(turns, assistant_only=False) == f"«<|user|>what is red{END}<|assistant|>a bird{END}»"
    assert shown(turns, completion_only=False) == f"<|user|>what is red{END}<|assistant|>«a bird{END}»"


def ends(record: dict[str, Any], max_length: int = 256) -> tuple[str, str, str]:
    words = tokenizer()
    [example] = Pairs(Writer(words), max_length).encode([row(record)])
    prompt, chosen, rejected = (words.decode(ids) for ids in example.columns.values())
    return prompt, chosen, rejected


def test_of_a_preference_both_ends_are_learned_after_one_prompt() -> None:
    texts = {"prompt": "what is red", "chosen": " a bird", "rejected": " a fish"}
    assert ends(texts) == ("what is red", f" a bird{END}", f" a fish{END}")
    asked = f"<|system|>be one{END}<|user|>what is red{END}<|assistant|>"
    turns = {"chosen": TURNS[:3], "rejected": [*TURNS[:2], {"role": "assistant", "content": "a fish"}]}
    assert ends(turns) == (asked, f"a bird{END}", f"a fish{END}")
    explicit = {"prompt": TURNS[:2], "chosen": TURNS[2:3], "rejected": turns["rejected"][2:]}
    assert ends(explicit) == ends(turns)


def test_a_prompt_that_grows_together_with_one_end_is_cut_back_in_both() -> None:
    prompt, chosen, rejected = ends({"prompt": "what is red ", "chosen": "bird", "rejected": "猫"})
    assert (prompt, chosen) == ("what is red", f" bird{END}")
    assert rejected == f" 猫{END}"


def test_a_pair_is_cut_at_its_ends_and_left_out_without_them() -> None:
    pairs = Pairs(Writer(tokenizer()), 8)
    record = {"prompt": "red green blue", "chosen": " bird" * 9, "rejected": " fish"}
    [cut] = pairs.encode([row(record)])
    assert [len(ids) for ids in cut.columns.values()] == [3, 5, 2]
    assert (cut.tokens, cut.learned, cut.lost) == (13, 7, 5)
    [nothing] = pairs.encode([row({**record, "prompt": "red " * 20})])
    assert nothing.learned == 0


def test_a_source_is_read_and_its_target_learned() -> None:
    words = tokenizer()
    seq2seq = Seq2Seq(words, 8, 4, "answer: ")
    for record in ({"source": "red green", "summary": "bird"}, {"prompt": "red green", "completion": "bird"}):
        [example] = seq2seq.encode([row(record)])
        assert words.decode(example.columns["input_ids"]) == "answer: red green"
        assert words.decode(example.columns["labels"]) == "bird"
    question = seq2seq.question(row({"source": "red green", "summary": "bird"}))
    assert question is not None and (question.prompt, question.expected) == ("answer: red green", "bird")


def test_a_source_and_a_target_that_are_too_long_are_cut_and_counted() -> None:
    seq2seq = Seq2Seq(tokenizer(), 8, 4, "")
    [example] = seq2seq.encode([row({"source": " red" * 20, "summary": " bird" * 9})])
    assert [len(ids) for ids in example.columns.values()] == [8, 4]
    assert (example.learned, example.lost) == (4, 12 + 5)
    assert seq2seq.question(row({"source": " red" * 20, "summary": "bird"})) is None

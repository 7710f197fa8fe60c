"""Pieces of text to token ids and labels: the whole text is tokenised at once, as inference will see it, and labelled
by the characters each token covers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy

from trainer.data.pieces import Piece
from trainer.failures import ModelUnsupported

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that torch's cross-entropy leaves out


@dataclass(frozen=True, slots=True)
class Labelled:
    """One row, whole. `is_merged`: a token reaches over the border where learning begins, so that inference, which
    stops there, sees other tokens."""

    input_ids: list[int]
    labels: list[int]
    is_merged: bool


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises ModelUnsupported for a tokenizer that cannot end a text, pad a batch, or say what a token covers."""
    if not tokenizer.is_fast:
        raise ModelUnsupported("the model's tokenizer does not map tokens to characters (it is not a fast one)")
    if tokenizer.eos_token is None:
        hint = "a model whose tokenizer names its eos_token: without one nothing says where an answer ends"
        raise ModelUnsupported("the model's tokenizer has no end-of-sequence token", hint=hint)
    known = tokenizer.get_vocab()
    for name in ("eos_token", "pad_token"):
        token = getattr(tokenizer, name)
        if token is not None and token not in known:
            raise ModelUnsupported(f"the {name} {token!r} of the model's tokenizer is not in its vocabulary")


def label(tokenizer: "PreTrainedTokenizerBase", rows: Sequence[Sequence[Piece]], *, is_chat: bool) -> list[Labelled]:
    """Token ids and labels of several rows. A chat template has written its own special tokens already."""
    encoding = tokenizer(
        ["".join(piece.text for piece in pieces) for pieces in rows],
        add_special_tokens=not is_chat,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    spans = zip(rows, encoding["input_ids"], encoding["offset_mapping"], strict=True)
    return [_labelled(pieces, ids, offsets) for pieces, ids, offsets in spans]


def learned(labels: list[int]) -> int:
    """Tokens that carry the loss; the first token of a row is never predicted."""
    return len(labels) - 1 - labels[1:].count(IGNORED) if labels else 0


def _labelled(pieces: Sequence[Piece], ids: list[int], offsets: list[tuple[int, int]]) -> Labelled:
    """`offsets` are the first character of each token and the one after its last."""
    is_learned = numpy.concatenate([numpy.full(len(piece.text), piece.is_learned) for piece in pieces])
    before = numpy.concatenate([[0], numpy.cumsum(is_learned)])  # learned characters before each one
    starts, ends = numpy.asarray(offsets, dtype=numpy.int64).reshape(-1, 2).T
    covers = before[ends] > before[starts]
    # Nothing covered: a token added around the text at 0, or a lone space whose span byte-level tokenizers trim away.
    empty = (ends == starts) & (starts > 0)
    covers[empty] = is_learned[starts[empty] - 1]
    labels = numpy.where(covers, ids, IGNORED).tolist()
    is_merged, position, was_learned = False, 0, False
    for piece in pieces:
        if piece.is_learned and not was_learned and position:
            last = int(numpy.searchsorted(starts, position)) - 1
            is_merged = is_merged or bool(ends[last] != position)
        position, was_learned = position + len(piece.text), piece.is_learned
    return Labelled(ids, labels, is_merged)

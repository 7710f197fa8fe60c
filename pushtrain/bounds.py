"""How large a file of the ledger may be, and how what is too large is cut: visibly, with size and digest of the whole.

GitHub refuses files over 100 MB and warns over 50 MB; a push is slow long before. Standard library only.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

# An event is read by every tick; the widest ladder of GPUs and data centers is a fifth of this.
EVENT_BYTES = 256 * 1024
MESSAGE_CHARS = 8000
RESULT_BYTES = 1024 * 1024
# No file of ours comes near it. One that does is a mistake, and a remote would refuse it for ever.
FILE_BYTES = 32 * 1024 * 1024
# Longest text and longest list that stay whole, step by step until the document fits.
_STEPS = (4096, 512, 64, 8)


def size_of(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False, default=str).encode(errors="replace"))


def digest_mark(raw: bytes) -> dict[str, object]:
    """What stands where something was left out."""
    return {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


def cut_text(text: str, longest: int) -> str:
    """The beginning of a text, with a word on how much is missing."""
    return text if len(text) <= longest else f"{text[:longest]}… [{len(text) - longest} characters cut]"


def cut_document(document: Mapping[str, Any], limit: int, keep: Collection[str] = ()) -> dict[str, Any]:
    """A JSON object whose texts and lists are cut until it has at most `limit` bytes; as it is when it fits.

    The keys in `keep` stay whole. A document that was cut has a key `cut` with bytes and SHA-256 of the whole one; of
    one that cannot be made to fit only that and the `keep` that fit are left.
    """
    if size_of(document) <= limit:
        return dict(document)
    mark = {"cut": digest_mark(json.dumps(document, sort_keys=True, ensure_ascii=False, default=str).encode())}
    for longest in _STEPS:
        shorter = {key: value if key in keep else _cut(value, longest) for key, value in document.items()}
        if size_of(shorter | mark) <= limit:
            return shorter | mark
    kept: dict[str, Any] = dict(mark)
    for key in keep:
        if key in document and size_of({**kept, key: document[key]}) <= limit:
            kept[key] = document[key]
    return kept


def _cut(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return cut_text(value, longest)
    if isinstance(value, list | tuple):
        left = [f"[{len(value) - longest} entries cut]"] if len(value) > longest else []
        return [*(_cut(item, longest) for item in value[:longest]), *left]
    if isinstance(value, Mapping):
        names = list(value)
        left_out = {"cut": f"{len(names) - longest} keys"} if len(names) > longest else {}
        return {cut_text(str(name), longest): _cut(value[name], longest) for name in names[:longest]} | left_out
    return value

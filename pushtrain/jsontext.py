"""JSON as it stands in the ledger: readable, sorted, one trailing newline, no NaN."""

import json


def json_bytes(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"

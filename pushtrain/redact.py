"""Last function before a text leaves the process: no key, token or password survives it.

Standard library only: the pod uses it before anything is installed.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

SECRET_NAMES = (
    "RUNPOD_API_KEY",
    "JL_API_KEY",
    "HF_TOKEN",
    "PUSHTRAIN_LEDGER_TOKEN",
    "GITHUB_TOKEN",
    "PULUMI_ACCESS_TOKEN",
    "PULUMI_CONFIG_PASSPHRASE",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "GOOGLE_CREDENTIALS",
    "PUSHTRAIN_DATA_AWS_SECRET_ACCESS_KEY",
    "PUSHTRAIN_DATA_AWS_SESSION_TOKEN",
    "PUSHTRAIN_CHECKPOINTS_AWS_SECRET_ACCESS_KEY",
    "PUSHTRAIN_CHECKPOINTS_AWS_SESSION_TOKEN",
    "PUSHTRAIN_DATA_GOOGLE_CREDENTIALS",
    "WANDB_API_KEY",
    "RUNPOD_S3_SECRET_KEY",
    "VAST_API_KEY",
    "CONTAINER_API_KEY",
    "LAMBDA_API_KEY",
    "MODAL_TOKEN_ID",
    "MODAL_TOKEN_SECRET",
)
MASK = "***"

# Shapes that are secret wherever they stand: URL passwords, api_key= queries, bearer headers, vendors' token prefixes.
# None of them runs over a quote or a backslash, so that JSON stays JSON.
_SHAPES = (
    (re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://)[^/\s:@\"'\\]*:[^/\s@\"'\\]+@"), rf"\1{MASK}@"),
    (re.compile(r"(?i)\b(api_?key|access_token|token|password)=[^\s&\"'\\]+"), rf"\1={MASK}"),
    (re.compile(r"(?i)\b(authorization:\s*(?:bearer|basic)|bearer)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {MASK}"),
    (re.compile(r"\b(?:hf_|rpa_|ghp_|gho_|ghs_|github_pat_|pul-)[A-Za-z0-9_]{10,}"), MASK),
)


def secret_values(environ: Mapping[str, str] | None = None, extra: Iterable[str] = ()) -> list[str]:
    """The secret values of an environment, longest first, so that a value inside another is masked whole.

    Values under 6 characters are left out: masking them would shred ordinary text.
    """
    environ = os.environ if environ is None else environ
    values = {value.strip() for value in [*(environ.get(name, "") for name in SECRET_NAMES), *extra]}
    return sorted((value for value in values if len(value) >= 6), key=len, reverse=True)


def redact(text: str, environ: Mapping[str, str] | None = None, extra: Iterable[str] = ()) -> str:
    """`text` without the environment's secret values and without anything shaped like a credential."""
    for value in secret_values(environ, extra):
        for written in _spellings(value):
            text = text.replace(written, MASK)
    for shape, replacement in _SHAPES:
        text = shape.sub(replacement, text)
    return text


def secrets_in(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Names of the environment's secrets whose value stands in `text`, in any of the ways it may be written."""
    environ = os.environ if environ is None else environ
    values = {name: secret_values({name: environ.get(name, "")}) for name in SECRET_NAMES}
    return [name for name, found in values.items() if any(it in text for value in found for it in _spellings(value))]


def _spellings(value: str) -> list[str]:
    """A value as it stands in plain text, in JSON (a passphrase may hold a quote) and in a URL; the longest first."""
    in_json = (json.dumps(value, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
    return sorted({value, *in_json, quote(value, safe="")}, key=len, reverse=True)

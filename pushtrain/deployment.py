"""What the engine remembered of a run, as a file of the ledger: kept before the stack is removed, free of secrets.

Pure: no engine, no ledger. A secret in the state is refused, not only cut out: readers of the state have it. What the
state holds encrypted (with RunPod's own plugin the key and the pod's environment) is left out all the same: the ledger
may be public, and then the passphrase could be guessed at leisure.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from pushtrain.errors import EngineError
from pushtrain.jsontext import json_bytes
from pushtrain.redact import redact, secrets_in

NAME = "deployment.json"
# A volume and a pod are 3 KB; a state of this size is not one of ours.
MAX_BYTES = 256 * 1024
# 24 KB of base64 that the run's commit gives again.
_ARCHIVE = "PUSHTRAIN_BOOT"
# How Pulumi marks a value as a secret, and where it keeps what the passphrase is checked against.
_SECRET, _SECRETS_PROVIDER = "4dabf18193072939515e22adb298388d", "secrets_providers"


def deployment_file(
    engine: str, stack: str, exported: Mapping[str, Any], environ: Mapping[str, str] | None = None
) -> bytes:
    """`{"engine", "stack", "state": what Engine.export returned}`, the boot archive replaced by its SHA-256.

    Raises EngineError when the state holds the value of a secret of `environ` (default: the process's own), naming the
    variable, or is larger than MAX_BYTES.
    """
    raw = json_bytes({"engine": engine, "stack": stack, "state": _slim(exported)})
    found = secrets_in(raw.decode(), environ)
    if found:
        raise EngineError(
            f"the state of stack {stack} holds the value of {', '.join(found)}: it is not written to the ledger",
            reason="SecretInState",
            hint="replace that secret: whoever reads the state's backend has it",
        )
    if len(raw) > MAX_BYTES:
        raise EngineError(f"the state of stack {stack} has {len(raw)} bytes, the ledger takes {MAX_BYTES}")
    return redact(raw.decode(), environ).encode()


def _slim(value: Any) -> Any:
    if isinstance(value, Mapping):
        if _SECRET in value:
            return "[secret]"
        return {
            key: _digest(item) if key == _ARCHIVE and isinstance(item, str) else _slim(item)
            for key, item in value.items()
            if key != _SECRETS_PROVIDER
        }
    return [_slim(item) for item in value] if isinstance(value, list | tuple) else value


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

"""The account key and the address that the state holds for the plugin, kept those of today.

Pulumi deletes and refreshes with the provider as the state has it: after a change of the key every such step would be
refused. And an update that finds another key or address than the state's replaces the provider, and with it the network
volume, checkpoints and all (both tried with CLI 3.259). So the state is brought up to date before anything else.
"""

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from infra.plugin import PROVIDER_TYPE, api_of
from infra.pulumi_workspace import Workspace

# How Pulumi writes a secret; one in plain text is encrypted by whoever imports it.
_SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}
_JOIN_S = 10.0


def renew(workspace: Workspace, stack: str, exported: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """`exported` is the stack's deployment, its secrets encrypted. Raises CloudAuthFailed without a key."""
    if not _providers(exported):
        return
    key, url = api_of(environ)
    wanted = {"apiKey": {**_SECRET, "plaintext": json.dumps(key)}, "apiUrl": url}
    shown = _run(workspace, "stack", "export", "--show-secrets", "--stack", stack)
    if all(it["inputs"].get(name) == value for it in _providers(json.loads(shown)) for name, value in wanted.items()):
        return
    for provider in _providers(exported):
        for values in (provider["inputs"], provider.get("outputs") or {}):
            values.update(wanted)
    _import(workspace, stack, json.dumps(exported).encode())


def _import(workspace: Workspace, stack: str, deployment: bytes) -> None:
    """Through a pipe, since a key in plain text is in it: a file would outlive a crash."""
    pipe = Path(workspace.work_dir) / "deployment"
    os.mkfifo(pipe, 0o600)

    def write() -> None:
        with suppress(BrokenPipeError):
            pipe.write_bytes(deployment)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        _run(workspace, "stack", "import", "--file", str(pipe), "--stack", stack)
    finally:
        # Nobody may have opened it, and then the writer would wait for ever.
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
        writer.join(_JOIN_S)
        pipe.unlink()


def _providers(exported: Mapping[str, Any]) -> list[dict[str, Any]]:
    resources = (exported.get("deployment") or {}).get("resources") or ()
    return [it for it in resources if it["type"] == PROVIDER_TYPE]


def _run(workspace: Workspace, *arguments: str) -> str:
    return workspace.pulumi_command.run(list(arguments), workspace.work_dir, workspace.env_vars).stdout

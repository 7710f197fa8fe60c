"""The simulator's memory between two starts: the account in one JSON file, and its keys in another, both mode 0600."""

import dataclasses
import json
import os
import secrets
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from infra.simulator.state import Account, Pod, Volume
from infra.simulator.templates import Template
from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD

# No look-alikes, no capitals: as RunPod's ids.
_ID_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"
_PODS = TypeAdapter(dict[str, Pod])
_VOLUMES = TypeAdapter(dict[str, Volume])
_TEMPLATES = TypeAdapter(dict[str, Template])


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """`api_key` is the account's, `others` those at other clouds, by name; `hf_token` writes to the simulated Hub; the
    S3 pair opens volumes, nothing else."""

    api_key: str
    hf_token: str
    s3_access_key: str
    s3_secret_key: str
    others: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)


def save(account: Account, directory: Path) -> None:
    """Atomic: a crash at any moment leaves the old file or the new one."""
    write_json(
        directory / "account.json",
        {
            "pods": _PODS.dump_python(account.pods, mode="json"),
            "volumes": _VOLUMES.dump_python(account.volumes, mode="json"),
            "ssh_keys": account.ssh_keys,
            "templates": _TEMPLATES.dump_python(account.templates, mode="json"),
        },
    )


def load(account: Account, directory: Path) -> None:
    """Fill an empty account from what `save` wrote; nothing was written yet: it stays empty."""
    path = directory / "account.json"
    if path.exists():
        document = json.loads(path.read_text())
        account.pods.update(_PODS.validate_python(document["pods"]))
        account.volumes.update(_VOLUMES.validate_python(document["volumes"]))
        account.ssh_keys.extend(document["ssh_keys"])
        account.templates.update(_TEMPLATES.validate_python(document.get("templates", {})))


def keys(directory: Path, api_key: str | None = None, hf_token: str | None = None) -> Keys:
    """The keys of this state folder: those given, else the stored ones, else new random ones, which are then stored."""
    path = directory / "keys.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    found = Keys(
        api_key=api_key or stored.get("api_key") or f"rpa_simulator{secrets.token_hex(16)}",
        hf_token=hf_token or stored.get("hf_token") or f"hf_simulator{secrets.token_hex(16)}",
        s3_access_key=stored.get("s3_access_key") or f"user_simulator{secrets.token_hex(8)}",
        s3_secret_key=stored.get("s3_secret_key") or f"rps_simulator{secrets.token_hex(16)}",
        others={name: secrets.token_hex(32) for name in CLOUDS if name != DEFAULT_CLOUD} | stored.get("others", {}),
    )
    if dataclasses.asdict(found) != stored:
        write_json(path, dataclasses.asdict(found))
    return found


def env(url: str, keys: Keys) -> dict[str, str]:
    """What a client needs in its environment to talk to the simulator instead of the real cloud and Hub."""
    return {
        "RUNPOD_API_BASE_URL": url,
        "RUNPOD_API_KEY": keys.api_key,
        "HF_ENDPOINT": url,
        "HF_TOKEN": keys.hf_token,
        "HF_HUB_DISABLE_XET": "1",
        "RUNPOD_S3_URL": f"{url}/s3/{{data_center}}",
        "RUNPOD_S3_ACCESS_KEY": keys.s3_access_key,
        "RUNPOD_S3_SECRET_KEY": keys.s3_secret_key,
    }


def new_id() -> str:
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(14))


def write_json(path: Path, document: Any) -> None:
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

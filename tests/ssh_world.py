"""Whole runs a person logs in to: a key of ours in the simulated account, the real OpenSSH clients."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from whole import World, make_world

from infra.simulator.server import RunningSimulator

CLIENTS = ("ssh", "scp", "ssh-keygen", "ssh-keyscan")
MISSING = [name for name in CLIENTS if shutil.which(name) is None]
needs_clients = pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def guest(cloud: RunningSimulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world whose key is in the account, and in it one run, `job`, that trains until it is told to end."""
    if MISSING:
        pytest.skip(f"not installed here: {', '.join(MISSING)}")
    world = make_world(tmp_path_factory.mktemp("guest"), steps=10_000, step_s=0.1, simulator=cloud)
    register(world, make_key(world))
    world.write_job()
    world.push()
    world.until(has_door)
    yield world


def make_key(world: World, name: str = "id_ed25519") -> str:
    """A key pair in the world's home; returns the public one."""
    path = Path(world.env["HOME"]) / ".ssh" / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@here", "-f", str(path)]
    subprocess.run(command, check=True, timeout=150)
    return path.with_name(f"{name}.pub").read_text().strip()


def register(world: World, *keys: str) -> None:
    world.simulator.request("PUT", "/v2/account/ssh-keys", json={"keys": list(keys)}).raise_for_status()


def has_door(record: object) -> bool:
    """The newest attempt has said how it is reached."""
    hello = [event for event in record.events if event.state == "booting"]  # type: ignore[attr-defined]
    made = [event for event in record.events if event.state == "provisioned"]  # type: ignore[attr-defined]
    return bool(hello and made and hello[-1].attempt == made[-1].attempt and hello[-1].data.get("ssh"))

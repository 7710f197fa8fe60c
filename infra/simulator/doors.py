"""The loopback ports that the simulator listens on, the same ones each time where that is possible."""

import errno
import json
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pushtrain.errors import CloudError

HOST = "127.0.0.1"


def listening(port: int, asked: int) -> socket.socket:
    """A listening socket. The port of last time is kept when it is free, because old pods know it."""
    # With the protocol named asyncio turns Nagle's algorithm off, which costs 40 ms a request otherwise.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE and not asked:
            return listening(0, 0)
        raise CloudError(
            f"port {port} on {HOST} cannot be used: {error.strerror}", hint="choose another one with --port"
        ) from error
    return listener


def open_doors(state_dir: Path, names: Iterable[str]) -> dict[str, socket.socket]:
    """A port for each, the one of last time where it is free; clients may knock before anybody serves."""
    before = announced(state_dir).get("urls", {})
    doors = {name: listening(urlsplit(before.get(name, "")).port or 0, 0) for name in names}
    for door in doors.values():
        door.listen()
        door.setblocking(False)
    return doors


def url_of(door: socket.socket) -> str:
    return f"http://{HOST}:{door.getsockname()[1]}"


def announced(state_dir: Path) -> dict[str, Any]:
    """What the last simulator of this state folder said of itself."""
    try:
        return dict(json.loads((state_dir / "server.json").read_text()))
    except FileNotFoundError:
        return {}

"""The half of RunPod's `runpodctl` that carries files, between two processes of this machine.

`python runpodctl.py MEETING send [--code CODE] [--] FILE` | `… MEETING receive CODE`. What it prints, where, and how it
ends is what the real one was seen to do (2.7, over a relay on loopback): the code alone on standard output, progress on
standard error; `send` ends with 0 whatever happened; one receive for a code. Single files only, and instead of a relay
the folder MEETING, in which a port of loopback stands under the digest of its code. A file `bytes_per_s` in it slows
every send down, one `late_s` lets it come late to the meeting, as the real one may after it has told its code.
Standard library only, as it runs apart from the pod's own Python.
"""

import hashlib
import hmac
import json
import secrets
import socket
import sys
import time
from pathlib import Path

_WORDS = (
    "galileo",
    "collect",
    "fidel",
    "miguel",
    "piano",
    "journal",
    "salad",
    "north",
    "texas",
    "import",
    "visa",
    "echo",
)
_RELAY, _CHUNK, _WAITS_S = 0, 65536, 900.0


def main(arguments: list[str]) -> int:
    meeting, verb, *rest = arguments
    code = rest[rest.index("--code") + 1] if "--code" in rest else ""
    names = [it for it in rest if it not in ("--", "--code", code)]
    if verb == "send" and names:
        return send(Path(meeting), Path(names[0]), code or _new_code())
    if verb == "receive" and len(names) == 1:
        return receive(Path(meeting), names[0])
    _tell("runpodctl: this stand-in knows `send FILE` and `receive CODE`\n")
    return 1


def send(meeting: Path, path: Path, phrase: str) -> int:
    if not path.exists():
        _tell(f'runpod-send: file or folder "{path.absolute()}" does not exist\n')
        return 1
    if not path.is_file():
        _tell("runpod-send: this stand-in sends single files\n")
        return 1
    code = f"{phrase}-{_RELAY}"
    print(code, flush=True)
    size = path.stat().st_size
    _tell(f"\r{' ' * 33}\rsending '{path.name}' ({_human(size)})\n")
    _tell(f"code is: {code}\non the other computer run\n\nrunpodctl receive {code}\n\n")
    late = meeting / "late_s"
    time.sleep(float(late.read_text()) if late.exists() else 0.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(_WAITS_S)
        place = _place(meeting, code)
        place.write_text(str(server.getsockname()[1]))
        try:
            with server.accept()[0] as peer:
                place.unlink()
                _give(peer, path, code, meeting)
        except OSError as error:
            print(error)
        finally:
            place.unlink(missing_ok=True)
    return 0


def receive(meeting: Path, code: str) -> int:
    parts = code.split("-")
    if len(parts) < 2:
        _tell(f'runpod-receive: malformed code "{code}": expected at least 2 parts separated by dashes, but got 1. ')
        _tell("please retry 'runpodctl send' to generate a valid code.\n")
        return 1
    _tell("connecting...\rsecuring channel...")
    try:
        port = int(_place(meeting, code).read_text())
        with socket.create_connection(("127.0.0.1", port), timeout=_WAITS_S) as peer:
            return _take(peer, code)
    except (OSError, ValueError):
        _tell("runpod-receive: croc: receive: room not ready\n")
        return 1


def _give(peer: socket.socket, path: Path, code: str, meeting: Path) -> None:
    pace = meeting / "bytes_per_s"
    bytes_per_s = float(pace.read_text()) if pace.exists() else 0.0
    with peer.makefile("rwb") as wire, path.open("rb") as file:
        if not hmac.compare_digest(wire.readline().strip(), _digest(code).encode()):
            raise OSError("could not secure channel")
        size = path.stat().st_size
        wire.write(json.dumps({"name": path.name, "size": size}).encode() + b"\n")
        wire.flush()
        sent = int(wire.readline())
        _tell(f"sending (->127.0.0.1:{peer.getpeername()[1]})\n")
        file.seek(sent)
        while chunk := file.read(_CHUNK):
            wire.write(chunk)
            wire.flush()
            sent += len(chunk)
            _tell(f"\r{path.name} {100 * sent // max(size, 1):3d}% ({_human(sent)}/{_human(size)})")
            if bytes_per_s:
                time.sleep(len(chunk) / bytes_per_s)
        wire.readline()
    _tell("\n")


def _take(peer: socket.socket, code: str) -> int:
    with peer.makefile("rwb") as wire:
        wire.write(_digest(code).encode() + b"\n")
        wire.flush()
        told = json.loads(wire.readline())
        path, size = Path(Path(str(told["name"])).name), int(told["size"])
        _tell(f"\rreceiving '{path.name}' ({_human(size)}) \n\nreceiving (<-127.0.0.1:{peer.getpeername()[1]})\n")
        there = path.stat().st_size if path.exists() and path.stat().st_size <= size else 0
        wire.write(f"{there}\n".encode())
        wire.flush()
        with path.open("ab" if there else "wb") as file:
            while there < size:
                chunk = wire.read1(min(_CHUNK, size - there))
                if not chunk:
                    _tell("\nrunpod-receive: croc: receive: EOF\n")
                    return 1
                file.write(chunk)
                file.flush()
                there += len(chunk)
                _tell(f"\r{path.name} {100 * there // max(size, 1):3d}% ({_human(there)}/{_human(size)})")
        wire.write(b"got it\n")
        wire.flush()
    _tell("\n")
    return 0


def _place(meeting: Path, code: str) -> Path:
    return meeting / _digest(code)


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


def _new_code() -> str:
    return "-".join([f"{secrets.randbelow(10_000):04d}", *(secrets.choice(_WORDS) for _ in range(3))])


def _human(size: int) -> str:
    return f"{size} B" if size < 1000 else f"{size / 1000:.1f} kB" if size < 10**6 else f"{size / 10**6:.1f} MB"


def _tell(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

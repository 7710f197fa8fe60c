"""Which files of a run are kept: what the spec's patterns match, of a bounded size, without a secret, each hashed."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pushtrain.redact import secret_values

# The Hub takes more; a pattern that matches more than this was not meant to.
MOST_FILES = 1000
_PIECE_BYTES = 1024 * 1024


@dataclass(kw_only=True, slots=True)
class Artifacts:
    """`files`: SHA-256 by path from the run's folder. `left_out`: why, by path. `unmatched`: patterns without one."""

    files: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)

    @property
    def complaints(self) -> list[str]:
        """What of the spec's wish was not fulfilled, a sentence each."""
        return [
            *(f"'{pattern}' matches no file" for pattern in self.unmatched),
            *(f"'{name}' was left out: {why}" for name, why in self.left_out.items()),
        ]


def collect(folder: Path, patterns: Sequence[str], max_bytes: float, environ: Mapping[str, str]) -> Artifacts:
    """Hash what `patterns` match below `folder`, pattern by pattern, each in the order of names.

    Left out is what leads out of `folder` by a link, what is beyond the limits, and what holds the value of a secret
    of `environ`. Raises OSError where a file cannot be read.
    """
    kept, bytes_left = Artifacts(), max_bytes
    secrets = [value.encode() for value in secret_values(environ)]
    for pattern in patterns:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if not found:
            kept.unmatched.append(pattern)
        for path in found:
            name = path.relative_to(folder).as_posix()
            if name in kept.files or name in kept.left_out:
                continue
            size = path.stat().st_size
            why = _refusal(path, folder, len(kept.files), bytes_left - size)
            sha256, holds_secret = ("", False) if why else _read(path, secrets)
            if why or holds_secret:
                kept.left_out[name] = why or "it holds the value of a secret"
            else:
                kept.files[name] = sha256
                bytes_left -= size
    return kept


def _refusal(path: Path, folder: Path, files: int, bytes_left: float) -> str:
    if not path.resolve().is_relative_to(folder.resolve()):
        return "a link leads out of the run's folder"
    if ".git" in path.relative_to(folder).parts:
        return "the Hub takes nothing that is called .git"
    if files >= MOST_FILES:
        return f"more than {MOST_FILES} files"
    return "with it the files have more than command.artifacts_max_gb" if bytes_left < 0 else ""


def _read(path: Path, secrets: Sequence[bytes]) -> tuple[str, bool]:
    """SHA-256, and whether one of `secrets` is in the file, also across two pieces of it."""
    digest, before = hashlib.sha256(), b""
    longest = max((len(secret) for secret in secrets), default=1)
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            window = before + piece
            if any(secret in window for secret in secrets):
                return "", True
            before = window[-longest:]
    return digest.hexdigest(), False

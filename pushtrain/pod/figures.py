"""What a pod tells of its disk, whatever runs on it: the cloud does not. Standard library only."""

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# A start that is over within a minute has nothing to tell; after that every five minutes will do.
FIRST_S, EVERY_S = 60.0, 300.0
# RunPod's largest volume has 4,096 GB. A network file system may tell of its whole cluster: no disk is that large.
_LARGEST_BYTES = 8e12


class Disk:
    """Called at each push; a row of metrics when one is due. `folders`: names of figures by path, `disk` becoming
    `disk_gb` and `disk_total_gb` (10^9 bytes)."""

    def __init__(
        self, folders: Mapping[str, Path], *, clock: Callable[[], float] = time.time, first_s: float = FIRST_S
    ) -> None:
        self._folders, self._clock = folders, clock
        self._due_s = clock() + first_s

    def __call__(self) -> dict[str, Any] | None:
        now_s = self._clock()
        if now_s < self._due_s:
            return None
        self._due_s = now_s + EVERY_S
        row = disk_figures(self._folders)
        return {"time": now_s, **row} if row else None


def disk_figures(folders: Mapping[str, Path]) -> dict[str, float]:
    """Of each folder's file system; one that cannot be asked, or tells of a whole cluster, is left out."""
    found: dict[str, float] = {}
    for name, folder in folders.items():
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            continue
        if usage.total <= _LARGEST_BYTES:
            found |= {f"{name}_gb": round(usage.used / 1e9, 2), f"{name}_total_gb": round(usage.total / 1e9, 2)}
    return found


def places(workspace: Path) -> dict[str, Path]:
    """The container's own disk, and the volume."""
    return {"disk": Path("/"), "volume": workspace}

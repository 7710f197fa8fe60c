"""What a sandbox is asked to be, and what its tags say of it afterwards. Pure.

Modal's handles of a sandbox have an id, an end and tags, nothing more: what a pod is, is written into its tags when it
is made. A value there has letters, digits, dots, hyphens and underscores, 63 at most (the SDK's rule for apps).
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from infra.clouds.modal.names import CORES, MEMORY_GIB, Gpu, find, sold_as
from pushtrain.capabilities import MODAL_LONGEST_S
from pushtrain.cloud import Pod, PodRequest
from pushtrain.errors import UNKNOWN_TEMPLATE, RequestRejected

ANYWHERE = "anywhere"
"""Modal places a sandbox where it likes, and a volume is reached from everywhere: its one 'data center'."""
DEADLINE = "PUSHTRAIN_DEADLINE_EPOCH_S"
LONGEST_S = int(MODAL_LONGEST_S)
"""The longest life of a sandbox."""
# Past the run's deadline: the watchdog ends the pod there and has this long to save and to say why.
GRACE_S = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """A sandbox in the words of `modal.Sandbox.create`, without what has to be made first: image, volume, secrets."""

    args: tuple[str, ...]
    options: dict[str, Any]


def check(request: PodRequest, doing: str) -> Gpu:
    """The GPU that is meant. Raises RequestRejected for what Modal does not have."""
    if request.template is not None or request.image is None:
        raise RequestRejected(
            f"{doing}: template {request.template}: Modal has none",
            hint="write image and env into the spec",
            reason=UNKNOWN_TEMPLATE,
        )
    if request.ports or request.ssh:
        raise RequestRejected(
            f"{doing}: no port of a sandbox is opened, and no ssh key of an account reaches it",
            hint="leave ports and ssh out; `modal shell SANDBOX_ID` opens a shell",
        )
    if request.tier != "SECURE":
        raise RequestRejected(f"{doing}: Modal rents out nothing in tier {request.tier}", hint="tiers: [SECURE]")
    gpu = find(request.gpu)
    if gpu is None or request.gpu_count > gpu.most:
        raise RequestRejected(
            f"{doing}: Modal has no container with {request.gpu_count} x {request.gpu}", hint="see docs/clouds.md"
        )
    return gpu


def words(request: PodRequest, gpu: Gpu, tags: Mapping[str, str], now_s: float) -> Words:
    """What is asked for is also the limit, or a sandbox could cost more an hour than was planned."""
    cores, memory_mib = float(CORES * request.gpu_count), MEMORY_GIB * 1024 * request.gpu_count
    options = {
        "name": request.name,
        "tags": dict(tags),
        "gpu": f"{gpu.asked}:{request.gpu_count}",
        "cpu": (cores, cores),
        "memory": (memory_mib, memory_mib),
        "timeout": lifetime_s(request, now_s),
        "env": dict(request.env),
    }
    return Words(args=tuple(shlex.split(request.args)), options=options)


def lifetime_s(request: PodRequest, now_s: float) -> int:
    """Seconds after which Modal itself ends the sandbox, whatever lives or does not live in it: the run's deadline and
    a grace, a day at most."""
    deadline = request.env.get(DEADLINE)
    if deadline is None:
        return LONGEST_S
    return max(1, min(LONGEST_S, math.ceil(float(deadline) - now_s) + GRACE_S))


def tags(request: PodRequest, gpu: Gpu, usd_per_hour: float, now_s: float) -> dict[str, str]:
    found = {
        "pushtrain": request.name,
        "gpu": gpu.word,
        "gpus": str(request.gpu_count),
        "usd_per_hour": f"{usd_per_hour:.6f}",
        "created": f"{now_s:.6f}",
        "placed": ANYWHERE if request.data_center else "",
        "volume": request.volume_id or "",
    }
    return {name: value for name, value in found.items() if value}


def pod(sandbox_id: str, tagged: Mapping[str, str], now_s: float) -> Pod:
    """A sandbox that lives. One without our tags is somebody else's: it has no name of ours."""
    created_s = float(tagged.get("created", now_s))
    return Pod(
        id=sandbox_id,
        name=tagged.get("pushtrain", ""),
        status="RUNNING",
        gpu=sold_as(tagged.get("gpu", "")),
        gpu_count=int(tagged.get("gpus", 0)),
        usd_per_hour=float(tagged.get("usd_per_hour", 0.0)),
        data_center=tagged.get("placed"),
        # A create comes back once a container has its machine.
        uptime_s=max(0, int(now_s - created_s)),
        created_at=rfc3339(created_s),
        volume_id=tagged.get("volume"),
    )


def rfc3339(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

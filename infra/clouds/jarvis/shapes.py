"""JarvisLabs' JSON and pushtrain's words for it, both ways. Pure.

Reading raises KeyError, TypeError, ValueError or AttributeError for a shape nobody knows. Rows of instances name some
fields in two ways, depending on the endpoint (jarvislabs 0.2.19).
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from infra.clouds.jarvis.names import FILE_SYSTEM_CHARS, HOSTS, INSTANCE_CHARS, MOST_GPUS, short, sold_as, whole
from pushtrain.cloud import Offer, Pod, PodRequest, SshAddress, Stock, Volume
from pushtrain.errors import RequestRejected

# What a file system is mounted at; without one what is below /home stays for as long as the instance does.
FILE_SYSTEM_PATH, OWN_PATH = "/home/jl_fs", "/home/pushtrain"
LOG = "${HOME:-/root}/pushtrain.log"
LEAST_FILE_SYSTEM_GB = 50
_STOCK: tuple[tuple[int, Stock], ...] = ((8, "HIGH"), (3, "MEDIUM"), (1, "LOW"))
_STATUS = {"running": "RUNNING", "paused": "EXITED", "failed": "ERROR", "destroying": "TERMINATED"}
_SSH = re.compile(r"ssh\s.*?(?:-p\s*(?P<port>\d+)\s.*?)?(?P<user>[\w.-]+)@(?P<host>[\w.-]+)(?:.*?-p\s*(?P<late>\d+))?")


def machine_number(pod_id: str) -> int | None:
    """None for an id that no pod of this cloud has."""
    found = re.fullmatch(r"jl-([0-9]{1,18})", pod_id)
    return int(found[1]) if found else None


def volume_id(fs_name: str, twin: int | None = None) -> str:
    """By name, since a file system that grows may get another number. Of several with one name the lowest number is
    meant; another one, a `twin`, has its number in its id."""
    return f"jlfs-{fs_name}" + ("" if twin is None else f"~{twin}")


def rows_for(rows: Sequence[Any], gpu: str, regions: Sequence[str]) -> list[Any]:
    """What containers can be made of, in the order of `regions`."""
    found = [it for it in rows if it["region"] in regions and _gpu(it) == gpu and _is_for_containers(it)]
    return sorted(found, key=lambda it: regions.index(it["region"]))


def price_usd(row: Any) -> float | None:
    return None if row.get("price_per_hour") in (None, "") else float(row["price_per_hour"])


def free(row: Any) -> int:
    """GPUs that an on-demand instance can get, those of spot instances included."""
    for name in ("effective_num_free_devices", "num_free_devices"):
        if str(row.get(name) if row.get(name) is not None else "").strip():
            return int(row[name])
    return 0


def spot_usd(row: Any) -> float | None:
    """What a spot instance's GPU costs an hour; None where JarvisLabs has none of that type there."""
    return None if row.get("spot_price") in (None, "") else float(row["spot_price"])


def spot_free(row: Any) -> int:
    """GPUs that a spot instance can get: those that nobody holds."""
    return int(row.get("spot_num_free_devices") or 0)


def has_room(row: Any, request: PodRequest) -> bool:
    is_spot = request.bid_usd_per_hour is not None
    there = min(spot_free(row) if is_spot else free(row), most(row))
    return there >= request.gpu_count and (not is_spot or spot_usd(row) is not None)


def usd_per_hour(row: Any, request: PodRequest) -> float:
    """Of all the GPUs that are asked for; 0 where nobody says."""
    each = price_usd(row) if request.bid_usd_per_hour is None else spot_usd(row)
    return (each or 0.0) * request.gpu_count


def most(row: Any) -> int:
    """GPUs that one instance can have."""
    return min(int(row.get("num_gpus") or 1), MOST_GPUS.get(row["region"], 8))


def offers(rows: Sequence[Any], gpu_count: int) -> list[Offer]:
    """One for each GPU type and region whose host is known."""
    found = []
    for row in rows:
        sold, usd = sold_as(str(row["gpu_type"]), _memory_gb(row)), price_usd(row)
        if sold is None or usd is None or row["region"] not in HOSTS or not _is_for_containers(row):
            continue
        there = free(row) if most(row) >= gpu_count else 0
        found.append(
            Offer(
                gpu=sold[0],
                gpu_memory_gb=sold[1],
                data_center=str(row["region"]),
                tier="SECURE",
                usd_per_gpu_hour=usd,
                stock=next((stock for least, stock in _STOCK if there >= least * gpu_count), "NONE"),
                volume_kinds=("STANDARD",),
                max_count=most(row),
                min_bid_usd_per_gpu_hour=spot_usd(row) if spot_free(row) >= gpu_count else None,
            )
        )
    return found


def create_body(request: PodRequest, row: Any, *, script_id: int, fs_id: int | None) -> dict[str, Any]:
    """`row` is what it is made of. Nothing here is secret: variables travel in the start script."""
    return {
        "gpu_type": row["gpu_type"],
        "num_gpus": request.gpu_count,
        "hdd": request.disk_gb + (request.persistent_gb or 0),
        "region": row["region"],
        "name": short(request.name, INSTANCE_CHARS),
        "is_spot": request.bid_usd_per_hour is not None,
        "duration": "hour",
        "disk_type": "ssd",
        "http_ports": ",".join(port.partition("/")[0] for port in request.ports),
        "script_id": str(script_id),
        "script_args": "",
        "fs_id": fs_id,
        "arguments": "",
    }


def start_script(request: PodRequest, secrets: Mapping[str, str], launch: str) -> bytes:
    """Runs at every start of the container, and returns: whether an instance waits for its script nobody says.

    `secrets` are the values of `request.secret_env` that are set. `launch` tells this instance from a twin.
    """
    env = {**request.env, **secrets, "PUSHTRAIN_POD_NAME": request.name, "PUSHTRAIN_LAUNCH": launch}
    if wrong := [name for name in env if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)]:
        raise RequestRejected(f"{wrong[0]!r} is no name of a variable", hint="letters, digits and underscores")
    folder = FILE_SYSTEM_PATH if request.volume_id is not None else OWN_PATH
    lines = [
        "#!/bin/bash",
        "# Made by pushtrain for one instance, and removed with it.",
        *(f"export {name}={shlex.quote(value)}" for name, value in sorted(env.items())),
        f"export PUSHTRAIN_WORKSPACE=${{PUSHTRAIN_WORKSPACE:-{folder}}}",
        'mkdir -p "$PUSHTRAIN_WORKSPACE"',
        f'setsid nohup {request.args} > "{LOG}" 2>&1 < /dev/null &',
    ]
    return ("\n".join(lines) + "\n").encode()


def instance_name(raw: Any) -> str:
    """As JarvisLabs shows it."""
    return str(_either(raw, "instance_name", "name") or "")


def destroy_path(raw: Any) -> str:
    """Containers, VMs with a GPU and VMs without one have endpoints of their own."""
    if _either(raw, "template", "framework") != "vm":
        return "/misc/destroy"
    return f"/templates/vm{'/cpu' if raw.get('gpu_type') == 'CPU' else ''}/destroy"


def is_spot(raw: Any) -> bool:
    """An answer that does not say is about one on demand: its GPUs are then billed at the dearer price."""
    return raw.get("is_spot") is True


def is_going(raw: Any) -> bool:
    return _status(raw) == "TERMINATED"


def file_system_name(raw: Any) -> str:
    return str(raw.get("fs_name") or "")


def pod(raw: Any, *, known: Sequence[str], usd_per_gpu_hour: float, fs_name: str | None) -> Pod:
    """`known`: whole names, of which a long one is shown shortened; `fs_name`: of the file system that it mounts.

    The API says neither when an instance was made nor, in a form that is documented, for how long it runs.
    """
    sold, count = sold_as(str(raw.get("gpu_type") or ""), 0), int(raw.get("num_gpus") or 1)
    status = _status(raw)
    ports = [port.strip() for port in str(raw.get("http_ports") or "").split(",")]
    return Pod(
        id=f"jl-{int(raw['machine_id'])}",
        name=whole(instance_name(raw), INSTANCE_CHARS, known),
        status=status,
        gpu=sold[0] if sold else str(raw.get("gpu_type") or ""),
        gpu_count=count,
        usd_per_hour=usd_per_gpu_hour * count,
        data_center=str(raw["region"]) if raw.get("region") else None,
        uptime_s=0 if status == "RUNNING" else None,
        created_at=None,
        ports=tuple(f"{port}/http" for port in ports if port),
        volume_id=None if fs_name is None else volume_id(fs_name),
        is_spot=is_spot(raw),
        ssh_direct=_ssh(str(_either(raw, "ssh_str", "ssh_command") or "")) if status == "RUNNING" else None,
    )


def volume(raw: Any, known: Sequence[str], *, is_twin: bool = False) -> Volume:
    shown = file_system_name(raw)
    return Volume(
        id=volume_id(shown, int(raw["fs_id"]) if is_twin else None),
        name=whole(shown, FILE_SYSTEM_CHARS, known),
        size_gb=int(raw.get("storage") or 0),
        data_center=str(raw.get("region") or ""),
        kind="STANDARD",
    )


def _status(raw: Any) -> str:
    """As `pushtrain.cloud.ENDED` has it: a paused instance never goes on by itself, and is billed for its disk."""
    return _STATUS.get(str(raw["status"]).lower(), "STARTING")


def _gpu(row: Any) -> str:
    return (sold_as(str(row["gpu_type"]), _memory_gb(row)) or ("", 0))[0]


def _memory_gb(row: Any) -> float:
    """0 where it is not told; with or without its unit."""
    found = re.match(r"\s*(\d+(\.\d+)?)", str(row.get("vram") or ""))
    return float(found[1]) if found else 0.0


def _is_for_containers(row: Any) -> bool:
    return row.get("workload_type") in ("container", None)


def _either(raw: Any, *names: str) -> Any:
    return next((raw[name] for name in names if raw.get(name) not in (None, "")), None)


def _ssh(command: str) -> SshAddress | None:
    found = _SSH.match(command.strip())
    if found is None:
        return None
    return SshAddress(host=found["host"], port=int(found["port"] or found["late"] or 22), user=found["user"])

"""The environment of a pod: what RunPod sets, what the request sets, and nothing of the simulator's own environment."""

import hashlib
import hmac
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.simulator.ssh_ports import programs
from infra.simulator.state import Pod

# RunPod's machines give a pod a share of the host's cores by GPU; this is a usual one.
CPUS_PER_GPU = 8
# Pods share this machine with each other and with the simulator. Threads that outnumber free cores spin at every
# barrier: on two busy cores one step of a small model took 0.06 s with one thread and 0.6 to 1.1 s with two.
SHARE_OF_CORES = str(max(1, (os.cpu_count() or 1) // 2))
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True, slots=True)
class PodPlaces:
    """Where the simulator put things: the pod's folder, what stands for /workspace, and its own URL.

    Without a volume the workspace is a folder of the container disk, never the machine's own /workspace. `ssh_port` is
    what stands for port 22, None where it is not reached from outside.
    """

    pod_dir: Path
    workspace: Path
    base_url: str
    ssh_port: int | None = None


def pod_key(api_key: str, pod_id: str) -> str:
    """The pod-scoped key. Derived, so that it is stored nowhere and survives a restart of the simulator."""
    return "rpa_pod" + hmac.new(api_key.encode(), pod_id.encode(), hashlib.sha256).hexdigest()[:40]


def tmux_dir(pod_id: str) -> Path:
    """What stands for the /tmp where tmux keeps its socket: pods share this machine's; a socket's path is short."""
    return Path(f"/tmp/pt-{pod_id}")


def hostname(pod_id: str) -> str:
    return f"{pod_id}-{hashlib.sha256(pod_id.encode()).hexdigest()[:8]}"


def container_environment(
    places: PodPlaces, ordered: Mapping[str, str], own: Mapping[str, str], *, lend_python: bool
) -> dict[str, str]:
    """Everything a container process gets, at whichever cloud: `ordered` by the client, `own` of the cloud, and of this
    machine. `lend_python`: the trainer runs on this interpreter."""
    env = {
        "PATH": f"{programs(places.pod_dir)}:{os.environ.get('PATH', DEFAULT_PATH)}",
        "LANG": "C.UTF-8",
        "HOME": str(places.pod_dir / "home"),
        "TMPDIR": str(places.pod_dir / "tmp"),
        "HF_ENDPOINT": places.base_url,
        "OMP_NUM_THREADS": SHARE_OF_CORES,
        **ordered,
        **own,
        "PUSHTRAIN_WORKSPACE": str(places.workspace),
    }
    return env | ({"PUSHTRAIN_TRAINER_PYTHON": sys.executable} if lend_python else {})


def pod_environment(pod: Pod, places: PodPlaces, key: str, lend_python: bool = True) -> dict[str, str]:
    """RunPod's."""
    env = {
        "RUNPOD_POD_ID": pod.id,
        "RUNPOD_API_KEY": key,
        "RUNPOD_POD_HOSTNAME": hostname(pod.id),
        "RUNPOD_GPU_COUNT": str(pod.gpu_count),
        "RUNPOD_CPU_COUNT": str(CPUS_PER_GPU * pod.gpu_count),
        "RUNPOD_API_BASE_URL": places.base_url,
    }
    # Pods share this machine's network: a port is reached where it is, but for 22.
    env["RUNPOD_PUBLIC_IP"] = "127.0.0.1"
    for port in pod.ports:
        number, _, kind = port.partition("/")
        if port == "22/tcp":
            env |= {} if places.ssh_port is None else {"RUNPOD_TCP_PORT_22": str(places.ssh_port)}
        elif kind == "tcp":
            env[f"RUNPOD_TCP_PORT_{number}"] = number
    if pod.data_center is not None:
        env["RUNPOD_DC_ID"] = pod.data_center
    if pod.volume_id is not None:
        env["RUNPOD_VOLUME_ID"] = pod.volume_id
    tmux = {"TMUX_TMPDIR": str(tmux_dir(pod.id))}
    return container_environment(places, tmux | pod.env, env, lend_python=lend_python)

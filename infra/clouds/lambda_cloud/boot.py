"""What a machine of Lambda Cloud does at every boot, as cloud-init user data. Pure.

Lambda rents machines, and a pod is a container: the script runs the pod's image in the machine's docker, with the pod's
start command, ports and /workspace. When the container ends, when the pod asks for it by the file END_FILE, or some
minutes after the deadline, it powers the machine off. That does not end the bill: terminating does, which the machine
has no key for.
"""

import base64
import json
import re
import shlex
from collections.abc import Mapping, Sequence

from pushtrain.cloud import PodRequest
from pushtrain.pod.place import END_FILE, LAMBDA

# cloud-init runs what is here at each boot, after networks and mounts; user data itself runs at the first boot alone.
PER_BOOT = "/var/lib/cloud/scripts/per-boot/pushtrain"
# Lambda's limit is 1 MB.
MOST_BYTES = 1_000_000
DEADLINE = "PUSHTRAIN_DEADLINE_EPOCH_S"
# Lambda's image has docker, and what gives it GPUs has to be installed (dstack's client of Lambda). With systemd's
# groups a container loses its GPUs when anything reloads systemd (NVIDIA/nvidia-container-toolkit#48).
DOCKER_FILE, _DOCKER = "/etc/docker/daemon.json", {"exec-opts": ["native.cgroupdriver=cgroupfs"]}
# The pod ends itself at its deadline; this is for one whose python, bash or volume hangs.
_AFTER_DEADLINE_S = 300
_PAUSE_S, _PATIENCE = 2, 300

# As a unit of its own: cloud-init waits for its scripts, and may be what says that the machine is up.
_HEAD = """#!/bin/bash
[ "${1:-}" = pod ] || exec systemd-run --quiet --collect --unit=pushtrain "$0" pod
off() { echo "pushtrain: powering off: $1"; while :; do poweroff || poweroff -f; sleep 10; done; }
patient() {
  n=0
  until "$@" > /dev/null 2>&1; do [ $((n += 1)) -le %(patience)d ] || off "no $1"; sleep %(pause)d; done
}
e=$(mktemp -d)
"""
_TAIL = """
export DEBIAN_FRONTEND=noninteractive
command -v nvidia-ctk > /dev/null || {
  patient apt-get update; patient apt-get install -y --no-install-recommends nvidia-container-toolkit
}
patient nvidia-ctk runtime configure --runtime=docker
patient systemctl restart docker
patient docker info
patient docker pull %(image)s
docker rm -f pushtrain > /dev/null 2>&1
docker run --rm --name pushtrain --gpus all --ipc host --ulimit memlock=-1 --ulimit stack=67108864 \\
  -v %(mount)s:%(mount)s -v "$e:$e" %(options)s \\
  %(image)s %(args)s &
d=$!
while kill -0 $d 2> /dev/null && [ ! -e "$e/end" ]%(in_time)s; do sleep %(pause)d; done
off "the pod ended"
"""


def user_data(request: PodRequest, secrets: Mapping[str, str], public_keys: Sequence[str], launch: str) -> str:
    """`secrets` are the values of `request.secret_env` that are set; they are in the text, which only root of that
    machine can read. `launch` is this launch's own name. The content is base64, so that no value can break the YAML."""
    content = base64.b64encode(script(request, secrets, public_keys, launch).encode()).decode()
    files = [
        {"path": DOCKER_FILE, "owner": "root:root", "permissions": "0644", "content": json.dumps(_DOCKER)},
        {"path": PER_BOOT, "owner": "root:root", "permissions": "0700", "encoding": "b64", "content": content},
    ]
    return "#cloud-config\n" + json.dumps({"write_files": files}) + "\n"


def script(request: PodRequest, secrets: Mapping[str, str], public_keys: Sequence[str], launch: str) -> str:
    """The values go to docker by the environment, never by its command line, which every user of a machine can read."""
    env = {**request.env, **secrets, LAMBDA.launch: launch}
    if request.ssh and public_keys:
        env.setdefault("PUBLIC_KEY", "\n".join(public_keys))
    ports = [port.partition("/")[0] for port in request.ports]
    env |= {f"{LAMBDA.port}{number}": number for number in ports}
    words = {
        "mount": shlex.quote(request.mount_path),
        "pause": _PAUSE_S,
        "patience": _PATIENCE,
        "options": " ".join(
            [*(f"-p {number}:{number}" for number in ports), *(f"-e {name}" for name in env_names(env))]
        ),
        "image": shlex.quote(str(request.image)),
        "args": shlex.join(shlex.split(request.args)),
        "in_time": _in_time(request),
    }
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(env.items())]
    exports.append(f'export {END_FILE}="$e/end"')
    # Port 22 of the machine is the one that Lambda's firewall lets in, so the pod's sshd takes it over from the host's.
    lines = ["systemctl stop ssh.socket; systemctl stop ssh.service"] if "22" in ports else []
    lines += [f"patient mountpoint -q {words['mount']}"] if request.volume_id is not None else []
    return _HEAD % words + "\n".join([*exports, *lines]) + _TAIL % words


def env_names(env: Mapping[str, str]) -> list[str]:
    return sorted([*env, END_FILE])


def _in_time(request: PodRequest) -> str:
    deadline = request.env.get(DEADLINE, "")
    if not re.fullmatch(r"\d{1,12}", deadline):
        return ""
    return f' && [ "$(date +%s)" -lt {int(deadline) + _AFTER_DEADLINE_S} ]'

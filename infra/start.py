"""What a pod is started with: a boot archive in its environment, and a command line that unpacks and runs it.

Nothing here is secret. The archive holds the watchdog and boot, so that both run before anything has been fetched.
"""

import ast
import base64
import gzip
import io
import re
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pushtrain
from pushtrain.pod.place import CLOUD, END_FILE, PLACES, RUNPOD, Words
from pushtrain.run import Run

# Sent as one environment variable; Linux takes 128 KiB for one.
MAX_BOOT_BYTES = 24 * 1024
PUBLIC_HUB = "https://huggingface.co"
# The pod's own pace; set in the control plane's environment it reaches the pod.
POD_PACE = ("PUSHTRAIN_SHIP_EVERY_S", "PUSHTRAIN_POD_TICK_S", "PUSHTRAIN_GRACE_S", "PUSHTRAIN_LIMIT_BOOT_S")

_POD_MODULES = (
    "__init__",
    "boot",
    "console",
    "context",
    "phase",
    "place",
    "processes",
    "terminate",
    "tool",
    "watchdog",
)
_MODULES = ("__init__", "errors", "gitcmd", "redact", *(f"pod/{name}" for name in _POD_MODULES))
_MAIN = """import os
import sys

if sys.version_info < (3, 10):
    sys.exit("the image's python3 is too old for pushtrain, which needs 3.10: " + sys.version)

from pushtrain.pod import boot, console, terminate, watchdog

verb = sys.argv[1:]
if verb == ["boot"]:
    sys.exit(boot.main())
if verb == ["terminate"]:
    target = terminate.read_target(os.environ)
    sys.exit(not terminate.terminate_once(target, lambda text: print(console.clean(text)), last_resorts=True))
watchdog.main()
"""

# One line without single quotes, so that it survives every way a cloud may split it. The key goes to curl by its
# standard input, straight to the API first and then by the proxy that the image names. A SIGTERM of the cloud is handed
# on; as PID 1 bash would ignore it. The loop at the end is reached only when there is no python3, when the watchdog,
# which never returns, was killed, or when it did not say for 200 looks (10 minutes) that it still looks.
_SCRIPT = (
    "set -f; n=0; trap n=0 USR1; f=$(mktemp); echo $PUSHTRAIN_BOOT | base64 -d | gunzip > $f; "
    'PUSHTRAIN_FIRST_PID=$$ python3 $f & w=$!; trap "kill -TERM $w" TERM; '
    "while kill -0 $w 2> /dev/null && [ $((n+=1)) -lt 200 ]; do sleep ${PUSHTRAIN_POD_TICK_S:-3} & wait $!; done; "
    "%s"
    "while :; do python3 $f terminate; %s sleep ${PUSHTRAIN_POD_TICK_S:-30}; done"
)


def _by_curl(pod_url: str, key_name: str) -> str:
    """`$u` is the pod at its cloud, `c` a request with its key: straight, then by the image's proxy."""
    return (
        f"u={pod_url}; k() {{ echo Authorization: Bearer ${key_name} |"
        " curl -sS -m 20 -A pushtrain-pod -o /dev/null -w %{http_code} -H @- -H Content-Type:application/json $@; }; "
        "c() { k --noproxy * $@ || k $@; }; "
    )


# How bash ends the pod at its cloud where there is no python: what is said first, and what is tried again and again.
_ENDS = {
    "runpod": (
        _by_curl("${RUNPOD_API_BASE_URL:-https://api.runpod.io}/v2/pods/$RUNPOD_POD_ID", "RUNPOD_API_KEY"),
        "timeout 20 runpodctl pod delete $RUNPOD_POD_ID; "
        'c -d {\\"action\\":\\"terminate\\"} $u/action; c -X DELETE $u;',
    ),
    "vast": (
        _by_curl("${VAST_URL:-https://console.vast.ai}/api/v0/instances/$CONTAINER_ID/", "CONTAINER_API_KEY"),
        "c -X DELETE $u;",
    ),
    "lambda": ("", f"touch ${END_FILE};"),
    # A sandbox ends with this very process, whatever else runs in it.
    "modal": ("exit; ", ""),
    # There is no key on the machine: what still works there is ended, and the control plane destroys it.
    "jarvislabs": (
        "set +f; ",
        "for p in /proc/[0-9]*; do p=${p#/proc/}; [ $p != $$ ] && "
        "grep -qzx PUSHTRAIN_POD_NAME=$PUSHTRAIN_POD_NAME /proc/$p/environ && kill -9 $p; done 2> /dev/null;",
    ),
}


def boot_archive() -> bytes:
    """A zip app, `python3 FILE` runs the watchdog: same bytes every time, or Pulumi would see another pod each time."""
    root = Path(pushtrain.__file__).parent
    files = {f"pushtrain/{name}.py": _bare((root / f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES}
    files["__main__.py"] = _MAIN
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            archive.writestr(info, files[name])
    return buffer.getvalue()


@cache
def boot_env() -> str:
    """Value of PUSHTRAIN_BOOT. Compressed as a whole, which takes a fifth less room than file by file."""
    text = base64.b64encode(gzip.compress(boot_archive(), mtime=0)).decode()
    assert len(text) <= MAX_BOOT_BYTES, f"the boot archive has grown to {len(text)} bytes of base64"
    return text


def _bare(source: str) -> str:
    """A module without docstrings and lines of comment, which are a third of the room. Lines keep their numbers, so
    that a traceback on the pod can be read."""
    lines = source.splitlines()
    bare = ["" if line.lstrip().startswith("#") else line for line in lines]
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) or ast.get_docstring(node) is None:
            continue
        docstring = node.body[0]
        first, last = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
        bare[first:last] = [" " * docstring.col_offset + "...", *[""] * (last - first - 1)]
    return "\n".join(bare) + "\n"


def start_args(cloud: str = "runpod") -> str:
    """The pod's `args`: `bash -c '…'`. It never returns, because RunPod restarts a container that ends, billed."""
    return f"bash -c '{_SCRIPT % _ENDS[cloud]}'"


def pod_env(
    run: Run,
    *,
    attempt: int,
    spec_path: str,
    source_url: str,
    deadline_epoch_s: float,
    stall_s: float,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """The pod's environment but for secrets: the table in docs/architecture.md. Of `environ`, the control plane's own,
    only the pod's pace is taken, and the addresses of API and Hub where they are not the public ones."""
    env = {
        "PUSHTRAIN_RUN_ID": run.id,
        "PUSHTRAIN_ATTEMPT": str(attempt),
        "PUSHTRAIN_COMMIT": run.commit,
        "PUSHTRAIN_SPEC_PATH": spec_path,
        "PUSHTRAIN_SOURCE_URL": _without_credentials(source_url),
        "PUSHTRAIN_LEDGER_URL": _without_credentials(run.ledger_url),
        "PUSHTRAIN_DEADLINE_EPOCH_S": str(int(deadline_epoch_s)),
        "PUSHTRAIN_STALL_S": str(int(stall_s)),
        "PUSHTRAIN_BOOT": boot_env(),
        "HF_HUB_DISABLE_XET": "1",
    }
    if run.replay:
        env["PUSHTRAIN_REPLAY"] = run.replay
    if (hub := environ.get("HF_ENDPOINT", "").rstrip("/")) not in ("", PUBLIC_HUB):
        env["HF_ENDPOINT"] = hub
    return env | _api_env(RUNPOD, environ) | {name: environ[name] for name in POD_PACE if environ.get(name)}


def cloud_env(cloud: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What tells a pod which cloud it is on, where that is not RunPod, and the address of its API if it is another than
    the public one."""
    said = PLACES[cloud]
    if said is RUNPOD:
        return {}
    return {CLOUD: cloud} | _api_env(said, environ)


def _api_env(said: Words, environ: Mapping[str, str]) -> dict[str, str]:
    """The address of a cloud's API without its path, as the pod wants it, where it is not the public one."""
    url = environ.get(said.base_url, "").rstrip("/").removesuffix(said.api_path).rstrip("/")
    return {} if url in ("", said.public_api) else {said.base_url: url}


def _without_credentials(url: str) -> str:
    """ssh keeps its user: it is no secret and needed."""
    return re.sub(r"^(https?://)[^/@]*@", r"\1", url)

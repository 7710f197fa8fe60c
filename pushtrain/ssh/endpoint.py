"""Where the pod of a run is reached by ssh. The cloud says where, the ledger whose host key is there.

A host key is made anew in each container and told in the ledger by the pod itself: nobody is trusted on first use.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from pushtrain.capabilities import CLOUDS, DEFAULT_CLOUD
from pushtrain.cloud import Cloud, Pod
from pushtrain.errors import SshError
from pushtrain.fleet import cloud_of, member
from pushtrain.ledger import Ledger, RunRecord
from pushtrain.lookup import newest_run


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """How one attempt's pod is reached.

    `host_key` is its public key (`ssh-ed25519 AAAA…`), `keys` the fingerprints it lets in, `folder` where its volume is
    mounted, `urls` the ports that the spec opens to everybody (`8188/http`) and where. With `proxy` it is RunPod's
    proxy, which gives a terminal and nothing else: no command, no files, no forwarded ports; `host_key` and `folder`
    are empty then.
    """

    run_id: str
    attempt: int
    pod_id: str
    host: str
    port: int
    user: str
    host_key: str
    proxy: bool = False
    keys: tuple[str, ...] = ()
    folder: str = ""
    urls: tuple[tuple[str, str], ...] = ()
    cloud: str = DEFAULT_CLOUD


def endpoint(cloud: Cloud, ledger: Ledger, name: str) -> Endpoint:
    """The way to the pod of the run that `name` means (`pushtrain.lookup`), as it is this moment.

    Raises SshError (RunOver, NoPod, PodGone, NotUpYet, SshOff, NoKeys, NoPort, NoSshd); PushtrainError for an unknown
    run, LedgerUnavailable, CloudError.
    """
    record = newest_run(ledger, name)
    pod_id = pod_of(record)
    check_way_in(record, pod_id)
    pod = member(cloud, cloud_of(record)).read_pod(pod_id)
    if pod is None or not pod.is_alive:
        raise SshError(
            f"the pod of run {record.run_id} is gone ({pod_id})",
            hint="the next attempt follows with the next reconcile; what is on the volume stays",
            reason="PodGone",
            may_pass=True,
        )
    return replace(way(record, pod), cloud=cloud_of(record))


def check_way_in(record: RunRecord, pod_id: str) -> None:
    """Raises SshError (NoWayIn), with what to do instead, for a run at a cloud that lets nobody in by ssh."""
    can = CLOUDS[cloud_of(record)]
    if can.has_tcp_ports:
        return
    files = f"; the volume's files: {can.files_instead}" if can.files_instead else ""
    raise SshError(
        f"run {record.run_id} is at {can.title}: no ssh, cp, sync or tunnel reaches a pod there",
        hint=can.way_in.replace("SANDBOX_ID", pod_id) + files,
        reason="NoWayIn",
    )


def pod_of(record: RunRecord) -> str:
    """Id of the pod of the run's newest attempt. Raises SshError (RunOver, NoPod) where there is none."""
    last = record.last
    if record.is_over or last.state in ("destroying", "closed"):
        raise SshError(
            f"run {record.run_id} is over: it has no pod any more",
            hint=f"pushtrain logs {record.run_id} shows what it said; its files went with its volume",
            reason="RunOver",
        )
    made = next((event for event in reversed(record.events) if event.state == "provisioned"), None)
    if made is None or last.state in ("claimed", "waiting", "provisioning", "lost") or last.attempt > made.attempt:
        raise SshError(
            f"run {record.run_id} has no pod right now: {last.state} {last.reason}".rstrip(),
            hint="`pushtrain reconcile --follow` stays with it; a run that waits for a GPU has none before it gets one",
            reason="NoPod",
            may_pass=last.state in ("provisioning", "lost"),
        )
    return str(made.data["pod_id"])


def way(record: RunRecord, pod: Pod) -> Endpoint:
    """Pure: from what ledger and cloud say to an endpoint. Raises SshError (NotUpYet, NotMapped, SshOff, NoKeys, …)."""
    hello = [it for it in record.events if it.state == "booting" and it.data.get("pod") in (pod.id, "", None)]
    if not hello or pod.uptime_s is None:
        raise SshError(
            f"the pod of run {record.run_id} is starting: nothing of it has been heard yet ({pod.id})",
            hint="an image that the machine does not have yet takes minutes; `pushtrain logs` shows the first word",
            reason="NotUpYet",
            may_pass=True,
        )
    attempt, told = hello[-1].attempt, hello[-1].data.get("ssh") or {}
    if "host_key" not in told:
        return _by_proxy(record.run_id, attempt, pod, told)
    if pod.ssh_direct is None:
        raise SshError(
            f"port 22 of pod {pod.id} is not mapped yet",
            hint=f"{CLOUDS[cloud_of(record)].title} shows a pod's address some time after it started",
            reason="NotMapped",
            may_pass=True,
        )
    return Endpoint(
        run_id=record.run_id,
        attempt=attempt,
        pod_id=pod.id,
        host=pod.ssh_direct.host,
        port=pod.ssh_direct.port,
        user=str(told["user"]),
        host_key=str(told["host_key"]),
        keys=tuple(told.get("keys") or ()),
        folder=str(told.get("folder") or "/workspace"),
        urls=tuple((hello[-1].data.get("urls") or {}).items()),
    )


def _by_proxy(run_id: str, attempt: int, pod: Pod, told: Mapping[str, Any]) -> Endpoint:
    """RunPod's proxy reaches a pod without an address or an sshd of its own, by the account's keys."""
    off = str(told.get("off") or "")
    if not off or off == "NoKeys" or pod.ssh_proxy is None:
        _refuse(run_id, off, str(told.get("why") or ""))
    proxy = pod.ssh_proxy
    return Endpoint(
        run_id=run_id,
        attempt=attempt,
        pod_id=pod.id,
        host=proxy.host,
        port=proxy.port,
        user=proxy.user,
        host_key="",
        proxy=True,
    )


def _refuse(run_id: str, off: str, why: str) -> NoReturn:
    hints = {
        "": "compute.ssh: true in the job spec, and a new run",
        "NoKeys": "pushtrain ssh-key registers one; pods that are made after that let it in, this one does not",
        "NoSshd": "an image with openssh-server, as RunPod's own have",
    }
    raise SshError(
        f"run {run_id}: {why or 'its job spec has compute.ssh: false'}",
        hint=hints.get(off, "the log of the run says more"),
        reason=off or "SshOff",
    )

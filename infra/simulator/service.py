"""The simulated cloud: the account, the machine under it and the faults, joined. Every API speaks to this.

The account is changed and saved first, then the machine is made to match it in the background, one pod at a time under
its lock: a simulator that dies in between finds on its next start what is left to do.
"""

import hmac
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.simulator import store
from infra.simulator.catalog import GpuModel, Stock, Tier, VolumeKind
from infra.simulator.faults import Fault, Faults, Kind
from infra.simulator.hub_store import HubStore
from infra.simulator.machine import STOP_GRACE_S, Machine, Running
from infra.simulator.pod_env import PodPlaces, pod_environment, pod_key
from infra.simulator.ssh_ports import free_port, programs, write_runpodctl, write_sshd
from infra.simulator.state import VOLUME_IN_USE, Account, Pod, PodOrder, Refused, Volume

log = logging.getLogger("pushtrain.simulator")
Environment = Callable[[Pod, PodPlaces, str, bool], dict[str, str]]
# A pod that terminates itself must get its answer before it dies.
_KILL_DELAY_S = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """`base_url` is what pods reach the simulator by; containers end by themselves at `expires_at` (epoch seconds).

    `page_size` None: lists are not paged, as in RunPod's API of August 2026. `ends_at` (pod id → epoch seconds) is
    there where a pod ends with its command, and at a time of its own.
    """

    state_dir: Path
    base_url: str
    api_key: str
    expires_at: float
    s3_access_key: str = ""
    s3_secret_key: str = ""
    page_size: int | None = 100
    requests_per_minute: int = 6000
    lend_python: bool = True
    ssh_proxy_port: int | None = None
    ends_at: Callable[[str], float] | None = None


class Service:
    """One simulated account with real processes. `close` ends it; without it pods go on, as a cloud's would."""

    def __init__(
        self,
        settings: Settings,
        account: Account,
        faults: Faults,
        hub: HubStore,
        clock: Callable[[], float] = time.time,
        environment: Environment = pod_environment,
    ) -> None:
        """`hub` stands beside the account; only its faults are switched from here. `environment` is the cloud's."""
        self._environment = environment
        self.settings = settings
        self.account = account
        self.faults = faults
        self.hub = hub
        self.machine = Machine(settings.state_dir, restarts=settings.ends_at is None)
        self.clock = clock
        self._closing = threading.Event()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._jobs: dict[str, Future[None]] = {}
        self._workers = ThreadPoolExecutor(max_workers=32, thread_name_prefix="pods")

    def adopt(self) -> None:
        """After a restart: pods whose runner lives go on, others get a new one, processes of ended pods are stopped."""
        for pod in self.account.pods.values():
            if pod.status != "TERMINATED" or self.machine.has_disk(pod.id):
                self._settle_soon(pod.id)
        for volume in self.account.volumes.values():
            if volume.deleted:
                self._remove_soon(volume.id)

    def caller(self, bearer: str) -> str | None:
        """'account', or the id of the pod this key belongs to; None for a key nobody has."""
        if hmac.compare_digest(bearer.encode(), self.settings.api_key.encode()):
            return "account"
        for pod_id in self.account.pods:
            if hmac.compare_digest(bearer.encode(), pod_key(self.settings.api_key, pod_id).encode()):
                return pod_id
        return None

    @property
    def s3_secrets(self) -> dict[str, str]:
        """Access key → secret of the volumes' S3 API."""
        return {self.settings.s3_access_key: self.settings.s3_secret_key} if self.settings.s3_access_key else {}

    def running(self, pod: Pod) -> Running | None:
        return self.machine.running(pod.id) if pod.status == "RUNNING" else None

    def ssh_port(self, pod: Pod) -> int | None:
        """What port 22 of a running pod is on loopback."""
        return self.machine.ssh_port(pod.id) if self.running(pod) else None

    @property
    def stopping(self) -> bool:
        """Streams end by themselves then: a server waits for its connections."""
        return self._closing.is_set()

    def shut_down_soon(self) -> None:
        self._closing.set()

    def stock(self, gpu: GpuModel, tier: Tier) -> dict[str | None, Stock]:
        """Stock of one GPU type by data center (None: community), with the fault `no_stock` applied."""
        levels: dict[str | None, Stock] = {None: gpu.community_stock}
        if tier == "SECURE":
            levels = {name: level for name, level in gpu.stock.items()}
        for name in levels:
            if self.faults.find("no_stock", operation="list_gpus", gpu=gpu.id, data_center=name or ""):
                levels[name] = "NONE"
        return levels

    def create_pod(self, order: PodOrder) -> Pod:
        """Raises Refused. Billed from now on; its container starts a moment later."""
        subject = {"operation": "create_pod", "pod_name": order.name}
        struck: dict[str, Fault] = {}

        def out_of_stock(gpu: str, data_center: str | None) -> bool:
            where = subject | {"gpu": gpu, "data_center": data_center or ""}
            fault = self.faults.find("no_stock", **where) or self.faults.find("no_capacity", **where)
            if fault is not None:
                struck[fault.id] = fault
            return fault is not None

        try:
            pod = self.account.create_pod(order, self.clock(), out_of_stock)
        except Refused:
            for fault in struck.values():
                fault.use()
            raise
        pod.never_starts = self.faults.take("never_starts", pod_name=pod.name, gpu=pod.gpu) is not None
        return self._changed(pod)

    def terminate_pod(self, pod_id: str) -> Pod:
        return self._changed(self.account.terminate_pod(pod_id, self.clock()), _KILL_DELAY_S)

    def stop_pod(self, pod_id: str) -> Pod:
        return self._changed(self.account.stop_pod(pod_id, self.clock()), _KILL_DELAY_S)

    def start_pod(self, pod_id: str) -> Pod:
        return self._changed(self.account.start_pod(pod_id, self.clock()))

    def restart_pod(self, pod_id: str) -> Pod:
        pod = self.account.restart_pod(pod_id)
        self.machine.kill_container(pod_id)
        return pod

    def edit_pod(self, pod_id: str, changed: Mapping[str, Any]) -> Pod:
        """`changed`: fields of Pod; None leaves one as it is. Raises Refused."""
        kept = {name: value for name, value in changed.items() if value is not None}
        return self._changed(self.account.edit_pod(pod_id, kept, self.clock()), _KILL_DELAY_S)

    def create_volume(self, name: str, size_gb: int, data_center: str, kind: VolumeKind | None) -> Volume:
        volume = self.account.create_volume(name, size_gb, data_center, kind, self.clock())
        self.machine.create_volume(volume.id)
        self.save()
        return volume

    def update_volume(self, volume_id: str, name: str | None, size_gb: int | None) -> Volume:
        volume = self.account.update_volume(volume_id, self.clock(), name, size_gb)
        self.save()
        return volume

    def delete_volume(self, volume_id: str) -> None:
        volume = self.account.volume(volume_id)
        if self.faults.take("volume_busy", volume_id=volume_id, volume_name=volume.name):
            raise Refused("in_use", VOLUME_IN_USE)
        self.account.delete_volume(volume_id, self.clock())
        self.save()
        self._remove_soon(volume_id)

    def save(self) -> None:
        store.save(self.account, self.settings.state_dir)

    def tick(self) -> None:
        """What happens without a request: faults that strike running pods, and runners that died."""
        for pod in self.account.live_pods():
            running = self.running(pod)
            uptime_s = -1.0 if running is None else self.clock() - running.started_at
            if self._strikes("lost_pod", pod, self.clock() - pod.created_at):
                self._changed(self.account.terminate_pod(pod.id, self.clock()), grace_s=0.0)
            elif pod.status == "RUNNING" and self._strikes("outbid", pod, self.clock() - pod.created_at):
                self.stop_pod(pod.id)
            elif self._strikes("container_restart", pod, uptime_s) or self._strikes("crash_loop", pod, uptime_s):
                self.machine.kill_container(pod.id)
            elif pod.status == "RUNNING" and self._jobs[pod.id].done() and not self._is_launched(pod):
                if self._has_ended(pod):
                    self._changed(self.account.terminate_pod(pod.id, self.clock()))
                else:
                    self._settle_soon(pod.id)

    def close(self, stop_pods: bool) -> None:
        """End. With `stop_pods` every pod and its processes are ended; else they go on and may be adopted later."""
        if stop_pods:
            for pod in self.account.live_pods():
                self._changed(self.account.terminate_pod(pod.id, self.clock()))
        self._closing.set()
        self._workers.shutdown(wait=True)

    def _strikes(self, kind: Kind, pod: Pod, age_s: float) -> bool:
        subject = {"pod_id": pod.id, "pod_name": pod.name, "gpu": pod.gpu}
        fault = self.faults.find(kind, **subject)
        return fault is not None and age_s >= fault.seconds and self.faults.take(kind, **subject) is not None

    def _changed(self, pod: Pod, delay_s: float = 0.0, grace_s: float = STOP_GRACE_S) -> Pod:
        self.save()
        self._settle_soon(pod.id, delay_s, grace_s)
        return pod

    def _remove_soon(self, volume_id: str) -> None:
        """Remove the folder once no process of a pod that had it writes there any more."""
        holders = [pod.id for pod in self.account.pods.values() if pod.volume_id == volume_id]
        ending = [self._jobs[pod_id] for pod_id in holders if pod_id in self._jobs]

        def remove() -> None:
            wait(ending)
            self.machine.delete_volume(volume_id)

        self._workers.submit(remove).add_done_callback(_report)

    def _settle_soon(self, pod_id: str, delay_s: float = 0.0, grace_s: float = STOP_GRACE_S) -> None:
        self._jobs[pod_id] = self._workers.submit(self._settle, pod_id, delay_s, grace_s)
        self._jobs[pod_id].add_done_callback(_report)

    def _settle(self, pod_id: str, delay_s: float, grace_s: float) -> None:
        """Make the machine match the account for one pod; running it again changes nothing."""
        time.sleep(delay_s)
        with self._locks[pod_id]:
            pod = self.account.pods[pod_id]
            if pod.status == "RUNNING":
                self._launch(pod)
                return
            if not self.machine.has_disk(pod_id):
                return
            left = self.machine.stop(pod_id, grace_s)
            if left:
                # The disk stays, too: the next start of the simulator sees it and tries again.
                log.error("pod %s: processes that cannot be killed: %s", pod_id, sorted(left))
                return
            self.machine.wipe(pod_id)
            if pod.status == "TERMINATED":
                self.machine.discard(pod_id)

    def _is_launched(self, pod: Pod) -> bool:
        current = self.machine.launched_run(pod.id) == len(pod.spans)
        return pod.never_starts or (current and self.machine.has_runner(pod.id))

    def _has_ended(self, pod: Pod) -> bool:
        """Its command is over, and nothing starts it again here."""
        return self.settings.ends_at is not None and self.machine.launched_run(pod.id) == len(pod.spans)

    def _launch(self, pod: Pod) -> None:
        if self._closing.is_set() or self._is_launched(pod) or self._has_ended(pod):
            return
        # Leftovers of a runner that died, or of the run before a stop and start in one breath.
        self.machine.stop(pod.id)
        if self.machine.launched_run(pod.id) != len(pod.spans):
            self.machine.wipe(pod.id)
        workspace = self.machine.pod_dir(pod.id) / "root" / "workspace"
        if pod.volume_id is not None:
            workspace = self.machine.volume_dir(pod.volume_id)
        elif pod.persistent_gb:
            workspace = self.machine.persistent_dir(pod.id)
        workspace.mkdir(parents=True, exist_ok=True)
        places = PodPlaces(
            pod_dir=self.machine.pod_dir(pod.id),
            workspace=workspace,
            base_url=self.settings.base_url,
            ssh_port=self._open_ssh(pod),
        )
        key = pod_key(self.settings.api_key, pod.id)
        env = self._environment(pod, places, key, self.settings.lend_python)
        ends_at = self.settings.ends_at(pod.id) if self.settings.ends_at else self.settings.expires_at
        until = min(ends_at, self.settings.expires_at)
        self.machine.launch(pod.id, len(pod.spans), pod.args, env, until, places.ssh_port)

    def _open_ssh(self, pod: Pod) -> int | None:
        """The sshd of this pod's image, and what its port 22 is outside; None where nobody maps it."""
        subject = {"pod_id": pod.id, "pod_name": pod.name, "gpu": pod.gpu}
        is_mapped = "22/tcp" in pod.ports and self.faults.take("no_public_ip", **subject) is None
        slow = self.faults.take("slow_sshd", **subject)
        port = free_port() if is_mapped else None
        is_there = self.faults.take("no_sshd", **subject) is None
        write_runpodctl(programs(self.machine.pod_dir(pod.id)), self.settings.state_dir / "codes")
        write_sshd(self.machine.pod_dir(pod.id), port, is_there=is_there, slow_s=slow.seconds if slow else 0.0)
        return port


def _report(job: Future[None]) -> None:
    error = job.exception()
    if error is not None:
        log.error("a background job failed", exc_info=error)

"""RunPod's REST API in memory, as an httpx transport over the simulator's account: what a client asks is what it does.

Only what creating, listing and ending needs. `asked` counts every request. `Turns` makes several clients take turns,
request by request, in an order a test chooses.
"""

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx

from infra.simulator.bodies import CreatePod, CreateVolume
from infra.simulator.catalog import DEFAULT_CATALOG
from infra.simulator.runpod_api import pod_document, volume_document
from infra.simulator.state import Account, Refused

_STATUS = {"not_found": 404, "wrong_status": 409}


class MemoryRunPod(httpx.BaseTransport):
    """`names` gives the ids, in the order of creation. Time stands still at `now_s` unless a test moves it.

    A pod or volume is listed `lag` requests after it was made. `spoil(method, path)` says what to do to the answer of a
    request that was carried out: "lost" (no answer) or "500". `refuse(path, body)` gives status and detail of a create
    that is not carried out.
    """

    def __init__(self, names: Iterator[str] | None = None) -> None:
        numbered = (f"id{number:04}" for number in itertools.count())
        self.account = Account(DEFAULT_CATALOG, lambda: next(names or numbered))
        self.now_s = 1_700_000_000.0
        self.lag = 0
        self.spoil: Callable[[str, str], str | None] = lambda method, path: None
        self.refuse: Callable[[str, Any], tuple[int, str] | None] = lambda path, body: None
        self.asked: Counter[tuple[str, str]] = Counter()
        self._made_at: dict[str, int] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        method, path = request.method, request.url.path
        collection, _, resource_id = path.removeprefix("/v2/").partition("/")
        self.asked[method, f"/v2/{collection}" + ("/…" if resource_id else "")] += 1
        body = json.loads(request.content) if request.content else None
        refusal = self.refuse(path, body) if method == "POST" and not resource_id else None
        if refusal:
            problem = {"title": "Refused", "status": refusal[0], "detail": refusal[1]}
            return httpx.Response(refusal[0], content=json.dumps(problem).encode())
        try:
            status, answer = self._carry_out(method, collection, resource_id, body)
        except Refused as refused:
            status = _STATUS.get(refused.why, 400)
            answer = {"title": "Refused", "status": status, "detail": refused.detail}
        spoilt = self.spoil(method, path) if status < 300 else None
        if spoilt == "lost":
            raise httpx.ReadError("the connection was cut")
        if spoilt == "500":
            status, answer = 500, {"title": "Internal Server Error", "status": 500, "detail": "Something went wrong."}
        return httpx.Response(status, content=b"" if answer is None else json.dumps(answer).encode())

    def requests(self) -> int:
        return sum(self.asked.values())

    def _carry_out(self, method: str, collection: str, resource_id: str, body: Any) -> tuple[int, Any]:
        account, now_s = self.account, self.now_s
        if collection == "pods":
            if method == "GET" and not resource_id:
                return 200, {"pods": [pod_document(pod, None, now_s) for pod in self._seen(account.live_pods())]}
            if method == "POST" and not resource_id:
                pod = account.create_pod(CreatePod.model_validate(body).resolved(account.templates).order(), now_s)
                self._made_at[pod.id] = self.requests()
                return 201, pod_document(pod, None, now_s)
            if method == "GET":
                return 200, pod_document(account.pod(resource_id), None, now_s)
            account.terminate_pod(resource_id.partition("/")[0], now_s)
            return 204, None
        if collection == "network-volumes":
            if method == "GET" and not resource_id:
                seen = self._seen(account.live_volumes())
                return 200, {"networkVolumes": [volume_document(volume) for volume in seen]}
            if method == "POST":
                asked = CreateVolume.model_validate(body)
                volume = account.create_volume(asked.name, asked.size, asked.dataCenter, asked.type, now_s)
                self._made_at[volume.id] = self.requests()
                return 201, volume_document(volume)
            if method == "GET":
                return 200, volume_document(account.volume(resource_id))
            if method == "PATCH":
                return 200, volume_document(account.update_volume(resource_id, now_s, size_gb=body["size"]))
            account.delete_volume(resource_id, now_s)
            return 204, None
        if collection == "account":
            account.ssh_keys = body["keys"] if method == "PUT" else account.ssh_keys
            return 200, {"keys": list(account.ssh_keys)}
        return self._read(collection, resource_id)

    def _read(self, collection: str, resource_id: str) -> tuple[int, Any]:
        if collection == "templates":
            if resource_id not in self.account.templates:
                raise Refused("not_found", "template not found")
            return 200, self.account.templates[resource_id].document()
        if collection == "billing":
            return 200, {"records": [], "metadata": {}}
        return 200, _catalogue(self.account, f"{collection}/{resource_id}")

    def _seen(self, items: Sequence[Any]) -> list[Any]:
        return [item for item in items if self.requests() > self._made_at.get(item.id, 0) + self.lag]


class Turns:
    """Runs calls side by side, one request at a time; `order` says whose turn it is while there is a choice."""

    def __init__(self, inner: httpx.BaseTransport) -> None:
        self._inner = inner
        self._gate = threading.Condition()
        self._waiting: set[int] = set()
        self._turn: int | None = None
        self._asleep: set[int] = set()
        self._running: set[int] = set()

    def sleep(self, number: int) -> None:
        """A pause that lasts longer than anything the others do meanwhile."""
        with self._gate:
            self._asleep.add(number)
            self._gate.notify_all()
            assert self._gate.wait_for(lambda: self._running <= self._asleep, timeout=150)
            self._asleep.discard(number)

    def transport(self, number: int) -> httpx.BaseTransport:
        turns = self

        class Turn(httpx.BaseTransport):
            def handle_request(self, request: httpx.Request) -> httpx.Response:
                with turns._gate:
                    turns._waiting.add(number)
                    turns._gate.notify_all()
                    assert turns._gate.wait_for(lambda: turns._turn == number, timeout=150)
                    turns._turn = None
                    turns._waiting.discard(number)
                    return turns._inner.handle_request(request)

        return Turn()

    def run(self, calls: Sequence[Callable[[], Any]], order: Sequence[int]) -> tuple[list[Any], list[int], list[int]]:
        """What each call returned (or raised), the choices made, and how many there were to choose from."""
        results: list[Any] = [None] * len(calls)
        running = self._running = set(range(len(calls)))

        def body(number: int) -> None:
            try:
                results[number] = calls[number]()
            except Exception as failure:  # noqa: BLE001 — judged by the test
                results[number] = failure
            with self._gate:
                running.discard(number)
                self._gate.notify_all()

        threads = [threading.Thread(target=body, args=(number,)) for number in range(len(calls))]
        for thread in threads:
            thread.start()
        chosen: list[int] = []
        offered: list[int] = []
        with self._gate:
            while True:
                assert self._gate.wait_for(lambda: self._is_quiet(running), timeout=150)
                if not running:
                    break
                choices = sorted(self._waiting)
                pick = order[len(chosen)] if len(chosen) < len(order) else 0
                chosen.append(pick)
                offered.append(len(choices))
                self._turn = choices[pick]
                self._waiting.discard(choices[pick])
                self._gate.notify_all()
                turn = choices[pick]
                assert self._gate.wait_for(lambda turn=turn: self._moved_on(turn, running), timeout=150)
        for thread in threads:
            thread.join(30)
        return results, chosen, offered

    def _is_quiet(self, running: set[int]) -> bool:
        awake = running - self._asleep
        return self._turn is None and self._waiting >= awake and (bool(self._waiting) or not running)

    def _moved_on(self, number: int, running: set[int]) -> bool:
        return self._turn is None and (number in self._waiting | self._asleep or number not in running)


def every_order(run: Callable[[Sequence[int]], tuple[Any, list[int], list[int]]]) -> Iterator[Any]:
    """Carries `run` out once for every order in which its calls can take turns; yields what it returned."""
    order: list[int] | None = []
    while order is not None:
        result, chosen, offered = run(order)
        yield result
        order = None
        for at in range(len(chosen) - 1, -1, -1):
            if chosen[at] + 1 < offered[at]:
                order = [*chosen[:at], chosen[at] + 1]
                break


def _catalogue(account: Account, path: str) -> dict[str, Any]:
    gpus = account.catalog.gpus.values()
    if path == "catalog/datacenters":
        centers = account.catalog.data_centers.values()
        return {"dataCenters": [{"id": each.id, "networkVolumeTypes": list(each.volume_kinds)} for each in centers]}
    assert path == "catalog/gpus", path
    return {
        "gpus": [
            {
                "id": gpu.id,
                "memory": gpu.memory_gb,
                "secure": gpu.secure_usd is not None,
                "community": gpu.community_usd is not None,
                "price": {"secure": gpu.secure_usd or 0.0, "community": gpu.community_usd or 0.0},
                "maxCount": {"secure": gpu.max_gpus("SECURE"), "community": gpu.max_gpus("COMMUNITY")},
                "availability": gpu.community_stock,
                "dataCenters": [
                    {"id": name, "availability": level} for name, level in gpu.stock.items() if level != "NONE"
                ],
            }
            for gpu in gpus
        ]
    }

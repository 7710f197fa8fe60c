"""What RunPod has, read over REST v2: lists, single resources, the catalogue, the bill. Changes nothing."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from infra.clouds.runpod import shapes
from infra.clouds.runpod.answers import SPEAKS
from infra.clouds.wire import Wire
from pushtrain.cloud import Offer, Pod, Template, Volume
from pushtrain.errors import CloudUnavailable

PODS, VOLUMES, TEMPLATES = "/v2/pods", "/v2/network-volumes", "/v2/templates"
SSH_KEYS = "/v2/account/ssh-keys"
T = TypeVar("T")

# A catalogue read reserves nothing, however fresh: all runs of a tick share one. Names of GPU types hardly change.
_OFFERS_FRESH_S, _NAMES_FRESH_S = 30.0, 600.0


class Reads:
    """Every method raises CloudError; what cannot be read whole or understood is CloudUnavailable, never 'gone'."""

    def __init__(self, http: Wire) -> None:
        self._http = http
        self._kept: dict[str, tuple[float, Any]] = {}

    def offers(self, gpu_count: int, min_cuda_version: str | None) -> list[Offer]:
        """Secure offers by data center, then community offers; up to 30 s old."""
        stock = {"include": "AVAILABILITY", "product": "POD", "count": str(gpu_count)}
        if min_cuda_version is not None:
            stock["minCudaVersion"] = min_cuda_version
        return self._fresh(f"offers {stock}", _OFFERS_FRESH_S, lambda: self._offers(stock))

    def gpu_names(self) -> list[str]:
        """Up to ten minutes old."""
        return self._fresh("names", _NAMES_FRESH_S, self._gpu_names)

    def pod(self, pod_id: str) -> Pod | None:
        found = self._one(f"reading pod {pod_id}", shapes.path(PODS, pod_id), shapes.pod)
        return None if found is None or found.status == shapes.GONE else found

    def volume(self, volume_id: str) -> Volume | None:
        return self._one(f"reading network volume {volume_id}", shapes.path(VOLUMES, volume_id), shapes.volume)

    def template(self, template_id: str) -> Template | None:
        doing = f"reading template {template_id}"
        return self._one(doing, shapes.path(TEMPLATES, template_id), shapes.template)

    def pods(self) -> list[Pod]:
        listed = self._list(PODS, "pods")
        with SPEAKS.expected_shape("listing pods"):
            pods = [shapes.pod(raw) for raw in listed]
        return [pod for pod in pods if pod.status != shapes.GONE]

    def volumes(self) -> list[Volume]:
        listed = self._list(VOLUMES, "networkVolumes")
        with SPEAKS.expected_shape("listing network volumes"):
            return [shapes.volume(raw) for raw in listed]

    def mounts(self) -> dict[str, list[str]]:
        """Ids of the listed pods that mount a network volume, by volume id."""
        mounts: dict[str, list[str]] = {}
        listed = self._list(PODS, "pods")
        with SPEAKS.expected_shape("listing pods"):
            for raw in listed:
                for volume_id in shapes.mounted_volume_ids(raw):
                    mounts.setdefault(volume_id, []).append(str(raw["id"]))
        return mounts

    def ssh_keys(self) -> list[str]:
        doing = "reading the account's ssh keys"
        found = self._get(doing, SSH_KEYS)
        with SPEAKS.expected_shape(doing):
            return shapes.ssh_keys(found)

    def billed_usd(self, kind: str, key: str, resource_id: str, since: str) -> float:
        """`kind` is `pods` or `network-volumes`, `key` the name its records give the id."""
        doing = f"reading what {resource_id} cost"
        billing = self._get(doing, f"/v2/billing/{kind}", {"startTime": since, "bucketSize": "hour", key: resource_id})
        with SPEAKS.expected_shape(doing):
            return shapes.billed_usd(billing, key, resource_id)

    def _offers(self, stock: dict[str, str]) -> list[Offer]:
        doing = "reading RunPod's catalogue"
        secure = self._get(doing, "/v2/catalog/gpus", {**stock, "cloud": "SECURE"})
        community = self._get(doing, "/v2/catalog/gpus", {**stock, "cloud": "COMMUNITY"})
        centers = self._get(doing, "/v2/catalog/datacenters")
        with SPEAKS.expected_shape(doing):
            return shapes.secure_offers(secure, shapes.volume_kinds(centers)) + shapes.community_offers(community)

    def _gpu_names(self) -> list[str]:
        doing = "reading RunPod's GPU types"
        catalog = self._get(doing, "/v2/catalog/gpus")
        with SPEAKS.expected_shape(doing):
            return [str(gpu["id"]) for gpu in catalog["gpus"]]

    def _fresh(self, name: str, for_s: float, read: Callable[[], list[T]]) -> list[T]:
        now_s = self._http.clock()
        kept = self._kept.get(name)
        if kept is None or now_s >= kept[0]:
            kept = self._kept[name] = (now_s + for_s, read())
        return list(kept[1])

    def _list(self, path: str, key: str) -> list[Any]:
        """Every item of a list, whether the server pages it (by cursor, since October 2026) or not.

        Raises CloudUnavailable for a list that cannot be had whole: half a list reads like 'nothing is left'.
        """
        doing, items, cursor, asked = f"listing {path.rpartition('/')[2]}", list[Any](), "", set[str]()
        while True:
            page = self._get(
                doing, path, {"limit": str(self._http.limits.page)} | ({"cursor": cursor} if cursor else {})
            )
            with SPEAKS.expected_shape(doing):
                items += page[key] or []
                pages = page.get("pagination") or {}
                cursor = pages.get("nextCursor") or ""
                more = pages.get("hasNextPage", bool(cursor))
            if not more:
                return items
            if not cursor or cursor in asked:
                raise CloudUnavailable(f"{doing}: RunPod says there is more, but not where", hint="try again later")
            asked.add(cursor)

    def _one(self, doing: str, path: str, read: Callable[[Any], T]) -> T | None:
        answer = self._http.ask("GET", path)
        if answer.absent:
            return None
        if not answer.ok:
            raise SPEAKS.failure(answer, doing)
        with SPEAKS.expected_shape(doing):
            return read(answer.json)

    def _get(self, doing: str, path: str, query: Mapping[str, str] | None = None) -> Any:
        answer = self._http.ask("GET", path, query=query)
        if not answer.ok:
            raise SPEAKS.failure(answer, doing)
        return answer.json

"""What is read of a Vast.ai account, and the other calls of the client that may be carried out twice."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from infra.clouds.vast import shapes
from infra.clouds.vast.answers import SPEAKS, is_absent
from infra.clouds.wire import Call, Wire
from pushtrain.cloud import Pod
from pushtrain.errors import CloudUnavailable
from pushtrain.events import parse_time

READING_OFFERS = "reading Vast.ai's offers"
# A page of instances, the most that the newer list gives; and of charges.
_PAGE, _CHARGES = 25, 100


class VastReads:
    """Every method raises CloudError; what cannot be read whole or understood is CloudUnavailable, never 'gone'.

    `wall` gives epoch seconds: Vast says since when an instance runs, not for how long.
    """

    def __init__(self, http: Wire, wall: Callable[[], float]) -> None:
        self._http, self._wall = http, wall

    def pod(self, pod_id: str) -> Pod | None:
        doing, answer = f"reading pod {pod_id}", self._http.ask("GET", shapes.instance_path(pod_id))
        if is_absent(answer):
            return None
        if not answer.ok:
            raise SPEAKS.failure(answer, doing)
        with SPEAKS.expected_shape(doing):
            raw = answer.json["instances"]
            return None if not raw else shapes.pod(raw, self._wall())

    def pods(self) -> list[Pod]:
        """Every instance, page by page. Raises CloudUnavailable for a list that cannot be had whole."""
        doing, pods, token, asked = "listing pods", list[Pod](), "", set[str]()
        while True:
            limit = str(min(_PAGE, self._http.limits.page))
            page = self._get(doing, "/api/v1/instances/", {"limit": limit} | ({"after_token": token} if token else {}))
            with SPEAKS.expected_shape(doing):
                pods += [shapes.pod(raw, self._wall()) for raw in page["instances"]]
                token = page.get("next_token") or ""
            if not token:
                return pods
            if token in asked:
                raise CloudUnavailable(f"{doing}: Vast.ai says there is more, but not where", hint="try again later")
            asked.add(token)

    def charges(self, since: str) -> list[Any]:
        doing, results, token, asked = "reading what pods cost", list[Any](), "", set[str]()
        day = {"gte": int(parse_time(since)) // 86400 * 86400, "lte": int(self._wall()) + 86400}
        query = {"select_filters": json.dumps({"day": day, "type": {"in": ["instance"]}}), "limit": str(_CHARGES)}
        while True:
            page = self._get(doing, "/api/v0/charges/", query | ({"after_token": token} if token else {}))
            with SPEAKS.expected_shape(doing):
                results += page["results"]
                token = page.get("next_token") or ""
            if not token or token in asked:
                return results
            asked.add(token)

    def machines(self, body: Mapping[str, Any]) -> list[Any]:
        doing = READING_OFFERS
        answer = self._http.ask("POST", "/api/v0/bundles/", body=body)
        if not answer.ok:
            raise SPEAKS.failure(answer, doing)
        with SPEAKS.expected_shape(doing):
            return list(answer.json["offers"])

    def key_records(self) -> list[Any]:
        doing = "reading the account's ssh keys"
        found = self._get(doing, "/api/v0/ssh/")
        with SPEAKS.expected_shape(doing):
            return list(found["keys"] if isinstance(found, dict) else found)

    def _get(self, doing: str, path: str, query: Mapping[str, str] | None = None) -> Any:
        answer = self._http.ask("GET", path, query=query)
        if not answer.ok:
            raise SPEAKS.failure(answer, doing)
        return answer.json

    def write(self, method: str, path: str, doing: str, body: Any) -> None:
        call = Call(method=method, path=path, body=body, timeout_s=self._http.limits.read_s, repeatable=False)
        if not (answer := self._http.send(call)).ok:
            raise SPEAKS.failure(answer, doing)

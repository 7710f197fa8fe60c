"""What is read of a Lambda Cloud account, and every request of the client, at the pace that Lambda lets through."""

from collections.abc import Callable
from typing import Any

from infra.clouds.answers import Answer
from infra.clouds.lambda_cloud import shapes
from infra.clouds.lambda_cloud.answers import SPEAKS, is_absent
from infra.clouds.lambda_cloud.pace import Pace
from infra.clouds.wire import Call, Wire
from pushtrain.cloud import Pod, Volume


class LambdaReads:
    """Every method but `send` raises CloudError; what cannot be read whole or understood is CloudUnavailable, never
    'gone'. `wall` gives epoch seconds. Lambda's lists have no pages."""

    def __init__(self, http: Wire, pace: Pace, wall: Callable[[], float]) -> None:
        self._http, self._pace, self._wall = http, pace, wall

    def send(
        self, method: str, path: str, body: Any = None, *, repeatable: bool = True, launch: bool = False
    ) -> Answer:
        limits = self._http.limits
        self._http.sleep(self._pace.wait_s(self._http.clock(), launch=launch))
        patience_s = limits.read_s if repeatable else limits.create_s
        call = Call(method=method, path=path, body=body, timeout_s=patience_s, repeatable=repeatable)
        # A launch that came too soon waits for its own pace, not for the wire's.
        return self._http.send(call, attempts=1 if launch else None)

    def types(self) -> dict[str, Any]:
        return dict(self._data("reading Lambda's instance types", f"{shapes.API}/instance-types"))

    def pod(self, pod_id: str) -> Pod | None:
        doing, answer = f"reading pod {pod_id}", self.send("GET", shapes.path("instances", pod_id))
        if is_absent(answer):
            return None
        if not answer.ok:
            raise SPEAKS.failure(answer, doing)
        with SPEAKS.expected_shape(doing):
            found = shapes.pod(answer.json["data"], self._wall())
        return None if found.status == "TERMINATED" else found

    def pods(self) -> list[Pod]:
        """Every instance that Lambda still knows, but for those it calls terminated."""
        doing = "listing pods"
        raw = self._data(doing, f"{shapes.API}/instances")
        with SPEAKS.expected_shape(doing):
            found = [shapes.pod(each, self._wall()) for each in raw]
        return [pod for pod in found if pod.status != "TERMINATED"]

    def volumes(self) -> list[Volume]:
        doing = "listing file systems"
        raw = self._data(doing, f"{shapes.API}/file-systems")
        with SPEAKS.expected_shape(doing):
            return [shapes.volume(each) for each in raw]

    def key_records(self) -> list[Any]:
        doing = "reading the account's ssh keys"
        with SPEAKS.expected_shape(doing):
            return [each for each in self._data(doing, f"{shapes.API}/ssh-keys") if each["name"] and each["id"]]

    def write(self, method: str, path: str, doing: str, body: Any = None) -> Any:
        answer = self.send(method, path, body, repeatable=False)
        if not answer.ok:
            raise SPEAKS.failure(answer, doing)
        return answer.json

    def _data(self, doing: str, path: str) -> Any:
        answer = self.send("GET", path)
        if not answer.ok:
            raise SPEAKS.failure(answer, doing)
        with SPEAKS.expected_shape(doing):
            return answer.json["data"]

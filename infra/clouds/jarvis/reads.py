"""What is read of a JarvisLabs account."""

from collections.abc import Sequence
from typing import Any

from infra.clouds.answers import Answer
from infra.clouds.jarvis import shapes
from infra.clouds.jarvis.answers import SPEAKS, flag, says_full
from infra.clouds.jarvis.hosts import Hosts
from infra.clouds.jarvis.names import FILE_SYSTEM_CHARS, INSTANCE_CHARS, sold_as, whole
from infra.clouds.jarvis.scripts import Scripts
from pushtrain.cloud import Pod, PodRequest, Volume
from pushtrain.errors import CloudAuthFailed, CloudError, CloudUnavailable, RequestRejected

READING_OFFERS = "reading JarvisLabs' offers"
LISTING = "listing pods"
_FRESH_S = 30.0
# What tells a row of offers from the others.
_SAME = ("gpu_type", "region", "vram", "workload_type")


class Reads:
    """Every method raises CloudError; what cannot be understood is CloudUnavailable, never 'gone'."""

    def __init__(self, hosts: Hosts, scripts: Scripts) -> None:
        self._hosts, self._scripts = hosts, scripts
        self._kept: tuple[float, list[Any]] | None = None
        self._is_dollars = False

    def rows(self) -> list[Any]:
        """What instances can be made of, with prices in dollars; up to 30 s old.

        Raises RequestRejected for an account in rupees: budgets and prices would be mixed up.
        """
        now_s = self._hosts.clock()
        if self._kept is None or now_s >= self._kept[0]:
            self._check_currency()
            meta = self._get(READING_OFFERS, "/misc/server_meta")
            with SPEAKS.expected_shape(READING_OFFERS):
                rows = [it for it in meta["server_meta"] if it.get("gpu_type") and it.get("region")]
                self._kept = (now_s + _FRESH_S, rows)
        return self._kept[1]

    def forget_rows(self) -> None:
        """The next `rows` are read anew: prices may have changed, and a create is made at those of its moment."""
        self._kept = None

    def usd_per_hour(self, made_of: Any, request: PodRequest) -> float:
        """What the request costs by now of that row; by the row itself where it is not offered any more, or nobody
        answers."""
        try:
            rows = self.rows()
        except CloudError:
            rows = []
        now = next((it for it in rows if all(it.get(key) == made_of.get(key) for key in _SAME)), made_of)
        return shapes.usd_per_hour(now, request)

    def instances(self) -> list[Any]:
        """Every instance of the account, as JarvisLabs says it."""
        listed = self._get(LISTING, "/users/fetch")
        with SPEAKS.expected_shape(LISTING):
            return [it for it in listed["instances"] if it["status"] and it["machine_id"]]

    def instance(self, number: int) -> Any | None:
        """None where the list of all does not have it, nor JarvisLabs by itself: either is behind after a create."""
        found = next((it for it in self.instances() if int(it["machine_id"]) == number), None)
        if found is not None:
            return found
        doing, answer = f"reading pod jl-{number}", self._hosts.ask("GET", f"/users/fetch/{number}")
        if answer.absent:
            return None
        if not answer.ok:
            raise SPEAKS.failure(answer, doing)
        with SPEAKS.expected_shape(doing):
            return answer.json["instance"] or None

    @property
    def patience_s(self) -> tuple[float, ...]:
        """Waits between looks for an instance that may be in no list before it runs."""
        pause_s = self._hosts.limits.look_pauses_s[-1]
        return (pause_s,) * max(1, round(self._hosts.limits.create_s / pause_s))

    def appeared(self, number: int, region: str, doing: str) -> Any | None:
        """An instance that was just made, as soon as it is listed; None where that takes too long, or nobody may look.

        Its status is told before it is listed. One that failed is destroyed: NoCapacity or CloudUnavailable.
        """
        for pause_s in (0.0, *self.patience_s):
            self._hosts.sleep(pause_s)
            try:
                raw = self.instance(number)
            except (CloudAuthFailed, CloudUnavailable):
                return None
            if raw is not None:
                return raw
            query = {"machine_id": str(number)}
            answer = self._hosts.send("GET", "/misc/status", region=region, query=query)
            told = answer.json if answer.ok and isinstance(answer.json, dict) else {}
            if str(told.get("status")).lower() == "failed":
                self._hosts.end(region, "/misc/destroy", query)
                said = f"JarvisLabs could not start it: {told.get('error') or 'no reason given'}"
                raise SPEAKS.failure(Answer(status=409 if says_full(said) else None, said=said, json={}), doing)
        return None

    def pods(self) -> list[Pod]:
        return self.as_pods(self.instances())

    def as_pods(self, rows: Sequence[Any]) -> list[Pod]:
        """As pods, by their whole names; GPUs that are not sold any more cost nothing that is known."""
        if not rows:
            return []
        shown = [shapes.instance_name(raw) for raw in rows]
        known = self.whole_names(shown, INSTANCE_CHARS)
        mounted = any(raw.get("fs_id") for raw in rows)
        names = {int(it["fs_id"]): shapes.file_system_name(it) for it in self.file_systems()} if mounted else {}
        with SPEAKS.expected_shape(LISTING):
            return [
                shapes.pod(
                    raw,
                    known=known,
                    usd_per_gpu_hour=self._price_usd(raw),
                    fs_name=names.get(int(raw["fs_id"])) if raw.get("fs_id") else None,
                )
                for raw in rows
            ]

    def file_systems(self) -> list[Any]:
        """As JarvisLabs says it; the list is bare."""
        doing = "listing file systems"
        listed = self._get(doing, "/filesystem/list")
        with SPEAKS.expected_shape(doing):
            if not isinstance(listed, list):
                raise TypeError("no list")
            return sorted(listed, key=lambda it: int(it["fs_id"]))

    def volumes(self, meant: Sequence[str] = ()) -> list[Volume]:
        """`meant` are whole names that are known without their labels."""
        rows = self.file_systems()
        known = [*meant, *self.whole_names([shapes.file_system_name(it) for it in rows], FILE_SYSTEM_CHARS)]
        shown = [shapes.file_system_name(raw) for raw in rows]
        with SPEAKS.expected_shape("listing file systems"):
            return [shapes.volume(raw, known, is_twin=shown[at] in shown[:at]) for at, raw in enumerate(rows)]

    def frameworks(self) -> dict[str, str]:
        """Id → title of what a container can be made from."""
        doing = "reading the frameworks"
        found = self._get(doing, "/misc/frameworks")
        with SPEAKS.expected_shape(doing):
            return {str(it["id"]): str(it.get("title") or it["id"]) for it in found["frameworks"]}

    def key_records(self) -> list[Any]:
        doing = "reading the account's ssh keys"
        found = self._get(doing, "/ssh/")
        with SPEAKS.expected_shape(doing):
            return list(found)

    def whole_names(self, shown: Sequence[str], chars: int) -> list[str]:
        """What shortened names may stand for; asks only where one is as long as a shortened name is."""
        return [name for _, name in self._scripts.all()] if any(len(name) == chars for name in shown) else []

    def forget(self, raw: Any) -> None:
        """Removes the start script of an instance that was ended, and those of its run's attempts before it: of one
        that went by itself nobody is asked any more. A script whose name another instance bears stays."""
        shown, number = shapes.instance_name(raw), int(raw["machine_id"])
        name = whole(shown, INSTANCE_CHARS, self.whole_names([shown], INSTANCE_CHARS))
        living = [shapes.instance_name(it) for it in self.instances() if int(it["machine_id"]) != number]
        self._scripts.forget(name, living)

    def _price_usd(self, raw: Any) -> float:
        """0 where nobody says: a list of what there is must not depend on what is for sale."""
        sold = sold_as(str(raw.get("gpu_type") or ""), 0)
        try:
            rows = shapes.rows_for(self.rows(), sold[0], [str(raw.get("region"))]) if sold else []
        except CloudError:
            return 0.0
        price_usd = shapes.spot_usd if shapes.is_spot(raw) else shapes.price_usd
        return next((usd for row in rows if (usd := price_usd(row)) is not None), 0.0)

    def _check_currency(self) -> None:
        """JarvisLabs answers with success where the account pays in rupees; then all its prices are in rupees."""
        if self._is_dollars:
            return
        doing, answer = "reading the account's currency", self._hosts.send("GET", "/misc/")
        said = flag(answer.json)
        if said is None and not answer.ok:
            raise SPEAKS.failure(answer, doing)
        if said:
            raise RequestRejected(
                f"{READING_OFFERS}: this account pays in rupees, and budgets are in dollars",
                hint="an account that pays from outside India has prices in dollars",
            )
        self._is_dollars = True

    def _get(self, doing: str, path: str) -> Any:
        answer = self._hosts.ask("GET", path)
        if not answer.ok:
            raise SPEAKS.failure(answer, doing)
        if answer.json is None:
            raise CloudUnavailable(f"{doing}: an empty answer", hint="try again later")
        return answer.json

"""File systems of JarvisLabs as network volumes: 50 GB at least, in one region, known by their names.

A file system that grows may get another number, so a volume's id is its name there, and whatever is done to it is done
by the number that the list has at that moment.
"""

from functools import partial
from typing import Any

from infra.clouds.adoption import look_again, nothing_appeared
from infra.clouds.answers import Answer
from infra.clouds.jarvis import shapes
from infra.clouds.jarvis.answers import SPEAKS
from infra.clouds.jarvis.hosts import Hosts
from infra.clouds.jarvis.names import FILE_SYSTEM_CHARS, HOSTS, short
from infra.clouds.jarvis.reads import Reads
from infra.clouds.jarvis.scripts import LABEL, Scripts
from pushtrain.cloud import Volume, VolumeRequest
from pushtrain.errors import CloudUnavailable, NoCapacity, RequestRejected
from pushtrain.run import is_kept


class Volumes:
    """Every method raises CloudError."""

    def __init__(self, hosts: Hosts, reads: Reads, scripts: Scripts) -> None:
        self._hosts, self._reads, self._scripts = hosts, reads, scripts

    def create(self, request: VolumeRequest) -> Volume:
        """Create or adopt by name. Raises NoCapacity (reason VolumeElsewhere) while another region has the name.

        Of several with the name the one that an instance mounts is left, else the one with the lowest number; what
        JarvisLabs does not make so small is made as small as it goes.
        """
        doing = f"creating network volume {request.name} in {request.data_center}"
        if request.data_center not in HOSTS:
            raise RequestRejected(f"{doing}: no such region", hint=f"regions: {', '.join(HOSTS)}")
        adopted, answer = partial(self._adopt, request, doing), None
        if (found := adopted(None)) is not None:
            return found
        name = short(request.name, FILE_SYSTEM_CHARS)
        if name != request.name:
            self._scripts.put(request.name, LABEL)
        body = {"fs_name": name, "storage": max(request.size_gb, shapes.LEAST_FILE_SYSTEM_GB)}
        for _ in range(self._hosts.limits.create_attempts):
            answer = self._hosts.send(
                "POST",
                "/filesystem/create",
                region=request.data_center,
                body=body | {"region": request.data_center},
                timeout_s=self._hosts.limits.create_s,
            )
            made = _number(answer)
            if not (answer.ok or answer.ambiguous):
                raise SPEAKS.failure(answer, doing)
            pauses_s = (0.0, *self._hosts.limits.look_pauses_s)
            if (found := look_again(pauses_s, self._hosts.sleep, partial(adopted, made))) is not None:
                return found
            if made is not None:
                return shapes.volume(body | {"region": request.data_center}, [request.name])
        raise nothing_appeared(doing, answer.said if answer else "")

    def read(self, volume_id: str) -> Volume | None:
        return next((volume for volume in self._reads.volumes() if volume.id == volume_id), None)

    def grow(self, volume_id: str, size_gb: int) -> Volume:
        """What is large enough already is not asked about; it never shrinks."""
        doing, known = f"growing network volume {volume_id} to {size_gb} GB", self.read(volume_id)
        if known is not None and known.size_gb >= size_gb:
            return known
        numbers = self.numbers(volume_id)
        if known is None or not numbers:
            raise RequestRejected(f"{doing}: it is gone", hint="`pushtrain volumes` lists what there is")
        if len(numbers) > 1:
            raise CloudUnavailable(
                f"{doing}: it is there {len(numbers)} times, and one that grows may get a higher number than the other",
                hint=f"first `pushtrain volumes delete {volume_id}~{numbers[1]} --yes`",
            )
        body = {"fs_id": numbers[0], "storage": size_gb}
        answer = self._hosts.send("POST", "/filesystem/edit", region=known.data_center, body=body)
        if not (answer.ok or answer.ambiguous):
            raise SPEAKS.failure(answer, doing)
        grown = self.read(volume_id)
        if grown is None or grown.size_gb < size_gb:
            raise CloudUnavailable(f"{doing}: {answer.said}, and it has not grown", hint="try again later")
        return grown

    def delete(self, volume_id: str) -> None:
        """All of a run's own that bear its name; of kept ones the one that is meant. Absent is success. Raises
        CloudUnavailable while an instance mounts it."""
        doing = f"deleting network volume {volume_id}"
        mine = self._meant(volume_id)
        if not mine:
            return
        known = self._reads.whole_names([shapes.file_system_name(it) for it in mine], FILE_SYSTEM_CHARS)
        name = shapes.volume(mine[0], known).name
        mine = mine[:1] if is_kept(name) else mine
        holders = self.holders([int(it["fs_id"]) for it in mine])
        if holders:
            raise CloudUnavailable(
                f"{doing}: it is mounted by {', '.join(holders)}",
                hint="terminate the pods that mount it, wait some seconds, then delete it again",
            )
        for raw in mine:
            self._remove(raw, doing)
        self._scripts.forget(name, [shapes.instance_name(it) for it in self._reads.instances()])

    def numbers(self, volume_id: str) -> list[int]:
        """Of what bears that name now, the lowest first; of a twin its own."""
        return [int(it["fs_id"]) for it in self._meant(volume_id)]

    def holders(self, numbers: list[int]) -> list[str]:
        """Instances that mount one of them; one that is being destroyed still does."""
        rows = self._reads.instances()
        return [f"jl-{it['machine_id']}" for it in rows if it.get("fs_id") and int(it["fs_id"]) in numbers]

    def _adopt(self, request: VolumeRequest, doing: str, made: int | None) -> Volume | None:
        """`made` is the number that this call was given: of a kept volume's name nothing else is ever removed."""
        kept, same = is_kept(request.name), self._of_name(request.name)
        others = [it for it in same if int(it["fs_id"]) != made]
        if kept and len(others) < len(same) and others and self._was_first(request.name, others, made):
            self._take_back(same, others, doing)
            same = self._of_name(request.name)
            if not same:
                raise CloudUnavailable(f"{doing}: made twice at once, and taken back", hint="the next look makes it")
        elif kept and made is not None:
            same = [it for it in same if it not in others] or same
        first = next((it for it in same if not kept and self._is_held(it, len(same))), next(iter(same), None))
        if first is None:
            return None
        if first.get("region") != request.data_center:
            self._take_back(same, others, doing)
            raise NoCapacity(
                f"{doing}: the name is taken by one in {first.get('region')}",
                hint="place the run in that region, or delete that volume, and what is on it, first",
                reason="VolumeElsewhere",
            )
        if not kept:
            self._take_back(same, [first], doing)
        return shapes.volume(first, [request.name])

    def _meant(self, volume_id: str) -> list[Any]:
        rows = [(shapes.file_system_name(it), it) for it in self._reads.file_systems()]
        same = [it for shown, it in rows if shapes.volume_id(shown) == volume_id]
        return same or [it for shown, it in rows if shapes.volume_id(shown, int(it["fs_id"])) == volume_id]

    def _of_name(self, name: str) -> list[Any]:
        """The lowest number first."""
        shown = short(name, FILE_SYSTEM_CHARS)
        return [it for it in self._reads.file_systems() if shapes.file_system_name(it) == shown]

    def _was_first(self, name: str, others: list[Any], made: int | None) -> bool:
        """Whether another one was there before: a creator who saw a lower number takes its own back at once."""
        if made is None or int(others[0]["fs_id"]) < made:
            return True
        for pause_s in self._hosts.limits.look_pauses_s:
            self._hosts.sleep(pause_s)
            if len(self._of_name(name)) < 2:
                return False
        return True

    def _take_back(self, same: list[Any], but: list[Any], doing: str) -> None:
        for raw in same:
            if raw not in but:
                self._remove(raw, doing)

    def _is_held(self, raw: Any, twins: int) -> bool:
        return twins > 1 and bool(self.holders([int(raw["fs_id"])]))

    def _remove(self, raw: Any, doing: str) -> None:
        answer = self._hosts.end(raw.get("region"), "/filesystem/delete", {"fs_id": str(int(raw["fs_id"]))})
        if answer.ok or answer.absent:
            return
        if answer.ambiguous or answer.status in (401, 402, 403, 429):
            raise SPEAKS.failure(answer, doing)
        raise CloudUnavailable(f"{doing}: {answer.said}", hint="an instance may still hold it: try again later")


def _number(answer: Answer) -> int | None:
    """What a create made; None where its answer does not say: then the name is looked up."""
    if not answer.ok or answer.json is None:
        return None
    try:
        with SPEAKS.expected_shape("reading what was created"):
            return int(answer.json["fs_id"])
    except CloudUnavailable:
        return None

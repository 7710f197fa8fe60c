"""Start scripts of a JarvisLabs account. A script's name is the whole name of what it belongs to, by which the
shorter name of an instance or file system is known again; of a file system it is there for nothing else.
"""

import secrets
from collections.abc import Callable, Collection
from typing import Any

from infra.clouds.answers import Answer
from infra.clouds.jarvis.answers import SPEAKS
from infra.clouds.jarvis.hosts import Hosts
from infra.clouds.jarvis.names import INSTANCE_CHARS, short
from pushtrain.errors import CloudUnavailable

LABEL = b"#!/bin/bash\n# Made by pushtrain: its name is the whole name of a file system.\n"


class Scripts:
    """Every method raises CloudError. Scripts cost nothing; one that is left is used again by its name."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def all(self) -> list[tuple[int, str]]:
        """(id, name), the oldest first."""
        doing, answer = "listing start scripts", self._hosts.ask("GET", "/scripts/")
        if not answer.ok:
            raise SPEAKS.failure(answer, doing)
        with SPEAKS.expected_shape(doing):
            rows = answer.json.get("script_meta") or []
            return sorted((int(it["script_id"]), str(it.get("script_name") or "")) for it in rows)

    def put(self, name: str, script: bytes) -> int:
        """The id of the script of that name, with this content from now on. An answer that is lost is looked for."""
        doing, found = f"storing the start script {name}", self._find(name)
        for _ in range(self._hosts.limits.create_attempts):
            if found is None:
                answer = self._upload("/scripts/add", {"name": name}, script)
                found = self._find(name)
                if found is not None and answer.ok:
                    return found
            else:
                answer = self._upload("/scripts/update", {"script_id": str(found)}, script)
                if answer.ok:
                    return found
                found = None if answer.absent else found
            if not (answer.ok or answer.ambiguous or answer.absent):
                raise SPEAKS.failure(answer, doing)
        raise CloudUnavailable(f"{doing}: {answer.said}", hint="the next look goes on")

    def remove(self, is_wanted: Callable[[str], bool]) -> None:
        """Those whose names are wanted; gone is success."""
        for script_id, name in self.all():
            if name and is_wanted(name):
                answer = self._hosts.ask("DELETE", "/scripts/", {"script_id": str(script_id)})
                if not answer.ok and not answer.absent:
                    raise SPEAKS.failure(answer, f"removing the start script {name}")

    def forget(self, name: str, living: Collection[str]) -> None:
        """Removes what belongs to the pod or volume of that name, and to attempts of its run that came before, or, of
        a run's volume, to all; `living` are the names that instances have now."""
        run, _, last = name.rpartition("-")

        def is_over(its: str) -> bool:
            head, _, tail = its.rpartition("-")
            attempt = tail.removeprefix("a")
            earlier = head == run and attempt.isdigit() and (last == "v" or int(attempt) < _number(last))
            return (its == name or earlier) and short(its, INSTANCE_CHARS) not in living

        self.remove(is_over)

    def _find(self, name: str) -> int | None:
        return next((script_id for script_id, its in self.all() if its == name), None)

    def _upload(self, path: str, query: dict[str, str], script: bytes) -> Answer:
        body, headers = multipart("script", "startup.sh", script)
        return self._hosts.send("POST", path, query=query, body=body, headers=headers)


def _number(tail: str) -> int:
    return int(tail[1:]) if tail[:1] == "a" and tail[1:].isdigit() else 0


def multipart(field: str, file_name: str, content: bytes) -> tuple[bytes, dict[str, Any]]:
    """One file as a form sends it (RFC 7578)."""
    border = f"pushtrain-{secrets.token_hex(16)}"
    head = (
        f'--{border}\r\nContent-Disposition: form-data; name="{field}"; filename="{file_name}"\r\n'
        "Content-Type: application/x-sh\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{border}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={border}"}

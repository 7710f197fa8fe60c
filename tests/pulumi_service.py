"""A stand-in for Pulumi's service, on loopback: as much of its API as one stack's way from init to rm takes.

Made after what the CLI sends (its pkg/backend/httpstate/client), not after the service: it shows that the engine gets
along with a backend that has tokens, leases and an encryption of its own, not that the real one behaves like this.
"""

import base64
import gzip
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from infra.simulator.loopback import Listener, Reply, Request

OWNER = "someone"


@dataclass
class Stack:
    deployment: dict[str, Any] | None = None
    version: int = 0
    running: str | None = None
    """The update that holds the stack."""
    updates: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Service:
    """`stacks` by `owner/project/stack`; `shown` are all credentials it saw; `unknown` what it could not answer."""

    token: str
    url: str = ""
    stacks: dict[str, Stack] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)


@contextmanager
def service(token: str) -> Iterator[Service]:
    made = Service(token)
    with Listener(_Answers(made).to) as listener:
        made.url = listener.url
        yield made


class _Failed(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Answers:
    def __init__(self, service: Service) -> None:
        self.service = service

    def to(self, request: Request) -> Reply:
        is_packed = request.headers.get("content-encoding") == "gzip"
        raw = gzip.decompress(request.body) if is_packed else request.body
        try:
            return Reply.of(self._answer(request, json.loads(raw) if raw else {}))
        except _Failed as failed:
            return Reply.of({"code": failed.code, "message": str(failed)}, failed.code)

    def _answer(self, request: Request, body: Any) -> dict[str, Any]:
        shown = request.headers.get("authorization", "")
        self.service.shown.add(shown)
        leases = {f"update-token {it.running}" for it in self.service.stacks.values() if it.running}
        if shown != f"token {self.service.token}" and shown not in leases:
            raise _Failed(401, "Unauthorized: No credentials provided or are invalid.")
        match [request.method, *request.path.strip("/").split("/")[1:]]:
            case ["GET", "user"]:
                return {"githubLogin": OWNER, "name": OWNER, "organizations": [{"githubLogin": OWNER}]}
            case ["GET", "user", "organizations", "default"]:
                return {"GitHubLogin": OWNER}
            case ["POST", "stacks", owner, project]:
                return self._create(f"{owner}/{project}/{body['stackName']}")
            case [_, "stacks", owner, project, name, *rest]:
                return self._of_stack(request, f"{owner}/{project}/{name}", rest, body)
        if request.path not in ("/api/capabilities", "/api/cli/version"):
            self.service.unknown.append(f"{request.method} {request.path}")
        raise _Failed(404, "Not Found")

    def _create(self, name: str) -> dict[str, Any]:
        if name in self.service.stacks:
            raise _Failed(409, f"Conflict: Stack '{name}' already exists")
        self.service.stacks[name] = Stack()
        return {}

    def _of_stack(self, request: Request, name: str, rest: list[str], body: Any) -> dict[str, Any]:
        stack = self.service.stacks.get(name)
        if stack is None:
            raise _Failed(404, f"Not Found: Stack '{name}' not found")
        match [request.method, *rest]:
            case ["GET"]:
                owner, project, short = name.split("/")
                known = {"orgName": owner, "projectName": project, "stackName": short, "version": stack.version}
                return known | {"activeUpdate": stack.running or "", "tags": {}}
            case ["DELETE"]:
                if (stack.deployment or {}).get("deployment", {}).get("resources"):
                    raise _Failed(400, "Bad Request: Stack still contains resources.")
                del self.service.stacks[name]
                return {}
            case ["GET", "export"]:
                return stack.deployment or {"version": 3, "deployment": {"manifest": {}, "resources": []}}
            case ["GET", "updates"]:
                return {"updates": list(reversed(stack.updates))}
            case ["POST", "encrypt" | "decrypt" | "batch-encrypt" | "batch-decrypt" as verb]:
                return _crypted(verb, body)
            case ["POST", "update" | "preview" | "refresh" | "destroy" as kind]:
                if kind != "preview" and stack.running:
                    raise _Failed(409, "Conflict: Another update is currently in progress.")
                return {"updateID": f"{kind}-{uuid.uuid4().hex}"}
            case [_, _, update, *step]:
                return self._of_update(stack, update, step, body)
        self.service.unknown.append(f"{request.method} {request.path}")
        raise _Failed(404, "Not Found")

    def _of_update(self, stack: Stack, update: str, step: list[str], body: Any) -> dict[str, Any]:
        match step:
            case []:
                if not update.startswith("preview"):
                    stack.running, stack.version = update, stack.version + 1
                return {"version": stack.version, "token": update}
            case ["checkpoint"]:
                stack.deployment = {"version": body["version"], "deployment": body["deployment"]}
                return {}
            case ["checkpointverbatim"]:
                stack.deployment = body["untypedDeployment"]
                return {}
            case ["renew_lease"]:
                return {"token": update}
            case ["complete"]:
                stack.running = None
                done = {"kind": update.partition("-")[0], "result": body["status"], "version": stack.version}
                stack.updates.append(
                    done | {"startTime": 1, "endTime": 2, "message": "", "environment": {}, "config": {}}
                )
                return {}
        return {}


def _crypted(verb: str, body: Any) -> dict[str, Any]:
    match verb:
        case "encrypt":
            return {"ciphertext": _turned(body["plaintext"])}
        case "decrypt":
            return {"plaintext": _turned(body["ciphertext"])}
        case "batch-encrypt":
            return {"ciphertexts": [_turned(it) for it in body["plaintexts"]]}
    return {"plaintexts": {it: _turned(it) for it in body["ciphertexts"]}}


def _turned(text: str) -> str:
    """Base64 of the bytes backwards: enough to tell a plaintext from what is kept."""
    return base64.b64encode(base64.b64decode(text)[::-1]).decode()

"""RunPod's published OpenAPI document as a judge: is this request, or this answer, one the real API knows?

The document is the vendor's and is not part of this repository. It is looked up at `$PUSHTRAIN_RUNPOD_OPENAPI`, then at
`../shared/reference/runpod-v2-openapi.json` beside the checkout; `OpenApi.load()` is None where neither is there.
"""

import json
import os
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

MISSING = "RunPod's OpenAPI document is not here: set PUSHTRAIN_RUNPOD_OPENAPI to its path"

# Sent and served since October 2026, after the document of August 2026: lists became cursor-paginated.
NEWER_QUERY = {("get", "/v2/pods"): {"limit", "cursor"}, ("get", "/v2/network-volumes"): {"limit", "cursor"}}

_URI = "urn:runpod:v2"
_FORMATS = FormatChecker(formats=())


@_FORMATS.checks("date-time", raises=ValueError)
def _is_rfc3339(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


class OpenApi:
    """Checks raise AssertionError with everything that is wrong, and return None when nothing is."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._registry: Registry[Any] = Registry().with_resource(
            _URI, Resource.from_contents(document, default_specification=DRAFT202012)
        )

    @classmethod
    def load(cls) -> "OpenApi | None":
        beside = Path(__file__).resolve().parents[2] / "shared" / "reference" / "runpod-v2-openapi.json"
        path = Path(os.environ.get("PUSHTRAIN_RUNPOD_OPENAPI") or beside)
        return cls(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def operation(self, method: str, path: str) -> tuple[str, dict[str, Any]]:
        """Path template and operation object of a concrete path; a literal path wins over one with parameters."""
        for template in sorted(self.document["paths"], key=lambda template: template.count("{")):
            operations = self.document["paths"][template]
            pattern = re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(template))
            if re.fullmatch(pattern, unquote(path)) or re.fullmatch(pattern, path):
                assert method.lower() in operations, f"{template} has no {method.upper()}"
                return template, operations[method.lower()]
        raise AssertionError(f"RunPod has no path {path}")

    def check_request(self, method: str, path: str, query: Mapping[str, str], body: Any) -> None:
        """`path` as sent (percent-encoded or not), `query` as strings, `body` the decoded JSON or None."""
        template, operation = self.operation(method, path)
        where = f"{method.upper()} {path}"
        self._check_query(where, query, self._query_parameters(template, operation), (method.lower(), template))
        declared = operation.get("requestBody")
        if declared is None:
            assert body is None, f"{where} takes no body, got {body!r}"
        elif body is None:
            assert not declared.get("required"), f"{where} needs a body"
        else:
            steps = ("paths", template, method.lower(), "requestBody", "content", "application/json", "schema")
            self._check(f"{where} body", body, {"$ref": _pointer(*steps)})

    def check_response(self, method: str, path: str, status: int, body: Any) -> None:
        """`body` the decoded JSON, the text of an event stream, or None (or "") when there is none."""
        template, operation = self.operation(method, path)
        where = f"{method.upper()} {path} {status}"
        code = str(status) if str(status) in operation["responses"] else "default"
        steps: tuple[str, ...] = ("paths", template, method.lower(), "responses", code)
        answer = operation["responses"][code]
        if "$ref" in answer:
            steps = tuple(_unescape(step) for step in answer["$ref"].removeprefix("#/").split("/"))
            answer = self._resolve(answer)
        content = answer.get("content", {})
        if not content:
            assert body in (None, ""), f"{where} has no body, got {body!r}"
            return
        kind = next(iter(content))
        if kind == "text/event-stream":
            assert isinstance(body, str), f"{where} is an event stream, got {body!r}"
        else:
            self._check(f"{where} body", body, {"$ref": _pointer(*steps, "content", kind, "schema")})

    def _query_parameters(self, template: str, operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
        declared = [*self.document["paths"][template].get("parameters", []), *operation.get("parameters", [])]
        resolved = [self._resolve(parameter) for parameter in declared]
        return {parameter["name"]: parameter for parameter in resolved if parameter["in"] == "query"}

    def _check_query(
        self, where: str, query: Mapping[str, str], known: dict[str, dict[str, Any]], route: tuple[str, str]
    ) -> None:
        unknown = set(query) - set(known) - NEWER_QUERY.get(route, set())
        assert not unknown, f"{where}: RunPod ignores unknown query parameters {sorted(unknown)}"
        for name, parameter in known.items():
            assert name in query or not parameter.get("required"), f"{where} needs ?{name}="
            if name in query:
                schema = self._resolve(parameter["schema"])
                self._check(f"{where} ?{name}=", _typed(query[name], schema.get("type")), schema)

    def _resolve(self, node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            found: Any = self.document
            for step in node["$ref"].removeprefix("#/").split("/"):
                found = found[_unescape(step)]
            node = found
        return node

    def _check(self, where: str, value: Any, schema: dict[str, Any]) -> None:
        # A schema lifted out of the document keeps its relative references: the document is the base of both.
        based = schema if schema.get("$ref", "").startswith(_URI) else {"$id": f"{_URI}:part", **_absolute(schema)}
        validator = Draft202012Validator(based, registry=self._registry, format_checker=_FORMATS)
        wrong = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
        assert not wrong, f"{where}: " + "; ".join(wrong)


def _pointer(*steps: str) -> str:
    return f"{_URI}#/" + "/".join(step.replace("~", "~0").replace("/", "~1") for step in steps)


def _unescape(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")


def _absolute(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: f"{_URI}{value}" if key == "$ref" and value.startswith("#") else _absolute(value)
            for key, value in node.items()
        }
    return [_absolute(item) for item in node] if isinstance(node, list) else node


def _typed(text: str, kind: Any) -> Any:
    """A query string as the JSON value its schema speaks of; what cannot be converted stays a string, and fails."""
    if kind == "array":
        return text.split(",")
    if kind == "integer" and re.fullmatch(r"-?\d+", text):
        return int(text)
    if kind == "boolean" and text in ("true", "false"):
        return text == "true"
    return text

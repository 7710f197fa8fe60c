"""RunPod's GraphQL endpoint, as its Pulumi plugin meets it: the same account, quota and faults as REST v2.

A refusal of the cloud is HTTP 200 with `errors`; a document or variables that do not fit the schema are HTTP 400. What
breaks below the API (429, 401, 403, 410, an HTML 502, a cut connection) looks as it does on REST. Not rehearsed: RunPod
shows gpuTypes and dataCenters to callers without a key, here everybody needs one.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from graphql import (
    FieldNode,
    GraphQLError,
    GraphQLSyntaxError,
    NoSchemaIntrospectionCustomRule,
    OperationDefinitionNode,
    execute,
    get_operation_ast,
    parse,
    specified_rules,
    validate,
)
from graphql.execution.values import VariableValues, get_argument_values, get_variable_values
from graphql.language import DocumentNode
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infra.simulator.gate import Call, Gate, Problem, json_body, subject_of
from infra.simulator.graphql_root import Root
from infra.simulator.graphql_schema import runpod_schema
from infra.simulator.state import Refused

log = logging.getLogger("pushtrain.simulator")
_SCHEMA = runpod_schema()
_RULES = (*specified_rules, NoSchemaIntrospectionCustomRule)
# A fault on an operation of REST strikes the field that does the same.
_OPERATIONS = {
    "pod": "get_pod",
    "podFindAndDeployOnDemand": "create_pod",
    "podEditJob": "edit_pod",
    "podTerminate": "delete_pod",
    "createNetworkVolume": "create_volume",
    "updateNetworkVolume": "update_volume",
    "deleteNetworkVolume": "delete_volume",
    "gpuTypes": "list_gpus",
    "dataCenters": "list_data_centers",
}
# Answers of what stands in front of the API; anything else a resolver says, in a 200.
_IN_FRONT = (401, 403, 410, 429)


def routes(gate: Gate) -> list[Route]:
    return [gate.route("POST", "/graphql", "graphql", _answer, _read)]


@dataclass(frozen=True, slots=True)
class _Request:
    """A document that fits the schema, and the one root field faults look at."""

    document: DocumentNode
    operation: OperationDefinitionNode
    variables: VariableValues
    sent: dict[str, Any]
    field: FieldNode


class _Invalid(Problem):
    """400 in GraphQL's own words."""

    def __init__(self, errors: Sequence[GraphQLError], code: str) -> None:
        super().__init__(400, errors[0].message)
        self._shown = [_shown(error.message, code, error) for error in errors]

    def response(self) -> Response:
        return JSONResponse({"errors": self._shown}, self.status)


async def _read(call: Call) -> dict[str, str]:
    """Reads and checks the whole request; its operation is REST's name for what the first field does."""
    request = _parsed(await json_body(call.request))
    call.request.state.graphql = request
    name = request.field.name.value
    call.operation = _OPERATIONS.get(name) or _listing(request.field)
    call.render = lambda problem: _render(problem, name)
    parent = _SCHEMA.get_root_type(request.operation.operation)
    assert parent is not None, "validation knows no other operation"
    arguments = get_argument_values(parent.fields[name], request.field, request.variables)
    asked = arguments.get("input") or {}
    target = str(asked.get("podId") or asked.get("id") or "")
    return subject_of(
        call.service.account,
        call.operation,
        target,
        name=str(asked.get("name") or ""),
        gpu=str(asked.get("gpuTypeId") or ""),
    )


async def _answer(call: Call) -> Response:
    request = cast(_Request, call.request.state.graphql)
    result = execute(
        _SCHEMA,
        request.document,
        root_value=Root(call.service),
        variable_values=request.sent,
        operation_name=request.operation.name.value if request.operation.name else None,
    )
    errors = getattr(result, "errors", None) or []
    for error in errors:
        if isinstance(error.original_error, Refused):
            raise error.original_error
        log.error("a GraphQL resolver failed", exc_info=error)
    if errors:
        raise Problem(500, "Something went wrong. Please try again later or contact support.")
    return JSONResponse({"data": getattr(result, "data", None)})


def _parsed(body: Any) -> _Request:
    """Raises _Invalid for what does not fit the schema."""
    if not isinstance(body, dict) or not isinstance(body.get("query"), str):
        raise _Invalid([GraphQLError("POST body missing, invalid Content-Type, or without keys.")], "BAD_REQUEST")
    try:
        document = parse(body["query"])
    except GraphQLSyntaxError as error:
        raise _Invalid([error], "GRAPHQL_PARSE_FAILED") from error
    if errors := validate(_SCHEMA, document, _RULES):
        raise _Invalid(errors, "GRAPHQL_VALIDATION_FAILED")
    operation = get_operation_ast(document, body.get("operationName"))
    if operation is None:
        raise _Invalid([GraphQLError("No such operation, or none named.")], "OPERATION_RESOLUTION_FAILURE")
    sent = body.get("variables") or {}
    variables = get_variable_values(_SCHEMA, operation.variable_definitions or (), sent)
    if isinstance(variables, list):
        raise _Invalid(variables, "BAD_USER_INPUT")
    first = operation.selection_set.selections[0]
    if not isinstance(first, FieldNode):
        raise _Invalid([GraphQLError("Fragments at the root are not part of the simulator.")], "BAD_REQUEST")
    return _Request(document, operation, variables, sent, first)


def _listing(field: FieldNode) -> str:
    """`myself` lists whatever it is asked for; with both, faults of the volumes' list strike it."""
    nodes = field.selection_set.selections if field.selection_set else ()
    asked = [node.name.value for node in nodes if isinstance(node, FieldNode)]
    return "list_volumes" if "networkVolumes" in asked else "list_pods"


def _render(problem: Problem, field: str) -> Response:
    if isinstance(problem, _Invalid) or problem.status in _IN_FRONT:
        return problem.response()
    code = "INTERNAL_SERVER_ERROR" if problem.status >= 500 else "RUNPOD"
    return JSONResponse({"errors": [{**_shown(problem.detail, code), "path": [field]}], "data": {field: None}})


def _shown(message: str, code: str, error: GraphQLError | None = None) -> dict[str, Any]:
    locations = [{"line": it.line, "column": it.column} for it in (error.locations if error else None) or ()]
    return {"message": message, **({"locations": locations} if locations else {}), "extensions": {"code": code}}

"""The OpenAPI 3.1 document of the routes: pure. What is not in a `Route` is not in it."""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from qemu_node.version import VERSION
from qemu_node.web.frame.route import Route
from qemu_node.web.http.problems import ProblemBody

_PARAMETER = re.compile(r"\{(\w+)(?::[^}]*)?\}")


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the document, ready for JSON."""
    listed = list(routes)
    types = {kind for route in listed for kind in (route.body, route.answer) if kind is not None}
    ordered = sorted(types | {ProblemBody}, key=str)
    schemas, components = msgspec.json.schema_components(
        ordered, ref_template="#/components/schemas/{name}"
    )
    schema_of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in listed:
        path = _PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Nomad QEMU node", "version": VERSION},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Nomad-Token"},
                "session": {"type": "apiKey", "in": "cookie", "name": "__Host-qn"},
            },
        },
    }


def _operation(route: Route, schema_of: dict[type, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method.lower()} {route.path}",
        "responses": {"default": _response("What is wrong.", schema_of[ProblemBody])},
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]
    for query in route.query:
        schema = {"type": "integer", "minimum": query.least, "maximum": query.most}
        parameters.append(
            {
                "name": query.name,
                "in": "query",
                "description": query.summary,
                "schema": schema | {"default": query.default},
            }
        )
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        content = {"application/json": {"schema": schema_of[route.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.right is not None:
        operation["security"] = [{"token": []}, {"session": []}]
        operation["x-right"] = route.right.value
    if route.answer is not None:
        operation["responses"]["200"] = _response("The answer.", schema_of[route.answer])
    elif route.content_type != "application/json":
        operation["responses"]["200"] = {
            "description": "The answer.",
            "content": {route.content_type: {}},
        }
    else:
        operation["responses"]["204"] = {"description": HTTPStatus.NO_CONTENT.phrase}
    return operation


def _response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}

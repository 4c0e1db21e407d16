"""The HTTP API, from the router's routes and the pydantic models of requests and answers."""

from __future__ import annotations

import inspect
from typing import Any

from fastapi.routing import APIRoute
from markdown import code, sentence, table
from pydantic import BaseModel

from hidden_decoding.serve import answers, protocol
from hidden_decoding.serve.app import router

HEAD = """# HTTP API

What `hidden-decoding serve` with the local engine answers; `/openapi.json` of a running server says the same. All
counts are in tokens. Unknown fields are accepted and warned about once. How the server behaves:
[serving](../serving.md); what bad input is answered with: [bad inputs](../bad-inputs.md).

"""
BASES = {"Message", "RequestBody", "GenerationRequest", "TemplateFields", "Answer"}
SCALARS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}


def page() -> str:
    """Routes, then what is sent, then what comes back."""
    parts = [HEAD, "## Routes\n", table(("route", "what it does", "request", "answer"), routes())]
    parts += ["## Requests\n", *(model(cls) for cls in models(protocol))]
    return "\n".join([*parts, "## Answers\n", *(model(cls) for cls in models(answers))])


def routes() -> list[tuple[str, str, str, str]]:
    """Each route that `/openapi.json` has."""
    rows = []
    for route in router.routes:
        if not isinstance(route, APIRoute) or not route.include_in_schema:
            continue
        body = route.body_field.field_info.annotation.__name__ if route.body_field else ""
        answer = route.response_model.__name__ if route.response_model else ""
        path = route.path.replace(":path", "")
        rows.append(
            (code(f"{' '.join(sorted(route.methods))} {path}"), sentence(route.description), link(body), link(answer))
        )
    return rows


def link(name: str) -> str:
    return f"[{name}](#{name.lower()})" if name else ""


def models(module: Any) -> list[type[BaseModel]]:
    """The module's own models, in the order in which they are written."""
    own = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
    inner = [cls for outer in own for _, cls in inspect.getmembers(outer, inspect.isclass) if cls not in own]
    found = [cls for cls in (*own, *inner) if issubclass(cls, BaseModel) and cls.__name__ not in BASES]
    found = [cls for cls in dict.fromkeys(found) if cls.__module__ == module.__name__]
    return sorted(found, key=lambda cls: inspect.getsourcelines(cls)[1])


def model(cls: type[BaseModel]) -> str:
    """One object: its fields, inherited ones included."""
    schema = cls.model_json_schema(by_alias=True)
    required = set(schema.get("required", ()))
    rows = [
        (code(name), type_text(field), "yes" if name in required else "", field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]
    fields = table(("field", "type", "required", "meaning"), rows)
    return f"### {cls.__name__}\n\n{sentence(cls.__doc__)}\n\n{fields}"


def type_text(schema: dict[str, Any]) -> str:
    """A JSON schema in words; a null that only stands for "not given" is left out."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return link(name)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_text(part) for part in schema["anyOf"] if part.get("type") != "null"))
    if "const" in schema or "enum" in schema:
        return ", ".join(code(str(value)) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of ({type_text(schema.get('items', {}))})"
    if schema.get("type") == "object":
        return "object"
    return SCALARS.get(schema.get("type", ""), "anything") + limits(schema)


def limits(schema: dict[str, Any]) -> str:
    """The range of a number, where one says more than the width of the wire."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None or abs(low) >= 1e9:
        return ""
    return f" from {low}" if high is None or high >= 2**31 - 1 else f" {low} to {high}"

"""`tools` and `tool_choice` of a chat request: which tools the model sees, and the grammar when a call is demanded.

Contract: `auto` leaves the choice to the model (its `<tool_call>` blocks are parsed), `none` hides the tools,
`required` and a named function make the whole answer one call by a JSON schema, so its arguments always fit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hidden_decoding.serve.errors import bad_request, shown
from hidden_decoding.serve.protocol import NamedToolChoice

if TYPE_CHECKING:
    from hidden_decoding.serve.protocol import ChatRequest, Tool


@dataclass(frozen=True, kw_only=True)
class ToolUse:
    """What a request wants: no calls, calls if the model likes, or exactly one call that follows `schema`."""

    mode: Literal["none", "auto", "forced"]
    schema: dict[str, Any] | None = None


def tool_use(request: ChatRequest) -> ToolUse:
    """Reads `tools` and `tool_choice`; combinations that cannot work are a 400."""
    tools, choice = request.tools or [], request.tool_choice
    if choice in (None, "auto", "none"):
        return ToolUse(mode="auto" if tools and choice != "none" else "none")
    if not tools:
        raise bad_request("tool_choice", "tool_choice demands a call, but the request offers no tools")
    if request.response_format is not None and request.response_format.type != "text":
        raise bad_request(
            "tool_choice", "tool_choice demands a call and response_format demands JSON; ask for one of them"
        )
    if isinstance(choice, NamedToolChoice):
        wanted = choice.function.name
        tools = [tool for tool in tools if tool.function.name == wanted]
        if not tools:
            raise bad_request(
                "tool_choice", f"tool_choice names the function {shown(wanted)}, which is not among the tools"
            )
    return ToolUse(mode="forced", schema=_one_call_of(tools))


def _one_call_of(tools: list[Tool]) -> dict[str, Any]:
    """The JSON schema of one call of any of the tools. Definitions move to its top, where references look for them."""
    definitions: dict[str, dict[str, Any]] = {}
    calls = []
    for tool in tools:
        parameters = dict(tool.function.parameters or {"type": "object"})
        for key in ("$defs", "definitions"):
            for name, schema in (parameters.pop(key, None) or {}).items():
                known = definitions.setdefault(key, {}).setdefault(name, schema)
                if json.dumps(known, sort_keys=True) != json.dumps(schema, sort_keys=True):
                    raise bad_request(
                        "tools", f"two tools define {shown(name)} differently; name one of them in tool_choice"
                    )
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.function.name}, "arguments": parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return {**(calls[0] if len(calls) == 1 else {"anyOf": calls}), **definitions}

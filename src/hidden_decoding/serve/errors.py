"""What goes wrong, as HTTP: every answer that is not a success has OpenAI's error shape and no path or traceback.

Contract: `{"error": {"message", "type", "param", "code"}}` with the matching status. `ApiError` is raised by the
server's own checks; errors of the engine and of request validation are translated here, in one place.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from hidden_decoding.errors import CapacityError, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# status -> (type, code) as OpenAI's own answers have them; a caller may give a more precise code
_KINDS: dict[int, tuple[str, str | None]] = {
    400: ("invalid_request_error", None),
    401: ("authentication_error", "invalid_api_key"),
    404: ("not_found_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("timeout_error", "request_timeout"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("rate_limit_error", "queue_full"),
    500: ("server_error", "internal_error"),
    503: ("service_unavailable_error", "service_unavailable"),
}
_SHOWN_CHARACTERS = 80


class ApiError(Exception):
    """An answer other than success: status, message, and the field at fault if there is one."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        kind, usual_code = _KINDS.get(status, ("invalid_request_error" if status < 500 else "server_error", None))
        self.type = kind
        self.code = code or usual_code
        self.headers = dict(headers or {})
        if status in (429, 503):
            self.headers.setdefault("retry-after", "1")
        if status == 401:
            self.headers.setdefault("www-authenticate", "Bearer")

    def payload(self) -> dict[str, Any]:
        """The body, OpenAI's shape."""
        message = self.message.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate cannot be sent
        return {"error": {"message": message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The whole HTTP answer."""
        body = json.dumps(self.payload(), ensure_ascii=False).encode()
        return Response(body, self.status, headers=self.headers, media_type="application/json")


def bad_request(param: str | None, message: str, *, code: str | None = None) -> ApiError:
    """A 400 about one field."""
    return ApiError(400, message, param=param, code=code)


def internal_error() -> ApiError:
    """A 500 that says nothing about the inside; the log has the rest."""
    return ApiError(500, "the server failed on this request; its log says more")


def from_exception(error: Exception) -> ApiError:
    """Any exception as an answer: the engine's typed errors keep their message, the rest becomes a plain 500."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        return bad_request(error.param, str(error))
    if isinstance(error, CapacityError):
        return ApiError(429, str(error))
    return internal_error()


def shown(value: Any) -> str:
    """A value from a request as it may stand in a message: short, printable."""
    try:
        text = ascii(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def from_validation(problems: Sequence[Mapping[str, Any]], body: Any) -> ApiError:
    """What pydantic found in `body`, as one 400 that names the field at fault, what is expected, and the value seen.

    A field that may have several shapes yields a problem per shape. The shape meant is the one that pydantic could
    follow furthest: a value out of range counts before a type that does not fit, then the deepest problem.
    """
    if problems[0]["type"] == "json_invalid":
        return bad_request(None, f"the body is not valid JSON: {problems[0].get('ctx', {}).get('error', 'cut short')}")
    if not isinstance(body, dict):
        return bad_request(None, "the body must be a JSON object, sent with 'content-type: application/json'")
    located = [(_path_in(body, problem), problem) for problem in problems]
    field = located[0][0][:1]
    same_field = [item for item in located if item[0][:1] == field]
    path, _ = max(same_field, key=lambda item: (not item[1]["type"].endswith("_type"), len(item[0])))
    there = [problem for place, problem in same_field if place == path]
    telling = [problem for problem in there if not problem["type"].endswith("_type")] or there
    reasons = " or ".join(dict.fromkeys(_reason(problem) for problem in telling))
    param = str(path[0]) if path else (telling[0].get("ctx") or {}).get("param")
    if telling[0]["type"] == "missing":
        return bad_request(param, f"{_dotted(path)} is missing")
    where = f"{_dotted(path)}: " if path else ""
    seen = f" (got {shown(telling[0].get('input'))})" if path else ""
    return bad_request(param, f"{where}{reasons}{seen}")


def _path_in(body: Any, problem: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Where in the body the problem lies: pydantic's location without the names of the union members it tried."""
    path: list[str | int] = []
    value = body
    for part in problem["loc"][1:]:
        in_list = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if in_list or (isinstance(value, dict) and part in value):
            value = value[part]
        elif not (isinstance(value, dict) and problem["type"] == "missing" and part == problem["loc"][-1]):
            continue
        path.append(part)
    return tuple(path)


def _reason(problem: Mapping[str, Any]) -> str:
    text: str = problem["msg"]
    text = text.removeprefix("Value error, ").replace("Input should be", "must be").replace("List should", "must")
    return text.replace(" after validation", "").replace(" or instance of ", " like ")


def _dotted(path: Sequence[str | int]) -> str:
    """`["messages", 0, "role"]` -> `messages[0].role`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{shown(part)[1:-1]}" for part in path]
    return "".join(parts).removeprefix(".")

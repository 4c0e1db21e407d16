"""Errors: the typed exceptions, and the statuses of the server."""

from __future__ import annotations

import inspect

from markdown import code, sentence, table

from hidden_decoding import errors
from hidden_decoding.errors import CapacityError, HiddenDecodingError, RequestError
from hidden_decoding.serve.app import _MEANINGS
from hidden_decoding.serve.errors import _KINDS, from_exception

HEAD = """# Errors

Everything a user can cause is a `HiddenDecodingError`. Its text says what happened, the value seen, why, and the next
command. The command line prints it as one line, `error: ...`, and exits with 2; a traceback is a fault of ours.

## In Python

From `hidden_decoding.errors`:

"""
HTTP = """
## Over HTTP

Every answer that is not a success is `{"error": {"message", "type", "param", "code"}}`; `param` names the field at
fault. 429 and 503 carry `retry-after`. Every message with its cause: [bad inputs](../bad-inputs.md).

"""


def page() -> str:
    """Exceptions, then statuses."""
    own = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, HiddenDecodingError)]
    own.sort(key=lambda cls: inspect.getsourcelines(cls)[1])
    rows = [(code(cls.__name__), code(also(cls)), sentence(cls.__doc__), http(cls)) for cls in own]
    exceptions = table(("exception", "is also a", "when", "status over HTTP"), rows)
    statuses = [
        (str(status), code(kind), code(usual or "") or "(by case)", _MEANINGS.get(status, ""))
        for status, (kind, usual) in _KINDS.items()
    ]
    return HEAD + exceptions + HTTP + table(("status", "`type`", "`code`", "when"), statuses)


def also(cls: type) -> str:
    """The built-in exception that catches it too."""
    return ", ".join(base.__name__ for base in cls.__bases__ if base.__module__ == "builtins" and base is not Exception)


def http(cls: type[HiddenDecodingError]) -> str:
    """What the server makes of it while it answers a request."""
    return str(from_exception(cls("")).status) if cls in (RequestError, CapacityError) else ""

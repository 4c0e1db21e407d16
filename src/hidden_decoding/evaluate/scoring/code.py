"""Programs: the code in an answer, run in the sandbox on MBPP+'s inputs, its results compared with the reference's.

Contract: an answer passes when every result of its function equals the reference solution's (within the problem's
tolerance). The reference runs once per problem. Comparison is EvalPlus's: exact, or as `packs/mbpp_plus.yaml` says.
"""

from __future__ import annotations

import ast
import functools
import json
import math
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

import yaml

from hidden_decoding.evaluate.sandbox import Raised, run_program, run_script
from hidden_decoding.evaluate.sandbox_child import Opaque
from hidden_decoding.evaluate.scoring.final import Verdict, without_thinking

SECONDS = 10.0  # for all inputs of one problem; more where the reference itself is slow
REFERENCE_SECONDS = 120.0
SLOWER = 4.0  # how much slower than the reference an answer may be
RTOL, FLOAT_ATOL = 1e-7, 1e-6

_FENCE = re.compile(r"```[ \t]*(?:python|py|Python)?[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_BEGINS = re.compile(r"(?m)^(?:def |class |import |from |@|async def )")


def score_code(text: str, doc: dict[str, Any]) -> Verdict:
    """`doc` is a row of MBPP+, from EvalPlus's file (`check`) or from the hub (`test`)."""
    code = program_in(text)
    if code is None:
        return Verdict(correct=False, extracted=None)
    if "check" not in doc:
        imports = "\n".join(doc.get("test_imports") or [])
        return Verdict(
            correct=run_script(code, f"{imports}\n{doc['test']}", seconds=2 * SECONDS).status == "ran", extracted=code
        )
    entry_point, inputs, expected, seconds = reference(int(doc["task_id"]), doc["check"])
    limit = max(SECONDS, SLOWER * seconds)
    run = run_program(code, entry_point, inputs, seconds=limit, stop_at_error=True)
    atol = json.loads(doc["check"])["atol"]
    correct = (
        run.status == "ran"
        and len(run.results) == len(expected)
        and all(
            same(entry_point, arguments, result, wanted, atol)
            for arguments, result, wanted in zip(inputs, run.results, expected, strict=True)
        )
    )
    return Verdict(correct=correct, extracted=code)


def program_in(text: str) -> str | None:
    """The program of an answer: a fenced block that defines something, else the text from its first definition on."""
    text = without_thinking(text).partition("[DONE]")[0].rpartition("[BEGIN]")[2].lstrip("\r\n")
    blocks = [block for block in _FENCE.findall(text) if "def " in block] or _FENCE.findall(text)
    for block in blocks or [text]:
        if (code := _parsable(block)) is not None:
            return code
    return None


def _parsable(text: str) -> str | None:
    """The text, or the longest run of its lines from a definition on that is Python."""
    starts = [0, *(match.start() for match in _BEGINS.finditer(text))]
    for start in dict.fromkeys(starts):
        lines = text[start:].rstrip().splitlines()
        while lines:
            code = "\n".join(lines) + "\n"
            try:
                tree = ast.parse(code)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                lines.pop()
                continue
            if any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign) for node in tree.body):
                return code
            break
    return None


# -------------------------------------------------------------------------------------------------------- references


@functools.cache
def _rules() -> dict[str, Any]:
    text = (resources.files("hidden_decoding.evaluate") / "packs" / "mbpp_plus.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


@functools.lru_cache(maxsize=512)
def reference(task_id: int, check: str) -> tuple[str, list[Any], list[Any], float]:
    """(function's name, inputs, the reference's results, its seconds) of a problem."""
    problem = json.loads(check)
    inputs = arguments_of(task_id, problem["base_input"]) + arguments_of(task_id, problem["plus_input"])
    run = run_program(problem["canonical_solution"], problem["entry_point"], inputs, seconds=REFERENCE_SECONDS)
    assert run.status == "ran", f"the reference of MBPP+ {task_id} did not run: {run.status} {run.reason}"
    return problem["entry_point"], inputs, run.results, run.seconds


def arguments_of(task_id: int, inputs: list[Any]) -> list[Any]:
    """Arguments as the function expects them, from JSON."""
    kind = next((kind for kind, ids in _rules()["arguments"].items() if task_id in ids), None)
    return [_ARGUMENTS[kind](arguments) if kind else arguments for arguments in inputs]


def _deep_tuple(value: Any) -> Any:
    return tuple(_deep_tuple(item) for item in value) if isinstance(value, list) else value


def _tuples(rows: list[Any]) -> list[Any]:
    return [tuple(row) for row in rows]


_ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "tuple": _tuples,
    "list_of_tuples": lambda given: [_tuples(rows) for rows in given],
    "first_list_of_tuples": lambda given: [_tuples(given[0]), *given[1:]],
    "second_tuple": lambda given: [given[0], tuple(given[1]), *given[2:]],
    "list_of_sets": lambda given: [[set(item) if isinstance(item, list) and item else {} for item in given[0]]],
    "float_complex": lambda given: (float(given[0]), complex(given[1])),
    "first_tuple": lambda given: [tuple(given[0]), *given[1:]],
    "tuple_of_tuples": lambda given: [tuple(_tuples(rows)) for rows in given],
    "tuple_with_tuples": lambda given: [tuple(tuple(item) if isinstance(item, list) else item for item in given[0])],
    "dict_of_tuples": lambda given: [{key: tuple(value) for key, value in given[0].items()}, *given[1:]],
    "complex": lambda given: [complex(given[0])],
    "deep_tuple": _deep_tuple,
}

# -------------------------------------------------------------------------------------------------------- comparison


def same(entry_point: str, arguments: Any, result: Any, wanted: Any, atol: float) -> bool:
    """Whether a result is the reference's, by the problem's own rule. A reference that raised decides nothing."""
    if isinstance(wanted, Raised):
        return True
    if isinstance(result, Raised):
        return False
    rule = next((rule for rule, names in _rules()["results"].items() if entry_point in names), None)
    if rule == "any":
        return True
    if rule == "not_none":
        exists = wanted if isinstance(wanted, bool) else wanted is not None
        return bool((result if isinstance(result, bool) else result is not None) == exists)
    if rule == "set":
        try:
            return set(result) == set(wanted)
        except TypeError:
            return False
    if result == wanted and not isinstance(wanted, Opaque):
        return True
    if isinstance(wanted, Opaque):
        return isinstance(result, Opaque) and result.name == wanted.name
    other = {"zero_too": lambda: result == 0, "padded_digits_too": lambda: result == _digits(*arguments)}
    if rule in other and other[rule]():
        return True
    if rule == "height_to_apex_too":
        return isinstance(result, int | float) and abs(result - _pyramid(*arguments)) <= atol
    tolerance = atol or (FLOAT_ATOL if _floats(wanted) else 0)
    return bool(tolerance) and _close(result, wanted, tolerance)


def _floats(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _close(result: Any, wanted: Any, atol: float) -> bool:
    """numpy's allclose on scalars and sequences of one type and length."""
    if type(result) is not type(wanted):
        return False
    if isinstance(wanted, list | tuple):
        return len(result) == len(wanted) and all(
            _number_close(got, expected, atol)
            if not isinstance(expected, list | tuple)
            else _close(got, expected, atol)
            for got, expected in zip(result, wanted, strict=True)
        )
    return _number_close(result, wanted, atol)


def _number_close(result: Any, wanted: Any, atol: float) -> bool:
    if not all(isinstance(value, int | float | complex) for value in (result, wanted)):
        return bool(result == wanted)
    if isinstance(wanted, float) and math.isinf(wanted):
        return bool(result == wanted)
    return bool(abs(result - wanted) <= atol + RTOL * abs(wanted))


def _digits(first: int, second: int) -> int:
    """Distance of the digits, the shorter number filled up with zeros."""
    a, b = str(first), str(second)
    width = max(len(a), len(b))
    return sum(abs(int(x) - int(y)) for x, y in zip(a.zfill(width), b.zfill(width), strict=True))


def _pyramid(base: float, height: float) -> int:
    """Surface of a square pyramid whose height is that of its apex above the base."""
    slant = math.sqrt((base / 2) ** 2 + height**2)
    return round(base**2 + 2 * base * slant)

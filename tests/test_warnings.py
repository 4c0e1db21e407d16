"""What pytest does with warnings (`filterwarnings` in pyproject.toml): ours are errors, others are filtered by name.

The module of a warning is the one it is attributed to, so a deprecated call that we make counts as ours.
"""

from __future__ import annotations

import re
import tomllib
import warnings
from pathlib import Path

import pytest

from tests.contract.source import modules

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


@pytest.mark.parametrize("category", [UserWarning, DeprecationWarning, FutureWarning, RuntimeWarning, ResourceWarning])
@pytest.mark.parametrize("name", ["hidden_decoding", "hidden_decoding.streams", "hidden_decoding.engines.local.engine"])
def test_our_warnings_are_errors(name, category):
    with pytest.raises(category, match="from us"):
        warnings.warn_explicit("from us", category, "file.py", 1, module=name)


def test_a_warning_from_every_module_is_an_error():
    for name in modules():
        with pytest.raises(UserWarning):
            warnings.warn_explicit("from us", UserWarning, "file.py", 1, module=name)


def test_a_warning_raised_by_code_running_as_ours_is_an_error():
    """Not only by name: a real `warnings.warn` in a real module namespace, and one blamed on it by `stacklevel`."""
    namespace = {"__name__": "hidden_decoding.modeling.model", "library": _library}
    exec("import warnings\ndef ours(): warnings.warn('from us')\ndef calls(): library()", namespace)
    with pytest.raises(UserWarning, match="from us"):
        namespace["ours"]()
    with pytest.raises(DeprecationWarning, match="old call"):
        namespace["calls"]()


def _library():
    warnings.warn("old call", DeprecationWarning, stacklevel=2)


@pytest.mark.parametrize("name", ["somebody_else", "hidden_decoding_of_others", "tests.hidden_decoding"])
def test_other_warnings_are_not(name):
    with pytest.warns(UserWarning, match="from others"):
        warnings.warn_explicit("from others", UserWarning, "file.py", 1, module=name)


def test_every_filter_names_one_warning_and_has_a_reason():
    """A line that ignores says which message of which module, and the comment above it says why."""
    text = PYPROJECT.read_text(encoding="utf-8")
    filters = tomllib.loads(text)["tool"]["pytest"]["ini_options"]["filterwarnings"]
    lines = [line.strip() for line in text.splitlines()]
    for entry in filters:
        place = next(number for number, line in enumerate(lines) if entry in line)
        assert lines[place - 1].startswith("# "), f"{entry}: give the reason in the line above"
        if not entry.startswith("error"):
            action, message, category, module = re.split(r"(?<!\\):", entry)
            assert action == "ignore"
            assert len(message) > 10, f"{entry}: name the message"
            assert category, f"{entry}: name the category"
            assert module, f"{entry}: name the module"

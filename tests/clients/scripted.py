"""A checkpoint that ends its sentences and calls the tool it is offered: what checks of conformance wait for."""

from __future__ import annotations

import json
from pathlib import Path

from tests.serve.support import save_scripted_checkpoint

SCRIPTS = {
    "plain": ["One", ",", " two", " and", " three", "."],
    "call": ['{"name": "get_weather", ', '"arguments": ', '{"location": ', '"Paris"', "}}"],
}
TEMPLATE = (
    "{% for message in messages %}{{ message.role + ': ' + message.content + '\\n' }}{% endfor %}"
    "{{ '[call]' if tools else '[plain]' }}"
)


def save_obedient_checkpoint(directory: Path) -> Path:
    """Greedy by its own generation_config, so that requests without a temperature get the script too."""
    save_scripted_checkpoint(directory, scripts=SCRIPTS, template=TEMPLATE)
    (directory / "generation_config.json").write_text(json.dumps({"do_sample": False}), encoding="utf-8")
    return directory

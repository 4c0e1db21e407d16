"""Settings: every dataclass whose fields carry a help text, found by looking through the package's source."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from pathlib import Path

from markdown import code, sentence, table

import hidden_decoding
from hidden_decoding.train.config import SECTIONS

HEAD = """# Settings

One frozen dataclass per component; the flags of the [command line](cli.md) derive from them, and so do the sections
of a run file (`train cpt -c RUN.yaml`): {sections}. Counts are in tokens unless a name says positions or bytes.

"""
KEYS_HEAD = """## Keys of config.json

A checkpoint's `config.json` is Qwen3's with `model_type: qwen3_scale_seq` and these keys. `max_position_embeddings`
counts positions, n for each token.

"""
PACKAGE = Path(hidden_decoding.__file__).parent


def page() -> str:
    """All settings, by module; then the keys that a checkpoint's configuration adds to Qwen3's."""
    parts = [HEAD.format(sections=", ".join(f"`{name}`" for name in SECTIONS))]
    parts += [section(cls) for cls in settings()]
    return "\n".join([*parts, KEYS_HEAD + checkpoint_keys()])


def settings() -> list[type]:
    """Dataclasses whose flags or keys people set: most of their fields say what they are for."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if '"help":' not in path.read_text(encoding="utf-8") or "remote_code" in parts or "cli" in parts:
            continue
        module = importlib.import_module(".".join(parts))
        for cls in vars(module).values():
            if isinstance(cls, type) and cls.__module__ == module.__name__ and dataclasses.is_dataclass(cls):
                helped = [field for field in dataclasses.fields(cls) if "help" in field.metadata]
                if 2 * len(helped) > len(dataclasses.fields(cls)):
                    found.append(cls)
    return found


def section(cls: type) -> str:
    """One dataclass."""
    hints = typing.get_type_hints(cls)
    rows = [
        (code(field.name), code(kind(hints[field.name], field)), code(default(field)), field.metadata.get("help", ""))
        for field in dataclasses.fields(cls)
    ]
    text = table(("key", "type", "default", "what it does"), rows)
    return f"## {cls.__name__}\n\n{sentence(cls.__doc__)} In `{cls.__module__}`.\n\n{text}"


def kind(annotation: object, field: dataclasses.Field) -> str:
    if choices := field.metadata.get("choices"):
        return " | ".join(map(str, choices))
    return annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)


def default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    return repr(field.default_factory()) if field.default_factory is not dataclasses.MISSING else "(required)"


def checkpoint_keys() -> str:
    """What `Qwen3ScaleSeqConfig` adds."""
    from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig

    own = [name for name in Qwen3ScaleSeqConfig.__annotations__ if name != "base_model_pp_plan"]
    fields = {field.name: field for field in dataclasses.fields(Qwen3ScaleSeqConfig)}
    rows = [(code(name), code(Qwen3ScaleSeqConfig.__annotations__[name]), code(default(fields[name]))) for name in own]
    return " ".join((Qwen3ScaleSeqConfig.__doc__ or "").split()) + "\n\n" + table(("key", "type", "default"), rows)

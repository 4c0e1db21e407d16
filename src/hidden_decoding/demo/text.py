"""The demonstration's text: documents for the tokenizer and the base, fresh ones for the comparison, held-out ones.

Contract: whole documents, shuffled by the seed, so that no document is in two parts. The base's part and the fresh part
share the text in proportion to their steps. Held-out documents are cut to their first 8,000 characters, so that the few
that are read are many kinds. Without `--data` the text is what every Python brings: the language reference and the
standard library's sources.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from hidden_decoding.demo.settings import DemoSettings
from hidden_decoding.errors import ConfigError
from hidden_decoding.train.readers import Broken, documents_in, find_files
from hidden_decoding.train.tokenizer import standard_library_texts

HELDOUT_CHARACTERS = 8_000
HELDOUT_SHARE = 0.06


@dataclass(frozen=True, kw_only=True)
class DemoText:
    """Three files of documents, and the documents of the base and held-out parts."""

    base: Path
    fresh: Path
    heldout: Path
    base_texts: list[str]
    heldout_texts: list[str]


def write_texts(settings: DemoSettings, data: list[str], text_key: str, directory: Path) -> DemoText:
    """Splits the text and writes `base.jsonl`, `fresh.jsonl` and `heldout.jsonl`."""
    texts = _given(data, text_key) if data else standard_library_texts(settings.text_bytes)
    if len(texts) < 10:
        raise ConfigError(
            f"--data holds {len(texts)} documents; the demonstration splits by documents and needs 10 or more"
        )
    random.Random(settings.seed).shuffle(texts)
    held = max(2, round(len(texts) * HELDOUT_SHARE))
    heldout = [text[:HELDOUT_CHARACTERS] for text in texts[:held]]
    steps = settings.base_steps + settings.continued_steps
    base, fresh = _split(texts[held:], settings.base_steps / steps)
    parts = {"base": base, "fresh": fresh, "heldout": heldout}
    directory.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        lines = (json.dumps({"text": text}) + "\n" for text in part)
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    paths = {name: directory / f"{name}.jsonl" for name in parts}
    return DemoText(**paths, base_texts=base, heldout_texts=heldout)


def _given(data: list[str], text_key: str) -> list[str]:
    return [text for file in find_files(data) for text in documents_in(file, text_key, Broken())]


def _split(texts: list[str], share: float) -> tuple[list[str], list[str]]:
    """Whole documents: about `share` of the characters, then the rest; neither is empty."""
    wanted, used = share * sum(map(len, texts)), 0
    for index, text in enumerate(texts[:-1], start=1):
        used += len(text)
        if used >= wanted:
            return texts[:index], texts[index:]
    return texts[:-1], texts[-1:]


def prompt_from(texts: list[str], characters: int = 60) -> str:
    """The beginning of a held-out document, cut before a word: what the served model is asked to continue."""
    text = next((text for text in texts if len(text) > 4 * characters), texts[0]).lstrip()
    return text[:characters].rsplit(" ", 1)[0]

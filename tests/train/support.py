"""A small corpus and run settings that the training tests share."""

from __future__ import annotations

import json
from pathlib import Path

from hidden_decoding.train.config import CptConfig
from hidden_decoding.train.tokenizer import standard_library_texts


def write_corpus(path: Path, limit_bytes: int = 60_000, longest: int = 600) -> Path:
    """JSONL of short real documents: many boundaries per row."""
    texts = [text[:longest] for text in standard_library_texts(limit_bytes)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def settings(model: Path, text: Path, out: Path, **changes) -> CptConfig:
    """A run of six steps over rows of 48 tokens."""
    values = {
        "model": str(model),
        "data": (str(text),),
        "out": str(out),
        "heldout_fraction": 0.1,
        "cache_dir": str(text.parent / "cache"),
        "tokens_per_sequence": 48,
        "sequences_per_step": 4,
        "steps": 6,
        "warmup_steps": 2,
        "learning_rate": 3e-3,
        "evaluate_every": 3,
        "evaluate_tokens": 400,
        "loss_chunk_tokens": 64,
        "device": "cpu",
    }
    return CptConfig.build(**{**values, **changes})


def plain(sections: dict) -> dict:
    """Settings as a run file holds them: YAML knows no tuples."""
    return {
        name: {key: list(value) if isinstance(value, tuple) else value for key, value in section.items()}
        for name, section in sections.items()
    }


def losses(result) -> list[float]:
    """Training losses in order."""
    return [record["loss"] for record in result.records if record["kind"] == "step"]


def evaluations(result) -> list[float]:
    """Held-out losses in order."""
    return [record["heldout_loss"] for record in result.records if record["kind"] == "evaluation"]

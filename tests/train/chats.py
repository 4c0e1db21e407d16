"""Made-up chats over real text, for tests that need no data: one to three turns, some with a system message."""

from __future__ import annotations

import json
from pathlib import Path

from hidden_decoding.train.sft_config import SftConfig
from hidden_decoding.train.tokenizer import standard_library_texts

TOOL = {"name": "look_up", "description": "Looks up", "parameters": {"type": "object", "properties": {}}}


def chat(number: int, texts: list[str]) -> dict:
    """One conversation in the messages format; its number decides how many turns it has."""
    turns = 1 + number % 3
    messages = [{"role": "system", "content": f"Answer as number {number}."}] if number % 2 else []
    for turn in range(turns):
        text = texts[(number + turn) % len(texts)]
        question, answer = text[: 20 + 5 * turn], text[30 : 60 + 10 * (number % 5)]
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def write_chats(path: Path, count: int = 24) -> Path:
    """A JSONL file of them."""
    texts = [text for text in standard_library_texts(80_000) if len(text) > 200]
    path.write_text("".join(json.dumps(chat(number, texts)) + "\n" for number in range(count)), encoding="utf-8")
    return path


def settings(model: Path, chats: Path, out: Path, **changes) -> SftConfig:
    """A run of four steps over rows of 160 tokens."""
    values = {
        "model": str(model),
        "data": (str(chats),),
        "out": str(out),
        "heldout_fraction": 0.2,
        "tokens_per_sequence": 256,
        "sequences_per_step": 2,
        "steps": 4,
        "warmup_steps": 1,
        "learning_rate": 3e-3,
        "evaluate_every": 2,
        "device": "cpu",
        "track": "none",
    }
    return SftConfig.build(**{**values, **changes})

"""A small byte-level BPE tokenizer with ChatML tokens, trained on the spot: for the demo, tests and small experiments.

Contract: deterministic for the same texts; any text round-trips; ids 0, 1, 2 are `<|endoftext|>`, `<|im_start|>`,
`<|im_end|>`. Real models bring their own tokenizer.

    >>> tokenizer = train_tokenizer(standard_library_texts(limit_bytes=200_000), vocab_size=512)
"""

from __future__ import annotations

import pydoc_data.topics
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT, CHAT_START, CHAT_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

# Folders of the standard library that are not prose or ordinary source.
LEFT_OUT = frozenset(
    ("test", "tests", "idle_test", "encodings", "pydoc_data", "site-packages", "dist-packages", "__pycache__")
)

CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains the tokenizer; `vocab_size` counts bytes (256), merges and the three special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, CHAT_START, CHAT_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHATML_TEMPLATE
    return fast


def standard_library_texts(limit_bytes: int | None = None) -> list[str]:
    """Real text every Python brings: the language reference topics, then the standard library's own sources.

    One string per document, in a fixed order; stops after `limit_bytes` of UTF-8.
    """
    kept, used = [], 0
    for text in _standard_library():
        used += len(text.encode())
        if limit_bytes is not None and used > limit_bytes:
            break
        kept.append(text)
    return kept


def _standard_library() -> Iterator[str]:
    """Topics, top-level modules, then packages; without tests, generated tables and installed packages."""
    yield from pydoc_data.topics.topics.values()
    root = Path(sysconfig.get_path("stdlib"))
    yield from (_read(path) for path in sorted(root.glob("*.py")))
    for path in sorted(path for folder in root.iterdir() if _wanted(folder.name) for path in folder.rglob("*.py")):
        if all(_wanted(folder) for folder in path.relative_to(root).parts[:-1]):
            yield _read(path)


def _wanted(folder: str) -> bool:
    return folder not in LEFT_OUT and not folder.startswith("config-")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")

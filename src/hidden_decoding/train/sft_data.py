"""Chats on disk -> samples to train on and to evaluate on, and samples -> rows of tokens for TRL.

Contract: every sample is whole: one that is longer than a row is left out and counted, never cut. Held-out
conversations are drawn by the seed. Packing is TRL's best-fit-decreasing over samples; a row keeps its samples'
lengths (`seq_lengths`), from which TRL's collator restarts positions, so that no sample sees another. The same files,
settings and tokenizer always give the same rows.

Place in the flow: after `chat_tokens.py`, before `sft.py`.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from hidden_decoding.errors import ConfigError
from hidden_decoding.train.chat_tokens import ChatTokens, Sample
from hidden_decoding.train.conversations import Conversation, UnusableError, conversations_in, find_chats
from hidden_decoding.train.readers import Broken
from hidden_decoding.train.sft_config import ChatSettings

log = logging.getLogger(__name__)


@dataclass
class Counts:
    """What became of the conversations that were read."""

    conversations: int = 0
    broken: int = 0
    samples: int = 0
    too_long: int = 0
    reasoning_dropped: int = 0
    longest_left_out_tokens: int = 0

    def describe(self, tokens_per_sequence: int) -> list[str]:
        """Lines for people."""
        lines = [f"{self.conversations:,} conversations, {self.samples:,} samples"]
        if self.broken:
            lines.append(f"left out {self.broken:,} conversation(s) that cannot be used (named above)")
        if self.too_long:
            lines.append(
                f"left out {self.too_long:,} sample(s) of more than {tokens_per_sequence:,} tokens, the longest "
                f"{self.longest_left_out_tokens:,} (--tokens-per-sequence)"
            )
        if self.reasoning_dropped:
            lines.append(
                f"{self.reasoning_dropped:,} assistant turn(s) have reasoning that the chat template keeps only for "
                "the last turn; --turns each trains on it"
            )
        return lines


@dataclass(frozen=True)
class Chats:
    """The samples of a run."""

    training: list[Sample]
    heldout: list[Sample]
    counts: Counts = field(default_factory=Counts)

    @property
    def digest(self) -> str:
        """Names the samples and their order: equal for two tokenizers only where they give the same ids."""
        digest = hashlib.sha256()
        for sample in (*self.training, *self.heldout):
            digest.update(np.array([len(sample.ids), *sample.ids, *sample.labels], dtype=np.int64).tobytes())
        return digest.hexdigest()[:16]

    def about(self) -> dict[str, Any]:
        """Plain data for the record of the run."""
        return {
            **asdict(self.counts),
            "training_samples": len(self.training),
            "heldout_samples": len(self.heldout),
            "training_tokens_available": sum(len(sample.ids) for sample in self.training),
            "learned_tokens_available": sum(sample.learned for sample in self.training),
            "heldout_tokens": sum(sample.learned for sample in self.heldout),
        }


def load_chats(data: ChatSettings, tokenizer: Any, *, progress: bool) -> Chats:
    """Reads, splits, renders and tokenises; refuses settings that leave nothing to train on."""
    tokens, broken, counts = ChatTokens(tokenizer, turns=data.turns), Broken(skip=data.on_broken == "skip"), Counts()
    training = _read(data.data, broken)
    heldout = _read(data.heldout, broken)
    if not data.heldout and data.heldout_fraction:
        training, heldout = _hold_out(training, data)
    bar = tqdm(total=len(training) + len(heldout), desc="tokenising", unit="chat", disable=not progress, leave=False)
    with bar:
        made = [_tokenised(part, tokens, broken, data, counts, bar) for part in (training, heldout)]
    counts.conversations = len(training) + len(heldout)
    counts.broken, counts.samples = broken.count, sum(map(len, made))
    if not made[0]:
        raise ConfigError(
            f"no sample is left to train on: {counts.conversations} conversation(s) read, {counts.broken} of them not "
            f"usable, {counts.too_long} sample(s) longer than {data.tokens_per_sequence} tokens (the longest: "
            f"{counts.longest_left_out_tokens}); give other --data, or a larger --tokens-per-sequence"
        )
    return Chats(made[0], made[1], counts)


def _read(paths: tuple[str, ...], broken: Broken) -> list[Conversation]:
    return [chat for file in find_chats(paths) for chat in conversations_in(file, broken)]


def _hold_out(chats: list[Conversation], data: ChatSettings) -> tuple[list[Conversation], list[Conversation]]:
    held = max(1, round(len(chats) * data.heldout_fraction))
    if held >= len(chats):
        raise ConfigError(
            f"--data has {len(chats)} conversation(s): too few to set some aside; name held-out chats with --heldout, "
            "or turn evaluation off with --heldout-fraction 0"
        )
    order = np.random.default_rng((data.data_seed, 0x0E)).permutation(len(chats))
    aside = set(order[:held].tolist())
    return [chat for i, chat in enumerate(chats) if i not in aside], [chats[i] for i in sorted(aside)]


def _tokenised(
    chats: list[Conversation], tokens: ChatTokens, broken: Broken, data: ChatSettings, counts: Counts, bar: Any
) -> list[Sample]:
    kept = []
    for chat in chats:
        bar.update(1)
        file, _, place = chat.place.rpartition(", ")
        try:
            samples = list(tokens.samples(chat))
        except UnusableError as error:
            broken.found(file, place, str(error), error)
            continue
        if data.turns == "all":
            counts.reasoning_dropped += tokens.drops_reasoning(chat)
        for sample in samples:
            if len(sample.ids) <= data.tokens_per_sequence:
                kept.append(sample)
                continue
            if data.on_too_long == "stop":
                raise ConfigError(
                    f"{chat.place}: {len(sample.ids):,} tokens, but a row holds {data.tokens_per_sequence:,}; give a "
                    "larger --tokens-per-sequence, or leave such samples out with --on-too-long skip"
                )
            counts.too_long += 1
            counts.longest_left_out_tokens = max(counts.longest_left_out_tokens, len(sample.ids))
    return kept


def rows_of(samples: list[Sample], data: ChatSettings) -> Any:
    """A `datasets.Dataset` of rows: `input_ids`, `labels`, and with packing the lengths of the samples in each."""
    from datasets import Dataset, disable_progress_bars
    from trl.data_utils import pack_dataset

    disable_progress_bars()
    columns = {"input_ids": [s.ids for s in samples], "labels": [s.labels for s in samples]}
    dataset = Dataset.from_dict(columns)
    return pack_dataset(dataset, data.tokens_per_sequence, "bfd") if data.packing and samples else dataset

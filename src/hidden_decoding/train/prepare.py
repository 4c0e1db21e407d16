"""Everything a run needs before its first step, checked in the order of cost: settings, text, and only then weights.

Contract: `prepare` raises a typed error for a run that cannot work (a row longer than the model's context, a tokenizer
larger than the vocabulary, a batch that does not divide over the processes, a directory that already holds a run)
without having read any weights. `load_weights` gives the model in float32, ready to be sharded.

Place in the flow: called by `loop.py`; uses `corpus.py`, `data.py` and the strict loader of `modeling`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hidden_decoding.errors import CheckpointError, ConfigError
from hidden_decoding.modeling.checkpoint import load_model, load_tokenizer
from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig
from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM
from hidden_decoding.streams import tokens_to_positions
from hidden_decoding.train.config import CptConfig
from hidden_decoding.train.corpus import Corpus, load_corpus
from hidden_decoding.train.data import MixedRows, PackedRows, Rows, RowStream, hold_out
from hidden_decoding.train.optimiser import check_groups
from hidden_decoding.train.parallelize import World
from hidden_decoding.train.readers import find_files
from hidden_decoding.train.start import find_start, write_start
from hidden_decoding.train.streaming import LaneRows
from hidden_decoding.train.trackers import check_tracker


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run's model directory and configuration, tokenizer, training documents, held-out rows (None: no evaluation)."""

    directory: Path
    model_config: Qwen3ScaleSeqConfig
    tokenizer: Any
    corpus: Corpus | None
    documents: np.ndarray[Any, Any]
    heldout: PackedRows | None

    @property
    def training_tokens(self) -> int | None:
        """Tokens of the documents trained on, end tokens included; None where text is streamed."""
        return None if self.corpus is None else int(self.corpus.lengths()[self.documents].sum())


def prepare(config: CptConfig, world: World, *, progress: bool) -> Prepared:
    """Checks the run and reads its text; called by all processes."""
    _check_batch(config, world)
    check_tracker(config.run.track)
    out = Path(config.run.out)
    check_out(out, resume=config.run.resume)
    start = find_start(config.model)
    model_config = start.config
    check_context(config.data.tokens_per_sequence, model_config)
    check_groups(
        config.optimiser,
        streams=model_config.num_streams,
        tied=bool(model_config.tie_word_embeddings),
    )
    tokenizer = load_tokenizer(start.directory)
    check_tokenizer(tokenizer, start.directory, model_config)
    world.wait()
    if world.first:
        _make_out(out, config)
    corpus, documents, heldout = _text(config, tokenizer, world, progress)
    directory = write_start(start, out, world, progress=progress)
    return Prepared(
        directory=directory,
        model_config=model_config,
        tokenizer=tokenizer,
        corpus=corpus,
        documents=documents,
        heldout=heldout,
    )


def row_stream(config: CptConfig, prepared: Prepared, world: World) -> Rows:
    """The run's rows: of all text as one, or of each weighted source by its share; past those to be skipped."""
    rows: Rows = LaneRows(config.data, prepared.tokenizer, world) if config.data.streaming else _rows(config, prepared)
    rows.skip(config.data.skip_sequences)
    return rows


def _rows(config: CptConfig, prepared: Prepared) -> RowStream | MixedRows:
    data, corpus, documents = config.data, prepared.corpus, prepared.documents
    assert corpus is not None, "text that is not streamed is tokenised first"
    sources = data.sources()
    shares = [share for _, share in sources if share is not None]
    if not shares:
        return RowStream(corpus, documents, data.tokens_per_sequence, data.data_seed)
    streams, first_file, first_document = [], 0, 0
    for path, _ in sources:
        files = len(find_files([path]))
        after = first_document + sum(corpus.file_documents[first_file : first_file + files])
        own = documents[(documents >= first_document) & (documents < after)]
        if not len(own):
            raise ConfigError(f"data: {path} has a weight, but no document of it is left to train on")
        streams.append(RowStream(corpus, own, data.tokens_per_sequence, data.data_seed))
        first_file, first_document = first_file + files, after
    return MixedRows(streams, shares)


def load_weights(config: CptConfig, prepared: Prepared) -> Qwen3ScaleSeqForCausalLM:
    """The model in float32 on the CPU, its activations kept or recomputed as the settings say."""
    model = load_model(prepared.directory, dtype="float32", attn_implementation=config.model.attention)
    if config.model.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _check_batch(config: CptConfig, world: World) -> None:
    rows = config.run.sequences_per_step
    if rows % world.size:
        raise ConfigError(
            f"sequences_per_step is {rows}, which {world.size} processes cannot share evenly; make it a multiple of "
            f"{world.size} (--sequences-per-step {world.size * max(1, round(rows / world.size))})"
        )


def check_out(out: Path, *, resume: bool) -> None:
    """Refuses a directory that holds a run which is not to be resumed."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file, not a directory; name another")
    if (out / "model").exists():
        raise ConfigError(f"--out {out} holds a finished run (its model is in {out / 'model'}); name another directory")
    if (out / "metrics.jsonl").exists() and not resume:
        raise ConfigError(f"--out {out} holds a run already; continue it with --resume, or name another directory")


def _make_out(out: Path, config: CptConfig) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.json").write_text(json.dumps(config.as_dict(), indent=2) + "\n", encoding="utf-8")


def check_context(tokens: int, model_config: Qwen3ScaleSeqConfig) -> None:
    """Refuses rows of more tokens than the model reads."""
    n = model_config.num_streams
    if tokens > model_config.max_tokens:
        raise ConfigError(
            f"tokens_per_sequence is {tokens}, which at n = {n} are {tokens_to_positions(tokens, n)} positions, "
            f"but the model reads {model_config.max_position_embeddings} positions = {model_config.max_tokens} tokens; "
            f"give --tokens-per-sequence {model_config.max_tokens} or less"
        )


def check_tokenizer(tokenizer: Any, directory: Path, model_config: Qwen3ScaleSeqConfig) -> None:
    """Refuses a directory without a tokenizer, or with one that is not the model's."""
    if tokenizer is None:
        raise CheckpointError(f"{directory} has no tokenizer (tokenizer.json), and text cannot be read without one")
    if len(tokenizer) > model_config.vocab_size:
        raise CheckpointError(
            f"{directory}: the tokenizer has {len(tokenizer)} tokens but the model's vocabulary only "
            f"{model_config.vocab_size}; they do not belong together"
        )


def _text(
    config: CptConfig, tokenizer: Any, world: World, progress: bool
) -> tuple[Corpus | None, np.ndarray[Any, Any], PackedRows | None]:
    """The corpus, its documents to train on, and held-out rows. One process per host writes the cache."""
    data = config.data
    cache = Path(data.cache_dir) if data.cache_dir else Path(config.run.out) / "tokens"

    def corpus_of(paths: tuple[str, ...]) -> Corpus:
        if not world.first_of_host:
            world.wait()
        corpus = load_corpus(
            paths,
            tokenizer,
            cache,
            text_key=data.text_key,
            skip_broken=data.on_broken == "skip",
            progress=progress and world.first,
        )
        if world.first_of_host:
            world.wait()
        return corpus

    corpus = None if data.streaming else corpus_of(tuple(path for path, _ in data.sources()))
    heldout = None
    if data.heldout:
        apart = corpus_of(data.heldout)
        heldout = PackedRows(apart, np.arange(apart.documents), data.tokens_per_sequence)
    if corpus is None or heldout is not None:
        return corpus, np.arange(corpus.documents if corpus else 0), heldout
    documents, held = hold_out(corpus, data.heldout_fraction, data.data_seed)
    return corpus, documents, PackedRows(corpus, held, data.tokens_per_sequence) if len(held) else None

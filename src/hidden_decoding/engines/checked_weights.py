"""Weights on their way into another engine's network: their names must be exactly those of the configuration.

Contract: tensors pass through one by one, none is kept; raises `CheckpointError` at the first name that should not be
there, and at the end for those that did not come. Used by the models of `engines.vllm` and `engines.sglang`.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from hidden_decoding.errors import CheckpointError
from hidden_decoding.modeling.checkpoint import expected_tensors
from hidden_decoding.modeling.model import EXTRA_TABLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    Weights = Iterable[tuple[str, Tensor]]


def checked_weights(weights: Weights, config: Any, *, quantised: bool) -> Iterator[tuple[str, Tensor]]:
    """Hands the tensors on and compares their names with those the configuration asks for.

    A quantised backbone has names of its own, which the engine's layers know; the tables are checked all the same.
    """
    expected = set(expected_tensors(copy.deepcopy(config)))
    optional = {"lm_head.weight"} if config.tie_word_embeddings else set()
    seen: set[str] = set()
    for name, tensor in weights:
        if name not in expected and (not quantised or name.startswith(EXTRA_TABLES)):
            raise CheckpointError(f"{_whose(config)} have no tensor {name}, but the checkpoint does; {_LOOK}")
        seen.add(name)
        yield name, tensor
    required = {name for name in expected if "embed_tokens" in name} if quantised else expected - optional
    if missing := sorted(required - seen):
        shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        raise CheckpointError(f"{_whose(config)} need {shown}, and the checkpoint does not hold them; {_LOOK}")


_LOOK = "compare the files with config.json: hidden-decoding inspect DIR"


def _whose(config: Any) -> str:
    return f"weights for n = {config.num_streams} streams (scale_seq_times {config.scale_seq_times} in config.json)"

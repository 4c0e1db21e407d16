"""What each stream of a token would have predicted, and how alike its streams are, from hidden states.

    h_AND of every depth -> head on the last one [A, n, V] -> entropy and likeliest tokens; cosine with the last stream

Contract: pure; one `TokenReadout` of plain numbers per token. `stream_lens` reads a whole answer with it, the local
engine each token as it is decoded.

    >>> read_streams(model.lm_head, by_depth, top=5)[0].entropy_bits
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

# Rows that go through the head at a time: at a vocabulary of 151,936, 78 MB of fp32 logits.
ROWS_AT_ONCE = 128


@dataclass(frozen=True, kw_only=True)
class TokenReadout:
    """The n streams of one token: what each says about the next token. `cosine[depth][stream]` is with the last stream.

    `token_ids` and `probabilities` are [n, top], likeliest first.
    """

    entropy_bits: list[float]
    token_ids: list[list[int]]
    probabilities: list[list[float]]
    cosine: list[list[float]]


def read_streams(lm_head: nn.Module, by_depth: Sequence[Tensor], *, top: int) -> list[TokenReadout]:
    """Reads A tokens: `by_depth` holds [A, n, D] from the embeddings to the last normed layer, which meets the head."""
    last_AND = by_depth[-1]
    entropies, probabilities, ids = [], [], []
    for rows_RD in last_AND.flatten(0, 1).split(ROWS_AT_ONCE):
        logp_RV = lm_head(rows_RD).float().log_softmax(-1)
        best = logp_RV.topk(min(top, logp_RV.shape[-1]))
        entropies.append(-(logp_RV.exp() * logp_RV).sum(-1) / math.log(2))
        probabilities.append(best.values.exp())
        ids.append(best.indices)
    tokens_and_streams = last_AND.shape[:2]
    columns = [torch.cat(rows).unflatten(0, tokens_and_streams).tolist() for rows in (entropies, ids, probabilities)]
    cosine_ALN = torch.stack([_cosine_with_last(h_AND.float()) for h_AND in by_depth], dim=1).tolist()
    return [
        TokenReadout(entropy_bits=entropy_N, token_ids=ids_NK, probabilities=probabilities_NK, cosine=cosine_LN)
        for entropy_N, ids_NK, probabilities_NK, cosine_LN in zip(*columns, cosine_ALN, strict=True)
    ]


def _cosine_with_last(h_AND: Tensor) -> Tensor:
    return torch.cosine_similarity(h_AND, h_AND[:, -1:], dim=-1)

"""Attention over the KV pool for a flat batch of requests, called by the transformers model itself.

The model runs one flat row of positions [1, P] in which the requests' new positions stand one after another. This
function is registered with transformers under the name `hidden_decoding_local`; every layer calls it with its queries,
keys and values. It stores the new keys and values in the pool, then lets each request attend to its own rows. Where the
device has kernels that read pages (`paged_choice`) that is at most two calls; elsewhere one call per request: in place
when its rows lie side by side, gathered otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hidden_decoding.engines.local.kv_pool import KVPool
    from hidden_decoding.engines.local.paged_attention import DecodeRows, PagedAttention, PromptRows

ATTENTION_NAME = "hidden_decoding_local"


@dataclass(kw_only=True)
class RequestRows:
    """Where one request's rows are, in positions. `new` is its part of the flat batch; `held` counts old and new rows.

    `groups` above 1: the query heads of a KV head attend as rows of one head, so that its keys and values are read
    once. That needs a mask where more than one row is new, so long prompts, causal without one, go head by head.
    Held rows lie side by side in the pool from `first_row` on, unless `rows_S` names them one by one.
    """

    new: slice
    held: int
    first_row: int
    rows_S: Tensor | None = None
    mask_PS: Tensor | None = None  # [groups * P, S] where `groups` is above 1
    groups: int = 1

    @property
    def new_rows(self) -> int:
        """Positions of this request in the batch."""
        return int(self.new.stop - self.new.start)


@dataclass(kw_only=True)
class PagedRows:
    """The rows of a step for kernels that read pages: first the requests that add one token, then the others."""

    attention: PagedAttention
    decode: DecodeRows | None = None
    decode_rows: int = 0  # positions of the decoding requests in the batch
    prompt: PromptRows | None = None

    def attend(self, query_HPE: Tensor, keys_KRE: Tensor, values_KRE: Tensor, scale: float) -> Tensor:
        """[H, P, E] queries over a layer's pool -> [P, H, E]."""
        parts = []
        if self.decode is not None:
            own_HPE = query_HPE[:, : self.decode_rows]
            parts.append(self.attention.decode(own_HPE, keys_KRE, values_KRE, self.decode, scale))
        if self.prompt is not None:
            own_HPE = query_HPE[:, self.decode_rows :]
            parts.append(self.attention.prompt(own_HPE, keys_KRE, values_KRE, self.prompt, scale))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(kw_only=True)
class StepBatch:
    """All that attention needs to know about one step; handed through the model to every layer."""

    pool: KVPool
    rows_P: Tensor
    requests: list[RequestRows] = field(default_factory=list)
    paged: PagedRows | None = None  # in place of `requests`


def chunk_mask(
    new_rows: int, held_rows: int, dtype: torch.dtype, device: torch.device, groups: int = 1
) -> Tensor | None:
    """Additive mask [groups * new, held] for rows that end the sequence: row i sees all but the rows after it.

    None where SDPA needs none: a single new row sees everything, a whole prompt of one group is plainly causal.
    """
    if new_rows == 1 or (new_rows == held_rows and groups == 1):
        return None
    closed = torch.full((new_rows, new_rows), torch.finfo(dtype).min, dtype=dtype, device=device).triu(1)
    mask_PS = torch.cat((torch.zeros(new_rows, held_rows - new_rows, dtype=dtype, device=device), closed), dim=1)
    return mask_PS.repeat(groups, 1)


def _attend_grouped(
    query_HPE: Tensor, keys_KSE: Tensor, values_KSE: Tensor, mask_PS: Tensor | None, scale: float
) -> Tensor:
    """As `_attend_one`, the H / K query heads of a KV head as rows of one head; the mask has a row for each of them."""
    heads, new, width = query_HPE.shape
    attended = scaled_dot_product_attention(
        query_HPE.reshape(1, keys_KSE.shape[0], -1, width),
        keys_KSE.unsqueeze(0),
        values_KSE.unsqueeze(0),
        attn_mask=mask_PS,
        scale=scale,
    )
    return attended.view(heads, new, width).transpose(0, 1)


def _attend_one(
    query_HPE: Tensor, keys_KSE: Tensor, values_KSE: Tensor, mask_PS: Tensor | None, scale: float
) -> Tensor:
    """[H, P, E] queries of one request over its [K, S, E] rows -> [P, H, E]; grouped heads share keys uncopied."""
    kv_heads, held, width = keys_KSE.shape
    heads, new, _ = query_HPE.shape
    grouped = (kv_heads, heads // kv_heads, held, width)
    attended = scaled_dot_product_attention(
        query_HPE.view(kv_heads, heads // kv_heads, new, width),
        keys_KSE.unsqueeze(1).expand(grouped),
        values_KSE.unsqueeze(1).expand(grouped),
        attn_mask=mask_PS,
        is_causal=mask_PS is None and new > 1,
        scale=scale,
    )
    return attended.flatten(0, 1).transpose(0, 1)


def local_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    step: StepBatch,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function of all layers: query [1, H, P, E], key and value [1, K, P, E] -> [1, P, H, E]."""
    del attention_mask, kwargs
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    pool = step.pool
    pool.write(layer, step.rows_P, key[0], value[0])
    keys_KPE, values_KPE = pool.keys_LKPE[layer], pool.values_LKPE[layer]
    if step.paged is not None:
        return step.paged.attend(query[0], keys_KPE, values_KPE, scaling).unsqueeze(0), None
    attended = torch.empty_like(query[0].transpose(0, 1), memory_format=torch.contiguous_format)
    for rows in step.requests:
        if rows.rows_S is None:
            held = slice(rows.first_row, rows.first_row + rows.held)
            keys_KSE, values_KSE = keys_KPE[:, held], values_KPE[:, held]
        else:
            keys_KSE, values_KSE = keys_KPE.index_select(1, rows.rows_S), values_KPE.index_select(1, rows.rows_S)
        attend = _attend_grouped if rows.groups > 1 else _attend_one
        attended[rows.new] = attend(query[0, :, rows.new], keys_KSE, values_KSE, rows.mask_PS, scaling)
    return attended.unsqueeze(0), None


def register_attention() -> str:
    """Makes the function known to transformers; returns its name. Idempotent."""
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, local_attention)
    return ATTENTION_NAME

"""Runs one step: spans of requests -> one flat batch -> the transformers model -> the logits that are needed.

    ids_BT [1, tokens of the step] -> h_BTD -> logits of the tokens asked for [R, V]

Contract: the model is the one and only copy; its attention is `attention.local_attention`. Speaks tokens outside and
hands rows in positions to attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hidden_decoding.engines.local.attention import RequestRows, StepBatch, chunk_mask, register_attention
from hidden_decoding.engines.local.page_tables import PageTables, slots_of
from hidden_decoding.engines.local.paged_choice import choose_paged_attention
from hidden_decoding.engines.local.weights import HostTable
from hidden_decoding.modeling.stream_readout import TokenReadout, read_streams
from hidden_decoding.streams import expand_slots, split_streams, tokens_to_positions

if TYPE_CHECKING:
    from hidden_decoding.engines.local.decode_graphs import DecodeGraphs
    from hidden_decoding.engines.local.kv_pool import KVPool
    from hidden_decoding.engines.local.request import Request
    from hidden_decoding.engines.local.scheduler import Span
    from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM

# Tokens of an answer whose streams are read: beyond them the numbers, about 1 KB a token, outgrow the answer.
MOST_LENS_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class SpanLogits:
    """Logits [r, V] in fp32 after the last r tokens of a span (r is 0 when nobody needs them)."""

    span: Span
    logits_RV: torch.Tensor
    readout: TokenReadout | None = None  # the streams of the span's last token, where the request reads them


class ModelRunner:
    """Builds the batch of a step and runs the model on it."""

    def __init__(self, model: Qwen3ScaleSeqForCausalLM, pool: KVPool, block_size: int) -> None:
        self.decoder: DecodeGraphs | None = None  # runs steps that only decode, where there is one
        self.model = model
        self.pool = pool
        self.block_size = block_size
        self.num_streams = model.config.num_streams
        self.device = pool.keys_LKPE.device
        self.dtype = pool.keys_LKPE.dtype
        config = model.config
        self.groups = config.num_attention_heads // config.num_key_value_heads
        heads = {"heads": config.num_attention_heads, "kv_heads": config.num_key_value_heads}
        # Attends to all requests at once where the device has kernels for it; None: request by request.
        self.paged = choose_paged_attention(self.device, self.dtype, **heads, head_dim=config.head_dim)
        model.set_attn_implementation(register_attention())

    @torch.inference_mode()
    def run(self, spans: list[Span]) -> list[SpanLogits]:
        """One forward for all spans."""
        ids = [token for span in spans for token in span.request.token_ids[span.start : span.start + span.count]]
        x_1TND = embed(self.model, torch.tensor([ids]))
        reading = any(_reads_streams(span) for span in spans)
        if self.decoder is not None and not reading and self.decoder.fits(spans):
            # A copy: the next replay writes to the same place.
            rows_BV = self.decoder.run(spans, x_1TND).to(torch.float32, copy=True)
            return [SpanLogits(span=span, logits_RV=row[None]) for span, row in zip(spans, rows_BV, strict=True)]
        token_positions = np.concatenate([np.arange(span.start, span.start + span.count) for span in spans])
        wanted = [_rows_wanted(span) for span in spans]
        ends = np.cumsum([span.count for span in spans])
        kept = np.concatenate([np.arange(end - rows, end) for end, rows in zip(ends, wanted, strict=True)])
        inputs = {
            "inputs_embeds": x_1TND,
            "position_ids": torch.from_numpy(token_positions)[None].to(self.device),
            "use_cache": False,
            "step": self._batch(spans),
        }
        readouts: list[TokenReadout | None] = [None] * len(spans)
        if reading:
            logits_RV, readouts = self._run_with_streams(spans, inputs, kept, ends)
        else:
            # The head must see at least one row to have a shape.
            rows = kept if len(kept) else np.zeros(1, dtype=np.int64)
            outputs = self.model(**inputs, logits_to_keep=torch.from_numpy(rows).to(self.device))
            logits_RV = outputs.logits[0, : len(kept)].float()
        return [
            SpanLogits(span=span, logits_RV=part, readout=readout)
            for span, part, readout in zip(spans, logits_RV.split(wanted), readouts, strict=True)
        ]

    def _run_with_streams(
        self, spans: list[Span], inputs: dict[str, Any], kept: np.ndarray, ends: np.ndarray
    ) -> tuple[torch.Tensor, list[TokenReadout | None]]:
        """The step with every layer's rows kept: logits [R, V] of the tokens `kept`, and a readout per reading span."""
        outputs = self.model.model(**inputs, return_streams=True, output_hidden_states=True)
        by_depth = [split_streams(h_1PD, self.num_streams)[0] for h_1PD in outputs.hidden_states]  # [tokens, n, D]
        head = self.model.lm_head
        logits_RV = head(by_depth[-1][torch.from_numpy(kept).to(self.device), -1]).float()
        readouts = [
            read_streams(head, [h_TND[end - 1 : end] for h_TND in by_depth], top=span.request.params.stream_lens)[0]
            if _reads_streams(span)
            else None
            for span, end in zip(spans, ends, strict=True)
        ]
        return logits_RV, readouts

    def _batch(self, spans: list[Span]) -> StepBatch:
        slots = np.concatenate([self._slots(span.request, span.start, span.start + span.count) for span in spans])
        rows_P = expand_slots(torch.from_numpy(slots).to(self.device), self.num_streams)
        if self.paged is not None:
            tables = PageTables(
                self.paged, num_streams=self.num_streams, block_size=self.block_size, device=self.device
            )
            return StepBatch(pool=self.pool, rows_P=rows_P, paged=tables.rows(spans))
        batch, tokens_before = StepBatch(pool=self.pool, rows_P=rows_P), 0
        for span in spans:
            batch.requests.append(self._request_rows(span, tokens_before))
            tokens_before += span.count
        return batch

    def _request_rows(self, span: Span, tokens_before: int) -> RequestRows:
        n, request = self.num_streams, span.request
        held_tokens = span.start + span.count
        new, held = tokens_to_positions(span.count, n), tokens_to_positions(held_tokens, n)
        first = tokens_to_positions(tokens_before, n)
        rows_S = None
        if not request.side_by_side:
            slots = torch.from_numpy(self._slots(request, 0, held_tokens)).to(self.device)
            rows_S = expand_slots(slots, n)
        groups = self.groups if span.count == 1 else 1
        return RequestRows(
            new=slice(first, first + new),
            held=held,
            first_row=tokens_to_positions(request.blocks[0] * self.block_size, n),
            rows_S=rows_S,
            mask_PS=chunk_mask(new, held, self.dtype, self.device, groups),
            groups=groups,
        )

    def _slots(self, request: Request, start: int, stop: int) -> np.ndarray:
        return slots_of(request, self.block_size, start, stop)


def embed(model: Qwen3ScaleSeqForCausalLM, ids_1T: torch.Tensor) -> torch.Tensor:
    """ids_1T on the CPU -> x_1TND on the model's device; tables kept on the host never wait for the device."""
    backbone = model.model
    on_device = ids_1T.to(model.device)
    tables = (backbone.embed_tokens, *backbone.scale_seq_embed_tokens_list)
    return torch.stack([table(ids_1T if isinstance(table, HostTable) else on_device) for table in tables], dim=-2)


def _reads_streams(span: Span) -> bool:
    """Whether the streams of the span's last token are to be read: they speak about the next token of the answer."""
    request = span.request
    return bool(request.params.stream_lens) and span.completes and request.answer_tokens < MOST_LENS_TOKENS


def _rows_wanted(span: Span) -> int:
    """How many of the span's last tokens need logits: those before scored prompt tokens, and the last to go on."""
    least = 1 if span.completes else 0
    scored = span.request.prompt_logprobs
    if scored is None or span.start >= span.request.prompt_tokens - 1:
        return least
    # Token `len(scored)` is the next to be scored, by the logits of the token before it.
    return max(least, min(span.count, span.start + span.count - len(scored) + 1))

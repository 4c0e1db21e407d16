"""Decode steps from static buffers: filled on the host, padded to a bucket, replayed as a CUDA graph.

Contract: `DecodeBuffers` holds everything a decode step reads; its addresses never change. Unused rows of a bucket
write to a scratch slot that belongs to nobody and read only it. `DecodeGraphs` runs the model on them: one captured
graph per bucket on CUDA, the same call eagerly elsewhere (how the tests replay it). Embedding happens outside the
graph, so tables on the host and graphs go together. Speaks tokens; rows in positions come from `streams`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from hidden_decoding.engines.local.attention import PagedRows, StepBatch
from hidden_decoding.engines.local.paged_attention import DecodeRows, PagedAttention
from hidden_decoding.streams import expand_slots, tokens_to_positions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from hidden_decoding.engines.local.engine_config import EngineConfig
    from hidden_decoding.engines.local.kv_pool import KVPool
    from hidden_decoding.engines.local.runner import ModelRunner
    from hidden_decoding.engines.local.scheduler import Span
    from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM

log = logging.getLogger(__name__)


def bucket_sizes(most_requests: int) -> list[int]:
    """Batch sizes that are captured: powers of two below 8, then multiples of 8, and the largest itself."""
    sizes = {1, 2, 4, *range(8, most_requests, 8), most_requests}
    return sorted(size for size in sizes if size <= most_requests)


class DecodeBuffers:
    """Inputs of a decode step of up to `most_requests` requests, each adding one token."""

    def __init__(
        self,
        pool: KVPool,
        attention: PagedAttention,
        *,
        num_streams: int,
        width: int,
        block_size: int,
        most_requests: int,
        most_tokens: int,
    ) -> None:
        device, dtype = pool.keys_LKPE.device, pool.keys_LKPE.dtype
        self.num_streams, self.block_size = num_streams, block_size
        self.attention = attention
        self.scratch_slot = pool.scratch_slot
        self.x_1BND = torch.zeros(1, most_requests, num_streams, width, dtype=dtype, device=device)
        self.positions_1B = torch.zeros(1, most_requests, dtype=torch.int64, device=device)
        self.slots_B = torch.full((most_requests,), self.scratch_slot, dtype=torch.int64, device=device)
        most_blocks = -(-most_tokens // block_size)
        self.blocks_BM = torch.zeros(most_requests, most_blocks, dtype=torch.int32, device=device)
        self.held_B = torch.zeros(most_requests, dtype=torch.int32, device=device)  # positions

    def fill(self, spans: list[Span], x_1TND: Tensor, bucket: int) -> None:
        """Puts one decoding token per span into the first rows and scratch into the rest of the bucket."""
        last = np.zeros(bucket, dtype=np.int64)
        last[: len(spans)] = [span.start for span in spans]
        slots = np.full(bucket, self.scratch_slot, dtype=np.int64)
        blocks = np.full((bucket, self.blocks_BM.shape[1]), self.scratch_slot // self.block_size, dtype=np.int32)
        for index, span in enumerate(spans):
            held = span.request.blocks[: span.start // self.block_size + 1]
            blocks[index, : len(held)] = held
            slots[index] = held[-1] * self.block_size + span.start % self.block_size
        held_positions = [tokens_to_positions(int(token) + 1, self.num_streams) for token in last]
        self.positions_1B[0, :bucket].copy_(torch.from_numpy(last))
        self.slots_B[:bucket].copy_(torch.from_numpy(slots))
        self.blocks_BM[:bucket].copy_(torch.from_numpy(blocks))
        self.held_B[:bucket].copy_(torch.tensor(held_positions, dtype=torch.int32))
        self.x_1BND[:, : len(spans)].copy_(x_1TND)

    def step(self, pool: KVPool, bucket: int) -> dict[str, Any]:
        """The model's arguments for the first `bucket` rows: views of the buffers, nothing copied."""
        decode = DecodeRows(
            page_table_BM=self.blocks_BM[:bucket],
            held_B=self.held_B[:bucket],
            page_rows=tokens_to_positions(self.block_size, self.num_streams),
            new_rows=self.num_streams,
        )
        rows_P = expand_slots(self.slots_B[:bucket], self.num_streams)
        paged = PagedRows(attention=self.attention, decode=decode, decode_rows=len(rows_P))
        return {
            "inputs_embeds": self.x_1BND[:, :bucket],
            "position_ids": self.positions_1B[:, :bucket],
            "step": StepBatch(pool=pool, rows_P=rows_P, paged=paged),
        }


class DecodeGraphs:
    """Runs decode steps from `DecodeBuffers`, each bucket captured once."""

    def __init__(
        self,
        model: Qwen3ScaleSeqForCausalLM,
        pool: KVPool,
        attention: PagedAttention,
        *,
        block_size: int,
        most_requests: int,
        most_tokens: int,
    ) -> None:
        self.model, self.pool = model, pool
        self.buckets = bucket_sizes(most_requests)
        self.buffers = DecodeBuffers(
            pool,
            attention,
            num_streams=model.config.num_streams,
            width=model.config.hidden_size,
            block_size=block_size,
            most_requests=most_requests,
            most_tokens=most_tokens,
        )
        self._replays: dict[int, Callable[[], Tensor]] = {}

    def fits(self, spans: list[Span]) -> bool:
        """Whether the step is nothing but decodes, each asking for the logits of its one token."""
        return len(spans) <= self.buckets[-1] and all(
            span.count == 1 and span.completes and span.start >= span.request.prompt_tokens for span in spans
        )

    def run(self, spans: list[Span], x_1TND: Tensor) -> Tensor:
        """Embedded tokens of decoding spans -> their logits [B, V]; overwritten by the next call."""
        bucket = next(size for size in self.buckets if size >= len(spans))
        self.buffers.fill(spans, x_1TND, bucket)
        replay = self._replays.get(bucket)
        return (replay() if replay is not None else self._forward(bucket))[: len(spans)]

    def _forward(self, bucket: int) -> Tensor:
        logits_BV: Tensor = self.model(use_cache=False, **self.buffers.step(self.pool, bucket)).logits[0]
        return logits_BV

    def forget(self) -> None:
        """Drops what was captured; steps run eagerly from the same buffers."""
        self._replays.clear()

    @torch.inference_mode()
    def capture(self) -> None:
        """Captures all buckets, the largest first, so that the others fit into its memory. CUDA only."""
        pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        for bucket in tqdm(self.buckets[::-1], desc="capturing decode graphs", unit="graph"):
            self.buffers.fill([], self.buffers.x_1BND[:, :0], bucket)
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):  # Triton compiles and cuBLAS picks its workspaces before anything is recorded
                    self._forward(bucket)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                logits_BV = self._forward(bucket)
            self._replays[bucket] = _replayer(graph, logits_BV)


def graphs_for(runner: ModelRunner, config: EngineConfig, most_tokens: int) -> DecodeGraphs | None:
    """Static decode steps where the device has kernels for them, else None; captured unless that fails."""
    if runner.paged is None or runner.device.type != "cuda":
        return None
    graphs = DecodeGraphs(
        runner.model,
        runner.pool,
        runner.paged,
        block_size=runner.block_size,
        most_requests=config.max_num_seqs,
        most_tokens=most_tokens,
    )
    if config.enforce_eager:
        return graphs  # the kernel all the same, launch by launch
    try:
        graphs.capture()
    except Exception as error:
        log.warning("capturing decode graphs failed (%s: %s); answers will be slower", type(error).__name__, error)
        graphs.forget()
    return graphs


def _replayer(graph: torch.cuda.CUDAGraph, output: Tensor) -> Callable[[], Tensor]:
    def replay() -> Tensor:
        graph.replay()
        return output

    return replay

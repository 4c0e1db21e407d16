"""From a step's spans to the rows of the KV pool they read and write: slots in tokens, page tables in positions.

Contract: a request's token t lies in slot blocks[t // block_size] * block_size + t % block_size; a slot owns n rows.
Pages are blocks: page p is rows p * block_size * n onwards. Built on the host once a step, sent to the device once.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch

from hidden_decoding.engines.local.attention import PagedRows
from hidden_decoding.engines.local.paged_attention import DecodeRows, PagedAttention, PromptRows
from hidden_decoding.streams import expand_offsets, expand_slots, tokens_to_positions

if TYPE_CHECKING:
    from torch import Tensor

    from hidden_decoding.engines.local.request import Request
    from hidden_decoding.engines.local.scheduler import Span


def slots_of(request: Request, block_size: int, start: int, stop: int) -> np.ndarray:
    """KV slots of tokens `start` ... `stop - 1` of a request."""
    tokens = np.arange(start, stop)
    return np.asarray(request.blocks)[tokens // block_size] * block_size + tokens % block_size


class PageTables:
    """Makes `PagedRows` for one engine."""

    def __init__(self, attention: PagedAttention, *, num_streams: int, block_size: int, device: torch.device) -> None:
        self.attention = attention
        self.num_streams, self.block_size, self.device = num_streams, block_size, device
        self.page_rows = tokens_to_positions(block_size, num_streams)

    def rows(self, spans: list[Span]) -> PagedRows:
        """The spans in front that add one token each, then the rest."""
        decoding = list(itertools.takewhile(lambda span: span.count == 1, spans))
        reading = spans[len(decoding) :]
        return PagedRows(
            attention=self.attention,
            decode=self._decode(decoding) if decoding else None,
            decode_rows=tokens_to_positions(len(decoding), self.num_streams),
            prompt=self._prompt(reading) if reading else None,
        )

    def _decode(self, spans: list[Span]) -> DecodeRows:
        return DecodeRows(
            page_table_BM=self._table(spans),
            held_B=self._positions([span.start + span.count for span in spans]),
            page_rows=self.page_rows,
            new_rows=self.num_streams,
        )

    def _prompt(self, spans: list[Span]) -> PromptRows:
        held = [span.start + span.count for span in spans]
        slots = [slots_of(span.request, self.block_size, 0, count) for span, count in zip(spans, held, strict=True)]
        return PromptRows(
            page_table_BM=self._table(spans),
            held_B=self._positions(held),
            begins_C=self._positions(list(itertools.accumulate((span.count for span in spans), initial=0))),
            held_begins_C=self._positions(list(itertools.accumulate(held, initial=0))),
            rows_S=expand_slots(torch.from_numpy(np.concatenate(slots)).to(self.device), self.num_streams),
            page_rows=self.page_rows,
            new_counts=tuple(tokens_to_positions(span.count, self.num_streams) for span in spans),
            most_held=tokens_to_positions(max(held), self.num_streams),
        )

    def _positions(self, tokens: list[int]) -> Tensor:
        """Token counts or offsets -> position counts on the device."""
        return expand_offsets(torch.tensor(tokens, dtype=torch.int32), self.num_streams).to(self.device)

    def _table(self, spans: list[Span]) -> Tensor:
        """Pages of each request up to its last token, padded with page 0, which nobody looks at."""
        used = [span.request.blocks[: (span.start + span.count - 1) // self.block_size + 1] for span in spans]
        table = np.zeros((len(used), max(map(len, used))), dtype=np.int32)
        for row, blocks in zip(table, used, strict=True):
            row[: len(blocks)] = blocks
        return torch.from_numpy(table).to(self.device)

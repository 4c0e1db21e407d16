"""Which paged attention a device gets: candidates in order of speed, each believed once it agreed with the dense one.

Contract: decoding is our Triton kernel. Prompts are PyTorch's own `varlen_attn` where this version has it and the dtype
is a half (it gathers the rows held, then runs flash attention), else our Triton kernel. A candidate that fails or
disagrees on a small random pool is named in the log and passed over; None means that no kernel can be used, and the
engine attends request by request. With `TRITON_INTERPRET=1` the kernels run on a CPU (how they are tested).
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import os
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from hidden_decoding.engines.local.paged_attention import (
    AttendDecode,
    AttendPrompt,
    DecodeRows,
    PagedAttention,
    PromptRows,
    decode_dense,
    prompt_dense,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

log = logging.getLogger(__name__)
Attend = TypeVar("Attend", bound="Callable[..., Tensor]")

# Attended values of the check are of order 1: a half rounds the weights and the result, fp32 only reorders sums.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
# The check's pool: pages of a size that divides nothing, out of order, a prompt with and one without rows before it.
_PAGE_ROWS, _PAGES = 6, ((7, 2, 11, 0, 5, 3), (1, 9, 4, 0, 0, 0))
_HELD, _NEW = (35, 13), (22, 13)


def triton_runs(device: torch.device, head_dim: int) -> bool:
    """Whether our kernels can run: Triton on CUDA or interpreted, and a head size its tiles can hold."""
    fits = 16 <= head_dim <= 256 and head_dim & (head_dim - 1) == 0
    place = device.type == "cuda" or (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")
    return place and fits and importlib.util.find_spec("triton") is not None


def choose_paged_attention(
    device: torch.device, dtype: torch.dtype, *, heads: int, kv_heads: int, head_dim: int
) -> PagedAttention | None:
    """The fastest calls that agree with the dense ones on this device, or None."""
    if not triton_runs(device, head_dim):
        if device.type == "cuda":
            log.warning("attention without Triton (not installed, or head size %d): much slower", head_dim)
        return None
    from hidden_decoding.engines.local.decode_kernel import decode_kernel
    from hidden_decoding.engines.local.prompt_kernel import prompt_kernel

    trial = Trial(device, dtype, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    decode = trial.decode({"triton": decode_kernel})
    prompt = trial.prompt({**varlen_candidates(device, dtype), "triton": prompt_kernel})
    if decode is None or prompt is None:
        return None
    return PagedAttention(name=f"decode {decode[0]}, prompts {prompt[0]}", decode=decode[1], prompt=prompt[1])


def varlen_candidates(device: torch.device, dtype: torch.dtype) -> dict[str, AttendPrompt]:
    """PyTorch's variable-length attention under its name, where this version has it with grouped heads."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return {}
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return {}
    known = inspect.signature(varlen_attn).parameters
    return {"varlen_attn": varlen_prompt(varlen_attn)} if {"scale", "window_size", "enable_gqa"} <= set(known) else {}


def varlen_prompt(varlen_attn: Callable[..., Any]) -> AttendPrompt:
    """`varlen_attn` over the rows that all requests hold, gathered side by side once a layer."""

    def attend(query_HPE: Tensor, keys_KRE: Tensor, values_KRE: Tensor, rows: PromptRows, scale: float) -> Tensor:
        keys_SKE = keys_KRE.index_select(1, rows.rows_S).transpose(0, 1)
        values_SKE = values_KRE.index_select(1, rows.rows_S).transpose(0, 1)
        # The window (-1, 0) is causal from the end: the last new row sees the last row held.
        attended: Tensor = varlen_attn(
            query_HPE.transpose(0, 1),
            keys_SKE,
            values_SKE,
            rows.begins_C,
            rows.held_begins_C,
            rows.most_new,
            rows.most_held,
            scale=scale,
            window_size=(-1, 0),
            enable_gqa=query_HPE.shape[0] != keys_KRE.shape[0],
        )
        return attended

    return attend


class Trial:
    """A small random pool, on which a candidate must agree with the dense attention."""

    def __init__(self, device: torch.device, dtype: torch.dtype, *, heads: int, kv_heads: int, head_dim: int) -> None:
        self.device, self.dtype, self.scale = device, dtype, head_dim**-0.5
        generator = torch.Generator().manual_seed(0)
        most = _PAGE_ROWS * (1 + max(max(pages) for pages in _PAGES))
        shapes = ((heads, sum(_NEW), head_dim), (kv_heads, most, head_dim), (kv_heads, most, head_dim))
        self.query, self.keys, self.values = (
            torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes
        )

    def decode(self, candidates: dict[str, AttendDecode]) -> tuple[str, AttendDecode] | None:
        """The first candidate for decode steps that is right."""
        rows, query = self.decode_rows(), self.query[:, : 2 * min(_NEW)]
        return self._first_right("decode", candidates, decode_dense, query, rows)

    def prompt(self, candidates: dict[str, AttendPrompt]) -> tuple[str, AttendPrompt] | None:
        """The first candidate for prompts that is right."""
        return self._first_right("prompt", candidates, prompt_dense, self.query, self.prompt_rows())

    def decode_rows(self) -> DecodeRows:
        """Two requests that add a token of as many streams as the shorter prompt has rows."""
        tables = {"page_table_BM": self._ints(_PAGES), "held_B": self._ints(_HELD)}
        return DecodeRows(**tables, page_rows=_PAGE_ROWS, new_rows=min(_NEW))

    def prompt_rows(self) -> PromptRows:
        """A prompt in the middle and a whole one."""
        own = [
            [page * _PAGE_ROWS + row for page in pages for row in range(_PAGE_ROWS)][:held]
            for pages, held in zip(_PAGES, _HELD, strict=True)
        ]
        return PromptRows(
            page_table_BM=self._ints(_PAGES),
            held_B=self._ints(_HELD),
            begins_C=self._ints((0, _NEW[0], sum(_NEW))),
            held_begins_C=self._ints((0, _HELD[0], sum(_HELD))),
            rows_S=torch.tensor([*own[0], *own[1]], device=self.device),
            page_rows=_PAGE_ROWS,
            new_counts=_NEW,
            most_held=max(_HELD),
        )

    def _ints(self, values: tuple[Any, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self.device)

    def _first_right(
        self, what: str, candidates: dict[str, Attend], dense: Attend, query: Tensor, rows: Any
    ) -> tuple[str, Attend] | None:
        """The first candidate that runs and agrees, with its name; the others are named in the log."""
        expected = dense(query, self.keys, self.values, rows, self.scale).float()
        for name, attend in candidates.items():
            try:
                got = attend(query, self.keys, self.values, rows, self.scale).float()
                worst = float((got - expected).abs().amax())
            except Exception as error:
                # Whatever a version or a card does not like, another candidate or the slow path still serves.
                log.warning("%s attention by %s does not run here (%s: %s)", what, name, type(error).__name__, error)
                continue
            if worst <= _TOLERANCE[self.dtype]:
                return name, attend
            log.warning("%s attention by %s is wrong here by %.3g; it is not used", what, name, worst)
        return None

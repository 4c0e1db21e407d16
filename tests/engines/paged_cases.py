"""Cases that every paged attention must pass, dense on a CPU or a kernel: random pools, and whole answers."""

from __future__ import annotations

import itertools
import random

import torch

from hidden_decoding import LocalEngine, SamplingParams
from hidden_decoding.engines.local.paged_attention import DecodeRows, PagedAttention, PromptRows
from tests.support import LOGIT_TOLERANCE, BruteForce, assert_same_greedy, tiny_model

GREEDY = {"temperature": 0.0, "ignore_eos": True}


class Pool:
    """Pages in a random order for requests that hold `held` positions; what nobody holds is NaN."""

    def __init__(self, held: list[int], *, page_rows: int, heads=(4, 2), width: int = 16, dtype=torch.float32) -> None:
        generator = torch.Generator().manual_seed(sum(held) + page_rows)
        needed = [-(-count // page_rows) for count in held]
        pages = torch.randperm(sum(needed) + 2, generator=generator)[: sum(needed)].tolist()
        cuts = list(itertools.accumulate(needed, initial=0))
        self.own_pages = [pages[begin:end] for begin, end in itertools.pairwise(cuts)]
        self.held, self.page_rows, self.heads, self.dtype = held, page_rows, heads, dtype
        self.rows = [
            [page * page_rows + row for page in own for row in range(page_rows)][:count]
            for own, count in zip(self.own_pages, held, strict=True)
        ]
        shape = (heads[1], (sum(needed) + 2) * page_rows, width)
        self.keys, self.values = (torch.full(shape, float("nan"), dtype=dtype) for _ in range(2))
        used = torch.tensor([row for own in self.rows for row in own])
        for tensor in (self.keys, self.values):
            tensor[:, used] = torch.randn(heads[1], len(used), width, generator=generator).to(dtype)
        self.width, self.scale, self.generator = width, width**-0.5, generator

    def query(self, rows: int) -> torch.Tensor:
        """[H, rows, E], laid out as the model hands it over: heads beside each other."""
        drawn = torch.randn(rows, self.heads[0], self.width, generator=self.generator)
        return drawn.to(self.dtype).transpose(0, 1)

    def table(self) -> torch.Tensor:
        """Page table, padded with page 0."""
        most = max(map(len, self.own_pages))
        return torch.tensor([[*own, *[0] * (most - len(own))] for own in self.own_pages], dtype=torch.int32)

    def decode_rows(self, new_rows: int) -> DecodeRows:
        """Each request's last `new_rows` rows are new."""
        held = torch.tensor(self.held, dtype=torch.int32)
        return DecodeRows(page_table_BM=self.table(), held_B=held, page_rows=self.page_rows, new_rows=new_rows)

    def prompt_rows(self, new: list[int]) -> PromptRows:
        """Request b's last `new[b]` rows are new."""
        return PromptRows(
            page_table_BM=self.table(),
            held_B=torch.tensor(self.held, dtype=torch.int32),
            begins_C=torch.tensor([0, *itertools.accumulate(new)], dtype=torch.int32),
            held_begins_C=torch.tensor([0, *itertools.accumulate(self.held)], dtype=torch.int32),
            rows_S=torch.tensor([row for own in self.rows for row in own]),
            page_rows=self.page_rows,
            new_counts=tuple(new),
            most_held=max(self.held),
        )

    def expected(self, query: torch.Tensor, new: list[int]) -> torch.Tensor:
        """[P, H, E] row by row and head by head, from each request's own rows in their order."""
        parts, begin = [], 0
        for own, held, count in zip(self.rows, self.held, new, strict=True):
            for row in range(count):
                seen = torch.tensor(own[: held - count + row + 1])
                for head in range(self.heads[0]):
                    kv_head = head // (self.heads[0] // self.heads[1])
                    scores = self.keys[kv_head, seen].float() @ query[head, begin + row].float() * self.scale
                    parts.append(scores.softmax(0) @ self.values[kv_head, seen].float())
            begin += count
        return torch.stack(parts).view(sum(new), self.heads[0], self.width)


def prompts(lengths: tuple[int, ...]) -> list[list[int]]:
    rng = random.Random(1)
    return [[rng.randrange(3, 512) for _ in range(length)] for length in lengths]


def assert_answers_equal_brute_force(num_streams: int, attention: PagedAttention, tokens: int = 6) -> None:
    """Odd chunks, pages and preemption; every step's attention must have gone through `attention`."""
    calls = {"decode": 0, "prompt": 0}

    def counting(what):
        def attend(*args):
            calls[what] += 1
            return getattr(attention, what)(*args)

        return attend

    per_token = 2 * 3 * 2 * 16 * 4 * num_streams
    local = LocalEngine.from_model(
        tiny_model(num_streams), max_model_len=60, block_size=5, max_num_seqs=4, max_num_batched_tokens=13,
        kv_cache_memory_bytes=str(per_token * 65),
    )  # fmt: skip
    local.runner.paged = PagedAttention(name="counted", decode=counting("decode"), prompt=counting("prompt"))
    # What was never written may hold anything; it must not reach an answer.
    local.runner.pool.keys_LKPE.fill_(float("nan"))
    local.runner.pool.values_LKPE.fill_(float("nan"))
    # Four fill all but one of the 13 blocks and all want another: some give way. A later one begins as the last.
    cases = prompts((14, 13, 14, 12))
    params = SamplingParams(max_tokens=tokens, **GREEDY)
    outputs = local.generate(cases, params)
    cases.append(cases[-1] + cases[0][:3])
    outputs += local.generate(cases[-1:], params)
    reference, compared = BruteForce(tiny_model(num_streams)), 0
    for prompt, output in zip(cases, outputs, strict=True):
        expected, gaps = reference.greedy(prompt, tokens)
        compared += assert_same_greedy(output.token_ids, expected, gaps, LOGIT_TOLERANCE)
    assert compared > 0.9 * tokens * len(cases), "too many ties to mean anything"
    stats = local.stats()
    assert stats.preemptions > 0
    assert outputs[-1].cached_tokens > 0
    assert stats.free_blocks == stats.total_blocks
    layers = local.model_config.num_hidden_layers
    assert min(calls.values()) > 0
    assert max(calls.values()) <= layers * stats.steps, "at most one call of each kind a layer and step"

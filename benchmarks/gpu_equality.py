"""The local engine's answers on the device at hand against brute force: the part of `gpu_local_engine.py` that judges.

Cases: mixed requests in odd chunks and pages; little memory, so that requests give way and resume; prompts that begin
alike; a neighbour that leaves; extra tables on the host. Each at n = 1, 2, 4, 8, in fp32 and bf16. The reference is
`tests.support.BruteForce`: stock Qwen3 in fp32 on the CPU, no cache. An answer is compared up to its first tie.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hidden_decoding import LocalEngine, SamplingParams
from hidden_decoding.engines.local.kv_pool import bytes_per_token
from hidden_decoding.engines.local.weights import HostTable
from tests.support import BruteForce, tiny_model

STREAMS, TOKENS = (1, 2, 4, 8), 16
PARAMS = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
# Ties: a bf16 logit of size 4 is rounded to 1/64, and layers add a few such errors; fp32 as in the tests, rounded up.
TIE_GAPS = {torch.float32: 1e-3, torch.bfloat16: 0.25}
ODD = {"max_num_batched_tokens": 13, "block_size": 5, "max_num_seqs": 5}


def random_prompts(lengths: tuple[int, ...], seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 512, (length,), generator=generator).tolist() for length in lengths]


class Case:
    """One n and dtype: the engine's model on the device and the reference, and what was found."""

    def __init__(self, n: int, dtype: torch.dtype, device: torch.device) -> None:
        self.n, self.dtype, self.device = n, dtype, device
        self.reference = BruteForce(tiny_model(n).to(dtype).float())
        self.known: dict[tuple[int, ...], tuple[list[int], list[float]]] = {}

    def engine(self, **options) -> LocalEngine:
        """An engine of its own, as every case changes what is in it."""
        host = options.pop("host_tables", False)
        model = tiny_model(self.n).to(self.dtype)
        if host:
            tables = model.model.scale_seq_embed_tokens_list
            for index, table in enumerate(tables):
                tables[index] = HostTable(table.weight.detach(), self.dtype, self.device)
        return LocalEngine.from_model(model.to(self.device), **{"kv_cache_memory_bytes": "16MiB", **options})

    def compared(self, prompt: list[int], got: list[int]) -> tuple[int, int]:
        """(tokens compared, tokens wrong: 0 or 1) of an answer, which may be cut short."""
        key = tuple(prompt)
        if key not in self.known:
            self.known[key] = self.reference.greedy(prompt, TOKENS)
        for index, (token, want, gap) in enumerate(zip(got, *self.known[key], strict=False)):
            if gap <= TIE_GAPS[self.dtype]:
                return index, 0
            if token != want:
                return index + 1, 1
        return len(got), 0

    def answers(self) -> Iterator[tuple[str, LocalEngine, list[tuple[list[int], list[int]]]]]:
        """(name, engine, pairs of prompt and answer) of every case."""
        mixed = random_prompts((1, 3, 9, 17, 30, 44, 8, 21), self.n)
        for name, options in (("mixed", {}), ("host tables", {"host_tables": True})):
            local = self.engine(**ODD, **options)
            yield name, local, self._together(local, mixed)
        small = str(70 * bytes_per_token(tiny_model(self.n).config, self.dtype))
        local = self.engine(**{**ODD, "kv_cache_memory_bytes": small, "max_model_len": 60})
        pairs = self._together(local, mixed)
        assert local.stats().preemptions > 0, "memory was not little"
        yield "preemption", local, pairs
        local = self.engine(block_size=4)
        alike = [mixed[5] + tail for tail in random_prompts((1, 6, 3), 9)]
        pairs = self._together(local, alike[:1]) + self._together(local, alike)
        assert local.stats().prefix_cache_hits > 0, "no prefix was found"
        yield "shared prefixes", local, pairs
        local = self.engine(**ODD)
        yield "a neighbour leaves", local, self._with_leaver(local, mixed)

    def _together(self, local: LocalEngine, prompts: list[list[int]]) -> list[tuple[list[int], list[int]]]:
        return [(output.prompt_token_ids, output.token_ids) for output in local.generate(prompts, PARAMS)]

    def _with_leaver(self, local: LocalEngine, prompts: list[list[int]]) -> list[tuple[list[int], list[int]]]:
        names = [local.add_request(prompt, PARAMS) for prompt in prompts]
        answers: dict[str, list[int]] = {name: [] for name in names}
        while local.has_unfinished:
            for delta in local.step():
                answers[delta.request_id] += delta.token_ids
            if len(answers[names[1]]) == TOKENS // 2:
                local.abort(names[1])
        return list(zip(prompts, answers.values(), strict=True))


def equality_rows(device: torch.device) -> Iterator[dict]:
    """A row per dtype, n and case; `wrong` must be 0, and nearly all of `of` compared in fp32."""
    for dtype in TIE_GAPS:
        for n in STREAMS:
            case = Case(n, dtype, device)
            for name, local, pairs in case.answers():
                found = [case.compared(prompt, got) for prompt, got in pairs]
                stats = local.stats()
                yield {
                    "case": name, "dtype": str(dtype).removeprefix("torch."), "streams": n,
                    "attention": local.summary()["attention"],
                    "tokens_compared": sum(compared for compared, _ in found),
                    "of": sum(len(got) for _, got in pairs),
                    "wrong": sum(wrong for _, wrong in found),
                    "blocks_lost": stats.total_blocks - stats.free_blocks,
                }  # fmt: skip

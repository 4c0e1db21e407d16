"""What the engine reads from the streams while it decodes, against the lens over the whole answer."""

from __future__ import annotations

import random

import pytest

import hidden_decoding
from hidden_decoding import LocalEngine, SamplingParams
from hidden_decoding.engines.local import runner
from hidden_decoding.stream_lens.reading import assemble
from tests.support import tiny_model

TOKENS = 7


def prompts() -> list[list[int]]:
    rng = random.Random(5)
    shared = [rng.randrange(3, 512) for _ in range(20)]
    return [shared, [*shared, 9, 8, 7], [44], [rng.randrange(3, 512) for _ in range(33)]]


@pytest.mark.parametrize(("n", "scheme"), [(1, "contiguous"), (2, "linear"), (4, "contiguous"), (8, "linear")])
def test_readouts_are_the_lens(n, scheme):
    """In mixed batches with chunks, prefix hits and preemption; every second request reads nothing."""
    options = {"max_num_batched_tokens": 13, "block_size": 4, "max_num_seqs": 3, "kv_cache_memory_bytes": "64MiB"}
    local = LocalEngine.from_model(tiny_model(n, scheme), None, **options)
    local.generate(prompts()[:1], SamplingParams(max_tokens=1))  # so that a prefix is there to be hit
    wanted = [SamplingParams(max_tokens=TOKENS, temperature=0, ignore_eos=True, stream_lens=k) for k in (3, 0, 3, 3)]
    outputs = local.generate(prompts(), wanted)
    assert local.stats().prefix_cache_hits > 0
    assert outputs[1].readouts == []
    reference = tiny_model(n, scheme)
    for prompt, output in zip(prompts(), outputs, strict=True):
        if not output.readouts:
            continue
        expected = hidden_decoding.lens(reference, prompt_ids=prompt, answer_ids=output.token_ids, top=3)
        found = assemble(output.readouts, output.token_ids, lambda _ids: "")
        assert (found.streams, found.layers, len(found.tokens)) == (n, expected.layers, TOKENS)
        assert [row for layer in found.cosine for row in layer] == pytest.approx(
            [row for layer in expected.cosine for row in layer], abs=1e-4
        )
        for one, other in zip(found.tokens, expected.tokens, strict=True):
            for stream, same in zip(one.streams, other.streams, strict=True):
                assert stream.entropy_bits == pytest.approx(same.entropy_bits, abs=1e-3)
                assert [guess.probability for guess in stream.top] == pytest.approx(
                    [guess.probability for guess in same.top], abs=1e-4
                )
        assert [token.streams[-1].top[0].token_id for token in found.tokens] == output.token_ids


def test_a_long_answer_is_read_at_its_start(monkeypatch):
    monkeypatch.setattr(runner, "MOST_LENS_TOKENS", 3)
    local = LocalEngine.from_model(tiny_model(2), None, kv_cache_memory_bytes="64MiB")
    [output] = local.generate(
        [[5, 6]], SamplingParams(max_tokens=TOKENS, temperature=0, ignore_eos=True, stream_lens=1)
    )
    assert (len(output.readouts), len(output.token_ids)) == (3, TOKENS)

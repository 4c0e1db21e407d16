"""The local engine against brute force: alone, together, under little memory, with shared prefixes and odd chunks."""

from __future__ import annotations

import random

import pytest
import torch

from hidden_decoding import LocalEngine, SamplingParams
from hidden_decoding.errors import CapacityError, ConfigError, RequestError
from hidden_decoding.modeling import model as model_module
from tests.support import LOGIT_TOLERANCE, BruteForce, assert_same_greedy, tiny_model, tiny_tokenizer

GREEDY = {"temperature": 0.0, "ignore_eos": True}
STREAMS = (1, 2, 3, 4, 8)


def prompts(count: int, seed: int = 0, longest: int = 60) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, 512) for _ in range(rng.randint(1, longest))] for _ in range(count)]


@pytest.fixture(scope="module")
def oracle():
    """`oracle(n, positions, prompt, tokens)` -> (greedy tokens, top-2 gaps), each computed once."""
    references: dict = {}
    answers: dict = {}

    def ask(num_streams, positions, prompt, max_tokens):
        if (num_streams, positions) not in references:
            references[num_streams, positions] = BruteForce(tiny_model(num_streams, positions))
        key = (num_streams, positions, tuple(prompt), max_tokens)
        if key not in answers:
            answers[key] = references[num_streams, positions].greedy(prompt, max_tokens)
        return answers[key]

    return ask


def engine(num_streams: int, positions: str = "contiguous", **options) -> LocalEngine:
    options.setdefault("kv_cache_memory_bytes", "64MiB")
    return LocalEngine.from_model(tiny_model(num_streams, positions), tiny_tokenizer(), **options)


def assert_all_match(local, oracle, cases, tokens=16, positions="contiguous"):
    outputs = local.generate(cases, SamplingParams(max_tokens=tokens, **GREEDY))
    compared = 0
    for prompt, output in zip(cases, outputs, strict=True):
        expected, gaps = oracle(local.num_streams, positions, prompt, tokens)
        compared += assert_same_greedy(output.token_ids, expected, gaps, LOGIT_TOLERANCE)
        assert output.finish_reason == "length"
    assert compared > 0.9 * tokens * len(cases), "too many ties to mean anything"
    stats = local.stats()
    assert stats.free_blocks == stats.total_blocks, "blocks leaked"
    return outputs


@pytest.mark.parametrize("positions", ["contiguous", "linear"])
@pytest.mark.parametrize("num_streams", STREAMS)
def test_eight_mixed_requests_equal_brute_force(oracle, num_streams, positions):
    assert_all_match(engine(num_streams, positions), oracle, prompts(8), positions=positions)


@pytest.mark.parametrize("num_streams", STREAMS)
def test_one_request_equals_brute_force(oracle, num_streams):
    assert_all_match(engine(num_streams), oracle, prompts(1, seed=3))


@pytest.mark.parametrize("num_streams", [1, 2, 8])
@pytest.mark.parametrize("chunk", [1, 7, 13])
def test_prompts_in_odd_chunks(oracle, num_streams, chunk):
    local = engine(num_streams, max_num_batched_tokens=chunk, block_size=5, max_num_seqs=3)
    assert_all_match(local, oracle, prompts(8))
    assert local.stats().steps > 8 * 16 // 3


@pytest.mark.parametrize("num_streams", [1, 2, 4, 8])
def test_preemption_gives_the_same_answers(oracle, num_streams):
    model = tiny_model(num_streams)
    per_token = 2 * 3 * 2 * 16 * 4 * num_streams
    local = LocalEngine.from_model(model, max_model_len=80, kv_cache_memory_bytes=str(per_token * 128), block_size=4)
    assert_all_match(local, oracle, prompts(8))
    assert local.stats().preemptions > 0


@pytest.mark.parametrize("num_streams", [1, 2, 4, 8])
def test_shared_prefixes_are_reused_and_change_nothing(oracle, num_streams):
    local = engine(num_streams, block_size=4)
    [base] = prompts(1, seed=9, longest=1)
    base = base * 5 + prompts(1, seed=11)[0][:20]
    cases = [base + tail for tail in prompts(6, seed=5, longest=9)]
    first = assert_all_match(local, oracle, cases[:1])
    assert first[0].cached_tokens == 0
    later = assert_all_match(local, oracle, cases)
    assert all(output.cached_tokens >= len(base) // 4 * 4 for output in later)
    again = assert_all_match(local, oracle, cases)
    assert all(0 < output.cached_tokens < len(output.prompt_token_ids) for output in again)


def test_prefix_caching_can_be_off(oracle):
    local = engine(2, enable_prefix_caching=False, block_size=4)
    for _ in range(2):
        outputs = assert_all_match(local, oracle, prompts(3))
        assert all(output.cached_tokens == 0 for output in outputs)


def test_scattered_blocks_are_gathered(oracle):
    """Growth into a neighbour leaves a request's blocks apart; attention must not care."""
    local = engine(4, block_size=2, max_model_len=80, kv_cache_memory_bytes=str(2 * 3 * 2 * 16 * 4 * 4 * 330))
    apart = set()
    original = local.runner._request_rows

    def spy(span, tokens_before):
        apart.add(span.request.side_by_side)
        return original(span, tokens_before)

    local.runner._request_rows = spy
    assert_all_match(local, oracle, prompts(8), tokens=20)
    assert apart == {True, False}


@pytest.mark.parametrize("num_streams", [1, 2, 8])
def test_a_decoded_token_costs_one_forward_of_n_rows(num_streams):
    local = engine(num_streams)
    rows: list[int] = []
    local.model.model.layers[0].register_forward_hook(lambda module, args, output: rows.append(args[0].shape[1]))
    local.generate([[5, 6, 7]], SamplingParams(max_tokens=5, **GREEDY))
    assert rows == [3 * num_streams, *[num_streams] * 4]


def test_aborting_frees_slots_and_leaves_neighbours_alone(oracle):
    local = engine(2)
    cases = prompts(4)
    ids = [local.add_request(prompt, SamplingParams(max_tokens=16, **GREEDY)) for prompt in cases]
    tokens = {request_id: [] for request_id in ids}
    for step in range(40):
        for delta in local.step():
            tokens[delta.request_id] += delta.token_ids
        if step == 5:
            before = local.stats().free_blocks
            local.abort(ids[1])
            assert local.stats().free_blocks > before
    for index in (0, 2, 3):
        expected, gaps = oracle(2, "contiguous", cases[index], 16)
        assert_same_greedy(tokens[ids[index]], expected, gaps, LOGIT_TOLERANCE)
    assert len(tokens[ids[1]]) < 16
    assert local.stats().free_blocks == local.stats().total_blocks


def test_a_failing_step_fails_only_its_requests(oracle):
    local = engine(2)
    cases = prompts(2)
    original = local.runner.run

    def fail(spans):
        raise RuntimeError("made to fail")

    doomed = local.add_request(cases[0], SamplingParams(max_tokens=16, **GREEDY))
    local.step()
    local.runner.run = fail
    [delta] = local.step()
    assert (delta.request_id, delta.finish_reason) == (doomed, "error")
    assert "made to fail" not in delta.error
    local.runner.run = original
    assert_all_match(local, oracle, cases[1:])


def test_stop_string_over_token_borders_is_cut(oracle):
    local = engine(2)
    [plain] = local.generate([[9, 10, 11]], SamplingParams(max_tokens=30, **GREEDY))
    stop = plain.text[6:11]
    [cut] = local.generate([[9, 10, 11]], SamplingParams(max_tokens=30, stop=(stop,), **GREEDY))
    assert cut.text == plain.text[: plain.text.index(stop)]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)


def test_text_put_together_equals_the_decoded_ids():
    local = engine(3)
    for output in local.generate(prompts(8), SamplingParams(max_tokens=40, temperature=1.0, seed=1, ignore_eos=True)):
        whole = local.tokenizer.decode(output.prompt_token_ids + output.token_ids, skip_special_tokens=True)
        assert whole.endswith(output.text)
        assert output.text


def test_seeded_text_is_the_same_alone_and_in_a_batch():
    local = engine(4)
    cases = prompts(8)
    wanted = [SamplingParams(max_tokens=20, seed=100 + i, top_p=0.9, top_k=40) for i in range(8)]
    together = local.generate(cases, wanted)
    for prompt, params, output in zip(cases, wanted, together, strict=True):
        assert local.generate([prompt], [params])[0].token_ids == output.token_ids
    assert together[0].token_ids != local.generate([cases[0]], SamplingParams(max_tokens=20, seed=7))[0].token_ids


@pytest.mark.parametrize("num_streams", [1, 2, 8])
def test_logprobs_of_prompt_and_answer_equal_brute_force(num_streams):
    local = engine(num_streams, max_num_batched_tokens=7)
    reference = BruteForce(tiny_model(num_streams))
    [prompt] = prompts(1, seed=4)
    params = SamplingParams(max_tokens=6, logprobs=3, prompt_logprobs=2, **GREEDY)
    [output] = local.generate([prompt], params)
    ids = prompt + output.token_ids
    expected = reference.logits(ids).log_softmax(-1)
    assert output.prompt_logprobs[0] is None
    scored = [*output.prompt_logprobs[1:], *output.logprobs]
    assert [entry.token_id for entry in scored] == ids[1:]
    for row, entry in zip(expected[:-1], scored, strict=True):
        assert abs(float(row[entry.token_id]) - entry.logprob) < 10 * LOGIT_TOLERANCE
        best = row.topk(len(entry.top))
        torch.testing.assert_close(torch.tensor([v for _, v in entry.top]), best.values, atol=2e-4, rtol=0)


def test_context_limit_is_in_tokens(oracle):
    local = engine(4, max_model_len=24)
    [output] = local.generate([[5] * 20], SamplingParams(max_tokens=50, **GREEDY))
    assert (len(output.token_ids), output.finish_reason) == (4, "length")
    with pytest.raises(RequestError, match=r"24 tokens \(96 positions\).*holds 24 tokens"):
        local.generate([[5] * 24])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_model_len": 257}, ConfigError, "257 tokens = 1028 positions.*256 tokens = 1024 positions"),
        ({"kv_cache_memory_bytes": "1KiB"}, CapacityError, "raise --kv-cache-memory-bytes"),
        ({"kv_cache_memory_bytes": "900000GiB"}, CapacityError, "ask for less"),
        ({"kv_cache_memory_bytes": "lots"}, ConfigError, "is not a size"),
        ({"kv_cache_memory_bytes": "512KiB", "max_model_len": 250}, CapacityError, "the KV cache holds"),
        ({"dtype": "int3"}, ConfigError, "known are"),
        ({"block_size": 0}, ConfigError, "block_size"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        engine(4, **options)


@pytest.mark.parametrize(
    ("prompt", "words"), [([], "empty"), ([512], "token 512, but the vocabulary ends at 511"), ([-1], "token -1")]
)
def test_bad_prompts_are_refused(prompt, words):
    with pytest.raises(RequestError, match=words):
        engine(2).generate([prompt])


def test_json_answers_follow_the_schema():
    import json

    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"],
    }
    local = engine(2)
    for seed in range(3):
        params = SamplingParams(max_tokens=150, seed=seed, structured_output={"json_schema": schema}, logit_bias={})
        [output] = local.generate([[5, 6, 7]], params)
        if output.finish_reason == "stop":
            value = json.loads(output.text)
            assert isinstance(value["a"], int)
            assert value["b"] in ("x", "y")
    assert output.text.lstrip().startswith("{")


def swap_tables(local, monkeypatch):
    first, second = local.model.model.embed_tokens, local.model.model.scale_seq_embed_tokens_list[0]
    local.model.model.embed_tokens, local.model.model.scale_seq_embed_tokens_list[0] = second, first


def zero_the_last_table(local, monkeypatch):
    local.model.model.scale_seq_embed_tokens_list[-1].weight.data.zero_()


def read_the_stream_before_the_last(local, monkeypatch):
    n = local.num_streams
    monkeypatch.setattr(model_module, "last_stream", lambda h, of: h if of == 1 else h[:, n - 2 :: n])


def shift_every_other_token(local, monkeypatch):
    """A shift of all tokens alike changes nothing, RoPE being relative."""
    original = local.runner.model.forward

    def shifted(*args, position_ids, **kwargs):
        return original(*args, position_ids=position_ids + position_ids % 2, **kwargs)

    monkeypatch.setattr(local.runner.model, "forward", shifted)


@pytest.mark.parametrize("num_streams", [2, 3, 4, 8])
@pytest.mark.parametrize(
    "damage",
    [swap_tables, zero_the_last_table, read_the_stream_before_the_last, shift_every_other_token],
)
def test_negative_controls_change_at_least_half_of_the_tokens(oracle, monkeypatch, num_streams, damage):
    """If one of these went unnoticed, the equality above would mean nothing."""
    local = engine(num_streams)
    cases = prompts(8)
    damage(local, monkeypatch)
    outputs = local.generate(cases, SamplingParams(max_tokens=16, **GREEDY))
    pairs = [
        (got, want)
        for prompt, output in zip(cases, outputs, strict=True)
        for got, want in zip(output.token_ids, oracle(num_streams, "contiguous", prompt, 16)[0], strict=True)
    ]
    assert sum(got != want for got, want in pairs) >= len(pairs) / 2

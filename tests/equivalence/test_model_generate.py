"""`generate()` in all its modes against brute force: same tokens, and one forward of n positions per token."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from transformers import DynamicCache, StaticCache
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import DeferredStopCheck

from tests.equivalence.shared import (
    FEW_SHAPES,
    SHAPES,
    STREAMS,
    Rows,
    assert_greedy,
    brute_force,
    ids_of,
    left_padded,
    model_of,
    prompt,
)
from tests.equivalence.tolerances import FP32_LOGITS

TOKENS, NEW = prompt(9), 12
GREEDY = {"do_sample": False, "max_new_tokens": NEW}


def generated(n: int, scheme: str = "contiguous", attention: str = "sdpa", tokens=TOKENS, **options) -> torch.Tensor:
    """The new tokens of one prompt."""
    return model_of(n, scheme, attention).generate(ids_of(tokens), **{**GREEDY, **options})[0, len(tokens) :]


# ------------------------------------------------------------------------------------------------------------ greedy


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("cache", [{"use_cache": False}, {}, {"cache_implementation": "static"}])
@pytest.mark.parametrize(("n", "scheme"), SHAPES)
def test_greedy(n, scheme, cache, attention):
    assert_greedy(generated(n, scheme, attention, **cache), n, scheme, TOKENS)


@pytest.mark.parametrize("cache", [{"use_cache": False}, {}, {"cache_implementation": "static"}])
@pytest.mark.parametrize(("n", "scheme"), SHAPES)
def test_left_padded_batch(n, scheme, cache):
    prompts = [prompt(4), TOKENS, prompt(1), prompt(7)]
    batch = left_padded(prompts)
    rows = model_of(n, scheme).generate(**batch, **GREEDY, **cache)
    for row, tokens in zip(rows, prompts, strict=True):
        assert_greedy(row[batch["input_ids"].shape[1] :], n, scheme, tokens)


@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}])
@pytest.mark.parametrize("chunk", [1, 4, 50])
@pytest.mark.parametrize("n", STREAMS)
def test_chunked_prefill_counts_tokens(n, chunk, cache):
    model = model_of(n)
    with Rows(layer=model.model.layers[0]) as rows:
        tokens = generated(n, prefill_chunk_size=chunk, **cache)
    assert_greedy(tokens, n, "contiguous", TOKENS)
    assert rows.seen["layer"][0] == n * min(chunk, len(TOKENS))


@pytest.mark.parametrize("n", STREAMS)
def test_max_length_counts_tokens(n):
    tokens = model_of(n).generate(ids_of(TOKENS), do_sample=False, max_length=len(TOKENS) + 5)[0]
    assert len(tokens) == len(TOKENS) + 5
    assert_greedy(tokens[len(TOKENS) :], n, "contiguous", TOKENS)


@pytest.mark.parametrize("n", STREAMS)
def test_stops_at_the_end_token(n):
    plain = generated(n)
    stopped = generated(n, eos_token_id=int(plain[4]))
    assert stopped.tolist() == plain[: plain.tolist().index(int(plain[4])) + 1].tolist()


@pytest.mark.parametrize("n", STREAMS)
def test_streamer_sees_each_token_once(n):
    class Collect(BaseStreamer):
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.ended = True

    streamer = Collect()
    tokens = generated(n, streamer=streamer)
    assert streamer.tokens == [*TOKENS, *tokens.tolist()]
    assert streamer.ended


@pytest.mark.parametrize("n", STREAMS)
def test_from_embeddings(n):
    model = model_of(n)
    embeds_BTND = model.model.embed_streams(ids_of(TOKENS))
    assert embeds_BTND.shape == (1, len(TOKENS), n, 64)
    assert_greedy(model.generate(inputs_embeds=embeds_BTND, **GREEDY)[0], n, "contiguous", TOKENS)
    static = model.generate(inputs_embeds=embeds_BTND, cache_implementation="static", **GREEDY)[0]
    assert_greedy(static, n, "contiguous", TOKENS)


@pytest.mark.parametrize("n", [2, 8])
def test_embeddings_without_streams_are_refused(n):
    with pytest.raises(ValueError, match=f"a model of {n} streams reads"):
        model_of(n).generate(inputs_embeds=torch.zeros(1, 4, 64), **GREEDY)


# ------------------------------------------------------------------------------------------------------------- costs


@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}])
@pytest.mark.parametrize("n", STREAMS)
def test_a_token_costs_one_forward_of_n_positions(n, cache):
    model = model_of(n)
    first, last = model.model.layers[0], model.model.layers[-1]
    with Rows(first=first, key=last.self_attn.k_proj, o_proj=last.self_attn.o_proj, head=model.lm_head) as rows:
        generated(n, **cache)
    assert rows.seen["first"] == [n * len(TOKENS)] + [n] * (NEW - 1)
    assert rows.seen["key"] == rows.seen["first"], "the last layer keeps keys of every stream"
    assert rows.seen["o_proj"] == [len(TOKENS)] + [1] * (NEW - 1)
    assert rows.seen["head"] == [1] * NEW


@pytest.mark.parametrize("n", [1, 4])
def test_without_cache_every_step_reads_everything(n):
    """Negative control of the test above: recomputation shows up in the same counter."""
    with Rows(first=model_of(n).model.layers[0]) as rows:
        generated(n, use_cache=False)
    assert rows.seen["first"] == [n * (len(TOKENS) + step) for step in range(NEW)]


# ---------------------------------------------------------------------------------------------------- other searches


@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}, {"use_cache": False}])
@pytest.mark.parametrize(("n", "scheme"), FEW_SHAPES)
def test_sampling_is_sampling_from_the_reference(n, scheme, cache):
    torch.manual_seed(3)
    got = generated(n, scheme, do_sample=True, top_k=0, temperature=0.7, **cache).tolist()
    torch.manual_seed(3)
    ids = list(TOKENS)
    for _ in range(NEW):
        probabilities = (brute_force(n, scheme).logits(ids)[-1:] / 0.7).softmax(-1)
        ids.append(int(torch.multinomial(probabilities, 1)))
    assert got == ids[len(TOKENS) :]
    assert got != generated(n, scheme).tolist(), "a sample that equals the greedy answer proves nothing"


@pytest.mark.parametrize("n", STREAMS)
def test_several_samples_of_one_prompt(n):
    options = {"do_sample": True, "top_k": 20, "num_return_sequences": 3, "max_new_tokens": 6}
    answers = []
    for cache in ({}, {"use_cache": False}):
        torch.manual_seed(5)
        answers.append(model_of(n).generate(ids_of(TOKENS), **options, **cache).tolist())
    assert answers[0] == answers[1]
    assert len({tuple(row) for row in answers[0]}) == 3


@pytest.mark.parametrize(("n", "scheme"), FEW_SHAPES)
def test_beam_search(n, scheme):
    """Equal to search without a cache, and the scores are the reference's own log-probabilities of the beams."""
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6, "do_sample": False}
    model = model_of(n, scheme)
    found = model.generate(ids_of(TOKENS), **options, return_dict_in_generate=True, output_scores=True)
    assert found.sequences.tolist() == model.generate(ids_of(TOKENS), **options, use_cache=False).tolist()
    for sequence, score in zip(found.sequences.tolist(), found.sequences_scores.tolist(), strict=True):
        logprobs = brute_force(n, scheme).logits(sequence[:-1]).log_softmax(-1)[len(TOKENS) - 1 :]
        total = sum(float(row[token]) for row, token in zip(logprobs, sequence[len(TOKENS) :], strict=True))
        assert score == pytest.approx(total / 6, abs=FP32_LOGITS)


@pytest.mark.parametrize("n", STREAMS)
def test_beam_search_in_a_padded_batch(n):
    prompts = [prompt(4), TOKENS]
    batch = left_padded(prompts)
    rows = model_of(n).generate(**batch, num_beams=3, max_new_tokens=6, do_sample=False)
    for row, tokens in zip(rows, prompts, strict=True):
        alone = model_of(n).generate(ids_of(tokens), num_beams=3, max_new_tokens=6, do_sample=False)
        assert row[len(TOKENS) :].tolist() == alone[0, len(tokens) :].tolist()


@pytest.mark.parametrize("n", STREAMS)
def test_prompt_lookup(n):
    """Candidates are read n positions each, and wrong ones leave no trace in the cache."""
    tokens = TOKENS[:4] * 3
    with Rows(first=model_of(n).model.layers[0]) as rows:
        got = generated(n, tokens=tokens, prompt_lookup_num_tokens=3, max_matching_ngram_size=1)
    assert_greedy(got, n, "contiguous", tokens)
    assert max(rows.seen["first"][1:]) > n, "no candidate was ever tried"


@pytest.mark.parametrize("assistant", [1, 2, "itself"])
@pytest.mark.parametrize("n", STREAMS)
def test_assisted_decoding(n, assistant):
    """An assistant with other numbers of streams shares tokens only; its bad guesses are cropped away."""
    helper = copy.deepcopy(model_of(n if assistant == "itself" else assistant))
    helper.generation_config.num_assistant_tokens = 4
    helper.generation_config.num_assistant_tokens_schedule = "constant"
    helper.generation_config.assistant_confidence_threshold = 0.0
    with Rows(first=model_of(n).model.layers[0]) as rows:
        got = generated(n, assistant_model=helper)
    assert_greedy(got, n, "contiguous", TOKENS)
    assert max(rows.seen["first"]) > n
    if assistant == "itself":
        assert len(rows.seen["first"]) < NEW, "an assistant that is always right saves forwards"


# ------------------------------------------------------------------------------------------------------------ caches


@pytest.mark.parametrize("n", STREAMS)
def test_continues_from_a_returned_cache(n):
    model = model_of(n)
    first = model.generate(ids_of(TOKENS), **{**GREEDY, "max_new_tokens": 5}, return_dict_in_generate=True)
    assert first.past_key_values.get_seq_length() == len(TOKENS) + 4, "the last token has not been read yet"
    tokens = first.sequences
    with Rows(first=model.model.layers[0]) as rows:
        second = model.generate(tokens, **{**GREEDY, "max_new_tokens": 7}, past_key_values=first.past_key_values)
    assert rows.seen["first"] == [n] * 7, "nothing known is read again"
    assert_greedy(second[0, len(TOKENS) :], n, "contiguous", TOKENS)


@pytest.mark.parametrize("kind", ["dynamic", "static", "forward", "pickled", "cropped"])
@pytest.mark.parametrize("n", STREAMS)
def test_continues_from_a_users_cache(n, kind):
    """Plain caches are physical: a static one for T tokens is made n * T positions long."""
    model = model_of(n)
    if kind == "dynamic":
        cache = DynamicCache(config=model.config)
    elif kind == "static":
        cache = StaticCache(config=model.config, max_cache_len=n * (len(TOKENS) + NEW))
    else:
        with torch.no_grad():
            cache = model(ids_of(TOKENS[:6])).past_key_values
        if kind == "pickled":
            cache = pickle.loads(pickle.dumps(copy.deepcopy(cache)))
        elif kind == "cropped":
            cache.crop(-3)
    known = {"dynamic": 0, "static": 0, "cropped": 3}.get(kind, 6)
    with Rows(first=model.model.layers[0]) as rows:
        got = generated(n, past_key_values=cache)
    assert_greedy(got, n, "contiguous", TOKENS)
    assert rows.seen["first"] == [n * (len(TOKENS) - known)] + [n] * (NEW - 1)
    physical = getattr(cache, "physical", cache)
    assert int(physical.get_seq_length()) == n * (len(TOKENS) + NEW - 1), "the user's own object was filled"


@pytest.mark.parametrize("kind", ["plain", "returned", "none"])
@pytest.mark.parametrize("n", STREAMS)
def test_generate_knows_whose_cache_it_fills(monkeypatch, n, kind):
    """Where it reads one token too many before it stops (on MPS), `generate()` takes that back from a user's cache."""
    seen = []

    def record(device, cache, cache_is_returned, is_assistant):
        seen.append((cache, cache_is_returned))
        return False

    monkeypatch.setattr(DeferredStopCheck, "is_supported", staticmethod(record))
    model = model_of(n)
    cache = {
        "plain": lambda: DynamicCache(config=model.config),
        "returned": lambda: model(ids_of(TOKENS[:3])).past_key_values,
        "none": lambda: None,
    }[kind]()
    generated(n, past_key_values=cache, max_new_tokens=2)
    [(filled, is_returned)] = seen
    assert is_returned is (kind != "none")
    assert filled.is_croppable
    if kind == "returned":
        assert filled is cache, "the view that was handed in comes back"


@pytest.mark.parametrize("n", STREAMS)
def test_logits_and_scores_asked_for(n):
    found = model_of(n).generate(ids_of(TOKENS), **GREEDY, return_dict_in_generate=True, output_logits=True)
    expected = brute_force(n).logits(found.sequences[0, :-1])[len(TOKENS) - 1 :]
    torch.testing.assert_close(torch.cat(found.logits), expected, rtol=0, atol=FP32_LOGITS)

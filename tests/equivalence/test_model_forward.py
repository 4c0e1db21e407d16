"""One forward against brute force: logits with and without caches, padding, masks, and every other output."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from transformers import DynamicCache, StaticCache

from hidden_decoding.modeling.cache import TokenCache
from tests.equivalence.shared import (
    FEW_SHAPES,
    SHAPES,
    STREAMS,
    Rows,
    assert_logits,
    brute_force,
    expected_logits,
    ids_of,
    left_padded,
    model_of,
    prompt,
)
from tests.equivalence.tolerances import FP32_ATTENTION, FP32_HIDDEN, FP32_LOGITS

ATTENTIONS = ["sdpa", "eager"]
TOKENS = prompt(17)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def interleaved(num_streams: int, scheme: str, tokens: tuple[int, ...]) -> torch.Tensor:
    """[1, P, D], made by a loop."""
    tables = brute_force(num_streams, scheme).tables
    return torch.stack([table.weight[token] for token in tokens for table in tables])[None]


# ------------------------------------------------------------------------------------------------------------ logits


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(("n", "scheme"), SHAPES)
def test_without_cache(n, scheme, attention):
    logits = model_of(n, scheme, attention)(ids_of(TOKENS), use_cache=False).logits[0]
    assert_logits(logits, expected_logits(n, scheme, TOKENS))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("kind", ["none", "dynamic", "static"])
@pytest.mark.parametrize(("n", "scheme"), SHAPES)
def test_through_a_cache_in_uneven_chunks(n, scheme, kind, attention):
    model, expected = model_of(n, scheme, attention), expected_logits(n, scheme, TOKENS)
    cache = {
        "none": lambda: None,
        "dynamic": lambda: DynamicCache(config=model.config),
        "static": lambda: StaticCache(config=model.config, max_cache_len=n * len(TOKENS)),
    }[kind]()
    start = 0
    for chunk in (5, 1, 1, 7, 1, 2):
        output = model(ids_of(TOKENS[start : start + chunk]), past_key_values=cache, use_cache=True)
        assert_logits(output.logits[0], expected[start : start + chunk])
        start, cache = start + chunk, output.past_key_values
        assert int(cache.get_seq_length()) == start, "the returned cache counts tokens"
    assert start == len(TOKENS)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("n", "scheme"), SHAPES)
def test_padded_batch(n, scheme, side, attention):
    prompts = [prompt(9), TOKENS, prompt(1)]
    batch = left_padded(prompts)
    if side == "right":
        batch = {
            key: torch.stack([row.roll(len(t)) for row, t in zip(rows, prompts, strict=True)])
            for key, rows in batch.items()
        }
    logits = model_of(n, scheme, attention)(**batch).logits
    for row, mask, tokens in zip(logits, batch["attention_mask"], prompts, strict=True):
        assert_logits(row[mask.bool()], expected_logits(n, scheme, tokens))


@pytest.mark.parametrize(("n", "scheme"), FEW_SHAPES)
def test_padded_batch_through_a_cache(n, scheme):
    model, prompts = model_of(n, scheme), [prompt(9), TOKENS]
    batch, cut = left_padded(prompts), 12
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    first = model(
        batch["input_ids"][:, :cut], attention_mask=batch["attention_mask"][:, :cut], position_ids=positions[:, :cut]
    )
    second = model(
        batch["input_ids"][:, cut:],
        attention_mask=batch["attention_mask"],
        position_ids=positions[:, cut:],
        past_key_values=first.past_key_values,
    )
    for row, tokens in zip(second.logits, prompts, strict=True):
        assert_logits(row, expected_logits(n, scheme, tokens)[-row.shape[0] :])


# ------------------------------------------------------------------------------------------------------------ caches


@pytest.mark.parametrize("n", STREAMS)
def test_cropped_cache_continues_with_other_tokens(n):
    model, other = model_of(n), prompt(17, seed=1)
    cache = model(ids_of(TOKENS)).past_key_values
    cache.crop(-6)
    assert cache.get_seq_length() == len(TOKENS) - 6
    mixed = TOKENS[:-6] + other[-6:]
    logits = model(ids_of(mixed[-6:]), past_key_values=cache).logits[0]
    assert_logits(logits, expected_logits(n, "contiguous", mixed)[-6:])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
@pytest.mark.parametrize("n", STREAMS)
def test_copied_cache_branches(n, copied):
    """Two continuations of one prefix, neither seeing the other."""
    model, other = model_of(n), prompt(17, seed=1)
    cache = model(ids_of(TOKENS[:9])).past_key_values
    twin = copied(cache)
    for branch, tokens in ((cache, TOKENS), (twin, TOKENS[:9] + other[9:])):
        logits = model(ids_of(tokens[9:]), past_key_values=branch).logits[0]
        assert_logits(logits, expected_logits(n, "contiguous", tokens)[9:])


def test_cache_types():
    assert type(model_of(1)(ids_of(TOKENS)).past_key_values) is DynamicCache, "n = 1 keeps transformers' own cache"
    cache = model_of(4)(ids_of(TOKENS)).past_key_values
    assert isinstance(cache, TokenCache)
    assert isinstance(cache.physical, DynamicCache)
    assert cache.physical.get_seq_length() == 4 * len(TOKENS)
    assert model_of(4)(ids_of(TOKENS), use_cache=False).past_key_values is None


# ----------------------------------------------------------------------------------------------------- other outputs


@pytest.mark.parametrize("n", STREAMS)
def test_logits_to_keep_counts_tokens(n):
    model, expected = model_of(n), expected_logits(n, "contiguous", TOKENS)
    assert_logits(model(ids_of(TOKENS), logits_to_keep=3).logits[0], expected[-3:])
    chosen = torch.tensor([0, 4, 16])
    assert_logits(model(ids_of(TOKENS), logits_to_keep=chosen).logits[0], expected[chosen])


@pytest.mark.parametrize(("n", "scheme"), FEW_SHAPES)
def test_hidden_states_are_the_last_streams(n, scheme):
    output = model_of(n, scheme)(ids_of(TOKENS), output_hidden_states=True)
    reference = brute_force(n, scheme).reference(
        inputs_embeds=interleaved(n, scheme, TOKENS), output_hidden_states=True
    )
    assert len(output.hidden_states) == len(reference.hidden_states) == 4
    for logical, physical in zip(output.hidden_states, reference.hidden_states, strict=True):
        torch.testing.assert_close(logical, physical[:, n - 1 :: n], rtol=0, atol=FP32_HIDDEN)


@pytest.mark.parametrize(("n", "scheme"), FEW_SHAPES)
def test_return_streams_is_plain_qwen3_at_all_positions(n, scheme):
    output = model_of(n, scheme)(ids_of(TOKENS), output_hidden_states=True, return_streams=True)
    reference = brute_force(n, scheme).reference(
        inputs_embeds=interleaved(n, scheme, TOKENS), output_hidden_states=True
    )
    assert_logits(output.logits, reference.logits)
    for ours, theirs in zip(output.hidden_states, reference.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=FP32_HIDDEN)


@pytest.mark.parametrize(("n", "scheme"), FEW_SHAPES)
def test_attention_weights_are_in_positions(n, scheme):
    output = model_of(n, scheme, "eager")(ids_of(TOKENS), output_attentions=True)
    stock = brute_force(n, scheme).reference
    stock.set_attn_implementation("eager")
    reference = stock(inputs_embeds=interleaved(n, scheme, TOKENS), output_attentions=True)
    stock.set_attn_implementation("sdpa")
    for ours, theirs in zip(output.attentions, reference.attentions, strict=True):
        assert ours.shape == (1, 4, n * len(TOKENS), n * len(TOKENS))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=FP32_ATTENTION)


@pytest.mark.parametrize("n", STREAMS)
def test_the_last_layer_works_on_last_streams_only(n):
    """ "Post" slicing: P rows in, T rows from `o_proj` on, unless all streams are asked for."""
    model, rows, tokens = model_of(n), n * len(TOKENS), len(TOKENS)
    first, last = model.model.layers[0], model.model.layers[-1]
    watched = {"first_mlp": first.mlp, "query": last.self_attn.q_proj, "key": last.self_attn.k_proj}
    watched |= {"o_proj": last.self_attn.o_proj, "mlp": last.mlp, "norm": model.model.norm, "head": model.lm_head}
    with Rows(**watched) as count:
        model(ids_of(TOKENS))
    assert count.seen == {
        **{name: [rows] for name in ("first_mlp", "query", "key")},
        **{name: [tokens] for name in ("o_proj", "mlp", "norm", "head")},
    }
    with Rows(**watched) as count:
        model(ids_of(TOKENS), return_streams=True)
    assert count.seen == {name: [rows] for name in watched}


# ------------------------------------------------------------------------------------------------- inputs and masks


@pytest.mark.parametrize("n", STREAMS)
def test_inputs_embeds_hold_one_embedding_per_stream(n):
    embeds_BTND = interleaved(n, "contiguous", TOKENS).view(1, len(TOKENS), n, -1)
    logits = model_of(n)(inputs_embeds=embeds_BTND).logits[0]
    assert_logits(logits, expected_logits(n, "contiguous", TOKENS))


def test_one_stream_takes_stock_inputs_embeds():
    logits = model_of(1)(inputs_embeds=interleaved(1, "contiguous", TOKENS)).logits[0]
    assert_logits(logits, expected_logits(1, "contiguous", TOKENS))


@pytest.mark.parametrize("n", [2, 8])
def test_inputs_embeds_without_streams_are_refused(n):
    with pytest.raises(ValueError, match=rf"a model of {n} streams reads \[batch, tokens, {n}, width\].*embed_streams"):
        model_of(n)(inputs_embeds=torch.zeros(1, 4, 64))
    with pytest.raises(ValueError, match=f"a model of {n} streams"):
        model_of(n)(inputs_embeds=torch.zeros(1, 4, n + 1, 64))


@pytest.mark.parametrize("n", [1, 2])
def test_ids_and_embeds_together_or_neither_are_refused(n):
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        model_of(n)()
    with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
        model_of(n)(ids_of(TOKENS), inputs_embeds=torch.zeros(1, len(TOKENS), n, 64))


@pytest.mark.parametrize("mask", [torch.ones(1, 1, 17), [[1] * 17]])
def test_a_mask_of_unknown_shape_is_refused(mask):
    with pytest.raises(ValueError, match="a model of 2 streams takes"):
        model_of(2)(ids_of(TOKENS), attention_mask=mask)


@pytest.mark.parametrize(("attention", "kind"), [("sdpa", "bool"), ("sdpa", "float"), ("eager", "float")])
@pytest.mark.parametrize(("n", "scheme"), FEW_SHAPES)
def test_custom_4d_mask(n, scheme, attention, kind):
    """A tree of two continuations: tokens 0..7 shared, 8..11 and 12..16 see the shared part and themselves only.

    (transformers' eager attention adds the mask to the scores, so it takes float masks only, for Qwen3 as for us.)
    """
    mask = torch.ones(17, 17, dtype=torch.bool).tril()
    mask[12:, 8:12] = False
    positions = torch.tensor([[*range(8), *range(8, 12), *range(8, 13)]])
    mask = mask[None, None]
    if kind == "float":
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    logits = model_of(n, scheme, attention)(
        ids_of(TOKENS), attention_mask=mask, position_ids=positions, use_cache=False
    ).logits[0]
    assert_logits(logits[:12], expected_logits(n, scheme, TOKENS[:12]))
    assert_logits(logits[12:], expected_logits(n, scheme, TOKENS[:8] + TOKENS[12:])[8:])


@pytest.mark.parametrize("n", STREAMS)
def test_custom_4d_mask_with_past(n):
    model = model_of(n)
    cache = model(ids_of(TOKENS[:8])).past_key_values
    mask = torch.ones(17, 17, dtype=torch.bool).tril()[None, None, 8:]
    logits = model(ids_of(TOKENS[8:]), attention_mask=mask, past_key_values=cache).logits[0]
    assert_logits(logits, expected_logits(n, "contiguous", TOKENS)[8:])


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(("n", "scheme"), SHAPES)
def test_packed_documents_do_not_see_each_other(n, scheme, attention):
    documents = [prompt(6), prompt(3), prompt(8)]
    packed = tuple(token for document in documents for token in document)
    positions = torch.tensor([[i for document in documents for i in range(len(document))]])
    model = model_of(n, scheme, attention)
    logits = model(ids_of(packed), position_ids=positions, use_cache=False).logits[0]
    expected = torch.cat([expected_logits(n, scheme, document) for document in documents])
    assert_logits(logits, expected)
    unpacked = model(ids_of(packed), use_cache=False).logits[0]
    assert (unpacked[6:] - expected[6:]).abs().max() > 1000 * FP32_LOGITS, "without position_ids they must"


@pytest.mark.parametrize(("n", "scheme"), FEW_SHAPES)
def test_position_ids_count_tokens(n, scheme):
    """Any whole numbers, here with a gap: token at t sits at positions t * n ... t * n + n - 1."""
    at = [*range(3, 9), *range(20, 31)]
    rows = torch.tensor([[t * n + k for t in at for k in range(n)]])
    # Without a mask transformers reads a gap as the start of another packed document, for Qwen3 as for us.
    reads_all = torch.ones(1, len(TOKENS), dtype=torch.long)
    logits = model_of(n, scheme)(
        ids_of(TOKENS), position_ids=torch.tensor([at]), attention_mask=reads_all, use_cache=False
    ).logits[0]
    reference = brute_force(n, scheme).reference(
        inputs_embeds=interleaved(n, scheme, TOKENS), position_ids=rows, attention_mask=torch.ones_like(rows)
    )
    assert_logits(logits, reference.logits[0, n - 1 :: n])
    assert (logits - expected_logits(n, scheme, TOKENS)).abs().max() > 1000 * FP32_LOGITS, "the gap must matter"

"""One stream is `Qwen3ForCausalLM`, bit for bit: same numbers, same tokens, same cache type, same files."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, Qwen3ForCausalLM

from tests.equivalence.shared import ids_of, left_padded, model_of, prompt
from tests.support import plain_qwen3

TOKENS = prompt(17)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def pair(request):
    """Our model of one stream and stock Qwen3 with its weights."""
    ours = model_of(1, "contiguous", request.param)
    stock = plain_qwen3(ours)
    stock.set_attn_implementation(request.param)
    stock.generation_config = ours.generation_config
    assert type(stock) is Qwen3ForCausalLM
    return ours, stock


def test_same_tensor_names(pair):
    ours, stock = pair
    assert list(ours.state_dict()) == list(stock.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in stock.parameters())


@torch.no_grad()
def test_every_output_is_bitwise_equal(pair):
    ours, stock = pair
    options = {"output_hidden_states": True, "labels": ids_of(TOKENS)}
    if ours.config._attn_implementation == "eager":
        options["output_attentions"] = True
    mine, theirs = ours(ids_of(TOKENS), **options), stock(ids_of(TOKENS), **options)
    assert torch.equal(mine.logits, theirs.logits)
    assert torch.equal(mine.loss, theirs.loss)
    for name in ("hidden_states", "attentions"):
        assert (name in mine) == (name in theirs)
        for a, b in zip(mine.get(name) or (), theirs.get(name) or (), strict=True):
            assert torch.equal(a, b)
    assert type(mine.past_key_values) is type(theirs.past_key_values) is DynamicCache
    for a, b in zip(mine.past_key_values.layers, theirs.past_key_values.layers, strict=True):
        assert torch.equal(a.keys, b.keys)
        assert torch.equal(a.values, b.values)


@torch.no_grad()
def test_padded_batch_and_embeddings_are_bitwise_equal(pair):
    ours, stock = pair
    batch = left_padded([prompt(5), TOKENS])
    assert torch.equal(ours(**batch).logits, stock(**batch).logits)
    embeds = stock.model.embed_tokens(ids_of(TOKENS))
    assert torch.equal(ours(inputs_embeds=embeds).logits, stock(inputs_embeds=embeds).logits)
    assert torch.equal(ours(ids_of(TOKENS), return_streams=True).logits, stock(ids_of(TOKENS)).logits)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.7},
        {"do_sample": True, "temperature": 0.8, "top_k": 30, "top_p": 0.9, "num_return_sequences": 2},
        {"do_sample": True, "num_beams": 2},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
    ],
    ids=str,
)
def test_generates_the_same(pair, options):
    answers = []
    for model in pair:
        torch.manual_seed(11)
        options = {"do_sample": False, **options}
        answers.append(model.generate(**left_padded([prompt(5), TOKENS]), max_new_tokens=8, **options))
    assert torch.equal(*answers)


def test_gradients_are_bitwise_equal(pair):
    gradients = []
    for model in pair:
        model.zero_grad()
        model(ids_of(TOKENS), labels=ids_of(TOKENS)).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        model.zero_grad()
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])

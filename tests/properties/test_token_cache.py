"""`TokenCache` against a simulated list of rows: whatever is appended, cropped, copied or selected, counts agree."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, Qwen3Config, StaticCache

from hidden_decoding.modeling.cache import TokenCache, physical_cache, token_view

LAYERS = 2
CONFIG = Qwen3Config(
    num_hidden_layers=LAYERS, num_attention_heads=2, num_key_value_heads=1, head_dim=2, hidden_size=4, vocab_size=8
)
N = st.integers(1, 8)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("crop"), st.integers(0, 5)),
        st.tuples(st.just("deepcopy"), st.just(0)),
        st.tuples(st.just("pickle"), st.just(0)),
    ),
    max_size=10,
)


def append(cache, values: list[int]) -> torch.Tensor:
    """One row per value [1, 1, P, E] to every layer, as attention does; returns layer 0's keys."""
    rows = torch.tensor(values, dtype=torch.float32).view(1, 1, -1, 1).expand(1, 1, -1, 2)
    keys = [cache.update(rows, -rows, layer)[0] for layer in range(LAYERS)]
    return keys.pop(0)


def held(cache) -> list[int]:
    """The values in the last layer, a row each."""
    layer = cache.layers[LAYERS - 1]
    return [] if layer.keys is None else [int(v) for v in layer.keys[0, 0, :, 0].flatten()]


@given(N, STEPS)
def test_counts_agree_with_a_list_of_tokens(num_streams, steps):
    cache, tokens = TokenCache(DynamicCache(config=CONFIG), num_streams), []
    fresh = 0
    for action, amount in steps:
        if action == "append":
            new = list(range(fresh, fresh + amount))
            fresh += amount
            tokens += [[value] * num_streams for value in new]
            keys = append(cache, [value for value in new for _ in range(num_streams)])
            assert keys.shape[2] == sum(map(len, tokens)), "update returns all rows"
        elif action == "crop" and amount <= len(tokens):
            cache.crop(-amount)
            tokens = tokens[: len(tokens) - amount]
        elif action == "deepcopy":
            cache = copy.deepcopy(cache)
        elif action == "pickle":
            cache = pickle.loads(pickle.dumps(cache))
        assert cache.get_seq_length() == len(tokens)
        assert cache.physical.get_seq_length() == sum(map(len, tokens)), "both objects show the same state"
        assert held(cache) == held(cache.physical) == [row for token in tokens for row in token]


@given(N, st.integers(1, 6), st.integers(1, 5))
def test_masks_are_sized_in_positions(num_streams, tokens, query_tokens):
    cache = TokenCache(DynamicCache(config=CONFIG), num_streams)
    append(cache, [0] * tokens * num_streams)
    query_rows = query_tokens * num_streams
    assert cache.get_query_offset() == tokens * num_streams
    assert cache.get_mask_sizes(query_rows, 0)[0] == tokens * num_streams + query_rows


@given(N, st.integers(1, 6), st.integers(1, 6))
def test_static_cache_holds_whole_tokens(num_streams, capacity_tokens, used_tokens):
    physical = StaticCache(config=CONFIG, max_cache_len=capacity_tokens * num_streams)
    cache = TokenCache(physical, num_streams)
    used = min(capacity_tokens, used_tokens)
    append(cache, [1] * used * num_streams)
    assert cache.get_max_length() == capacity_tokens
    assert int(cache.get_seq_length()) == used


def test_growing_cache_has_no_limit_in_tokens_either():
    assert TokenCache(DynamicCache(config=CONFIG), 4).get_max_length() == DynamicCache(config=CONFIG).get_max_length()


@pytest.mark.parametrize("num_streams", [2, 4])
def test_copies_do_not_share_rows(num_streams):
    cache = TokenCache(DynamicCache(config=CONFIG), num_streams)
    append(cache, [1] * num_streams)
    for twin in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        append(twin, [2] * num_streams)
        assert twin.get_seq_length() == twin.physical.get_seq_length() // num_streams == 2
        assert cache.get_seq_length() == 1
        assert held(cache) == [1] * num_streams


def test_views_are_made_once_and_undone():
    plain = DynamicCache(config=CONFIG)
    assert token_view(plain, 1) is plain, "with one stream the cache stays transformers' own"
    view = token_view(plain, 4)
    assert token_view(view, 4) is view
    assert physical_cache(view) is plain
    assert physical_cache(plain) is plain
    assert physical_cache(None) is None

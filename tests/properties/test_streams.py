"""Token and position arithmetic: every function of `streams` against its definition written as loops over lists."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hidden_decoding import streams

N = st.integers(1, 9)
COUNT = st.integers(0, 500)
SCHEMES = st.sampled_from(["linear", "contiguous"])


def positions_of(token: int, num_streams: int) -> list[int]:
    """The definition: a token's rows, first stream first."""
    return [token * num_streams + stream for stream in range(num_streams)]


# --------------------------------------------------------------------------------------------------- whole numbers


@given(N)
def test_config_value_round_trip(num_streams):
    assert streams.streams_of(streams.scale_seq_times_of(num_streams)) == num_streams
    assert streams.scale_seq_times_of(1) == 0, "absent or 0 means plain Qwen3"


@given(COUNT, N)
def test_tokens_positions_round_trip(tokens, num_streams):
    positions = streams.tokens_to_positions(tokens, num_streams)
    assert positions == len([row for token in range(tokens) for row in positions_of(token, num_streams)])
    assert streams.positions_to_tokens(positions, num_streams) == tokens
    assert streams.whole_tokens(positions, num_streams) == tokens


@given(COUNT, N)
def test_positions_to_tokens_counts_whole_tokens_only(positions, num_streams):
    tokens = streams.positions_to_tokens(positions, num_streams)
    assert streams.tokens_to_positions(tokens, num_streams) <= positions
    assert streams.tokens_to_positions(tokens + 1, num_streams) > positions


@given(st.integers(1, 200), N)
def test_fewest_tokens_aligned(rows, num_streams):
    tokens = streams.fewest_tokens_aligned(rows, num_streams)
    whole = [count for count in range(1, tokens + 1) if len(range(count * num_streams)) % rows == 0]
    assert whole == [tokens]


@given(COUNT, N)
def test_a_token_is_n_times_what_a_position_holds(tokens, num_streams):
    assert sum([streams.tokens_per_position(num_streams)] * streams.tokens_to_positions(tokens, num_streams)) == tokens


@given(COUNT, COUNT, N)
def test_counts_are_monotone(a, b, num_streams):
    low, high = sorted((a, b))
    assert streams.tokens_to_positions(low, num_streams) <= streams.tokens_to_positions(high, num_streams)
    assert streams.positions_to_tokens(low, num_streams) <= streams.positions_to_tokens(high, num_streams)


@given(COUNT, N)
def test_whole_tokens_raises_exactly_when_a_token_would_be_split(positions, num_streams):
    rest = positions
    while rest >= num_streams:
        rest -= num_streams
    if rest == 0:
        assert streams.whole_tokens(positions, num_streams) == streams.positions_to_tokens(positions, num_streams)
    else:
        with pytest.raises(ValueError, match=f"^{positions} positions .* n = {num_streams}: {rest} positions"):
            streams.whole_tokens(positions, num_streams)


@given(COUNT)
def test_one_stream_is_the_identity(count):
    assert streams.tokens_to_positions(count, 1) == count
    assert streams.positions_to_tokens(count, 1) == count
    assert streams.whole_tokens(count, 1) == count
    assert streams.context_tokens(count, 1) == count
    assert streams.replicated_stream(0, 1) == 0
    index_T = torch.arange(5)
    same = (streams.expand_positions, streams.repeat_tokens, streams.expand_slots, streams.expand_offsets)
    assert all(torch.equal(convert(index_T, 1), index_T) for convert in same)
    mask = torch.rand(2, 1, 3, 4)
    assert torch.equal(streams.expand_mask_4d(mask, 1, 1), mask)
    assert torch.equal(streams.last_stream(mask, 1), mask)


@given(st.integers(1, 300_000), N)
def test_contexts_of_both_schemes(base_positions, growth):
    """Contiguous keeps the positions, so L / n tokens; linear keeps the tokens, so L * n positions (method.md, 2)."""
    contiguous = streams.upcycled_context_positions(base_positions, growth, "contiguous")
    linear = streams.upcycled_context_positions(base_positions, growth, "linear")
    assert contiguous == base_positions
    assert linear == sum([base_positions] * growth)
    assert streams.context_tokens(linear, growth) == base_positions
    assert streams.context_tokens(contiguous, growth) == int(base_positions / growth)


@given(st.integers(1, 40_000), st.integers(1, 4), st.integers(1, 4), SCHEMES)
def test_upcycling_in_stages_ends_where_one_step_does(base_positions, first, second, scheme):
    one_step = streams.upcycled_context_positions(base_positions, first * second, scheme)
    staged = streams.upcycled_context_positions(base_positions, first, scheme)
    assert streams.upcycled_context_positions(staged, second, scheme) == one_step


def test_published_context():
    assert streams.context_tokens(131_072, 8) == 16_384


@given(N, st.integers(1, 40))
def test_stream_growth_is_the_whole_factor_or_an_error(source, target):
    factors = [k for k in range(1, 41) if source * k == target]
    if factors:
        assert streams.stream_growth(source, target) == factors[0]
    else:
        with pytest.raises(ValueError, match=f"{target} streams .* source's {source}"):
            streams.stream_growth(source, target)


@given(st.integers(1, 5), st.integers(1, 5))
def test_replication_is_cyclic(source, growth):
    """E1, E2 -> E1, E2, E1, E2: appending the source's tables k times."""
    copied = [streams.replicated_stream(stream, source) for stream in range(source * growth)]
    assert copied == list(range(source)) * growth


@given(N, st.integers(1, 40), st.integers(1, 8), st.sampled_from([64, 128]), st.sampled_from([1, 2, 4]))
def test_kv_bytes(num_streams, layers, kv_heads, head_dim, element_bytes):
    tensors = [torch.empty(kv_heads, head_dim).numel() * element_bytes for _kv in "kv" for _row in range(num_streams)]
    assert streams.kv_bytes_per_token(num_streams, layers, kv_heads, head_dim, element_bytes) == sum(tensors) * layers


def test_kv_bytes_of_the_published_8b():
    assert streams.kv_bytes_per_token(8, layers=36, kv_heads=8, head_dim=128, element_bytes=2) == 1_179_648


# --------------------------------------------------------------------------------------------------------- tensors

INDICES = st.lists(st.integers(0, 500), min_size=1, max_size=12)


@given(INDICES, N)
def test_expand_positions_is_the_definition(tokens, num_streams):
    expected = [row for token in tokens for row in positions_of(token, num_streams)]
    got = streams.expand_positions(torch.tensor([tokens, tokens[::-1]]), num_streams)
    assert got[0].tolist() == expected
    assert got.shape == (2, len(expected))


@given(st.integers(1, 30), N)
def test_all_tokens_own_all_positions_in_order(tokens, num_streams):
    rows = streams.expand_positions(torch.arange(tokens), num_streams)
    assert rows.tolist() == list(range(streams.tokens_to_positions(tokens, num_streams)))


@given(INDICES, N)
def test_expanded_positions_read_at_the_last_stream_are_the_last_rows(tokens, num_streams):
    rows = streams.expand_positions(torch.tensor([tokens]), num_streams)
    last = streams.last_stream(rows, num_streams)[0].tolist()
    assert last == [positions_of(token, num_streams)[-1] for token in tokens]
    assert [streams.positions_to_tokens(row, num_streams) for row in last] == tokens


@given(INDICES, N)
def test_repeat_tokens_repeats_in_place(tokens, num_streams):
    expected = [token for token in tokens for _ in range(num_streams)]
    assert streams.repeat_tokens(torch.tensor(tokens), num_streams).tolist() == expected
    columns = streams.repeat_tokens(torch.tensor(tokens)[:, None].expand(-1, 3), num_streams, dim=0)
    assert columns.tolist() == [[token] * 3 for token in expected]


@given(st.lists(st.integers(-1, 500), min_size=1, max_size=12), N)
def test_slots_own_rows_and_no_slot_stays_none(slots, num_streams):
    expected = [row for slot in slots for row in ([-1] * num_streams if slot < 0 else positions_of(slot, num_streams))]
    assert streams.expand_slots(torch.tensor(slots), num_streams).tolist() == expected


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), N)
def test_offsets_of_documents(lengths_in_tokens, num_streams):
    """Offsets in positions are the running sums of the documents' own position counts."""
    tokens, positions = [0], [0]
    for length in lengths_in_tokens:
        tokens.append(tokens[-1] + length)
        positions.append(positions[-1] + len([row for t in range(length) for row in positions_of(t, num_streams)]))
    offsets = streams.expand_offsets(torch.tensor(tokens, dtype=torch.int32), num_streams)
    assert offsets.tolist() == positions
    assert offsets.dtype == torch.int32, "attention kernels want cu_seqlens as int32"


@given(st.integers(1, 3), st.integers(1, 6), N, st.integers(1, 4))
def test_merge_and_split_are_inverse(batch, tokens, num_streams, width):
    x_BTND = torch.arange(batch * tokens * num_streams * width).view(batch, tokens, num_streams, width)
    x_BPD = streams.merge_streams(x_BTND)
    for b, t, k in ((b, t, k) for b in range(batch) for t in range(tokens) for k in range(num_streams)):
        assert torch.equal(x_BPD[b, positions_of(t, num_streams)[k]], x_BTND[b, t, k])
    assert torch.equal(streams.split_streams(x_BPD, num_streams), x_BTND)
    assert torch.equal(streams.last_stream(x_BPD, num_streams), x_BTND[:, :, -1])


@given(st.integers(1, 6), st.integers(2, 9))
def test_last_stream_is_a_view(tokens, num_streams):
    rows = torch.zeros(1, streams.tokens_to_positions(tokens, num_streams), 2)
    streams.last_stream(rows, num_streams)[:] = 1
    assert rows.sum() == 2 * tokens, "writing to the view must write to exactly one row per token"


# ----------------------------------------------------------------------------------------------------------- masks


def brute_force_mask(mask: torch.Tensor, num_streams: int, past_tokens: int, closed: float | bool) -> torch.Tensor:
    """Dense loops over the definition: other tokens as the mask says, the own token up to the own stream."""
    batch, heads, tokens_q, tokens_k = mask.shape
    out = torch.empty(batch, heads, tokens_q * num_streams, tokens_k * num_streams, dtype=mask.dtype)
    for t in range(tokens_q):
        for s in range(tokens_k):
            for i, row in enumerate(positions_of(t, num_streams)):
                for j, column in enumerate(positions_of(s, num_streams)):
                    inside_and_later = s == past_tokens + t and j > i
                    out[:, :, row, column] = closed if inside_and_later else mask[:, :, t, s]
    return out


@st.composite
def masks(draw):
    """(boolean mask in tokens, past tokens): key tokens are the past and the queries, or fewer or more than that."""
    past, tokens_q = draw(st.integers(0, 3)), draw(st.integers(1, 4))
    tokens_k = max(1, past + tokens_q + draw(st.integers(-1, 2)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return torch.rand(2, draw(st.integers(1, 2)), tokens_q, tokens_k, generator=generator) > 0.4, past


@given(masks(), st.integers(1, 5))
def test_boolean_mask_is_the_definition(mask_and_past, num_streams):
    mask, past = mask_and_past
    got = streams.expand_mask_4d(mask, num_streams, past)
    assert got.dtype == torch.bool
    assert torch.equal(got, brute_force_mask(mask, num_streams, past, False) if num_streams > 1 else mask)


@given(masks(), st.integers(2, 5), st.sampled_from([torch.float32, torch.bfloat16]))
def test_float_mask_is_the_definition(mask_and_past, num_streams, dtype):
    allowed, past = mask_and_past
    mask = torch.where(allowed, 0.5, torch.finfo(dtype).min).to(dtype)
    got = streams.expand_mask_4d(mask, num_streams, past)
    assert got.dtype == dtype
    assert torch.equal(got, brute_force_mask(mask, num_streams, past, torch.finfo(dtype).min))


@given(masks(), st.integers(2, 5))
def test_past_tokens_may_be_a_tensor(mask_and_past, num_streams):
    """Static caches count their tokens in a tensor."""
    mask, past = mask_and_past
    as_tensor = streams.expand_mask_4d(mask, num_streams, torch.tensor(past))
    assert torch.equal(as_tensor, streams.expand_mask_4d(mask, num_streams, past))


@given(st.integers(1, 8), st.integers(1, 5))
def test_causal_over_tokens_becomes_causal_over_positions(tokens, num_streams):
    causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None]
    rows = streams.tokens_to_positions(tokens, num_streams)
    assert torch.equal(streams.expand_mask_4d(causal, num_streams)[0, 0], torch.ones(rows, rows).tril().bool())

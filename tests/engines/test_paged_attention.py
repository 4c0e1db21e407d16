"""Paged attention in plain PyTorch, PyTorch's own varlen attention behind it, and which of them a device gets."""

from __future__ import annotations

import logging

import pytest
import torch

from hidden_decoding.engines.local import paged_choice
from hidden_decoding.engines.local.paged_attention import DENSE, decode_dense, prompt_dense
from hidden_decoding.engines.local.paged_choice import Trial, choose_paged_attention, varlen_prompt
from tests.engines.paged_cases import Pool, assert_answers_equal_brute_force

CLOSE = {"atol": 1e-5, "rtol": 0}
# (rows held, rows new): whole prompts, chunks in the middle, one row, and lengths that divide nothing.
SPANS = [([7], [7]), ([40, 3, 17], [9, 3, 1]), ([33, 64, 5, 1], [32, 1, 5, 1])]


@pytest.mark.parametrize(("held", "new"), SPANS)
@pytest.mark.parametrize("page_rows", [1, 5, 16])
def test_dense_prompts_equal_attention_over_each_requests_own_rows(held, new, page_rows):
    pool = Pool(held, page_rows=page_rows)
    query = pool.query(sum(new))
    got = prompt_dense(query, pool.keys, pool.values, pool.prompt_rows(new), pool.scale)
    torch.testing.assert_close(got, pool.expected(query, new), **CLOSE)


@pytest.mark.parametrize("new_rows", [1, 3, 8])
def test_dense_decode_equals_attention_over_each_requests_own_rows(new_rows):
    pool = Pool([5 * new_rows, new_rows, 9 * new_rows], page_rows=4 * new_rows)
    query = pool.query(3 * new_rows)
    got = decode_dense(query, pool.keys, pool.values, pool.decode_rows(new_rows), pool.scale)
    torch.testing.assert_close(got, pool.expected(query, [new_rows] * 3), **CLOSE)


@pytest.mark.parametrize("num_streams", [1, 2, 4, 8])
def test_answers_through_pages_equal_brute_force(num_streams):
    assert_answers_equal_brute_force(num_streams, DENSE)


# ---------------------------------------------------------------------------------------------------- PyTorch's varlen


def varlen_as_documented(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """What `torch.nn.attention.varlen.varlen_attn` documents, row by row; it runs on CUDA only."""
    assert window_size == (-1, 0), "causal, from the end of the keys"
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_q.diff().amax()), int(cu_k.diff().amax()))
    out = torch.empty_like(query)
    group = query.shape[1] // key.shape[1]
    for b in range(len(cu_q) - 1):
        q, k, v = query[cu_q[b] : cu_q[b + 1]], key[cu_k[b] : cu_k[b + 1]], value[cu_k[b] : cu_k[b + 1]]
        for row in range(len(q)):
            seen = len(k) - len(q) + row + 1
            for head in range(query.shape[1]):
                weights = (k[:seen, head // group] @ q[row, head] * scale).softmax(0)
                out[cu_q[b] + row, head] = weights @ v[:seen, head // group]
    return out


@pytest.mark.parametrize("heads", [(4, 2), (2, 2)])
@pytest.mark.parametrize(("held", "new"), SPANS)
def test_prompts_by_varlen_attention(held, new, heads):
    pool = Pool(held, page_rows=6, heads=heads)
    query = pool.query(sum(new))
    got = varlen_prompt(varlen_as_documented)(query, pool.keys, pool.values, pool.prompt_rows(new), pool.scale)
    torch.testing.assert_close(got, pool.expected(query, new), **CLOSE)


def test_this_torchs_varlen_attention_takes_what_we_hand_it():
    """Its signature has changed between versions; where it lacks a word of ours the Triton kernel is used."""
    found = paged_choice.varlen_candidates(torch.device("cuda"), torch.bfloat16)
    assert list(found) == ["varlen_attn"]
    assert paged_choice.varlen_candidates(torch.device("cuda"), torch.float32) == {}
    assert paged_choice.varlen_candidates(torch.device("cpu"), torch.bfloat16) == {}


# ------------------------------------------------------------------------------------------------------------- choice


def trial(**changes):
    return Trial(torch.device("cpu"), torch.float32, **{"heads": 4, "kv_heads": 2, "head_dim": 16, **changes})


def broken(*args):
    raise RuntimeError("no kernel image is available")


def wrong(*args):
    return prompt_dense(*args) * 1.01


def without_a_number(*args):
    return prompt_dense(*args) * float("nan")


def test_the_first_candidate_that_is_right_is_taken(caplog):
    candidates = {"broken": broken, "wrong": wrong, "nan": without_a_number, "right": prompt_dense, "later": wrong}
    with caplog.at_level(logging.WARNING):
        name, attend = trial().prompt(candidates)
    assert (name, attend) == ("right", prompt_dense)
    for words in ("broken does not run here", "no kernel image", "wrong is wrong here by", "nan is wrong"):
        assert words in caplog.text


def test_no_candidate_at_all_is_no_choice():
    assert trial().prompt({"broken": broken}) is None
    assert trial().decode({}) is None


def test_a_trial_has_rows_before_a_prompt_and_pages_out_of_order():
    """A kernel that reads pages in their order, or sees all keys, must not pass."""
    rows = trial().prompt_rows()
    assert rows.held_B.tolist() > list(rows.new_counts)
    ordered = lambda q, k, v, rows, scale: prompt_dense(  # noqa: E731
        q, k, v, type(rows)(**{**vars(rows), "page_table_BM": rows.page_table_BM.sort(dim=1).values}), scale
    )
    assert trial().prompt({"ordered": ordered}) is None


def test_a_cpu_attends_request_by_request(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 16}
    assert choose_paged_attention(torch.device("cpu"), torch.float32, **sizes) is None

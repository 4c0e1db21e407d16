"""FlashAttention 3's paged attention in plain PyTorch: it reads what the kernel reads, and nothing else.

What the kernel takes on trust is checked: a launch too small or a page table too narrow would be silently wrong there.
"""

from __future__ import annotations

import torch


def flash_attn_with_kvcache(
    *,
    q,
    k_cache,
    v_cache,
    page_table,
    cache_seqlens,
    cu_seqlens_q,
    max_seqlen_q,
    softmax_scale,
    causal,
    window_size,
    softcap,
    num_splits,
    ver,
    cu_seqlens_k_new=None,
    return_softmax_lse=False,
    scheduler_metadata=None,
    out=None,
):
    """q [rows, H, E]; caches [pages, rows of a page, K, E]; causal from the last key backwards."""
    assert causal
    assert not return_softmax_lse
    assert out is None
    assert (window_size, softcap, scheduler_metadata, ver) == ((-1, -1), 0, None, 3)
    for name, tensor in {
        "page_table": page_table,
        "cache_seqlens": cache_seqlens,
        "cu_seqlens_q": cu_seqlens_q,
    }.items():
        assert tensor.dtype == torch.int32, name
    page = k_cache.shape[1]
    output = torch.zeros_like(q)
    for request, length in enumerate(cache_seqlens.tolist()):
        start, end = cu_seqlens_q[request : request + 2].tolist()
        assert end - start <= max_seqlen_q, "the launch is too small for this request's queries"
        assert length <= page_table.shape[1] * page, "the page table is too narrow for this request's keys"
        index = torch.arange(length)
        pages = page_table[request].long()[index // page]
        key, value = (cache[pages, index % page] for cache in (k_cache, v_cache))
        output[start:end] = causal_attention(q[start:end], key, value, softmax_scale)
    return output


def causal_attention(q, key, value, scale):
    """[new, H, E] over [all, K, E], the new rows being the last."""
    new, length = len(q), len(key)
    key, value = (x.repeat_interleave(q.shape[1] // x.shape[1], 1).to(q.dtype) for x in (key, value))
    scores = torch.einsum("phe,qhe->hpq", q, key) * scale
    later = torch.ones(new, length, dtype=torch.bool).triu(length - new + 1)
    return torch.einsum("hpq,qhe->phe", scores.masked_fill(later, -torch.inf).softmax(-1), value)


def flash_attn_varlen_func(*args, **kwargs):
    raise AssertionError("attention without a KV cache is not used here")


def get_scheduler_metadata(*args, **kwargs):
    raise AssertionError("it would be worked out from one row per query")

"""`fa3` and `triton` on slots that own n rows: what their kernels read, eager and captured, against brute force.

No GPU is needed: FlashAttention's kernel is replaced by plain PyTorch that reads the same arguments (`kernels_on_cpu`),
SGLang's Triton kernels run in Triton's interpreter. Configuration, pools, layers and metadata are SGLang's own.
"""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from sgl_kernel.flash_attn import causal_attention
from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.layers.radix_attention import RadixAttention
from sglang.srt.mem_cache.kv_index_translator import KVIndexTranslator
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, ReqToTokenPool
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.plugins import load_plugins
from sglang.srt.runtime_context import get_context, get_parallel

from hidden_decoding.engines.sglang import flash, triton_rows
from hidden_decoding.engines.sglang.backend import OURS
from hidden_decoding.errors import ConfigError
from tests.equivalence.tolerances import FP32_HIDDEN

CONTEXT, SLOTS, REQUESTS = 64, 96, 4  # tokens, tokens, requests
HEADS, KV_HEADS, WIDTH = 4, 2, 16  # tests.support.tiny_config
BACKENDS = ["fa3", "triton"]


@pytest.fixture(scope="module")
def session(tiny_checkpoint):
    """`session(backend, n, page)`: new requests under SGLang's own dummy configuration, with our plugin loaded."""
    load_plugins()
    with get_context().override_server_args(), get_parallel().override(attn_dcp_rank=0):
        yield lambda name, n, page=1: Session(ModelConfig(str(tiny_checkpoint(n)), context_length=CONTEXT), name, page)


class Session:
    """Requests whose tokens lie in scattered pages, and all rows of K and V that they were given so far."""

    def __init__(self, model_config: ModelConfig, name: str, page: int) -> None:
        self.n = n = model_config.hf_text_config.num_streams
        self.page, self.generator = page, torch.Generator().manual_seed(n)
        requests = ReqToTokenPool(REQUESTS, CONTEXT, "cpu", False)
        heads = model_config.get_num_kv_heads(1)
        assert heads == n * KV_HEADS  # the plugin's hook
        pool = MHATokenToKVPool(SLOTS, page, torch.float32, heads, WIDTH, 1, "cpu", False)
        translator = KVIndexTranslator(
            req_to_token=requests.req_to_token,
            token_to_kv_pool_allocator=None,
            token_to_kv_pool=pool,
            page_size=page,
            device="cpu",
        )
        self.runner = SimpleNamespace(
            model_config=model_config,
            device="cpu",
            gpu_id=0,
            req_to_token_pool=requests,
            token_to_kv_pool=pool,
            token_to_kv_pool_allocator=None,
            kv_index_translator=translator,
            kv_cache_dtype=torch.float32,
            kv_cache_dtype_str="auto",
            page_size=page,
            is_draft_worker=False,
            sliding_window_size=None,
            use_mla_backend=False,
            decode_num_tokens_per_req=lambda *_: 1,
            spec_algorithm=None,
        )
        self.layer = RadixAttention(HEADS, WIDTH, 0.5, KV_HEADS, layer_id=0)
        self.backend = OURS[name](self.runner, n)
        self.rows: dict[int, list[torch.Tensor]] = {}
        pages = torch.randperm(SLOTS // page - 1, generator=self.generator) + 1  # page 0 takes what padding writes
        for request in range(1, REQUESTS + 1):
            own = pages[(request - 1) * (CONTEXT // 4 // page) :][: CONTEXT // 4 // page]
            slots = (own[:, None] * page + torch.arange(page)).flatten()
            requests.req_to_token[request, : len(slots)] = slots

    def random(self, rows: int, heads: int) -> torch.Tensor:
        return torch.randn(rows, heads, WIDTH, generator=self.generator)

    def batch(self, new: dict[int, int], decode: bool, padding: int = 0) -> SimpleNamespace:
        """The batch that reads `new[request]` more tokens of each request; `padding` requests more are not real."""
        held = [len(self.rows.get(request, [])) for request in new]
        lengths = [before + more for before, more in zip(held, new.values(), strict=True)]
        tables = self.runner.req_to_token_pool.req_to_token
        locations = [tables[request, before:after] for request, before, after in zip(new, held, lengths, strict=True)]
        lengths, requests = lengths + [1] * padding, [*new, *[0] * padding]
        return SimpleNamespace(
            forward_mode=ForwardMode.DECODE if decode else ForwardMode.EXTEND,
            batch_size=len(lengths),
            seq_lens=torch.tensor(lengths),
            seq_lens_cpu=torch.tensor(lengths),
            seq_lens_sum=sum(lengths),
            req_pool_indices=torch.tensor(requests),
            out_cache_loc=torch.cat([*locations, torch.zeros(padding)]).long(),
            out_cache_loc_is_physical=True,
            positions=torch.zeros(sum(new.values()) + padding, dtype=torch.long),
            extend_prefix_lens=torch.tensor(held),
            extend_prefix_lens_cpu=held,
            extend_seq_lens=torch.tensor(list(new.values())),
            extend_seq_lens_cpu=list(new.values()),
            kv_loc_plan=None,
            spec_info=None,
            encoder_lens=None,
            dcp_kv_mask=None,
            _attn_output=None,
            mha_one_shot=False,
            attn_attend_prefix_cache=False,
        )

    def attend(self, batch: SimpleNamespace, new: dict[int, int], padding: int = 0) -> None:
        """Runs the backend's forward on random rows of the new tokens, and holds the output against brute force."""
        total = (sum(new.values()) + padding) * self.n
        query, key, value = (self.random(total, heads) for heads in (HEADS, KV_HEADS, KV_HEADS))
        forward = (
            self.backend.forward_decode if batch.forward_mode == ForwardMode.DECODE else self.backend.forward_extend
        )
        output = forward(query.flatten(1), key, value, self.layer, batch).view(total, HEADS, WIDTH)
        start = 0
        for request, more in new.items():
            end = start + more * self.n
            kept = self.rows.setdefault(request, [])
            kept += list(torch.stack([key[start:end], value[start:end]], 1).split(self.n))
            all_keys, all_values = torch.cat(kept).unbind(1)
            expected = causal_attention(query[start:end], all_keys, all_values, self.layer.scaling)
            torch.testing.assert_close(output[start:end], expected, rtol=0, atol=FP32_HIDDEN)
            start = end

    def eager(self, new: dict[int, int], decode: bool = False) -> None:
        batch = self.batch(new, decode)
        self.backend.init_forward_metadata(batch)
        self.attend(batch, new)


@pytest.mark.parametrize(("n", "page"), [(2, 1), (3, 4), (8, 1), (4, 4)])
@pytest.mark.parametrize("name", BACKENDS)
def test_eager_batches(session, name, n, page):
    """Prompts of several lengths at once, some with tokens in the cache already, then decoding."""
    requests = session(name, n, page)
    requests.eager({1: 5, 2: 1, 3: 7})
    requests.eager({2: 6, 1: 3})
    requests.eager({4: 2, 3: 1})
    for _ in range(2):
        requests.eager({3: 1, 1: 1, 4: 1, 2: 1}, decode=True)
    requests.eager({1: 2, 3: 4})


@pytest.mark.parametrize(("n", "page"), [(2, 1), (4, 4), (8, 1)])
@pytest.mark.parametrize("name", BACKENDS)
def test_captured_batches(session, name, n, page):
    """What a CUDA graph keeps of its capture, constants and addresses, is right at each replay."""
    requests, graphs = session(name, n, page), {}
    backend = requests.backend
    backend.init_cuda_graph_state(REQUESTS, REQUESTS)
    for size in (4, 3):  # graphs of several sizes share buffers
        backend.init_forward_metadata_out_graph(requests.batch({}, decode=True, padding=size), in_capture=True)
        graphs[size] = dataclasses.replace(backend.forward_metadata)  # constants as they are at capture
    requests.eager({1: 5, 2: 1, 3: 7, 4: 2})
    for new, padding in (({1: 1, 2: 1, 3: 1, 4: 1}, 0), ({3: 1, 1: 1}, 1), ({4: 1, 2: 1, 1: 1}, 1)):
        batch = requests.batch(new, decode=True, padding=padding)
        backend.init_forward_metadata_out_graph(batch)
        backend.forward_metadata = graphs[batch.batch_size]
        requests.attend(batch, new, padding)
        requests.eager({1: 2, 3: 1})  # eager batches between replays leave the graphs' buffers alone


@pytest.mark.parametrize("name", BACKENDS)
def test_without_the_expansion_it_fails(session, name, monkeypatch):
    """The negative control: lengths left in tokens are noticed, in eager and in captured batches."""
    for module in (flash, triton_rows):
        monkeypatch.setattr(module, "expand_offsets", lambda offsets, n: offsets)
    requests = session(name, 2)
    with pytest.raises((AssertionError, RuntimeError)):
        requests.eager({1: 5, 2: 3})
    requests = session(name, 2)
    requests.backend.init_cuda_graph_state(REQUESTS, REQUESTS)
    batch = requests.batch({1: 1, 2: 1}, decode=True)
    requests.backend.init_forward_metadata_out_graph(batch, in_capture=True)
    with pytest.raises((AssertionError, RuntimeError)):
        requests.attend(batch, {1: 1, 2: 1})


@pytest.mark.parametrize("name", BACKENDS)
def test_prompts_are_not_captured(session, name):
    requests = session(name, 2)
    requests.backend.init_cuda_graph_state(REQUESTS, REQUESTS)
    with pytest.raises(ConfigError, match=r"CUDA graph of EXTEND batches.*--disable-prefill-cuda-graph"):
        requests.backend.init_forward_metadata_out_graph(requests.batch({1: 3}, decode=False), in_capture=True)


def test_a_pool_of_another_layout_is_refused(session):
    requests = session("triton", 2)
    runner = copy.copy(requests.runner)
    runner.token_to_kv_pool = SimpleNamespace(kv_cache_layout="hnd")
    for name in OURS:
        with pytest.raises(ConfigError, match=r"layout hnd.*SGLANG_USE_HND_KVCACHE"):
            OURS[name](runner, 2)


def test_kernels_see_the_heads_of_a_row(session):
    """SGLang's configuration says n times as many, as slots hold them; kernels group query heads by the real number."""
    assert session("fa3", 4).backend.num_kv_heads == KV_HEADS
    assert session("triton", 4).backend.num_kv_head == KV_HEADS

"""Backends: what is supported, and that the expanded ones count tokens outside and positions inside.

The CUDA backends' builders are made on the CPU here: their bookkeeping runs, their kernels do not.
"""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from vllm.config import set_current_vllm_config
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.attention.backend import AttentionCGSupport, CommonAttentionMetadata, MultipleOf
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.attention.backends.flash_attn import FlashAttentionBackend
from vllm.v1.attention.backends.flex_attention import FlexAttentionBackend
from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend
from vllm.v1.kv_cache_interface import FullAttentionSpec

from hidden_decoding.engines.vllm.backend import block_in_tokens, expanded_backend
from hidden_decoding.engines.vllm.metadata import check_fields, expand_metadata
from hidden_decoding.errors import ConfigError

BACKENDS = [CPUAttentionBackend, FlashAttentionBackend, TritonAttentionBackend]
SPEC = FullAttentionSpec(block_size=16, num_kv_heads=2, head_size=32, dtype=torch.bfloat16)


def batch() -> CommonAttentionMetadata:
    """Two requests: 3 new of 3 tokens, 1 new of 18; one slot is padding."""
    return CommonAttentionMetadata(
        query_start_loc=torch.tensor([0, 3, 4], dtype=torch.int32),
        query_start_loc_cpu=torch.tensor([0, 3, 4], dtype=torch.int32),
        seq_lens=torch.tensor([3, 18], dtype=torch.int32),
        num_reqs=2,
        num_actual_tokens=5,
        max_query_len=3,
        max_seq_len=18,
        block_table_tensor=torch.tensor([[4, 0], [2, 7]], dtype=torch.int32),
        slot_mapping=torch.tensor([64, 65, 66, 113, -1]),
        positions=torch.tensor([0, 1, 2, 17, 0]),
        seq_lens_cpu_upper_bound=torch.tensor([3, 18], dtype=torch.int32),
    )


def test_another_backend_is_refused_by_name():
    with pytest.raises(ConfigError, match="attention backend FLEX_ATTENTION is not supported with n = 2"):
        expanded_backend(FlexAttentionBackend, 2)
    assert expanded_backend(FlexAttentionBackend, 1) is FlexAttentionBackend


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [2, 3, 8])
def test_an_expanded_backend(backend, n):
    ours = expanded_backend(backend, n)
    assert issubclass(ours, backend)
    assert ours is expanded_backend(backend, n)
    assert ours is not expanded_backend(backend, n + 1)
    assert ours.get_name() == backend.get_name()
    assert ours.forward_includes_kv_cache_update
    spec = ours.customize_spec(SPEC)
    assert spec.tokens_per_state == Fraction(1, n)
    assert spec.num_states == 16 * n
    assert spec.page_size_bytes == n * backend.customize_spec(SPEC).page_size_bytes
    assert ours.supports_block_size(16) == backend.supports_block_size(16 * n)
    impl = ours.get_impl_cls()
    assert issubclass(impl, backend.get_impl_cls())
    assert not impl.fused_rope_kvcache_supported(None)


@pytest.mark.parametrize(
    ("size", "n", "tokens"),
    [(MultipleOf(32), 8, MultipleOf(4)), (MultipleOf(16), 3, MultipleOf(16)), (64, 4, 16), (64, 3, None)],
)
def test_kernel_blocks_in_tokens(size, n, tokens):
    assert block_in_tokens(size, n) == tokens


def test_a_batch_in_positions():
    common = batch()
    expanded = expand_metadata(common, 4)
    assert expanded.query_start_loc.tolist() == [0, 12, 16]
    assert expanded.query_start_loc_cpu.tolist() == [0, 12, 16]
    assert expanded.seq_lens.tolist() == [12, 72]
    assert expanded.seq_lens_cpu_upper_bound.tolist() == [12, 72]
    assert (expanded.num_actual_tokens, expanded.max_query_len, expanded.max_seq_len) == (20, 12, 72)
    assert expanded.slot_mapping.tolist() == [*range(256, 268), *range(452, 456), -1, -1, -1, -1]
    assert expanded.block_table_tensor is common.block_table_tensor
    assert expanded.positions is None
    for field, value in vars(batch()).items():
        now = getattr(common, field)
        assert torch.equal(now, value) if isinstance(value, torch.Tensor) else now == value, field


def test_a_description_with_unknown_parts_is_refused():
    check_fields(batch())
    lengths = torch.tensor([3, 18])  # vLLM's second model runner, the default on GPUs, gives these always
    check_fields(batch().replace(rswa_prefix_lens=lengths, dcp_local_seq_lens=lengths, is_prefilling=lengths > 3))
    with pytest.raises(NotImplementedError, match="encoder_seq_lens"):
        check_fields(batch().replace(encoder_seq_lens=torch.tensor([1, 2])))


@pytest.mark.parametrize("backend", BACKENDS)
def test_builders_describe_positions_in_stable_buffers(checkpoint, backend):
    n = 4
    options = {"max_num_batched_tokens": 64, "max_num_seqs": 8, "max_model_len": 128, "enforce_eager": True}
    config = EngineArgs(model=str(checkpoint(n)), dtype="bfloat16", **options).create_engine_config()
    ours = expanded_backend(backend, n)
    spec = ours.customize_spec(SPEC)
    with set_current_vllm_config(config):
        builder = ours.get_builder_cls()(spec, [], config, torch.device("cpu"))
        if builder_needs_op := backend is CPUAttentionBackend:
            torch.set_num_threads(1)
        first = builder.build(0, batch())
        addresses = (first.query_start_loc.data_ptr(), first.seq_lens.data_ptr(), first.slot_mapping.data_ptr())
        second = builder.build(0, batch().replace(seq_lens=torch.tensor([4, 19], dtype=torch.int32)))
    assert builder.kv_cache_spec.block_size == 64
    assert builder.vllm_config.model_config.max_model_len == 512
    assert config.model_config.max_model_len == 128
    assert second.seq_lens.tolist() == [16, 76]
    assert second.slot_mapping.numel() == 20
    assert (second.query_start_loc.data_ptr(), second.seq_lens.data_ptr(), second.slot_mapping.data_ptr()) == addresses
    assert not builder.supports_update_block_table
    assert builder_needs_op or builder.get_cudagraph_support(config, spec) != AttentionCGSupport.NEVER
    if backend is TritonAttentionBackend:
        assert builder.build_for_cudagraph_capture(batch()).seq_lens.tolist() == [n, n]

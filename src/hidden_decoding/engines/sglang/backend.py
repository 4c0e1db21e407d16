"""SGLang's attention backends for slots that own n rows; every other backend is refused by name.

Contract: after `register_backends`, a model of ours with n > 1 gets a backend of this module or a `ConfigError`; every
other model gets what it got before. Used by `plugin`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.mem_cache.memory_pool import KVWriteLoc

from hidden_decoding.engines.sglang.attention import attend, rows_to_slots
from hidden_decoding.engines.sglang.limits import SUPPORTED_BACKENDS, streams_in
from hidden_decoding.errors import ConfigError

if TYPE_CHECKING:
    from sglang.srt.layers.radix_attention import RadixAttention
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from torch import Tensor


class ScaleSeqTorchNative(TorchNativeAttnBackend):
    """`torch_native` with n rows per slot: prompts and decoding are the same computation on different lengths."""

    def __init__(self, model_runner: Any) -> None:
        super().__init__(model_runner)
        self.num_streams = streams_in(model_runner.model_config.hf_text_config)

    def forward_extend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
    ) -> Tensor:
        """Rows of the new tokens of prompts, [P, H * E]."""
        return self.on_rows(q, k, v, layer, forward_batch, save_kv_cache, forward_batch.extend_seq_lens.tolist())

    def forward_decode(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
    ) -> Tensor:
        """Rows of one new token per request, [P, H * E]."""
        return self.on_rows(q, k, v, layer, forward_batch, save_kv_cache, [1] * len(forward_batch.seq_lens))

    def on_rows(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool,
        new_tokens: list[int],
    ) -> Tensor:
        """Writes K and V of the rows into the slots of their tokens, then attends."""
        pool, n = self.token_to_kv_pool, self.num_streams
        if save_kv_cache:
            key, value = (x.view(-1, layer.tp_k_head_num, layer.head_dim) for x in (k, v))
            where = KVWriteLoc(forward_batch.out_cache_loc, None)
            pool.set_kv_buffer(layer, where, rows_to_slots(key, n), rows_to_slots(value, n))
        tables = self.req_to_token_pool.req_to_token[forward_batch.req_pool_indices]
        slots = [table[:length] for table, length in zip(tables, forward_batch.seq_lens.tolist(), strict=True)]
        attended = attend(
            q.view(-1, layer.tp_q_head_num, layer.head_dim),
            pool.get_key_buffer(layer.layer_id),
            pool.get_value_buffer(layer.layer_id),
            slots,
            new_tokens,
            layer.tp_k_head_num,
            n,
            layer.scaling,
        )
        return attended.flatten(-2)


OURS = {"torch_native": ScaleSeqTorchNative}


def register_backends() -> None:
    """Puts a choice before every backend that SGLang knows, by the number of streams of the model to be served."""
    assert tuple(OURS) == SUPPORTED_BACKENDS
    for name, create in list(ATTENTION_BACKENDS.items()):
        ATTENTION_BACKENDS[name] = by_streams(name, create)


def by_streams(name: str, create: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A maker of backend `name`: SGLang's own for one stream, ours or none for several."""

    def make(runner: Any) -> Any:
        n = streams_in(runner.model_config.hf_text_config)
        if n == 1:
            return create(runner)
        if name not in OURS:
            raise ConfigError(
                f"attention backend {name} is not supported with n = {n} streams: nobody has tested its kernels with "
                f"several rows per slot; give --attention-backend {' or '.join(SUPPORTED_BACKENDS)}"
            )
        return OURS[name](runner)

    return make

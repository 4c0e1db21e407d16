"""The KV pool and the runner as attention kernels must see them: a row per position, and the model's real heads.

    SGLang's pool  [slots, n * K heads, E]   one slot per token, sized by `limits.kv_heads_of_a_slot`
    the kernels'   [slots * n, K heads, E]   the same memory, one row per position

Contract: views, never copies; writes still go to the slot of the token. Used by the backends of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hidden_decoding.errors import ConfigError
from hidden_decoding.streams import split_streams, whole_tokens

if TYPE_CHECKING:
    from torch import Tensor


def rows_to_slots(x_PKE: Tensor, num_streams: int) -> Tensor:
    """[P, K, E] -> [T, n heads side by side, E]: what one slot of the pool keeps for a token."""
    heads = x_PKE.shape[-2:]
    return split_streams(x_PKE.flatten(-2), num_streams).unflatten(-1, heads).flatten(-3, -2)


def slots_to_rows(slots: Tensor, num_streams: int) -> Tensor:
    """[T, n heads side by side, E] -> [P, K, E]: the inverse of `rows_to_slots`, and a view of the same memory."""
    return slots.view(-1, whole_tokens(slots.shape[-2], num_streams), slots.shape[-1])


class Instead:
    """Another object with some attributes replaced. Reads only; the other object is left as it is."""

    def __init__(self, original: Any, **replaced: Any) -> None:
        self.__dict__.update(replaced, _original=original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


class RowPool(Instead):
    """SGLang's pool of K and V, read by row and written by token."""

    def __init__(self, pool: Any, num_streams: int) -> None:
        layout = getattr(pool, "kv_cache_layout", "nhd")
        if layout != "nhd":
            raise ConfigError(
                f"the KV cache has the layout {layout}, in which the n rows of a token do not follow one another; "
                "unset SGLANG_USE_HND_KVCACHE and SGLANG_AITER_KV_CACHE_LAYOUT"
            )
        super().__init__(pool, num_streams=num_streams)

    def get_key_buffer(self, layer_id: int) -> Tensor:
        """[slots * n, K, E]."""
        return slots_to_rows(self._original.get_key_buffer(layer_id), self.num_streams)

    def get_value_buffer(self, layer_id: int) -> Tensor:
        """[slots * n, K, E]."""
        return slots_to_rows(self._original.get_value_buffer(layer_id), self.num_streams)

    def get_kv_buffer(self, layer_id: int) -> tuple[Tensor, Tensor]:
        """Both of them."""
        return self.get_key_buffer(layer_id), self.get_value_buffer(layer_id)

    def set_kv_buffer(self, layer: Any, where: Any, key: Tensor, value: Tensor, *scales: Any, **options: Any) -> None:
        """Writes rows [P, K, E] into the slots of their tokens; `where` counts tokens."""
        key, value = (rows_to_slots(x, self.num_streams) for x in (key, value))
        self._original.set_kv_buffer(layer, where, key, value, *scales, **options)


def seen_by_kernels(runner: Any, num_streams: int) -> Any:
    """SGLang's model runner with a pool of rows and, per rank, as many KV heads as a row has."""
    config = runner.model_config

    def heads_of_a_row(*args: Any, **options: Any) -> int:
        return whole_tokens(config.get_num_kv_heads(*args, **options), num_streams)

    return Instead(
        runner,
        model_config=Instead(config, get_num_kv_heads=heads_of_a_row),
        token_to_kv_pool=RowPool(runner.token_to_kv_pool, num_streams),
    )

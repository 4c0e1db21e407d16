"""A view of a key/value cache in tokens, over layers that hold positions.

`generate()` counts tokens; attention layers and masks count positions. `TokenCache` shares the layers of a physical
cache and answers in tokens where generation asks (`get_seq_length`, `get_max_length`, `crop`) and in positions where
attention and masks ask (`update`, `get_query_offset`, `get_mask_sizes`). Plain transformers caches are physical: a
`StaticCache` made by hand for T tokens needs n * T positions.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers.cache_utils import Cache

from hidden_decoding.streams import positions_to_tokens, tokens_to_positions


class TokenCache(Cache):
    """Counts in tokens over `physical`, a transformers cache whose layers hold n positions per token.

    Layers are shared, not copied: both objects always show the same state. `copy.deepcopy` and `pickle` keep the pair.
    """

    def __init__(self, physical: Cache, num_streams: int) -> None:
        super().__init__(layers=physical.layers)
        self.physical = physical
        self.num_streams = num_streams

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends rows of positions [B, K, P, E] to one layer; returns all of that layer's rows."""
        return self.physical.update(key_states, value_states, layer_idx, *args, **kwargs)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held (a tensor for static caches, as transformers returns there)."""
        return positions_to_tokens(self.physical.get_seq_length(layer_idx), self.num_streams)

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Most tokens the cache can hold, or -1 when it grows."""
        positions = self.physical.get_max_length(layer_idx)
        return positions if positions < 0 else positions_to_tokens(positions, self.num_streams)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """In positions: masks are built over rows."""
        return self.physical.get_mask_sizes(query_length, layer_idx)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """In positions: masks are built over rows."""
        return self.physical.get_query_offset(layer_idx)

    def crop(self, tokens_to_remove: int) -> None:
        """Removes that many tokens from the end (negative), as `Cache.crop` does; whole groups of n rows."""
        self.physical.crop(tokens_to_positions(tokens_to_remove, self.num_streams))


def token_view(cache: Cache, num_streams: int) -> Cache:
    """The cache as `generate()` should see it. With one stream a position is a token and the cache stays itself."""
    if num_streams == 1 or isinstance(cache, TokenCache):
        return cache
    return TokenCache(cache, num_streams)


def physical_cache(cache: Cache | None) -> Cache | None:
    """The cache as attention layers should see it."""
    return cast("Cache", cache.physical) if isinstance(cache, TokenCache) else cache

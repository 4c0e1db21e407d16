"""Which KV slots belong to whom: a paged pool in units of blocks of tokens, with reuse of equal prefixes.

Contract: pure bookkeeping over block numbers, no tensors. A block holds `block_size` tokens; slot = block * block_size
+ offset, and a slot owns n rows of the tensors in `kv_pool`. Full blocks of finished work stay findable by the exact
tokens before and in them until their space is needed. Blocks of one request are taken side by side when there is
room, since attention over one run of rows needs no gathering.
"""

from __future__ import annotations

import numpy as np

ROOT_PREFIX = 0


class BlockPool:
    """Allocation, sharing and eviction of blocks. All sizes are in tokens or blocks."""

    def __init__(self, num_blocks: int, block_size: int, *, prefix_caching: bool = True) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.references = np.zeros(num_blocks, dtype=np.int32)
        self.last_used = np.zeros(num_blocks, dtype=np.int64)  # 0 for blocks without reusable content
        self.reserved = np.zeros(num_blocks, dtype=np.int32)  # where running requests are expected to grow
        self.clock = 0
        # A prefix is known by a number: prefix_ids[(number of the prefix before it, tokens of this block)].
        self.prefix_ids: dict[tuple[int, tuple[int, ...]], int] = {}
        self.block_of_prefix: dict[int, int] = {}
        self.key_of_block: dict[int, tuple[int, tuple[int, ...]]] = {}
        self.next_prefix_id = ROOT_PREFIX + 1

    @property
    def free_blocks(self) -> int:
        """Blocks no request holds (reusable content counts as free)."""
        return int((self.references == 0).sum())

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold this many tokens."""
        return -(-tokens // self.block_size)

    def match_prefix(self, token_ids: list[int], limit_tokens: int) -> tuple[list[int], int]:
        """Blocks that hold the longest known prefix of at most `limit_tokens` tokens, and that prefix's number."""
        blocks: list[int] = []
        prefix = ROOT_PREFIX
        if not self.prefix_caching:
            return blocks, prefix
        for start in range(0, limit_tokens - self.block_size + 1, self.block_size):
            known = self.prefix_ids.get((prefix, tuple(token_ids[start : start + self.block_size])))
            if known is None:
                break
            blocks.append(self.block_of_prefix[known])
            prefix = known
        return blocks, prefix

    def share(self, blocks: list[int]) -> None:
        """Takes one more reference on each block."""
        np.add.at(self.references, blocks, 1)

    def take(self, count: int, *, after: int | None, expected: int) -> list[int] | None:
        """`count` blocks, or None when there are not enough.

        `after` is the last block the request holds: its right neighbours are best. `expected` blocks in all are
        foreseen, so that room to grow is left where there is choice.
        """
        if count == 0:
            return []
        if count > self.free_blocks:
            return None
        free = self.references == 0
        start = None if after is None else after + 1
        if start is not None and start + count <= self.num_blocks and free[start : start + count].all():
            blocks = list(range(start, start + count))
        else:
            blocks = self._window(free, max(count, expected), count) or self._scattered(free, count)
        for block in blocks:
            self._forget(block)
        self.references[blocks] = 1
        return blocks

    def _window(self, free: np.ndarray, wanted: int, count: int) -> list[int] | None:
        """The run of free blocks to start in: unreserved room for all that is expected, else the widest gap."""
        if wanted <= self.num_blocks:
            taken = np.concatenate(([0], np.cumsum(~free | (self.reserved > 0))))
            starts = np.flatnonzero(taken[wanted:] == taken[:-wanted])
            if len(starts):
                recency = np.concatenate(([0], np.cumsum(self.last_used)))
                best = int(starts[np.argmin(recency[starts + wanted] - recency[starts])])
                return list(range(best, best + count))
        edges = np.flatnonzero(np.diff(np.concatenate(([0], free.astype(np.int8), [0]))))
        gap_starts, gap_ends = edges[::2], edges[1::2]
        widest = int(np.argmax(gap_ends - gap_starts))
        start, width = int(gap_starts[widest]), int(gap_ends[widest] - gap_starts[widest])
        if width < count:
            return None
        # From the middle, when it is wide: the left neighbour keeps room to grow too.
        start += (width - count) // 2 if start > 0 else 0
        return list(range(start, start + count))

    def _scattered(self, free: np.ndarray, count: int) -> list[int]:
        candidates = np.flatnonzero(free)
        return [int(block) for block in candidates[np.argsort(self.last_used[candidates], kind="stable")][:count]]

    def reserve(self, start: int, count: int, amount: int) -> None:
        """Marks (+1) or unmarks (-1) where a request is expected to grow; only a preference for others."""
        self.reserved[start : start + count] += amount

    def register(self, block: int, prefix: int, tokens: tuple[int, ...]) -> int:
        """Makes a full block findable as the continuation `tokens` of `prefix`; returns the number of that prefix.

        When another block already holds the same prefix, that one stays the one to find.
        """
        key = (prefix, tokens)
        known = self.prefix_ids.get(key)
        if known is None:
            known, self.next_prefix_id = self.next_prefix_id, self.next_prefix_id + 1
            self.prefix_ids[key] = known
            self.block_of_prefix[known] = block
            self.key_of_block[block] = key
        return known

    def release(self, blocks: list[int]) -> None:
        """Gives up one reference on each block; registered content stays findable until its space is needed."""
        for block in blocks:
            self.clock += 1
            self.references[block] -= 1
            assert self.references[block] >= 0, f"block {block} was released more often than it was taken"
            if self.references[block] == 0:
                self.last_used[block] = self.clock if block in self.key_of_block else 0

    def _forget(self, block: int) -> None:
        key = self.key_of_block.pop(block, None)
        if key is not None:
            del self.block_of_prefix[self.prefix_ids.pop(key)]
        self.last_used[block] = 0

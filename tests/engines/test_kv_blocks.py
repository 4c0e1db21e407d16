"""The block pool against a simple model of what it may do, over random histories."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from hidden_decoding.engines.local.kv_blocks import BlockPool


@given(st.integers(0, 10_000), st.integers(1, 24), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_no_block_is_ever_held_twice_without_sharing(seed, num_blocks, block_size):
    """Random takes, shares, registrations and releases: contents found by prefix are always the ones last written."""
    rng = random.Random(seed)
    pool = BlockPool(num_blocks, block_size)
    content: dict[int, tuple[int, ...]] = {}  # block -> all tokens up to and in it
    held: list[list[int]] = []
    for _ in range(60):
        if held and rng.random() < 0.45:
            pool.release(held.pop(rng.randrange(len(held))))
        tokens = [rng.randrange(2) for _ in range(rng.randint(1, num_blocks) * block_size)]
        shared, prefix = pool.match_prefix(tokens, len(tokens) - 1)
        assert len(shared) * block_size <= len(tokens) - 1
        for index, block in enumerate(shared):
            assert content[block] == tuple(tokens[: (index + 1) * block_size])
        pool.share(shared)
        count = pool.blocks_for(len(tokens)) - len(shared)
        free_before = pool.free_blocks
        own = pool.take(count, after=shared[-1] if shared else None, expected=count + rng.randint(0, 4))
        if own is None:
            assert count > free_before
            pool.release(shared)
            continue
        assert len(own) == count == len(set(own))
        in_use = {block for blocks in held for block in blocks} | set(shared)
        assert not in_use & set(own)
        for index in range(len(shared), len(tokens) // block_size):
            block = (shared + own)[index]
            content[block] = tuple(tokens[: (index + 1) * block_size])
            prefix = pool.register(block, prefix, tuple(tokens[index * block_size : (index + 1) * block_size]))
        held.append(shared + own)
    for blocks in held:
        pool.release(blocks)
    assert pool.free_blocks == num_blocks


def test_blocks_stand_side_by_side_when_there_is_room():
    pool = BlockPool(16, 4)
    first = pool.take(3, after=None, expected=6)
    assert first == list(range(first[0], first[0] + 3))
    assert pool.take(1, after=first[-1], expected=1) == [first[-1] + 1]


def test_reserved_room_is_left_while_there_is_other_room():
    pool = BlockPool(16, 4)
    [first] = pool.take(1, after=None, expected=8)
    pool.reserve(first, 8, 1)
    other = pool.take(1, after=None, expected=8)
    assert abs(other[0] - first) >= 8
    pool.reserve(other[0], 8, 1)
    assert pool.take(1, after=None, expected=8) is not None, "a reservation is a preference, not a lock"


def test_the_oldest_content_is_evicted_first():
    pool = BlockPool(3, 1)
    for token in (1, 2, 3):
        [block] = pool.take(1, after=None, expected=1)
        pool.register(block, 0, (token,))
        pool.release([block])
    pool.take(1, after=None, expected=1)
    assert [bool(pool.match_prefix([token, 0], 1)[0]) for token in (1, 2, 3)] == [False, True, True]

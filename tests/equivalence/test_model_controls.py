"""Negative controls: the faults that equivalence tests must catch do change the answers of the tiny models.

Each fault is put into the reference, not into our model: were the tiny models insensitive to one, every equality in
these tests could hold with that fault inside (style.md, rule 10). Greedy tokens are compared with each fault generated
freely; where the effect allows, the stricter share is asserted too: of next tokens, all read from the same true text.
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from tests.equivalence.shared import brute_force, expected_greedy, model_of, prompt
from tests.support import BruteForce

STREAMS = [2, 3, 4, 8]
SCHEMES = ["contiguous", "linear"]
PROMPTS = [prompt(6, seed=seed) for seed in range(5)]
NEW = 16


class Faulty:
    """The reference with one fault: a wrong list of tables, a wrong row read, or positions of the newest token off."""

    def __init__(self, right: BruteForce, *, tables=None, row: int = -1, shift: int = 0) -> None:
        self.tables, self.reference = tables or right.tables, right.reference
        self.row, self.shift = row, shift

    @torch.no_grad()
    def next_tokens(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """The most likely token after each text: [B]."""
        rows = [table.weight[ids_B] for ids_B in ids_BT.T for table in self.tables]
        positions = torch.arange(len(rows))
        positions[-len(self.tables) :] += self.shift
        out = self.reference(
            inputs_embeds=torch.stack(rows, dim=1),
            position_ids=positions[None],
            attention_mask=torch.ones(len(ids_BT), len(rows), dtype=torch.long),
            use_cache=False,
        )
        return out.logits[:, self.row].argmax(-1)


def swapped(tables: list, a: int, b: int) -> list:
    """The list with two entries exchanged."""
    tables = list(tables)
    tables[a], tables[b] = tables[b], tables[a]
    return tables


def zeroed(tables: list, stream: int) -> list:
    """The list with one table of zeros."""
    table = nn.Embedding(*tables[stream].weight.shape)
    nn.init.zeros_(table.weight)
    return [*tables[:stream], table, *tables[stream + 1 :]]


@functools.cache
def truth(n: int, scheme: str) -> torch.Tensor:
    """The right greedy tokens of every prompt [B, new tokens], one sequence at a time."""
    return torch.tensor([expected_greedy(n, scheme, tokens, NEW)[0] for tokens in PROMPTS])


def share_of_greedy_tokens(faulty: Faulty, n: int, scheme: str) -> float:
    """Of all greedy tokens, the share that the fault changes."""
    text = torch.tensor(PROMPTS)
    for _ in range(NEW):
        text = torch.cat([text, faulty.next_tokens(text)[:, None]], dim=1)
    return float((text[:, -NEW:] != truth(n, scheme)).float().mean())


def share_of_next_tokens(faulty: Faulty, n: int, scheme: str) -> float:
    """Of the next tokens read from the right text so far, the share that the fault changes: no error is carried on."""
    text = torch.cat([torch.tensor(PROMPTS), truth(n, scheme)], dim=1)
    changed = [faulty.next_tokens(text[:, :end]) != text[:, end] for end in range(text.shape[1] - NEW, text.shape[1])]
    return float(torch.stack(changed).float().mean())


def test_a_reference_without_fault_changes_nothing():
    """The control of the controls."""
    assert share_of_greedy_tokens(Faulty(brute_force(4, "linear")), 4, "linear") == 0
    assert share_of_next_tokens(Faulty(brute_force(4, "linear")), 4, "linear") == 0


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("n", "a", "b"), [(n, a, b) for n in STREAMS for a, b in {(0, n - 1), (0, 1), (n - 2, n - 1), (n // 2 - 1, n // 2)}]
)
def test_swapping_two_tables(n, a, b, scheme):
    faulty = Faulty(brute_force(n, scheme), tables=swapped(brute_force(n, scheme).tables, a, b))
    assert share_of_greedy_tokens(faulty, n, scheme) >= 0.5
    if b == n - 1:
        assert share_of_next_tokens(faulty, n, scheme) >= 0.5


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("n", "stream"), [(n, k) for n in STREAMS for k in sorted({0, n // 2, n - 2, n - 1})])
def test_zeroing_one_table(n, stream, scheme):
    faulty = Faulty(brute_force(n, scheme), tables=zeroed(brute_force(n, scheme).tables, stream))
    assert share_of_next_tokens(faulty, n, scheme) >= 0.5


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n", STREAMS)
def test_reading_stream_n_minus_2(n, scheme):
    assert share_of_next_tokens(Faulty(brute_force(n, scheme), row=-2), n, scheme) >= 0.5


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n", STREAMS)
@pytest.mark.parametrize("shift", [1, -1])
def test_positions_of_the_newest_token_off_by_one(n, scheme, shift):
    """What a decode step does that counts the past wrongly by one position."""
    assert share_of_greedy_tokens(Faulty(brute_force(n, scheme), shift=shift), n, scheme) >= 0.5


@pytest.mark.parametrize("n", STREAMS)
def test_rows_off_by_one(n):
    """The layout shifted by one row: every token keeps its n embeddings, one row late."""
    right = brute_force(n)
    rows_late = Faulty(right, tables=[right.tables[-1], *right.tables[:-1]])
    assert share_of_next_tokens(rows_late, n, "contiguous") >= 0.5


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n", STREAMS)
def test_the_other_position_scheme(n, scheme):
    """A loader that drops `rope_parameters` must not pass."""
    other = brute_force(n, "linear" if scheme == "contiguous" else "contiguous")
    assert torch.equal(other.tables[0].weight, brute_force(n, scheme).tables[0].weight)
    assert share_of_greedy_tokens(Faulty(other), n, scheme) >= 0.5


@pytest.mark.parametrize("n", STREAMS)
def test_our_own_model_shows_a_fault_too(n):
    """The same through our classes: two tables exchanged in a copy of the weights."""
    model, tokens = model_of(n), torch.tensor([PROMPTS[0]])
    embeds_BTND = model.model.embed_streams(tokens)
    right = model.generate(
        inputs_embeds=embeds_BTND, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    wrong = model.generate(
        inputs_embeds=embeds_BTND.flip(2),
        max_new_tokens=1,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert (right.logits[0] - wrong.logits[0]).abs().max() > 1

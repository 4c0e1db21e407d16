"""The loss: chunks, packing and recomputation change nothing; documents do not see each other."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from hidden_decoding.train.loss import CausalLoss
from tests.support import LOGIT_TOLERANCE, tiny_model

# Losses of order 10 averaged over some fifty tokens: errors of single logits average out, so the same bound holds.
# Gradients of the mean loss are of order 1 at most on these models and sum over tokens and positions.
GRADIENT_TOLERANCE = 5e-5
LENGTHS = (9, 1, 14, 8)


def packed_batch(vocab: int = 512) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One row of four documents: ids, positions and targets [1, T]."""
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(1, vocab, (length,), generator=generator) for length in LENGTHS]
    targets = [torch.cat([document[1:], torch.tensor([-100])]) for document in documents]
    positions = [torch.arange(length) for length in LENGTHS]
    return torch.cat(documents)[None], torch.cat(positions)[None], torch.cat(targets)[None]


def gradients(module: torch.nn.Module, *batch: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    module.zero_grad()
    predicted = (batch[2] != -100).sum()
    loss = module(*batch) / predicted
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in module.named_parameters()}


def assert_same(left, right) -> None:
    assert left[0] == pytest.approx(right[0], abs=LOGIT_TOLERANCE)
    assert left[1].keys() == right[1].keys()
    for name, gradient in left[1].items():
        torch.testing.assert_close(gradient, right[1][name], atol=GRADIENT_TOLERANCE, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_chunks_equal_the_whole_loss(n):
    model, batch = tiny_model(n, "linear").train(), packed_batch()
    whole = gradients(CausalLoss(model, 10_000), *batch)
    for chunk in (1, 7, 31):
        assert_same(gradients(CausalLoss(model, chunk), *batch), whole)
    logits = model(input_ids=batch[0], position_ids=batch[1], use_cache=False).logits
    mean = functional.cross_entropy(logits.flatten(0, 1), batch[2].flatten(), ignore_index=-100)
    assert whole[0] == pytest.approx(float(mean.detach()), abs=LOGIT_TOLERANCE)


def test_logits_of_all_tokens_never_exist_at_once(monkeypatch):
    model, batch = tiny_model(2).train(), packed_batch()
    seen = []
    monkeypatch.setattr(functional, "cross_entropy", _recording(functional.cross_entropy, seen))
    gradients(CausalLoss(model, 8), *batch)
    assert max(seen) == 8
    assert len(seen) == 2 * 4  # 32 tokens in chunks of 8, forward and recomputed backward


def _recording(cross_entropy, seen):
    def record(logits, *args, **kwargs):
        seen.append(logits.shape[0])
        return cross_entropy(logits, *args, **kwargs)

    return record


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_packed_equals_unpacked(n, attention):
    model = tiny_model(n, "linear", attn_implementation=attention).train()
    ids, positions, targets = packed_batch()
    module = CausalLoss(model, 10_000)
    packed = gradients(module, ids, positions, targets)
    module.zero_grad()
    predicted = int((targets != -100).sum())
    total = 0.0
    for parts in zip(*(tensor.split(LENGTHS, dim=1) for tensor in (ids, positions, targets)), strict=True):
        loss = module(*parts) / predicted
        loss.backward()
        total += float(loss.detach())
    apart = (total, {name: p.grad.clone() for name, p in module.named_parameters()})
    assert_same(packed, apart)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_documents_are_isolated_and_the_test_would_notice(n):
    model = tiny_model(n, "linear")
    ids, positions, _ = packed_batch()
    changed = ids.clone()
    changed[0, : LENGTHS[0]] = (changed[0, : LENGTHS[0]] + 7) % 512
    later = slice(LENGTHS[0], None)

    def difference(positions: torch.Tensor) -> float:
        with torch.no_grad():
            before, after = (
                model(input_ids=rows, position_ids=positions, use_cache=False).logits[0, later]
                for rows in (ids, changed)
            )
        return float((before - after).abs().max())

    assert difference(positions) == 0
    assert difference(torch.arange(ids.shape[1])[None]) > 0.1  # one long document: it does see the change


@pytest.mark.parametrize("n", [1, 2, 4])
def test_gradient_checkpointing_changes_nothing(n):
    model, batch = tiny_model(n, "linear").train(), packed_batch()
    plain = gradients(CausalLoss(model, 16), *batch)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    calls = []
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(lambda *_: calls.append(1))
    again = gradients(CausalLoss(model, 16), *batch)
    assert len(calls) == 2 * len(model.model.layers)  # really recomputed
    assert_same(again, plain)

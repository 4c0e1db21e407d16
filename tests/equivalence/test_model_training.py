"""Loss and gradients count tokens: against manual cross-entropy, and against plain Qwen3 on interleaved embeddings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.equivalence.shared import FEW_SHAPES, STREAMS, expected_logits, ids_of, left_padded, model_of, prompt
from tests.equivalence.tolerances import FP32_GRADIENT_RELATIVE, FP32_LOGITS, FP32_LOSS
from tests.support import BruteForce, plain_qwen3, tiny_model

TOKENS = prompt(17)


def reference_loss_and_gradients(model, ids_BT, labels_BT) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """By stock Qwen3 with autograd through an interleaving loop; names as in our model."""
    stock = plain_qwen3(model)
    tables = [stock.model.embed_tokens.weight]
    tables += [t.weight.detach().clone().requires_grad_() for t in model.model.scale_seq_embed_tokens_list]
    rows = [torch.stack([table[token] for token in ids for table in tables]) for ids in ids_BT]
    logits_BTV = stock(inputs_embeds=torch.stack(rows)).logits[:, len(tables) - 1 :: len(tables)]
    loss = nn.functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=-100)
    loss.backward()
    gradients = {name: weight.grad for name, weight in stock.named_parameters()}
    for stream, table in enumerate(tables[1:]):
        gradients[f"model.scale_seq_embed_tokens_list.{stream}.weight"] = table.grad
    return loss.detach(), gradients


def assert_same_gradients(model, expected: dict[str, torch.Tensor]) -> None:
    """Each parameter's gradient, within the table's tolerance of its largest entry."""
    actual = dict(model.named_parameters())
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, f"{name} gets no gradient, so it proves nothing"
        error = (actual[name].grad - gradient).abs().max() / gradient.abs().max()
        assert error <= FP32_GRADIENT_RELATIVE, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("n", STREAMS)
def test_loss_is_cross_entropy_over_tokens(n):
    """Token t predicts token t + 1; a label of -100 does not count."""
    ids = ids_of(TOKENS)
    labels = ids.clone()
    labels[0, 3:6] = -100
    with torch.no_grad():
        loss = model_of(n)(ids, labels=labels).loss
    logprobs = expected_logits(n, "contiguous", TOKENS).log_softmax(-1)
    picked = [-logprobs[t, TOKENS[t + 1]] for t in range(len(TOKENS) - 1) if not 3 <= t + 1 < 6]
    assert len(picked) == 13
    torch.testing.assert_close(loss, torch.stack(picked).mean(), rtol=0, atol=FP32_LOSS)


def test_loss_of_a_padded_batch_ignores_padding():
    batch = left_padded([prompt(9), TOKENS])
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        loss = model_of(4)(**batch, labels=labels).loss
    total = count = 0
    for tokens in (prompt(9), TOKENS):
        logprobs = expected_logits(4, "contiguous", tokens).log_softmax(-1)
        total += sum(-float(logprobs[t, tokens[t + 1]]) for t in range(len(tokens) - 1))
        count += len(tokens) - 1
    # In a left-padded row the last padding position predicts the first token: transformers counts that label too.
    with torch.no_grad():
        logits = model_of(4)(**batch).logits
    first = batch["attention_mask"][0].tolist().index(1)
    total += -float(logits[0, first - 1].log_softmax(-1)[prompt(9)[0]])
    assert float(loss) == pytest.approx(total / (count + 1), abs=FP32_LOSS)


@pytest.mark.parametrize(("n", "scheme"), FEW_SHAPES)
def test_gradients_of_every_weight(n, scheme):
    """All tables, the backbone and the head get the gradients of the brute-force computation."""
    model = tiny_model(n, scheme)
    ids = torch.tensor([TOKENS, prompt(17, seed=2)])
    loss = model(ids, labels=ids).loss
    loss.backward()
    expected_loss, gradients = reference_loss_and_gradients(model, ids, ids)
    torch.testing.assert_close(loss.detach(), expected_loss, rtol=0, atol=FP32_LOSS)
    assert_same_gradients(model, gradients)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("n", STREAMS)
def test_gradient_checkpointing_changes_nothing(n, reentrant):
    """Same loss and gradients; every layer really runs twice."""
    model, ids = tiny_model(n), ids_of(TOKENS)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    calls = []
    hooks = [layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1)) for layer in model.model.layers]
    loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()
    assert len(calls) == 2 * len(model.model.layers), "a layer is recomputed in backward"
    for hook in hooks:
        hook.remove()
    expected_loss, gradients = reference_loss_and_gradients(model, ids, ids)
    torch.testing.assert_close(loss.detach(), expected_loss, rtol=0, atol=FP32_LOSS)
    assert_same_gradients(model, gradients)


@pytest.mark.parametrize(("n", "scheme"), FEW_SHAPES)
def test_packed_training_batch_has_the_gradients_of_its_documents(n, scheme):
    documents = [prompt(6), prompt(11)]
    packed, separate = tiny_model(n, scheme), tiny_model(n, scheme)
    positions = torch.tensor([[i for document in documents for i in range(len(document))]])
    labels = torch.tensor([[-100 if i == 0 else token for document in documents for i, token in enumerate(document)]])
    packed(ids_of(documents[0] + documents[1]), position_ids=positions, labels=labels, use_cache=False).loss.backward()
    predicted = sum(len(document) - 1 for document in documents)
    for document in documents:
        loss = separate(ids_of(document), labels=ids_of(document)).loss
        (loss * (len(document) - 1) / predicted).backward()
    assert_same_gradients(packed, {name: weight.grad for name, weight in separate.named_parameters()})


def test_no_gradient_reaches_tables_that_are_frozen():
    """Training the extra tables only, as a first stage might."""
    model = tiny_model(4)
    model.requires_grad_(False)
    model.model.scale_seq_embed_tokens_list.requires_grad_(True)
    model(ids_of(TOKENS), labels=ids_of(TOKENS)).loss.backward()
    touched = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert touched == {f"model.scale_seq_embed_tokens_list.{k}.weight" for k in range(3)}


@pytest.mark.parametrize("n", [1, 2, 8])
def test_lora(n):
    """peft finds our layers; the adapted and the merged model are the same function, also by brute force."""
    import peft

    torch.manual_seed(0)
    model = tiny_model(n)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    trainable = {name.split(".lora_")[0] for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert len(trainable) == 3 * 7, "q, k, v, o, gate, up and down of every layer; no table and no head"
    optimizer = torch.optim.AdamW([w for w in adapted.parameters() if w.requires_grad], lr=2e-2)
    losses = []
    for _ in range(5):
        loss = adapted(input_ids=ids_of(TOKENS), labels=ids_of(TOKENS)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5
    adapted.eval()
    with torch.no_grad():
        through_adapter = adapted(input_ids=ids_of(TOKENS)).logits
    generated = adapted.generate(
        input_ids=ids_of(TOKENS), max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    merged = adapted.merge_and_unload()
    expected = BruteForce(merged)
    torch.testing.assert_close(through_adapter[0], expected.logits(list(TOKENS)), rtol=0, atol=FP32_LOGITS)
    assert generated[0, len(TOKENS) :].tolist() == expected.greedy(list(TOKENS), 6)[0]

"""TRL's SFTTrainer on our model: its fused LM head, which bypasses `forward`'s loss, computes the same loss in tokens.

SFTTrainer calls the backbone, takes `last_hidden_state` and projects it itself. That is right only because the backbone
returns one row per token; were there n, labels and rows would not even have the same length.
"""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from tests.equivalence.shared import prompt
from tests.equivalence.tolerances import FP32_LOSS
from tests.support import BruteForce, tiny_model, tiny_tokenizer

DOCUMENTS = [prompt(9), prompt(14), prompt(5), prompt(20)]


def one_step(model, directory, **options) -> float:
    """Trains one step on all documents; returns the loss that the trainer logs for it."""
    arguments = SFTConfig(
        output_dir=str(directory),
        max_steps=1,
        per_device_train_batch_size=len(DOCUMENTS),
        learning_rate=1e-2,
        logging_steps=1,
        logging_strategy="steps",
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        gradient_checkpointing=options.pop("gradient_checkpointing", False),
        max_length=48,
        **options,
    )
    dataset = Dataset.from_list([{"input_ids": list(document)} for document in DOCUMENTS])
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=tiny_tokenizer())
    trainer.train()
    return next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)


def expected_loss(model) -> float:
    """Mean cross-entropy over all predicted tokens of all documents, by brute force."""
    reference, total = BruteForce(model), []
    for document in DOCUMENTS:
        logprobs = reference.logits(list(document)).log_softmax(-1)
        total += [-float(logprobs[t, document[t + 1]]) for t in range(len(document) - 1)]
    return sum(total) / len(total)


@pytest.mark.parametrize(
    "options", [{}, {"gradient_checkpointing": True}, {"packing": True}], ids=["padded", "checkpointed", "packed"]
)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_sft_loss_counts_tokens(tmp_path, n, options):
    model = tiny_model(n)
    model.config.pad_token_id = 0
    expected = expected_loss(model)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    loss = one_step(model, tmp_path, **options)
    assert loss == pytest.approx(expected, abs=FP32_LOSS)
    after = dict(model.named_parameters())
    tables = [name for name in before if "embed_tokens" in name]
    assert len(tables) == n
    assert all(not torch.equal(before[name], after[name]) for name in tables), "every table is trained"

"""The model also trains under transformers' `Trainer`: not a second path of ours, but what users have."""

from __future__ import annotations

import pytest
import torch
from transformers import Trainer, TrainingArguments

from hidden_decoding.modeling.checkpoint import load_tokenizer
from hidden_decoding.train.corpus import load_corpus
from hidden_decoding.train.data import NO_TARGET, PackedRows
from tests.support import tiny_model
from tests.train.support import write_corpus


class Rows(torch.utils.data.Dataset):
    """Our packed rows with transformers' labels, which the model shifts itself."""

    def __init__(self, packed: PackedRows) -> None:
        self.packed = packed

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        ids, positions, _, real = self.packed.row(number)
        labels = ids.copy()
        labels[positions == 0] = NO_TARGET  # nothing of the same document comes before
        labels[real:] = NO_TARGET
        return {
            name: torch.from_numpy(array)
            for name, array in (("input_ids", ids), ("position_ids", positions), ("labels", labels))
        }


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trainer_lowers_the_loss(tiny_checkpoint, tmp_path, checkpointing):
    tokenizer = load_tokenizer(tiny_checkpoint(2))
    corpus = load_corpus([str(write_corpus(tmp_path / "text.jsonl"))], tokenizer, tmp_path / "cache")
    model = tiny_model(2, "linear", use_cache=False)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        max_steps=12,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
    )
    packed = PackedRows(corpus, torch.arange(corpus.documents).numpy(), 48)
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows(packed))
    trainer.train()
    reported = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(reported) == 12
    assert sum(reported[-3:]) / 3 < sum(reported[:3]) / 3 - 0.3

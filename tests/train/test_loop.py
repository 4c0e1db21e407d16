"""The loop: learning, resuming, accumulating, and what a run leaves behind."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from hidden_decoding.errors import CheckpointError, ConfigError
from hidden_decoding.modeling.checkpoint import load_config, load_model, load_tokenizer
from hidden_decoding.train import checkpoint
from hidden_decoding.train.loop import train_cpt
from hidden_decoding.train.metrics import read_metrics
from tests.support import save_tiny_checkpoint
from tests.train.support import evaluations, losses, settings, write_corpus


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("text") / "text.jsonl")


def weights(directory) -> dict[str, torch.Tensor]:
    return load_model(directory).state_dict()


def assert_equal_weights(left, right) -> None:
    first, second = weights(left), weights(right)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("n", [1, 2])
def test_resumed_equals_uninterrupted_bit_for_bit(tiny_checkpoint, text, tmp_path, n):
    start = tiny_checkpoint(n)
    straight = train_cpt(settings(start, text, tmp_path / "straight"), progress=False)
    parted = tmp_path / "parted"
    stopped = train_cpt(settings(start, text, parted, stop_at_step=3), progress=False)
    assert (stopped.step, stopped.model) == (3, None)
    resumed = train_cpt(settings(start, text, parted, resume=True), progress=False)
    assert losses(resumed) == losses(straight)
    assert evaluations(resumed) == evaluations(straight)
    assert [r["gradient_norm"] for r in resumed.records if r["kind"] == "step"] == [
        r["gradient_norm"] for r in straight.records if r["kind"] == "step"
    ]
    assert_equal_weights(resumed.model, straight.model)
    assert (resumed.tokens, resumed.positions) == (straight.tokens, straight.positions)


def test_resuming_drops_what_came_after_the_checkpoint_and_ignores_incomplete_ones(tiny_checkpoint, text, tmp_path):
    start, out = tiny_checkpoint(2), tmp_path / "run"
    straight = train_cpt(settings(start, text, tmp_path / "straight"), progress=False)
    train_cpt(settings(start, text, out, stop_at_step=4, checkpoint_every=2, keep_checkpoints=3), progress=False)
    assert [path.name for path in checkpoint.checkpoints_in(out)] == ["step-00000002", "step-00000004"]
    # Killed while writing: a hidden partial directory, and one without its last file.
    (out / "checkpoints" / ".step-00000006.partial").mkdir()
    (out / "checkpoints" / "step-00000004" / "state.json").unlink()
    with (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "step", "st')
    assert checkpoint.latest(out).name == "step-00000002"
    resumed = train_cpt(settings(start, text, out, resume=True), progress=False)
    assert losses(resumed) == losses(straight)
    assert [r["step"] for r in read_metrics(out / "metrics.jsonl") if r["kind"] == "step"] == [1, 2, 3, 4, 5, 6]


def test_only_the_newest_checkpoints_are_kept(tiny_checkpoint, text, tmp_path):
    train_cpt(
        settings(tiny_checkpoint(1), text, tmp_path / "run", checkpoint_every=1, keep_checkpoints=2), progress=False
    )
    assert [p.name for p in checkpoint.checkpoints_in(tmp_path / "run")] == ["step-00000005", "step-00000006"]


def test_resuming_with_other_settings_is_refused(tiny_checkpoint, text, tmp_path):
    start, out = tiny_checkpoint(2), tmp_path / "run"
    train_cpt(settings(start, text, out, stop_at_step=2), progress=False)
    with pytest.raises(ConfigError, match=r"learning_rate: 0\.003 then, 0\.1 now"):
        train_cpt(settings(start, text, out, resume=True, learning_rate=0.1), progress=False)
    with pytest.raises(ConfigError, match="tokens_per_sequence = 48, this run has 24"):
        train_cpt(settings(start, text, out, resume=True, tokens_per_sequence=24), progress=False)
    with pytest.raises(ConfigError, match="streams: 2 then, 1 now"):
        train_cpt(settings(tiny_checkpoint(1), text, out, resume=True), progress=False)
    with pytest.raises(ConfigError, match="holds a run already"):
        train_cpt(settings(start, text, out), progress=False)


def test_a_damaged_checkpoint_is_named(tiny_checkpoint, text, tmp_path):
    start, out = tiny_checkpoint(2), tmp_path / "run"
    train_cpt(settings(start, text, out, stop_at_step=2), progress=False)
    for shard in checkpoint.latest(out).glob("*.distcp"):
        shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="step-00000002 is damaged or not of this model"):
        train_cpt(settings(start, text, out, resume=True), progress=False)


def test_accumulated_gradients_equal_one_pass(tiny_checkpoint, text, tmp_path):
    start = tiny_checkpoint(2)
    whole = train_cpt(settings(start, text, tmp_path / "whole"), progress=False)
    parts = train_cpt(settings(start, text, tmp_path / "parts", sequences_per_pass=1), progress=False)
    uneven = train_cpt(settings(start, text, tmp_path / "uneven", sequences_per_pass=3), progress=False)
    other = train_cpt(settings(start, text, tmp_path / "other", sequences_per_step=3), progress=False)
    # The first steps agree as closely as float32 sums do; rounding grows with each step of AdamW.
    assert losses(parts)[:3] == pytest.approx(losses(whole)[:3], abs=2e-4)
    assert losses(uneven)[:3] == pytest.approx(losses(whole)[:3], abs=2e-4)
    assert losses(other)[:3] != pytest.approx(losses(whole)[:3], abs=2e-3)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_training_lowers_held_out_loss_and_leaves_a_complete_model(tiny_checkpoint, text, tmp_path, n):
    start = tiny_checkpoint(n, "linear")
    result = train_cpt(settings(start, text, tmp_path / "run", steps=20, learning_rate=1e-2), progress=False)
    assert evaluations(result)[-1] < evaluations(result)[0] - 0.3
    assert result.streams == n
    assert result.positions == n * result.tokens
    config = load_config(result.model)
    assert (config.num_streams, config.rope_parameters) == (n, load_config(start).rope_parameters)
    assert config.architectures == ["Qwen3ScaleSeqForCausalLM"]
    assert load_tokenizer(result.model)("some text")["input_ids"] == load_tokenizer(start)("some text")["input_ids"]
    after, before = weights(result.model), weights(start)
    assert all(not torch.equal(after[name], before[name]) for name in after)  # every table and layer was trained


def test_metrics_say_what_happened(tiny_checkpoint, text, tmp_path):
    result = train_cpt(settings(tiny_checkpoint(4), text, tmp_path / "run"), progress=False)
    kinds = [record["kind"] for record in result.records]
    assert kinds == ["start", "evaluation", *["step"] * 3, "evaluation", *["step"] * 3, "evaluation", "end"]
    first, last = (record for record in result.records if record["kind"] == "step" and record["step"] in (1, 6))
    assert first["tokens"] == 4 * 48
    assert 6 * 4 * 48 - 48 < last["tokens"] <= 6 * 4 * 48  # an epoch's last row may be part padding, which is no token
    assert last["positions"] == 4 * last["tokens"]
    assert last["positions_per_second"] == pytest.approx(4 * last["tokens_per_second"])
    assert first["learning_rate"] == pytest.approx(1.5e-3)  # half-way up a warm-up of two steps
    assert last["memory_bytes"] > 50e6
    assert result.records[0]["positions_per_step"] == 4 * 4 * 48
    evaluation = result.records[1]
    assert evaluation["heldout_loss"] > evaluation["bits_per_byte"] > 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["schedule"]["steps"] == 6


def test_held_out_loss_equals_the_model_s_own(tiny_checkpoint, tmp_path):
    """One document per row: the loop's number is transformers' loss over the same tokens."""
    texts = [f"{number} is a number, and this is a document about it." for number in range(12)]
    data, held = tmp_path / "data.jsonl", tmp_path / "held.txt"
    data.write_text("".join(json.dumps({"text": line}) + "\n" for line in texts), encoding="utf-8")
    held.write_text("Held-out text of one document, short enough for a row.", encoding="utf-8")
    start = tiny_checkpoint(4, "linear")
    config = settings(start, data, tmp_path / "run", steps=1, warmup_steps=0, heldout=(str(held),))
    result = train_cpt(config, progress=False)
    tokenizer, model = load_tokenizer(start), load_model(start)
    ids = torch.tensor([[*tokenizer(held.read_text())["input_ids"], tokenizer.eos_token_id]])
    expected = float(model(input_ids=ids, labels=ids).loss.detach())
    assert evaluations(result)[0] == pytest.approx(expected, abs=2e-5)
    bits = expected / 0.6931471805599453 * ids.shape[1] / len(held.read_bytes())
    assert result.records[1]["bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_bf16_and_recomputation_stay_close_to_fp32(tiny_checkpoint, text, tmp_path):
    start = tiny_checkpoint(2)
    plain = train_cpt(settings(start, text, tmp_path / "plain"), progress=False)
    spare = train_cpt(settings(start, text, tmp_path / "spare", gradient_checkpointing=True), progress=False)
    assert losses(spare) == losses(plain)
    half = train_cpt(
        settings(start, text, tmp_path / "half", precision="bf16", export_dtype="bfloat16"), progress=False
    )
    assert losses(half) != losses(plain)
    assert losses(half)[:3] == pytest.approx(losses(plain)[:3], abs=0.15)  # bf16 keeps 8 bits of logits of order 10
    assert load_model(half.model).dtype == torch.bfloat16
    assert load_model(plain.model).dtype == torch.float32


def test_tied_embeddings_stay_tied(text, tmp_path):
    start = save_tiny_checkpoint(tmp_path / "tied", 2, tie_word_embeddings=True)
    result = train_cpt(settings(start, text, tmp_path / "run"), progress=False)
    model = load_model(result.model)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_finished_run_is_not_touched(tiny_checkpoint, text, tmp_path):
    config = settings(tiny_checkpoint(1), text, tmp_path / "run", steps=2, warmup_steps=0)
    train_cpt(config, progress=False)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="holds a finished run"):
        train_cpt(config, progress=False)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_resume_without_a_checkpoint_begins(tiny_checkpoint, text, tmp_path):
    out = tmp_path / "run"
    first = train_cpt(settings(tiny_checkpoint(1), text, out, steps=2, warmup_steps=0), progress=False)
    shutil.rmtree(out / "model")
    again = train_cpt(settings(tiny_checkpoint(1), text, out, steps=2, warmup_steps=0, resume=True), progress=False)
    assert losses(again) == losses(first)

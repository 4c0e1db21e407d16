"""Fine-tuning by equivalence: the loss against brute force, packed against unpacked, adapters against none, n = 1
against stock Qwen3 under TRL."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil

import pytest
import torch
from transformers import Qwen3ForCausalLM
from trl import SFTTrainer

from hidden_decoding.errors import ConfigError
from hidden_decoding.modeling.checkpoint import load_config, load_model, load_tokenizer
from hidden_decoding.modeling.exporting import export_checkpoint
from hidden_decoding.modeling.flops import forward_flops_per_token
from hidden_decoding.train import sft_setup
from hidden_decoding.train.sft import SftRun, train_sft
from hidden_decoding.train.sft_config import SftConfig
from hidden_decoding.train.sft_data import load_chats, rows_of
from tests.equivalence.tolerances import BF16_LOSS, FP32_GRADIENT_RELATIVE, FP32_LOSS
from tests.support import BruteForce
from tests.train.chats import settings, write_chats
from tests.train.support import evaluations, losses


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    return write_chats(tmp_path_factory.mktemp("chats") / "chats.jsonl")


def brute_force_loss(directory, samples) -> float:
    """Mean cross-entropy over the tokens that carry loss, each sample alone, by plain Qwen3 on interleaved rows."""
    reference, nats = BruteForce(load_model(directory, dtype="float32")), []
    for sample in samples:
        logprobs = reference.logits(sample.ids).log_softmax(-1)
        nats += [-float(logprobs[t - 1, label]) for t, label in enumerate(sample.labels) if label >= 0]
    return sum(nats) / len(nats)


def one_step(model, chats, out, **changes):
    """A run of one step over all samples, and those samples."""
    config = settings(model, chats, out, steps=1, warmup_steps=0, learning_rate=1e-3, **changes)
    loaded = load_chats(config.data, load_tokenizer(model), progress=False)
    rows = len(rows_of(loaded.training, config.data))
    each = changes.get("sequences_per_pass", 1)
    data = {**changes, "sequences_per_step": rows // each * each}
    return train_sft(
        settings(model, chats, out, steps=1, warmup_steps=0, learning_rate=1e-3, **data), progress=False
    ), loaded


@pytest.mark.parametrize("n", [1, 2, 4])
def test_loss_is_brute_force_packed_or_not(tiny_checkpoint, chats, tmp_path, n):
    model = tiny_checkpoint(n, "linear")
    packed, loaded = one_step(model, chats, tmp_path / "packed")
    alone, _ = one_step(model, chats, tmp_path / "alone", packing=False)
    ways = {"packed": packed, "alone": alone}
    assert packed.records[0]["rows"] < alone.records[0]["rows"] == len(loaded.training)
    training, heldout = brute_force_loss(model, loaded.training), brute_force_loss(model, loaded.heldout)
    for name, result in ways.items():
        assert losses(result)[0] == pytest.approx(training, abs=FP32_LOSS), name
        assert evaluations(result)[0] == pytest.approx(heldout, abs=FP32_LOSS), name
        assert result.learned_tokens == sum(sample.learned for sample in loaded.training)
    norms = [result.records[2]["gradient_norm"] for result in ways.values()]
    assert norms[0] == pytest.approx(norms[1], rel=FP32_GRADIENT_RELATIVE)
    bits = evaluations(packed)[0] / math.log(2) * sum(s.learned for s in loaded.heldout)
    assert packed.records[1]["bits_per_byte"] == pytest.approx(bits / sum(s.text_bytes for s in loaded.heldout))


def test_rows_in_one_pass_or_several(tiny_checkpoint, chats, tmp_path):
    same = {"packing": False, "heldout_fraction": 1 / 6}  # an even number of rows
    one, _ = one_step(tiny_checkpoint(2), chats, tmp_path / "one", **same)
    two, _ = one_step(tiny_checkpoint(2), chats, tmp_path / "two", **same, sequences_per_pass=2)
    checkpointed, _ = one_step(tiny_checkpoint(2), chats, tmp_path / "less", **same, gradient_checkpointing=True)
    for other in (two, checkpointed):
        assert other.tokens == one.tokens
        assert losses(one) == pytest.approx(losses(other), abs=FP32_LOSS)
        norms = [run.records[2]["gradient_norm"] for run in (one, other)]
        assert norms[0] == pytest.approx(norms[1], rel=FP32_GRADIENT_RELATIVE)


def test_one_stream_is_plain_qwen3_under_trl(tiny_checkpoint, chats, tmp_path):
    config = settings(tiny_checkpoint(1), chats, tmp_path / "ours", sequences_per_pass=2)
    ours = train_sft(config, progress=False)
    run = SftRun(
        settings(tiny_checkpoint(1), chats, tmp_path / "theirs", sequences_per_pass=2), label="sft", progress=False
    )
    stock = Qwen3ForCausalLM.from_pretrained(tiny_checkpoint(1), dtype=torch.float32)
    optimiser = sft_setup.make_optimiser(stock, run.config)
    trainer = SFTTrainer(
        model=stock,
        args=sft_setup.arguments(run.config, run.schedule, accumulate=1, on_cpu=True),
        train_dataset=run.rows,
        processing_class=run.tokenizer,
        optimizers=(optimiser, sft_setup.make_scheduler(optimiser, run.schedule)),
    )
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses(ours) == pytest.approx(theirs, abs=FP32_LOSS)
    assert losses(ours)[-1] < losses(ours)[0]


@pytest.mark.parametrize("rank", [0, 4])
def test_bf16_is_near(tiny_checkpoint, chats, tmp_path, rank):
    """bfloat16 over float32 weights, or over frozen ones with float32 adapters."""
    short = {"steps": 2, "warmup_steps": 0, "lora_rank": rank}
    exact, near = (
        train_sft(settings(tiny_checkpoint(2), chats, tmp_path / name, precision=name, **short), progress=False)
        for name in ("fp32", "bf16")
    )
    assert losses(near) == pytest.approx(losses(exact), abs=BF16_LOSS)
    assert losses(near) != losses(exact)
    assert load_model(near.model).dtype == torch.float32, "the start's"


# ---------------------------------------------------------------------------------------------------------- metrics


def test_norms_of_groups_are_those_before_clipping(tiny_checkpoint, chats, tmp_path):
    model = tiny_checkpoint(2)
    whole, clipped = (
        next(
            r for r in one_step(model, chats, tmp_path / f"{bound}", clip_norm=bound)[0].records if r["kind"] == "step"
        )
        for bound in (0.0, 0.01)
    )
    assert set(whole["gradient_norms"]) == {"tables", "backbone", "head"}
    assert all(norm > 0 for norm in whole["gradient_norms"].values())
    assert clipped["gradient_norms"] == pytest.approx(whole["gradient_norms"], rel=FP32_GRADIENT_RELATIVE)
    for record in (whole, clipped):
        assert math.hypot(*record["gradient_norms"].values()) == pytest.approx(record["gradient_norm"], rel=1e-5)


@pytest.mark.parametrize("rank", [0, 4])
def test_speed_is_a_share_of_the_peak(tiny_checkpoint, chats, tmp_path, rank):
    """The head counts learned tokens only; frozen matrices cost their backward pass once."""
    model = tiny_checkpoint(4)
    result, _ = one_step(model, chats, tmp_path / "run", peak_tflops=0.5, lora_rank=rank)
    step = next(record for record in result.records if record["kind"] == "step")
    forward = forward_flops_per_token(load_config(model), 256)
    by_hand = (2 if rank else 3) * (forward.layers * step["tokens"] + forward.head * step["learned_tokens"])
    by_hand += 3 * forward.attention * step["tokens"]
    assert step["learned_tokens"] < step["tokens"]
    assert step["model_flops_per_second"] * step["seconds"] == pytest.approx(by_hand)
    assert step["mfu"] == pytest.approx(step["model_flops_per_second"] / 0.5e12)


@pytest.mark.parametrize("rank", [0, 4])
def test_evaluations_carry_the_cosine_of_streams(tiny_checkpoint, chats, tmp_path, rank):
    start = tiny_checkpoint(4)
    result, loaded = one_step(start, chats, tmp_path / "run", packing=False, lora_rank=rank)
    ids, model = torch.tensor([loaded.heldout[0].ids]), load_model(start)
    with torch.no_grad():
        states = model.model(input_ids=ids, return_streams=True, output_hidden_states=True, use_cache=False)
    found = result.records[1]["stream_cosine"]
    assert list(found) == ["input", "middle", "last"]
    for value, h_BPD in zip(found.values(), states.hidden_states, strict=False):
        by_token = h_BPD.reshape(ids.shape[1], 4, -1)
        pairs = [torch.cosine_similarity(token[k], token[3], dim=0) for token in by_token for k in range(3)]
        assert value == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-5)
    plain, _ = one_step(tiny_checkpoint(1), chats, tmp_path / "plain")
    assert plain.records[1]["stream_cosine"] is None


# ------------------------------------------------------------------------------------------------------------- LoRA


def test_adapters(tiny_checkpoint, chats, tmp_path):
    """Fresh adapters change nothing; trained ones are kept, and merged into the model."""
    model = tiny_checkpoint(2)
    full = train_sft(settings(model, chats, tmp_path / "full", steps=1, warmup_steps=0), progress=False)
    lora = train_sft(settings(model, chats, tmp_path / "lora", lora_rank=4, learning_rate=1e-2), progress=False)
    assert evaluations(lora)[0] == evaluations(full)[0], "adapters start at zero"
    assert losses(lora)[0] == losses(full)[0]
    assert evaluations(lora)[-1] < evaluations(lora)[0]
    assert lora.records[0]["trained_parameters"] < lora.records[0]["parameters"] / 4
    merged = load_model(lora.model)
    export_checkpoint(lora.adapter, tmp_path / "merged-again")
    again = load_model(tmp_path / "merged-again")
    before = load_model(model)
    for (name, weight), other, start in zip(
        merged.named_parameters(), again.parameters(), before.parameters(), strict=True
    ):
        assert torch.allclose(weight, other, atol=1e-6), name
        assert torch.equal(weight, start) == ("_proj" not in name), name
    start = brute_force_loss(
        lora.model, load_chats(lora_data(model, chats), load_tokenizer(model), progress=False).heldout
    )
    assert evaluations(lora)[-1] == pytest.approx(start, abs=FP32_LOSS), "the exported model is what was evaluated"


def lora_data(model, chats):
    return settings(model, chats, "unused").data


# ----------------------------------------------------------------------------------------------------------- control


def test_control_reads_the_same_samples_in_the_same_order(tiny_checkpoint, chats, tmp_path):
    config = settings(
        tiny_checkpoint(2), chats, tmp_path / "run", control=str(tiny_checkpoint(1)), epochs=2, steps=None
    )
    result = train_sft(config, progress=False)
    assert result.control is not None
    assert (result.streams, result.control.streams) == (2, 1)
    rows = [[r["rows_checksum"] for r in run.records if r["kind"] == "step"] for run in (result, result.control)]
    assert rows[0] == rows[1]
    assert len(set(rows[0])) == len(rows[0]) > 4, "and every step read other rows"
    alone = train_sft(settings(tiny_checkpoint(1), chats, tmp_path / "alone", epochs=2, steps=None), progress=False)
    assert losses(alone) == losses(result.control)
    assert load_config(result.control.model).num_streams == 1
    assert result.heldout_loss != result.control.heldout_loss


def test_control_must_have_one_stream_and_the_same_tokenizer(tiny_checkpoint, chats, tmp_path):
    two = str(tiny_checkpoint(2))
    with pytest.raises(ConfigError, match="n = 2 streams; give an n = 1"):
        train_sft(settings(two, chats, tmp_path / "run", control=two), progress=False)
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint(1), other)
    template = (other / "chat_template.jinja").read_text(encoding="utf-8")
    (other / "chat_template.jinja").write_text(template.replace("message.content", "' ' + message.content"))
    with pytest.raises(ConfigError, match="another tokenizer or chat template"):
        train_sft(settings(two, chats, tmp_path / "run", control=str(other)), progress=False)


# ------------------------------------------------------------------------------------------------ what is left out


def test_too_long_samples_are_counted_and_said(tiny_checkpoint, chats, tmp_path):
    result = train_sft(settings(tiny_checkpoint(1), chats, tmp_path / "run", tokens_per_sequence=100), progress=False)
    counts = result.chats
    assert counts["too_long"] > 0
    assert counts["samples"] + counts["too_long"] == counts["conversations"] == 24
    assert any(f"left out {counts['too_long']} sample(s) of more than 100 tokens" in line for line in result.remarks)
    config = settings(tiny_checkpoint(1), chats, tmp_path / "other", tokens_per_sequence=100, on_too_long="stop")
    with pytest.raises(ConfigError, match=r"chats.jsonl, line \d+: \d+ tokens, but a row holds 100"):
        train_sft(config, progress=False)
    with pytest.raises(ConfigError, match="no sample is left to train on: 24 conversation"):
        train_sft(settings(tiny_checkpoint(1), chats, tmp_path / "other", tokens_per_sequence=8), progress=False)


def test_broken_lines_stop_or_are_counted(tiny_checkpoint, chats, tmp_path):
    broken = tmp_path / "broken.jsonl"
    lines = chats.read_text(encoding="utf-8").splitlines()
    forged = json.dumps(
        {"messages": [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "x"}]}
    )
    broken.write_text("\n".join([*lines[:10], "{", forged]) + "\n", encoding="utf-8")
    model = tiny_checkpoint(1)
    with pytest.raises(ConfigError, match=r"broken.jsonl, line 11: is not JSON"):
        train_sft(settings(model, broken, tmp_path / "run"), progress=False)
    result = train_sft(
        settings(model, broken, tmp_path / "run", on_broken="skip", heldout_fraction=0.0), progress=False
    )
    assert result.chats["broken"] == 2
    assert result.heldout_loss is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sequences_per_step": 3, "sequences_per_pass": 2}, "make it a multiple of 2"),
        ({"tokens_per_sequence": 4096}, "8192 positions"),
        ({"heldout_fraction": 0.99}, "too few to set some aside"),
        ({"lora_rank": -1}, "lora_rank is -1"),
        ({"keep_checkpoints": 1}, "a whole number from 2"),
        ({"seed": -1}, "a whole number from 0"),
        ({"sequences_per_step": 0}, "a whole number from 1"),
        ({"final_fraction": 2.0}, "from 0 to 1"),
        ({"peak_tflops": 0.0}, "above 0"),
        ({"warmup_steps": 9}, "warmup_steps is 9"),
        ({"stop_at_step": 9}, "only 4 steps"),
        ({"stop_at_step": 2, "control": "x"}, "exclude each other"),
        ({"turns": "some"}, "one of all, each"),
    ],
)
def test_settings_that_cannot_work(tiny_checkpoint, chats, tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        train_sft(settings(tiny_checkpoint(2), chats, tmp_path / "run", **changes), progress=False)
    assert not (tmp_path / "run").exists()


def test_what_must_be_given(tiny_checkpoint, chats, tmp_path):
    for missing, words in {
        "out": "a directory for the run (--out)",
        "model": "a checkpoint directory or hub id (--model)",
        "data": "at least one file or directory (--data)",
    }.items():
        given = {"model": str(tiny_checkpoint(1)), "data": (str(chats),), "out": str(tmp_path / "run"), missing: ""}
        given["data"] = given["data"] or ()
        with pytest.raises(ConfigError, match=re.escape(words)):
            SftConfig.build(**given)


def test_the_result_ends_where_chats_end(tiny_checkpoint, chats, tmp_path):
    result = train_sft(settings(tiny_checkpoint(2), chats, tmp_path / "run", steps=1, warmup_steps=0), progress=False)
    generation = json.loads((result.model / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == [2, 0]
    assert list(itertools.islice(result.model.glob("*.py"), 1)), "the code for trust_remote_code goes along"

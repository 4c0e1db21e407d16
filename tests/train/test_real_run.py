"""The whole way once, on real text: a base, two streams, continued pretraining, fine-tuning on chats; what comes of it
is served over HTTP, chats in a terminal, and takes a step of DPO with TRL.

Text and chats are Python's own documentation, so that nothing has to be fetched: prose of the language reference, and
questions that docstrings answer. The bounds are the text's: bits per byte of a model that knows only how often each
token comes.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import pkgutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from hidden_decoding.demo.serving import served
from hidden_decoding.modeling.checkpoint import load_config, load_model, load_tokenizer
from hidden_decoding.train.config import CptConfig
from hidden_decoding.train.loop import train_cpt
from hidden_decoding.train.sft import train_sft
from hidden_decoding.train.sft_config import SftConfig
from hidden_decoding.train.tokenizer import END_OF_TEXT, standard_library_texts, train_tokenizer
from tests.train.support import evaluations

SHAPE = {
    "vocab_size": 768,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "eos_token_id": 0,
    "tie_word_embeddings": False,
}
TOKENS = 96

pytestmark = pytest.mark.slow


def questions() -> list[dict]:
    """Functions of the standard library, and the first line of what their source says about them."""
    chats = []
    for module in sorted(m.name for m in pkgutil.iter_modules([str(Path(inspect.__file__).parent)])):
        source = Path(inspect.__file__).with_name(f"{module}.py")
        if not source.is_file():
            continue
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            answer = (ast.get_docstring(node) or "").split("\n")[0] if isinstance(node, ast.FunctionDef) else ""
            if 10 < len(answer) < 70:
                ask = {"role": "user", "content": f"What does {node.name} of {module} do?"}
                chats.append({"messages": [ask, {"role": "assistant", "content": answer}]})
    return chats


class Run:
    """Everything that was trained, once for all tests of this file."""

    def __init__(self, folder: Path) -> None:
        texts = standard_library_texts(700_000)
        self.training, self.heldout = texts[20:], texts[:20]
        for name, part in (("text", self.training), ("heldout", self.heldout)):
            lines = "".join(json.dumps({"text": text}) + "\n" for text in part)
            (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        chats = questions()
        (folder / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
        started = time.monotonic()
        torch.manual_seed(0)
        Qwen3ForCausalLM(Qwen3Config(**SHAPE)).save_pretrained(folder / "base")
        self.tokenizer = train_tokenizer(self.training, SHAPE["vocab_size"])
        self.tokenizer.save_pretrained(folder / "base")
        shared = {"tokens_per_sequence": TOKENS, "sequences_per_step": 8, "device": "cpu", "weight_decay": 0.01}
        self.cpt = train_cpt(
            CptConfig.build(
                model=str(folder / "base"),
                streams=2,
                noise=0.1,
                data=(str(folder / "text.jsonl"),),
                heldout=(str(folder / "heldout.jsonl"),),
                out=str(folder / "cpt"),
                steps=160,
                warmup_steps=10,
                learning_rate=4e-3,
                evaluate_every=160,
                evaluate_tokens=12_000,
                **shared,
            ),
            progress=False,
        )
        self.sft = train_sft(
            SftConfig.build(
                model=str(self.cpt.model),
                data=(str(folder / "chats.jsonl"),),
                out=str(folder / "sft"),
                steps=60,
                warmup_steps=5,
                learning_rate=2e-3,
                evaluate_every=60,
                heldout_fraction=0.1,
                **shared,
            ),
            progress=False,
        )
        self.seconds = time.monotonic() - started


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("real"))


def unigram_bits_per_byte(tokenizer, training: list[str], heldout: list[str]) -> float:
    """Of the held-out text under the training text's token frequencies, each token counted once more."""
    counts = Counter(token for text in training for token in tokenizer(text + END_OF_TEXT)["input_ids"])
    total = sum(counts.values()) + len(tokenizer)
    bits = sum(
        -math.log2((counts[token] + 1) / total)
        for text in heldout
        for token in tokenizer(text + END_OF_TEXT)["input_ids"]
    )
    return bits / sum(len(text.encode()) for text in heldout)


def test_bits_per_byte_end_below_the_texts_own(run):
    start, end = (r["bits_per_byte"] for r in run.cpt.records if r["kind"] == "evaluation")
    unigram = unigram_bits_per_byte(run.tokenizer, run.training, run.heldout)
    print(
        f"bits per byte: start {start:.3f}, unigram {unigram:.3f}, end {end:.3f}; {run.seconds:.0f} s for all training"
    )
    assert load_config(run.cpt.model).num_streams == 2
    assert end < unigram - 0.1
    assert end < start


def test_fine_tuning_lowers_the_loss_on_other_chats(run):
    start, end = evaluations(run.sft)
    print(f"nats per assistant token: {start:.3f} -> {end:.3f}")
    assert end < start - 0.5
    assert run.sft.chats["heldout_samples"] >= 10


def test_the_model_serves_and_chats(run, tmp_path):
    """Over HTTP and in the terminal: answers end at the end of the turn, which is not shown."""
    with served(run.sft.model, tmp_path / "server.log") as url:
        finished = []
        for seed, name in enumerate(("walk of os", "copy of shutil", "join of shlex")):
            message = {"role": "user", "content": f"What does {name} do?"}
            body = {"messages": [message], "max_tokens": 150, "seed": seed, "temperature": 0.8}
            request = urllib.request.Request(
                f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=120) as answer:
                choice = json.load(answer)["choices"][0]
            finished.append(choice["finish_reason"])
            assert choice["message"]["content"].strip()
            assert "<|im" not in choice["message"]["content"]
        assert finished == ["stop"] * 3
        command = [sys.executable, "-m", "hidden_decoding.cli.main", "chat", "--base-url", f"{url}/v1", "-q"]
        typed = "/set max_tokens 150\nWhat does walk of os do?\n/quit\n"
        chat = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=120, check=False)
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout.strip()
    assert "<|im" not in chat.stdout


def test_generation_ends_with_the_turn(run):
    """In plain transformers: `generation_config.json` of the result names the end of a turn."""
    tokenizer, model = load_tokenizer(run.sft.model), load_model(run.sft.model)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What does walk of os do?"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    torch.manual_seed(0)
    answer = model.generate(ids, max_new_tokens=150, do_sample=True, temperature=0.8)[0, ids.shape[1] :].tolist()
    assert tokenizer.convert_ids_to_tokens(answer[-1]) == "<|im_end|>"
    assert len(answer) < 150


def preferences() -> list[dict]:
    """Pairs that differ: the right answer, and another question's."""
    chats = questions()[:40]
    return [
        {"prompt": chat["messages"][:1], "chosen": chat["messages"][1:], "rejected": other["messages"][1:]}
        for chat, other in zip(chats, [*chats[7:], *chats[:7]], strict=True)
    ]


def demo_preferences(path: Path) -> list[dict]:
    """The shortest real pairs of people's preferences."""
    roles = {"human": "user", "gpt": "assistant", "system": "system"}

    def turn(message):
        return {"role": roles[message["from"]], "content": message["value"]}

    pairs = json.loads(path.read_text(encoding="utf-8"))
    pairs.sort(key=lambda pair: len(json.dumps(pair)))
    return [
        {
            "prompt": [turn(message) for message in pair["conversations"]],
            "chosen": [turn(pair["chosen"])],
            "rejected": [turn(pair["rejected"])],
        }
        for pair in pairs[:12]
    ]


@pytest.mark.parametrize("kind", ["docstrings", "people"])
def test_the_result_takes_a_step_of_dpo(run, request, tmp_path, kind):
    """TRL's own trainer on the exported model; before the first step policy and reference agree: the loss is ln 2."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    pairs = (
        preferences()
        if kind == "docstrings"
        else demo_preferences(request.getfixturevalue("data_dir") / "sft" / "dpo_en_demo.json")
    )
    model = load_model(run.sft.model, dtype="float32")
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    arguments = DPOConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        max_length=192,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        gradient_checkpointing=False,
    )
    trainer = DPOTrainer(
        model=model,
        ref_model=load_model(run.sft.model, dtype="float32"),
        args=arguments,
        train_dataset=Dataset.from_list(pairs),
        processing_class=load_tokenizer(run.sft.model),
    )
    trainer.train()
    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert loss == pytest.approx(math.log(2), abs=1e-4)
    changed = {
        name for name, weight in model.named_parameters() if not torch.equal(weight.detach().cpu(), before[name])
    }
    assert {"model.embed_tokens.weight", "model.scale_seq_embed_tokens_list.0.weight", "lm_head.weight"} <= changed

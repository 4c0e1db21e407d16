"""Two whole suites, GSM8K and ARC-C, end to end on the local engine: what a run costs, and figures at chance level.

The model is small and untrained (n = 2, a vocabulary of 4,096, 8,192 tokens of context), so ARC-C must come out near a
quarter and GSM8K near zero: the record is of the machinery, not of a model. `--model` takes any other checkpoint.

    python benchmarks/evaluation.py --data DIR --out benchmarks/records/evaluation-cpu.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from hidden_decoding.bench.record import write_record
from hidden_decoding.cli.main import main as command
from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig
from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM
from hidden_decoding.train.tokenizer import standard_library_texts, train_tokenizer

SUITES = ("gsm8k", "arc_challenge")


def save_small_model(directory: Path) -> Path:
    """Random weights, n = 2."""
    import torch

    torch.manual_seed(0)
    config = Qwen3ScaleSeqConfig(
        scale_seq_times=1,
        vocab_size=4096,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=2 * 8192,
        eos_token_id=0,
        tie_word_embeddings=False,
        dtype="float32",
    )
    Qwen3ScaleSeqForCausalLM(config).save_pretrained(directory)
    train_tokenizer(standard_library_texts(limit_bytes=1_000_000), 4096).save_pretrained(directory)
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="directory with the data sets")
    parser.add_argument("--model", help="checkpoint (default: a small untrained one)")
    parser.add_argument("--limit", help="questions per suite, to try the script")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/evaluation-cpu.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or str(save_small_model(Path(folder) / "small-n2"))
        run = Path(folder) / "run"
        flags = [flag for suite in SUITES for flag in ("--suite", suite)]
        flags += ["--limit", args.limit] if args.limit else []
        started = time.perf_counter()
        code = command(["eval", "base", model, "--data", args.data, "--out", str(run), *flags])
        seconds = time.perf_counter() - started
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    write_record(args.out, {"exit_code": code, "seconds_in_all": round(seconds, 1), "report": report})


if __name__ == "__main__":
    main()

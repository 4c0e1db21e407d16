"""Two processes under torchrun fine-tune as one does: the same rows in each step, the same losses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml

from hidden_decoding.modeling.checkpoint import load_config
from hidden_decoding.train.metrics import read_metrics
from hidden_decoding.train.sft import train_sft
from tests.train.chats import settings, write_chats
from tests.train.support import losses
from tests.train.test_distributed import LOSS_TOLERANCE


def numbers(records: list[dict], kind: str, *names: str) -> list[float]:
    return [record[name] for record in records if record["kind"] == kind for name in names]


@pytest.mark.slow
def test_two_processes_equal_one(tiny_checkpoint, tmp_path):
    chats = write_chats(tmp_path / "chats.jsonl")
    one = train_sft(settings(tiny_checkpoint(2), chats, tmp_path / "one"), progress=False)
    sections = settings(tiny_checkpoint(2), chats, tmp_path / "two").as_dict()
    plain = {
        name: {key: list(value) if isinstance(value, tuple) else value for key, value in section.items()}
        for name, section in sections.items()
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    verb = ["-m", "hidden_decoding.cli.main", "train", "sft", "-q", "-c", str(tmp_path / "two.yaml")]
    done = subprocess.run(
        [*launch, *verb],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = read_metrics(tmp_path / "two" / "metrics.jsonl")
    assert two[0]["processes"] == 2
    assert numbers(two, "step", "loss") == pytest.approx(losses(one), abs=LOSS_TOLERANCE)
    for kind, name in (("step", "tokens"), ("step", "learned_tokens"), ("evaluation", "heldout_tokens")):
        assert numbers(two, kind, name) == numbers(one.records, kind, name), name
    held = numbers(two, "evaluation", "heldout_loss")
    assert held == pytest.approx(numbers(one.records, "evaluation", "heldout_loss"), abs=LOSS_TOLERANCE)
    assert done.stdout.count("held-out loss") == len(held), "one process speaks"
    assert load_config(tmp_path / "two" / "model").num_streams == 2

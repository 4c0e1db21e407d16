"""The generated Python beside exported weights: up to date, self-contained, the same model in plain transformers."""

import ast
import json
import os
import subprocess
import sys

import pytest
import torch

from hidden_decoding.modeling.checkpoint import load_model
from hidden_decoding.modeling.exporting import export_checkpoint
from hidden_decoding.modeling.remote_code import GENERATED
from hidden_decoding.modeling.remote_code_generator import PACKAGE, TARGET, Definition, generate, reachable
from tests.support import tiny_model

# Runs where `hidden_decoding` cannot be imported. For each exported directory: greedy tokens, logits, the classes'
# module, and a checkpoint saved from there.
CLEAN_PROCESS = """
import json, sys
sys.modules["hidden_decoding"] = None
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
report = []
for source, saved in json.loads(sys.argv[1]):
    model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=True).eval()
    ids = torch.tensor(json.loads(sys.argv[2]))
    tokens = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    logits = model(ids).logits
    model.save_pretrained(saved)
    report.append({
        "tokens": tokens[:, ids.shape[1]:].tolist(),
        "logits": logits.tolist(),
        "module": type(model).__module__,
        "streams": AutoConfig.from_pretrained(source, trust_remote_code=True).num_streams,
        "backbone": list(AutoModel.from_pretrained(source, trust_remote_code=True)(ids).last_hidden_state.shape),
    })
assert not [name for name in sys.modules if name.startswith("hidden_decoding.")]
print(json.dumps(report))
"""
PROMPTS = [[5, 17, 300, 42], [7, 8, 9, 10]]


def test_the_checked_in_files_are_what_the_sources_generate():
    for name, text in generate().items():
        assert (TARGET / name).read_text() == text, f"{name} is out of date; run: make remote-code"
    assert set(generate()) == set(GENERATED)


def test_generated_files_import_nothing_of_the_package():
    for text in generate().values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                assert not str(node.module).startswith(PACKAGE)
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith(PACKAGE) for alias in node.names)


def test_only_what_is_reached_is_carried_over():
    everything = {
        "leaf": Definition("", frozenset({"len"})),
        "branch": Definition("", frozenset({"leaf"})),
        "stray": Definition("", frozenset({"leaf"})),
        "root": Definition("", frozenset({"branch", "root"})),
    }
    assert list(reachable(["root"], everything)) == ["leaf", "branch", "root"]


def test_plain_transformers_runs_an_exported_checkpoint_without_the_package(tiny_checkpoint, tmp_path):
    cases = [
        (n, positions) for n in (1, 2, 4) for positions in ("contiguous", "linear") if n > 1 or positions != "linear"
    ]
    pairs = []
    for n, positions in cases:
        exported = tmp_path / f"exported-{n}-{positions}"
        export_checkpoint(tiny_checkpoint(n, positions), exported)
        pairs.append((str(exported), str(tmp_path / f"saved-{n}-{positions}")))
    env = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-I", "-c", CLEAN_PROCESS, json.dumps(pairs), json.dumps(PROMPTS)]
    done = subprocess.run(line, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    ids = torch.tensor(PROMPTS)
    for (n, positions), (_, saved), theirs in zip(cases, pairs, json.loads(done.stdout), strict=True):
        ours = tiny_model(n, positions)
        tokens = ours.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert theirs["tokens"] == tokens[:, ids.shape[1] :].tolist()
        with torch.no_grad():
            assert torch.equal(torch.tensor(theirs["logits"]), ours(ids).logits)
        assert theirs["module"].startswith("transformers_modules.")
        assert theirs["streams"] == n
        assert theirs["backbone"] == [2, 4, 64]
        again = load_model(saved)
        assert again.config.num_streams == n
        assert again.config.rope_parameters == ours.config.rope_parameters
        for name, weight in ours.state_dict().items():
            assert torch.equal(again.state_dict()[name], weight)


@pytest.mark.parametrize("name", GENERATED)
def test_generated_files_are_packaged(name):
    """setuptools takes every .py of a package; this holds that the folder is one."""
    assert (TARGET / "__init__.py").is_file()
    assert (TARGET / name).is_file()

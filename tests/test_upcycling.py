"""Upcycling: which table is copied where, bit for bit; what the configuration says then; that nothing half stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
from safetensors.torch import load_file

import hidden_decoding
from hidden_decoding.errors import CapacityError, CheckpointError, ConfigError
from hidden_decoding.modeling.checkpoint import load_config, load_model, verify_checkpoint
from hidden_decoding.upcycling import writing
from tests.support import LOGIT_TOLERANCE, BruteForce, save_tiny_checkpoint, tiny_model, tiny_tokenizer

IDS = [5, 77, 300, 9, 11, 450, 2, 64, 128, 31]


def weights(directory) -> dict[str, torch.Tensor]:
    merged: dict[str, torch.Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        merged |= load_file(path)
    return merged


def table_names(num_streams: int) -> list[str]:
    extra = [f"model.scale_seq_embed_tokens_list.{index}.weight" for index in range(num_streams - 1)]
    return ["model.embed_tokens.weight", *extra]


def tables(directory) -> list[torch.Tensor]:
    found = weights(directory)
    return [found[name] for name in table_names(sum("embed" in name for name in found))]


def edit_config(directory, **changes) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "REMOVED"}))


def base_copy(source, target):
    shutil.copytree(source, target)
    return target


# ------------------------------------------------------------------------------------------------------------ copies


@pytest.mark.parametrize(
    ("base_streams", "chain", "expected"),
    [
        (1, [2], [0, 0]),
        (1, [3], [0, 0, 0]),
        (1, [2, 4, 8], [0] * 8),
        (2, [4], [0, 1, 0, 1]),
        (2, [4, 8], [0, 1, 0, 1, 0, 1, 0, 1]),
        (2, [6], [0, 1, 0, 1, 0, 1]),
        (3, [6], [0, 1, 2, 0, 1, 2]),
    ],
)
def test_tables_are_copied_in_cyclic_order_and_all_else_is_untouched(
    tiny_checkpoint, tmp_path, base_streams, chain, expected
):
    base = tiny_checkpoint(base_streams)
    current = base
    for streams in chain:
        current = hidden_decoding.upcycle(current, streams, tmp_path / f"n{streams}")
    source, result = tables(base), tables(current)
    assert len(result) == chain[-1]
    assert all(torch.equal(table, source[origin]) for table, origin in zip(result, expected, strict=True))
    assert all(not torch.equal(source[a], source[b]) for a in range(base_streams) for b in range(a)), "control"
    before, after = weights(base), weights(current)
    assert after.keys() == (before.keys() | set(table_names(chain[-1])))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("scheme", ["linear", "contiguous"])
def test_the_result_loads_strictly_and_equals_brute_force(tiny_checkpoint, tmp_path, scheme):
    out = hidden_decoding.upcycle(tiny_checkpoint(2), 4, tmp_path / "n4", positions=scheme, noise=0.1)
    model = hidden_decoding.Qwen3ScaleSeqForCausalLM.from_pretrained(out).eval()
    assert model.config.num_streams == 4
    with torch.no_grad():
        logits = model(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(logits, BruteForce(model).logits(IDS), atol=LOGIT_TOLERANCE, rtol=0)
    torch.testing.assert_close(load_model(out)(torch.tensor([IDS])).logits[0], logits)


def test_a_tied_head_is_untied(tmp_path):
    base = save_tiny_checkpoint(tmp_path / "base", 1, tie_word_embeddings=True)
    assert "lm_head.weight" not in weights(base)
    out = hidden_decoding.upcycle(base, 2, tmp_path / "out")
    assert torch.equal(weights(out)["lm_head.weight"], weights(base)["model.embed_tokens.weight"])
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    model = load_model(out)
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    with torch.no_grad():
        logits = model(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(logits, BruteForce(model).logits(IDS), atol=LOGIT_TOLERANCE, rtol=0)


def test_a_tied_base_that_stores_another_head_keeps_what_the_model_reads(tmp_path):
    """transformers ignores `lm_head.weight` of a tied checkpoint; so must the copy."""
    base = save_tiny_checkpoint(tmp_path / "base", 1)
    edit_config(base, tie_word_embeddings=True)
    assert not torch.equal(weights(base)["lm_head.weight"], weights(base)["model.embed_tokens.weight"])
    out = hidden_decoding.upcycle(base, 2, tmp_path / "out")
    assert torch.equal(weights(out)["lm_head.weight"], weights(base)["model.embed_tokens.weight"])


@pytest.mark.parametrize("source_shards", ["10GB", "300KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sharding_of_source_and_result_changes_no_byte(tmp_path, dtype, source_shards):
    tiny_model(1).to(dtype).save_pretrained(tmp_path / "base", max_shard_size=source_shards)
    assert (len(list((tmp_path / "base").glob("*.safetensors"))) > 1) == (source_shards == "300KB")
    limit = 200_000
    whole = weights(hidden_decoding.upcycle(tmp_path / "base", 4, tmp_path / "whole"))
    sharded = hidden_decoding.upcycle(tmp_path / "base", 4, tmp_path / "sharded", max_shard_size=limit)
    verify_checkpoint(sharded, load_config(sharded))
    files = list(sharded.glob("*.safetensors"))
    assert len(files) > 2
    assert all(path.stat().st_size <= limit + 10_000 for path in files), "data up to the limit, and the header"
    assert weights(sharded).keys() == whole.keys()
    for name, tensor in weights(sharded).items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, whole[name])
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in whole.values())
    assert load_config(sharded).dtype == dtype


# ------------------------------------------------------------------------------------------------------ configuration


def config_facts(directory) -> tuple:
    config = json.loads((directory / "config.json").read_text())
    rope = config["rope_parameters"]
    loaded = load_config(directory)
    return (
        config["scale_seq_times"],
        rope["rope_type"],
        rope.get("factor"),
        config["max_position_embeddings"],
        loaded.max_tokens,
    )


def test_positions_of_a_chain_of_linear_upcyclings(tiny_checkpoint, tmp_path):
    base = tiny_checkpoint(1)  # 256 positions
    two = hidden_decoding.upcycle(base, 2, tmp_path / "n2")
    assert config_facts(two) == (1, "linear", 2.0, 512, 256)
    four = hidden_decoding.upcycle(two, 4, tmp_path / "n4")
    assert config_facts(four) == (3, "linear", 4.0, 1024, 256)
    direct = hidden_decoding.upcycle(base, 4, tmp_path / "direct")
    assert (four / "config.json").read_text() == (direct / "config.json").read_text()


def test_positions_of_a_chain_of_contiguous_upcyclings(tiny_checkpoint, tmp_path):
    two = hidden_decoding.upcycle(tiny_checkpoint(1), 2, tmp_path / "n2", positions="contiguous")
    assert config_facts(two) == (1, "default", None, 256, 128)
    assert config_facts(hidden_decoding.upcycle(two, 8, tmp_path / "n8")) == (7, "default", None, 256, 32)


def test_the_scheme_can_be_changed_when_told(tiny_checkpoint, tmp_path):
    linear, contiguous = tiny_checkpoint(2, "linear"), tiny_checkpoint(2)  # both 512 positions
    out = hidden_decoding.upcycle(linear, 4, tmp_path / "a", positions="contiguous")
    assert config_facts(out) == (3, "linear", 2.0, 512, 128)
    out = hidden_decoding.upcycle(contiguous, 4, tmp_path / "b", positions="linear")
    assert config_facts(out) == (3, "linear", 2.0, 1024, 256)


def test_a_linear_factor_of_the_base_is_multiplied(tmp_path, tiny_checkpoint):
    base = base_copy(tiny_checkpoint(1), tmp_path / "base")
    edit_config(base, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0})
    assert config_facts(hidden_decoding.upcycle(base, 4, tmp_path / "out"))[1:4] == ("linear", 8.0, 1024)


def test_linear_is_refused_on_other_rope_types_and_contiguous_is_not(tmp_path, tiny_checkpoint):
    base = base_copy(tiny_checkpoint(1), tmp_path / "base")
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 100.0}
    edit_config(base, rope_parameters=yarn)
    with pytest.raises(ConfigError, match=r"'yarn'.*--positions contiguous"):
        hidden_decoding.upcycle(base, 2, tmp_path / "out")
    out = hidden_decoding.upcycle(base, 2, tmp_path / "out", positions="contiguous")
    assert json.loads((out / "config.json").read_text())["rope_parameters"] == yarn


def test_the_published_format_keeps_unknown_keys_and_drops_stale_ones(tmp_path, tiny_checkpoint):
    base = base_copy(tiny_checkpoint(1), tmp_path / "base")
    edit_config(
        base,
        model_type="qwen3",
        architectures=["Qwen3ForCausalLM"],
        auto_map={"AutoConfig": "configuration_something.Else"},
        rope_parameters="REMOVED",
        scale_seq_times="REMOVED",
        dtype="REMOVED",
        rope_theta=50_000.0,
        rope_scaling={"type": "linear", "factor": 2.0},
        torch_dtype="float32",
        our_own_note={"kept": True},
    )
    config = json.loads((hidden_decoding.upcycle(base, 2, tmp_path / "out") / "config.json").read_text())
    assert config["model_type"] == "qwen3_scale_seq"
    assert config["architectures"] == ["Qwen3ScaleSeqForCausalLM"]
    assert config["auto_map"]["AutoConfig"] == "configuration_qwen3_scale_seq.Qwen3ScaleSeqConfig"
    assert config["rope_parameters"] == {"rope_type": "linear", "factor": 4.0, "rope_theta": 50_000.0}
    assert config["dtype"] == "float32"
    assert config["our_own_note"] == {"kept": True}
    assert not {"rope_scaling", "torch_dtype", "_name_or_path"} & config.keys()


def test_small_files_go_along_and_nothing_else(tmp_path, tiny_checkpoint):
    base = base_copy(tiny_checkpoint(1), tmp_path / "base")
    (base / "LICENSE").write_text("the base's terms")
    (base / "README.md").write_text("the base's card")
    (base / "pytorch_model.bin").write_bytes(b"not weights we read")
    (base / "modeling_evil.py").write_text("raise SystemExit('executed')")
    out = hidden_decoding.upcycle(base, 2, tmp_path / "out", noise=0.05, seed=3)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "LICENSE"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    code = {"configuration_qwen3_scale_seq.py", "modeling_qwen3_scale_seq.py"}
    expected = {path.name for path in base.iterdir()} - {"pytorch_model.bin", "modeling_evil.py"} | code
    assert {path.name for path in out.iterdir()} == expected
    text = "Hidden streams, 数字 42"
    tokenizer = hidden_decoding.modeling.checkpoint.load_tokenizer(out)
    assert tokenizer(text).input_ids == tiny_tokenizer()(text).input_ids
    card = (out / "README.md").read_text()
    for said in (
        "base_model: base\n",
        "n = 2 streams",
        "256 tokens = 512 positions",
        "seed 3",
        "upcycle base --streams 2 --out out --positions linear --noise 0.05 --seed 3\n",
        "linear: RoPE positions divided by 2",
    ):
        assert said in card
    assert str(tmp_path) not in card, "a card must not carry this machine's paths"


def test_it_loads_in_plain_transformers(tmp_path, tiny_checkpoint):
    """In a process of its own, where nothing has registered our classes."""
    out = hidden_decoding.upcycle(tiny_checkpoint(1), 2, tmp_path / "out", noise=0.1)
    code = (
        "import sys, torch, transformers;"
        f"m = transformers.AutoModelForCausalLM.from_pretrained({str(out)!r}, trust_remote_code=True).eval();"
        "assert 'hidden_decoding' not in sys.modules;"
        f"print(m(torch.tensor([{IDS}])).logits[0].argmax(-1).tolist())"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout) == load_model(out)(torch.tensor([IDS])).logits[0].argmax(-1).tolist()


# -------------------------------------------------------------------------------------------------------------- noise


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory):
    """More rows than one block of noise, and two tables of different spread."""
    model = tiny_model(2, vocab_size=2500)
    with torch.no_grad():
        model.model.scale_seq_embed_tokens_list[0].weight.mul_(3).add_(1)
    directory = tmp_path_factory.mktemp("wide")
    model.save_pretrained(directory)
    return directory


def added(base, out) -> list[torch.Tensor]:
    """Noise on each table of the result."""
    source = tables(base)
    return [table.double() - source[i % len(source)].double() for i, table in enumerate(tables(out))]


def test_noise_has_the_size_that_was_asked_and_only_copies_get_it(wide_base, tmp_path):
    noise = added(wide_base, hidden_decoding.upcycle(wide_base, 6, tmp_path / "out", noise=0.1))
    assert not noise[0].any()
    assert not noise[1].any()
    for stream in range(2, 6):
        expected = 0.1 * tables(wide_base)[stream % 2].double().std()
        assert abs(noise[stream].std() / expected - 1) < 0.01  # 160,000 values: one standard error is 0.2%
        assert abs(noise[stream].mean() / expected) < 0.01
        assert abs((noise[stream].abs() < expected).double().mean() - 0.6827) < 0.01, "normally distributed"
    units = [tensor / tensor.std() for tensor in noise[2:]]
    for first, one in enumerate(units):
        for other in units[:first]:
            assert abs((one * other).mean()) < 0.02, "streams must not share their noise"
    assert abs((units[0][:1024] * units[0][1024:2048]).mean()) < 0.03, "blocks must not share their noise"


def test_noise_depends_on_seed_and_stream_alone(wide_base, tmp_path):
    first = hidden_decoding.upcycle(wide_base, 4, tmp_path / "a", noise=0.1, seed=5)
    again = hidden_decoding.upcycle(wide_base, 4, tmp_path / "b", noise=0.1, seed=5, max_shard_size="700KB")
    other = hidden_decoding.upcycle(wide_base, 4, tmp_path / "c", noise=0.1, seed=6)
    larger = hidden_decoding.upcycle(wide_base, 6, tmp_path / "d", noise=0.1, seed=5)
    assert len(list(again.glob("*.safetensors"))) > 1
    assert all(torch.equal(a, b) for a, b in zip(tables(first), tables(again), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tables(first), tables(larger)[:4], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(tables(first)[2:], tables(other)[2:], strict=True))


def test_noise_on_bfloat16_tables_is_added_in_float32(tmp_path):
    tiny_model(1).bfloat16().save_pretrained(tmp_path / "half")
    tiny_model(1).bfloat16().float().save_pretrained(tmp_path / "full")
    half = tables(hidden_decoding.upcycle(tmp_path / "half", 2, tmp_path / "a", noise=0.1))
    full = tables(hidden_decoding.upcycle(tmp_path / "full", 2, tmp_path / "b", noise=0.1))
    assert half[1].dtype == torch.bfloat16
    assert torch.equal(half[1], full[1].bfloat16())
    assert not torch.equal(half[1], half[0])


# ------------------------------------------------------------------------------------------ refusals and interruptions


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"streams": 2}, "has that many already"),
        ({"streams": 1}, "has 2: tables are copied whole.*like 4, 8, 16"),
        ({"streams": 3}, "has 2: tables are copied whole.*like 4, 8, 16"),
        ({"streams": 0}, "--streams is 0"),
        ({"streams": -2}, "--streams is -2"),
        ({"streams": 4, "positions": "spiral"}, "'spiral'"),
        ({"streams": 4, "noise": -0.1}, "--noise is -0.1"),
        ({"streams": 4, "noise": float("nan")}, "--noise is nan"),
        ({"streams": 4, "max_shard_size": "big"}, "'big' is not a size"),
    ],
)
def test_arguments_that_cannot_work(tiny_checkpoint, tmp_path, arguments, said):
    with pytest.raises(ConfigError, match=said):
        hidden_decoding.upcycle(tiny_checkpoint(2), out=tmp_path / "out", **arguments)
    assert list(tmp_path.iterdir()) == []


def damage_truncated(base) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def damage_missing_tensor(base) -> None:
    from safetensors.torch import save_file

    kept = weights(base)
    del kept["model.layers.1.mlp.up_proj.weight"]
    save_file(kept, base / "model.safetensors", {"format": "pt"})


DAMAGES = {
    "truncated": (damage_truncated, "truncated"),
    "missing tensor": (damage_missing_tensor, "model.layers.1.mlp.up_proj.weight"),
    "no weights": (lambda base: (base / "model.safetensors").unlink(), "neither model.safetensors nor"),
    "no config": (lambda base: (base / "config.json").unlink(), "config.json does not exist"),
    "claims streams": (lambda base: edit_config(base, scale_seq_times=1), "scale_seq_embed_tokens_list.0.weight"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_broken_base_is_refused_before_anything_is_written(tiny_checkpoint, tmp_path, kind):
    base = base_copy(tiny_checkpoint(1), tmp_path / "base")
    damage, said = DAMAGES[kind]
    damage(base)
    with pytest.raises(CheckpointError, match=said):
        hidden_decoding.upcycle(base, 4, tmp_path / "out" / "n4")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_full_disk_is_noticed_before_anything_is_written(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(10**6))
    with pytest.raises(CapacityError, match="are free"):
        hidden_decoding.upcycle(tiny_checkpoint(1), 2, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_result_is_replaced_only_when_told(tiny_checkpoint, tmp_path):
    out = hidden_decoding.upcycle(tiny_checkpoint(1), 4, tmp_path / "out", max_shard_size="100KB")
    with pytest.raises(ConfigError, match="--overwrite"):
        hidden_decoding.upcycle(tiny_checkpoint(1), 2, out)
    assert len(tables(out)) == 4
    hidden_decoding.upcycle(tiny_checkpoint(1), 2, out, overwrite=True)
    assert len(tables(out)) == 2
    assert not (out / "model.safetensors.index.json").exists(), "no shard or index of the old one may stay"


@pytest.mark.parametrize("error", [KeyboardInterrupt, CheckpointError])
def test_an_interrupted_run_leaves_nothing(tiny_checkpoint, tmp_path, monkeypatch, error):
    def interrupt(*_):
        raise error("stop")

    monkeypatch.setattr(writing, "copy_companions", interrupt)
    with pytest.raises(error):
        hidden_decoding.upcycle(tiny_checkpoint(1), 2, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


KILLED_HALFWAY = """
import os, signal, sys
import hidden_decoding
from hidden_decoding.upcycling import writing

def killed(path, entry, chunks=writing.tensor_chunks):
    if entry.shape == (64,):  # a norm: some tensors are written, some are not
        os.kill(os.getpid(), signal.SIGKILL)
    return chunks(path, entry)

writing.tensor_chunks = killed
hidden_decoding.upcycle(sys.argv[1], 2, sys.argv[2])
"""


def test_kill_9_leaves_nothing_that_looks_whole_and_the_next_run_succeeds(tiny_checkpoint, tmp_path):
    base, out = tiny_checkpoint(1), tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED_HALFWAY, str(base), str(out)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.partial-")
    assert any(path.stat().st_size for path in left.iterdir()), "it must have been killed while it wrote"
    with pytest.raises(CheckpointError):
        load_model(left)
    hidden_decoding.upcycle(base, 2, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    verify_checkpoint(out, load_config(out))

"""The result of a run, in the published format: weights, configuration, tokenizer, and the Python for
`trust_remote_code`.

Contract: called by all processes; the first writes. The directory appears whole or not at all, and loads in this
package, in the engines and in plain transformers. Weights are cast to the dtype the run's settings name; everything
that is not weights is the starting checkpoint's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from hidden_decoding.modeling.checkpoint import torch_dtype, verify_checkpoint
from hidden_decoding.modeling.companion_files import copy_companions
from hidden_decoding.modeling.config_file import CONFIG_FILE, load_config, published_config_dict
from hidden_decoding.modeling.export_config import ExportConfig
from hidden_decoding.modeling.remote_code import write_remote_code
from hidden_decoding.modeling.safetensors_file import DTYPES, TensorSpec, write_tensors
from hidden_decoding.modeling.staged_directory import staged_directory
from hidden_decoding.train.config import CptConfig
from hidden_decoding.train.loss import CausalLoss
from hidden_decoding.train.parallelize import World
from hidden_decoding.train.prepare import Prepared


def export_model(module: CausalLoss, prepared: Prepared, config: CptConfig, world: World) -> Path:
    """Gathers the weights and writes `OUT/model`; returns that directory."""
    out = Path(config.run.out) / "model"
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(module.model, options=options)
    if world.first:
        write_model(out, weights, prepared.directory, config.run.export_dtype)
    world.wait()
    return out


def write_model(
    out: Path,
    weights: dict[str, torch.Tensor],
    start: Path,
    export_dtype: str,
    *,
    generation: dict[str, Any] | None = None,
) -> None:
    """Writes `weights` as the directory `out`; all else, and the dtype `source`, is the starting checkpoint's.

    `generation` goes over the start's `generation_config.json`.
    """
    with staged_directory(out, overwrite=False) as partial:
        _write(partial, weights, start, _export_dtype(start, export_dtype))
        if generation:
            path = partial / "generation_config.json"
            before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            path.write_text(json.dumps({**before, **generation}, indent=2) + "\n", encoding="utf-8")


def _export_dtype(start: Path, name: str) -> torch.dtype:
    config = load_config(start)
    if name != "source":
        return torch_dtype(name, config)
    return torch_dtype("auto", config, verify_checkpoint(start, config))


def _write(directory: Path, weights: dict[str, torch.Tensor], start: Path, dtype: torch.dtype) -> None:
    model_config = load_config(start)
    model_config.dtype = dtype
    if model_config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    code = next(code for code, (_, name) in DTYPES.items() if name == str(dtype).removeprefix("torch."))
    write_tensors(
        directory,
        {name: TensorSpec(code, tuple(weight.shape)) for name, weight in weights.items()},
        lambda name: [weights[name].to(dtype).contiguous().flatten().view(torch.uint8).numpy().data],
        max_shard_bytes=ExportConfig().max_shard_bytes,
    )
    copy_companions(start, directory)
    write_remote_code(directory)
    text = json.dumps(published_config_dict(model_config), indent=2) + "\n"
    (directory / CONFIG_FILE).write_text(text, encoding="utf-8")

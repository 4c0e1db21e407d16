"""Writes a checkpoint in the published format: weights, `config.json`, Python for `trust_remote_code`, tokenizer.

Contract: the source is verified first; weights go through tensor by tensor in one small buffer, so memory does not grow
with the model; the target appears whole or not at all. A LoRA adapter directory is merged into its base on the way
(this alone loads the model). Verb `export`; loads nothing of training or engines.

    >>> export_checkpoint("path/to/checkpoint", "path/to/published")
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from hidden_decoding.errors import CheckpointError, ConfigError, DependencyError
from hidden_decoding.modeling.checkpoint import ADAPTER_FILE, load_model, torch_dtype, verify_checkpoint
from hidden_decoding.modeling.companion_files import copy_companions
from hidden_decoding.modeling.config_file import CONFIG_FILE, load_config, published_config_dict, read_json
from hidden_decoding.modeling.export_config import ExportConfig
from hidden_decoding.modeling.hub import resolve_model
from hidden_decoding.modeling.remote_code import write_remote_code
from hidden_decoding.modeling.safetensors_file import DTYPES, TensorEntry, TensorSpec, tensor_chunks, write_tensors
from hidden_decoding.modeling.staged_directory import check_space, check_target, staged_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig

SMALL_FILES_BYTES = 64 * 2**20  # room for everything that is not weights


@dataclass(frozen=True, kw_only=True)
class Export:
    """What will be written: configuration, tensors, where their bytes come from, and whose small files go along."""

    config: Qwen3ScaleSeqConfig
    tensors: dict[str, TensorSpec]
    chunks_of: Callable[[str], Iterable[Any]]
    companions: list[Path]

    @property
    def total_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(spec.nbytes for spec in self.tensors.values())


def export_checkpoint(
    model: str | Path,
    out: str | Path,
    settings: ExportConfig | None = None,
    *,
    revision: str | None = None,
    progress: bool = False,
) -> Export:
    """Exports `model` (a directory, a hub id, or a LoRA adapter directory) to the directory `out`."""
    settings, out = settings or ExportConfig(), Path(out)
    check_target(out, overwrite=settings.overwrite)  # before anything is fetched
    directory = resolve_model(model, revision)
    adapted = (directory / ADAPTER_FILE).is_file()
    export = merged_adapter(directory, settings) if adapted else stored_weights(directory, settings)
    with staged_directory(out, overwrite=settings.overwrite, source=directory) as partial:
        check_space(partial, export.total_bytes + SMALL_FILES_BYTES)
        bar = tqdm(
            total=export.total_bytes,
            unit="B",
            unit_scale=True,
            desc="export",
            file=sys.stderr,
            disable=None if progress else True,  # None: off unless it is a terminal
        )
        with bar:
            write_tensors(
                partial,
                export.tensors,
                export.chunks_of,
                max_shard_bytes=settings.max_shard_bytes,
                on_bytes=bar.update,
            )
        for source in export.companions:
            copy_companions(source, partial)
        write_remote_code(partial)
        text = json.dumps(published_config_dict(export.config), indent=2) + "\n"
        (partial / CONFIG_FILE).write_text(text, encoding="utf-8")
    return export


def stored_weights(directory: Path, settings: ExportConfig) -> Export:
    """The export of a checkpoint directory; its weights stay in their files until they are written."""
    config = load_config(directory)
    found = verify_checkpoint(directory, config)
    wanted = None if settings.dtype == "auto" else settings.dtype
    config.dtype = torch_dtype(settings.dtype, config, found)
    code = next((code for code, (_, name) in DTYPES.items() if name == wanted), None)

    def chunks_of(name: str) -> Iterable[Any]:
        path, entry = found[name]
        if code is None or code == entry.dtype:
            return tensor_chunks(path, entry)
        return converted_chunks(name, path, entry, torch_dtype(settings.dtype, config))

    return Export(
        config=config,
        tensors={name: TensorSpec(code or entry.dtype, entry.shape) for name, (_, entry) in found.items()},
        chunks_of=chunks_of,
        companions=[directory],
    )


def converted_chunks(name: str, path: Path, entry: TensorEntry, dtype: torch.dtype) -> Iterator[Any]:
    """A tensor's bytes in another dtype; a finite value that the other dtype cannot hold is a `ConfigError`."""
    source = getattr(torch, DTYPES[entry.dtype][1])
    for chunk in tensor_chunks(path, entry):
        values = torch.frombuffer(chunk, dtype=source)
        converted = values.to(dtype)
        if bool((converted.isinf() & ~values.isinf()).any()):
            raise ConfigError(f"{path}: {name} holds values too large for {dtype}; export with --dtype bfloat16")
        yield converted.view(torch.uint8).numpy()


def merged_adapter(directory: Path, settings: ExportConfig) -> Export:
    """The export of a LoRA adapter: its base, loaded whole, with the adapter added to the weights."""
    described = read_json(directory / ADAPTER_FILE)
    base_name = described.get("base_model_name_or_path")
    if not base_name:
        raise CheckpointError(
            f"{directory / ADAPTER_FILE}: base_model_name_or_path is empty; write the base's path there"
        )
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise DependencyError(
            f"{directory} is a LoRA adapter, and merging it needs peft, which is not installed; run: "
            'pip install "hidden-decoding[train]"'
        ) from error
    base_directory = resolve_model(base_name, described.get("revision"))
    config = load_config(base_directory)
    model = load_model(base_directory)
    merged = peft.PeftModel.from_pretrained(model, str(directory)).merge_and_unload()
    config.dtype = torch_dtype(settings.dtype, config) if settings.dtype != "auto" else model.dtype
    weights = {name: weight.to(config.dtype).contiguous() for name, weight in merged.state_dict().items()}
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    code = next(code for code, (_, name) in DTYPES.items() if name == str(config.dtype).removeprefix("torch."))
    return Export(
        config=config,
        tensors={name: TensorSpec(code, tuple(weight.shape)) for name, weight in weights.items()},
        chunks_of=lambda name: [weights[name].view(torch.uint8).numpy()],
        companions=[base_directory, directory],
    )

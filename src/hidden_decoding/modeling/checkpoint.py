"""Strict loading: the weights in a directory must be exactly what its `config.json` says.

Contract: a missing, extra, wrongly shaped or twice stored tensor, a missing shard and a broken file are each a
`CheckpointError` that names them and the next command, found from headers before any weight is read. Models load
through our class only; Python files beside the weights are never run. After `hub` and `config_file`, before engines
and training.

    >>> model = load_model("path/to/checkpoint")
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from hidden_decoding.errors import CheckpointError, ConfigError
from hidden_decoding.modeling.config_file import load_config, published_config_dict, read_json
from hidden_decoding.modeling.hub import resolve_model
from hidden_decoding.modeling.model import EXTRA_TABLES, Qwen3ScaleSeqForCausalLM
from hidden_decoding.modeling.safetensors_file import DTYPES, INDEX_FILE, SINGLE_FILE, TensorEntry, read_header
from hidden_decoding.streams import streams_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig

__all__ = [
    "TensorIndex",
    "compare_tensors",
    "expected_tensors",
    "load_config",
    "load_model",
    "load_tokenizer",
    "published_config_dict",
    "resolve_model",
    "tensor_index",
    "torch_dtype",
    "verify_checkpoint",
    "weights_are_here",
]

TensorIndex = dict[str, tuple[Path, TensorEntry]]

ADAPTER_FILE = "adapter_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json")
# Names as engines' --dtype has them; "auto" is the checkpoint's own.
DTYPE_NAMES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "half": torch.float16,
    "float": torch.float32,
}
WEIGHT_DTYPES = ("BF16", "F16", "F32", "F64")  # as safetensors names them
_TABLE_NAME = re.compile(re.escape(EXTRA_TABLES) + r"\.(\d+)\.weight")


# ------------------------------------------------------------------------------------------------ what the files hold


def tensor_index(directory: str | Path) -> TensorIndex:
    """Tensor name -> (file, where its bytes lie), from `model.safetensors` or the shards its index names."""
    directory = Path(directory)
    index_path, single_path = directory / INDEX_FILE, directory / SINGLE_FILE
    if index_path.is_file():
        return _sharded(directory, _weight_map(index_path))
    if single_path.is_file():
        return {name: (single_path, entry) for name, entry in read_header(single_path).items()}
    others = sorted(path.name for pattern in ("*.safetensors", "*.bin", "*.gguf") for path in directory.glob(pattern))
    held = f"it holds {', '.join(others[:4])}" if others else "it holds no weights"
    raise CheckpointError(
        f"{directory}: neither {SINGLE_FILE} nor {INDEX_FILE} is there ({held}); fetch the complete checkpoint: only "
        "safetensors files are read"
    )


def weights_are_here(directory: Path) -> bool:
    """Whether every weight file the checkpoint names exists; False for a snapshot of the small files only."""
    index_path = directory / INDEX_FILE
    if index_path.is_file():
        return all((directory / name).is_file() for name in _weight_map(index_path).values())
    return (directory / SINGLE_FILE).is_file()


def _weight_map(index_path: Path) -> dict[str, str]:
    weight_map = read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index_path}: weight_map is not an object of file names; fetch the file again")
    for file_name in set(weight_map.values()):
        if Path(file_name).name != file_name or not file_name.endswith(".safetensors"):
            raise CheckpointError(f"{index_path}: {file_name!r} is not the name of a safetensors file beside it")
    return weight_map


def _sharded(directory: Path, weight_map: dict[str, str]) -> TensorIndex:
    shards = sorted(set(weight_map.values()))
    absent = [name for name in shards if not (directory / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{directory}: {INDEX_FILE} names {len(shards)} shards, but {len(absent)} of them are missing: "
            f"{_some(absent)}; fetch the missing files"
        )
    found: TensorIndex = {}
    for shard in shards:
        path = directory / shard
        for name, entry in read_header(path).items():
            if name in found:
                raise CheckpointError(f"{directory}: {name} is stored twice, in {found[name][0].name} and in {shard}")
            found[name] = (path, entry)
    lost = [name for name, shard in weight_map.items() if name not in found or found[name][0].name != shard]
    if lost:
        raise CheckpointError(
            f"{directory}: {INDEX_FILE} promises tensors that are not in the shards it names: {_some(lost)}; the index "
            "and the shards are of different versions: fetch them again"
        )
    if stray := [name for name in found if name not in weight_map]:
        raise CheckpointError(
            f"{directory}: the shards hold tensors that {INDEX_FILE} does not name: {_some(stray)}; the index and the "
            "shards are of different versions: fetch them again"
        )
    return found


def _some(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


# ----------------------------------------------------------------------------------------------- what must be there


def expected_tensors(config: Qwen3ScaleSeqConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the model, taken from the model itself without memory for its weights."""
    try:
        with torch.device("meta"):
            model = Qwen3ScaleSeqForCausalLM(config)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"config.json describes a model that cannot be built: {reason}; correct the file") from error
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


@dataclass(frozen=True, kw_only=True)
class Differences:
    """How the tensors of a checkpoint differ from what its configuration asks for."""

    missing: list[str]
    unexpected: list[str]
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]  # name -> (shape in the file, shape expected)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)


def compare_tensors(found: TensorIndex, config: Qwen3ScaleSeqConfig) -> Differences:
    """What is missing, left over or wrongly shaped. With tied embeddings `lm_head.weight` may be there or not."""
    expected = expected_tensors(config)
    optional = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return Differences(
        missing=[name for name in expected if name not in found and name not in optional],
        unexpected=sorted(name for name in found if name not in expected),
        misshapen={
            name: (found[name][1].shape, shape)
            for name, shape in expected.items()
            if name in found and found[name][1].shape != shape
        },
    )


def verify_checkpoint(directory: str | Path, config: Qwen3ScaleSeqConfig) -> TensorIndex:
    """The checkpoint's tensors, or `CheckpointError` unless they are exactly those of `config`."""
    if getattr(config, "quantization_config", None) is not None:
        raise CheckpointError(
            f"{directory}: config.json has a quantization_config, and quantised weights are not read here; give the "
            "unquantised checkpoint"
        )
    found = tensor_index(directory)
    if foreign := [f"{name} ({entry.dtype})" for name, (_, entry) in found.items() if entry.dtype not in WEIGHT_DTYPES]:
        raise CheckpointError(
            f"{directory}: weights stored as {', '.join(WEIGHT_DTYPES)} are read, but not {_some(foreign)}; give the "
            "unquantised checkpoint"
        )
    if differences := compare_tensors(found, config):
        raise CheckpointError(f"{directory}: {_described(differences, found, config)}")
    return found


def _described(differences: Differences, found: TensorIndex, config: Qwen3ScaleSeqConfig) -> str:
    n, extra = config.num_streams, config.scale_seq_times
    parts = [
        f"the weights are not those of config.json, which says n = {n} (scale_seq_times {extra}: {_tables(extra)})"
    ]
    if differences.missing:
        parts.append(f"missing {len(differences.missing)}: {_some(differences.missing)}")
    if differences.unexpected:
        parts.append(f"unexpected {len(differences.unexpected)}: {_some(differences.unexpected)}")
    if differences.misshapen:
        shapes = [f"{k} is {list(got)}, not {list(want)}" for k, (got, want) in differences.misshapen.items()]
        parts.append(f"wrong shape {len(shapes)}: {_some(shapes)}")
    return "; ".join([*parts, _remedy(found, config)])


def _tables(extra: int) -> str:
    if not extra:
        return "no extra table"
    return f"{EXTRA_TABLES}.0.weight" + (f" to .{extra - 1}.weight" if extra > 1 else "")


def _remedy(found: TensorIndex, config: Qwen3ScaleSeqConfig) -> str:
    held = sorted(int(match[1]) for name in found if (match := _TABLE_NAME.fullmatch(name)))
    n = config.num_streams
    if not held and n > 1:
        return (
            "there is no extra table at all: these are weights of a plain Qwen3, read as n = 1 with model_type 'qwen3' "
            f"in config.json; to give them streams run: hidden-decoding upcycle BASE --streams {n} --out DIR"
        )
    if held != list(range(config.scale_seq_times)) and held == list(range(len(held))):
        implied = streams_of(len(held))
        return (
            f"the extra tables that are there make n = {implied}: write model_type 'qwen3_scale_seq' and "
            f"scale_seq_times {len(held)} into config.json if that is the model"
        )
    return "fetch the complete checkpoint again, then look at it with: hidden-decoding inspect DIR"


# --------------------------------------------------------------------------------------------------------- loading


def load_model(
    model: str | Path,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    attn_implementation: str | None = None,
) -> Qwen3ScaleSeqForCausalLM:
    """The verified model, in evaluation mode; `dtype="auto"` keeps the checkpoint's own.

    A plain Qwen3 directory gives n = 1. No Python of the checkpoint is run, whatever its `auto_map` says.
    """
    directory = resolve_model(model, revision)
    if (directory / ADAPTER_FILE).is_file():
        raise CheckpointError(
            f"{directory} is a LoRA adapter, not a model; merge it first: hidden-decoding export {directory} --out DIR"
        )
    config = load_config(directory)
    found = verify_checkpoint(directory, config)
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    # Straight to the device where accelerate can; otherwise through host memory.
    if torch.device(device).type != "cpu" and importlib.util.find_spec("accelerate") is not None:
        options["device_map"] = {"": device}
    try:
        loaded: Any = Qwen3ScaleSeqForCausalLM.from_pretrained(
            str(directory),
            config=config,
            dtype=torch_dtype(dtype, config, found),
            **options,
        )
    except OSError as error:
        raise CheckpointError(f"{directory}: {' '.join(str(error).split())}") from error
    if "device_map" not in options:
        loaded = loaded.to(device)
    return cast("Qwen3ScaleSeqForCausalLM", loaded.eval())


def torch_dtype(name: str | torch.dtype, config: Qwen3ScaleSeqConfig, found: TensorIndex | None = None) -> torch.dtype:
    """The dtype that --dtype `name` means; "auto" is the configuration's, else the one the first table is stored in."""
    if isinstance(name, torch.dtype):
        return name
    if name != "auto":
        if name not in DTYPE_NAMES:
            raise ConfigError(f"--dtype {name!r} is not known; give auto, {', '.join(DTYPE_NAMES)}")
        return DTYPE_NAMES[name]
    if isinstance(config.dtype, torch.dtype):
        return config.dtype
    stored = (found or {}).get("model.embed_tokens.weight")
    return torch.float32 if stored is None else getattr(torch, DTYPES[stored[1].dtype][1])


def load_tokenizer(directory: str | Path) -> PreTrainedTokenizerBase | None:
    """The directory's tokenizer, or None when it has none. Classes of its own (`auto_map`) are not run."""
    directory = Path(directory)
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer

    from hidden_decoding.modeling.registration import register

    register()  # or transformers would ask the checkpoint's Python what `qwen3_scale_seq` is
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare `Exception` for a broken file
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{directory}: its tokenizer cannot be loaded ({reason}); fetch it again") from error
    return cast("PreTrainedTokenizerBase", tokenizer)

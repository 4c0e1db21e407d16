"""Settings of the local engine, and the source of the command line's engine flags. Loads no torch.

Names are vLLM's where vLLM has one. Everything counts tokens unless it says bytes or positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hidden_decoding.errors import ConfigError
from hidden_decoding.modeling.safetensors_file import parse_size

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "int8")
STREAM_TABLES = ("auto", "mmap", "host", "device")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How a `LocalEngine` runs. Raises `ConfigError` for values that cannot work."""

    dtype: str = field(
        default="auto", metadata={"help": "weights and KV cache; auto is the checkpoint's", "choices": DTYPES}
    )
    device: str = field(default="auto", metadata={"help": "where the model runs", "choices": DEVICES})
    max_model_len: int | None = field(
        default=None, metadata={"help": "longest sequence in tokens, prompt and answer (default: the checkpoint's)"}
    )
    kv_cache_memory_bytes: str | None = field(
        default=None,
        metadata={
            "help": "memory for the KV cache, for example 2GiB (default: a share of free memory)",
            "metavar": "BYTES",
        },
    )
    kv_cache_fraction: float = field(
        default=0.4, metadata={"help": "share of free memory for the KV cache when no size is given"}
    )
    block_size: int = field(default=16, metadata={"help": "tokens per KV block, the unit of sharing prefixes"})
    max_num_seqs: int = field(default=32, metadata={"help": "requests that run together"})
    max_num_batched_tokens: int | None = field(
        default=None,
        metadata={"help": "most tokens in one step; longer prompts are read in chunks (default: 2048 positions)"},
    )
    enable_prefix_caching: bool = field(default=True, metadata={"help": "reuse KV blocks of equal prefixes"})
    stream_tables: str = field(
        default="auto",
        metadata={
            "help": "where the tables of streams 2..n lie: mmap leaves them in the file (auto on a CPU), device loads "
            "them (auto on a GPU), host keeps them in host memory beside a GPU",
            "choices": STREAM_TABLES,
        },
    )
    quantization: str = field(
        default="none",
        metadata={
            "help": "int8 keeps the layers' weights as 8-bit numbers with a scale per row: a quarter of "
            "float32's memory, slower on a CPU",
            "choices": QUANTIZATIONS,
        },
    )
    pack_weights: bool = field(
        default=True,
        metadata={
            "help": "keep weights in the CPU's blocked layout where a step has more than two rows: no second copy"
        },
    )
    enforce_eager: bool = field(
        default=False, metadata={"help": "do not capture decode steps as CUDA graphs: a quicker start, slower answers"}
    )
    seed: int = field(default=0, metadata={"help": "for requests that bring no seed"})

    def __post_init__(self) -> None:
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ConfigError(f"max_model_len is {self.max_model_len} tokens; a prompt and an answer need at least 2")
        if not 0 < self.kv_cache_fraction < 1:
            raise ConfigError(f"kv_cache_fraction is {self.kv_cache_fraction}; it must lie between 0 and 1")
        for name in ("block_size", "max_num_seqs", "max_num_batched_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be a whole number from 1")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype is {self.dtype!r}; known are {', '.join(DTYPES)}")
        if self.quantization not in QUANTIZATIONS:
            raise ConfigError(f"quantization is {self.quantization!r}; known are {', '.join(QUANTIZATIONS)}")
        if self.stream_tables not in STREAM_TABLES:
            raise ConfigError(f"stream_tables is {self.stream_tables!r}; known are {', '.join(STREAM_TABLES)}")
        if self.device not in DEVICES:
            raise ConfigError(f"device is {self.device!r}; known are {', '.join(DEVICES)}")
        if self.kv_cache_memory_bytes is not None:
            parse_size(self.kv_cache_memory_bytes)

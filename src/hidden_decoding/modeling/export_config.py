"""Settings of an export; the command line takes its flags from here. Loads only the standard library."""

from __future__ import annotations

from dataclasses import dataclass, field

from hidden_decoding.modeling.safetensors_file import parse_size


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """How an exported checkpoint is stored."""

    dtype: str = field(
        default="auto",
        metadata={
            "help": "dtype of the weights; auto keeps each as it is",
            "choices": ("auto", "bfloat16", "float16", "float32"),
        },
    )
    max_shard_size: str = field(
        default="5GB", metadata={"help": "largest weight file, like 5GB or 500MB", "metavar": "SIZE"}
    )
    overwrite: bool = field(default=False, metadata={"help": "replace a checkpoint that is in the target directory"})

    def __post_init__(self) -> None:
        parse_size(self.max_shard_size)

    @property
    def max_shard_bytes(self) -> int:
        """`max_shard_size` as a number."""
        return parse_size(self.max_shard_size)

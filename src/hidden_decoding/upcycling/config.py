"""What can be chosen when upcycling; the flags of `hidden-decoding upcycle` derive from it. Loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hidden_decoding.errors import ConfigError
from hidden_decoding.modeling.safetensors_file import parse_size

LINEAR, CONTIGUOUS = "linear", "contiguous"


@dataclass(frozen=True, kw_only=True)
class UpcycleConfig:
    """`streams` is n of the result; everything else has a default."""

    streams: int = field(
        metadata={
            "help": "streams n of the result, a whole multiple of the base's; a plain Qwen3 has 1",
            "metavar": "N",
        }
    )
    positions: str | None = field(
        default=None,
        metadata={
            "help": "linear: divide RoPE positions so that the trained range holds as many tokens as before; "
            "contiguous: as published, the same positions hold fewer tokens (default: linear for a plain base, "
            "the base's own scheme for one that has streams)",
            "choices": (LINEAR, CONTIGUOUS),
        },
    )
    noise: float = field(
        default=0.0,
        metadata={
            "help": "Gaussian noise on the copied tables, relative to the standard deviation of the table copied",
            "metavar": "SIGMA",
        },
    )
    seed: int = field(default=0, metadata={"help": "seed of the noise"})
    sfa: str | None = field(
        default=None,
        metadata={
            "help": "stream-factorised attention: F layers of full attention, then I whose streams attend to "
            "themselves only, repeating, like 1:3; cheaper, but only transformers runs it (default: the base's layers)",
            "metavar": "F:I",
        },
    )
    max_shard_size: str = field(
        default="5GB", metadata={"help": "largest weight file, like 5GB, 500MB or 2GiB", "metavar": "SIZE"}
    )
    overwrite: bool = field(default=False, metadata={"help": "replace the checkpoint that --out names"})

    def __post_init__(self) -> None:
        if isinstance(self.streams, bool) or not isinstance(self.streams, int) or self.streams < 1:
            raise ConfigError(f"--streams is {self.streams!r}, but must be a whole number from 1, like 2, 4 or 8")
        if self.positions not in (None, LINEAR, CONTIGUOUS):
            raise ConfigError(f"--positions is {self.positions!r}, but must be {LINEAR!r} or {CONTIGUOUS!r}")
        if not math.isfinite(self.noise) or self.noise < 0:
            raise ConfigError(f"--noise is {self.noise!r}, but must be 0 or a positive number, like 0.1")
        parse_size(self.max_shard_size)
        if self.sfa is not None:
            self.layer_kinds(1)

    def layer_kinds(self, layers: int) -> list[str] | None:
        """`stream_attention` of the result's configuration; None leaves it as it is in the base."""
        if self.sfa is None:
            return None
        full, colon, intra = self.sfa.partition(":")
        if not (colon and full.isdecimal() and intra.isdecimal() and int(full) + int(intra)):
            raise ConfigError(
                f"--sfa is {self.sfa!r}, but must be two whole numbers, F:I, not both 0: full layers, then intra "
                "layers, repeating, like 1:3"
            )
        period = ["full"] * int(full) + ["intra"] * int(intra)
        return [period[layer % len(period)] for layer in range(layers)]

    @property
    def max_shard_bytes(self) -> int:
        """`max_shard_size` in bytes."""
        return parse_size(self.max_shard_size)

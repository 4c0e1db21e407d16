"""The README.md beside an upcycled checkpoint: what it is, from what it was made, how, and how to use it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from hidden_decoding import __version__
from hidden_decoding.upcycling.config import LINEAR

if TYPE_CHECKING:
    from hidden_decoding.upcycling.plan import UpcyclePlan

CARD = """\
---
base_model: {base}
library_name: transformers
pipeline_tag: text-generation
tags:
- hidden-decoding
- qwen3_scale_seq
---

# {name}

A Sequential Hidden Decoding model with n = {n} streams, made from `{base}`{revision} (n = {base_n}) by copying its
embedding tables. Each token is read as n positions, one per table; the last of them predicts the next token.

**It has not been trained since.** The copies do not compute what the base computes; its loss starts higher, and
continued training brings it down. The licence is that of the base; see there.

| | |
|---|---|
| streams | {n} (`scale_seq_times: {times}`) |
| tables | {tables} |
| noise on the copies | {noise} |
| position scheme | {scheme} |
| context | {tokens} tokens = {positions} positions |
| dtype | {dtype} |

## Made with

hidden-decoding {version}:

```
{command}
```

## Use

```
hidden-decoding train cpt --model {name} --data TEXT_FILES --out RUN_DIRECTORY
hidden-decoding generate {name} --prompt "Once upon a time"
```

or, in Python, where `hidden_decoding` is installed:

```python
import hidden_decoding

model = hidden_decoding.Qwen3ScaleSeqForCausalLM.from_pretrained("{name}")
```

and where it is not, `transformers.AutoModelForCausalLM.from_pretrained("{name}", trust_remote_code=True)`.
"""


def model_card(plan: UpcyclePlan, out: Path) -> str:
    """The text of the card. Of a base on disk only the directory's name appears."""
    config = plan.config
    base = public_name(plan)
    return CARD.format(
        base=base,
        revision=f" at revision `{plan.revision}`" if plan.revision else "",
        name=out.name,
        n=config.num_streams,
        base_n=plan.base_config.num_streams,
        times=config.scale_seq_times,
        tables=tables_line(plan),
        noise=noise_line(plan),
        scheme=scheme_line(plan),
        tokens=config.max_tokens,
        positions=config.max_position_embeddings,
        dtype=str(config.dtype).removeprefix("torch.") if config.dtype else "as stored",
        version=__version__,
        command=command_line(plan, base, out.name),
    )


def public_name(plan: UpcyclePlan) -> str:
    """A hub id as it is; of a path its last part, as the rest means nothing elsewhere."""
    return plan.directory.resolve().name if Path(plan.base).expanduser().is_dir() else plan.base


def tables_line(plan: UpcyclePlan) -> str:
    """Which tables were copied, in streams counted from 1."""
    old, new = plan.base_config.num_streams, plan.config.num_streams
    return f"{new}: {_streams(1, old)} the base's, {_streams(old + 1, new)} copied from {_streams(1, old)} in turn"


def _streams(first: int, last: int) -> str:
    return f"stream {first}" if first == last else f"streams {first}..{last}"


def noise_line(plan: UpcyclePlan) -> str:
    """The noise in words."""
    settings = plan.settings
    if settings.noise == 0:
        return "none"
    return f"Gaussian, {settings.noise:g} of the copied table's standard deviation, seed {settings.seed}"


def scheme_line(plan: UpcyclePlan) -> str:
    """The position scheme in words."""
    if plan.scheme != LINEAR:
        return "contiguous: positions as in the base, which hold fewer tokens now"
    factor = (plan.config.rope_parameters or {})["factor"]
    return f"linear: RoPE positions divided by {factor:g}, the base's range holds as many tokens as before"


def command_line(plan: UpcyclePlan, base: str, out: str) -> str:
    """A command that makes the same checkpoint again."""
    settings = plan.settings
    words = ["hidden-decoding", "upcycle", base, "--streams", str(settings.streams), "--out", out]
    words += ["--positions", plan.scheme]
    if plan.revision:
        words += ["--revision", plan.revision]
    if settings.noise:
        words += ["--noise", f"{settings.noise!r}", "--seed", str(settings.seed)]
    if settings.max_shard_size != "5GB":
        words += ["--max-shard-size", settings.max_shard_size]
    return shlex.join(words)

"""Sequential Hidden Decoding: make, train, evaluate and serve language models that read each token as n positions.

Everything is loaded on first use, so that `import hidden_decoding` costs neither torch nor transformers.

    >>> import hidden_decoding
    >>> engine = hidden_decoding.LocalEngine("path/to/checkpoint")
    >>> engine.generate(["Once upon a time"], hidden_decoding.SamplingParams(max_tokens=16))[0].text
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hidden_decoding.engines.local.engine import LocalEngine
    from hidden_decoding.engines.local.sampling_params import SamplingParams
    from hidden_decoding.modeling.configuration import Qwen3ScaleSeqConfig
    from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM
    from hidden_decoding.modeling.registration import register
    from hidden_decoding.stream_lens.reading import lens
    from hidden_decoding.upcycling import upcycle

__version__ = "0.1.0"

_PUBLIC = {
    "Qwen3ScaleSeqConfig": "hidden_decoding.modeling.configuration",
    "Qwen3ScaleSeqForCausalLM": "hidden_decoding.modeling.model",
    "register": "hidden_decoding.modeling.registration",
    "upcycle": "hidden_decoding.upcycling",
    "lens": "hidden_decoding.stream_lens.reading",
    "LocalEngine": "hidden_decoding.engines.local.engine",
    "SamplingParams": "hidden_decoding.engines.local.sampling_params",
}

__all__ = [
    "LocalEngine",
    "Qwen3ScaleSeqConfig",
    "Qwen3ScaleSeqForCausalLM",
    "SamplingParams",
    "__version__",
    "lens",
    "register",
    "upcycle",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

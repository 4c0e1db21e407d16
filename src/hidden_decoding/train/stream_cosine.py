"""How alike the streams of a token are while a model trains: the cosine of each stream with the last one, by depth.

Contract: one extra forward of a few tokens, without gradient, by every process; plain numbers averaged over tokens and
over streams 1..n-1, at the input, after the middle layer and before the last. None for one stream. The paper's probes
of the trained 8B model at n = 8 found 0.99 / 0.64 / 0.78 (arXiv 2607.08186).

Place in the flow: called at evaluations by `loop.py` and `sft_trainer.py`; for a whole answer, stream by stream, see
`stream_lens`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from hidden_decoding.streams import split_streams


def mean_cosine(h_BPD: Tensor, num_streams: int) -> float:
    """Mean cosine of streams 1..n-1 of each token with its stream n."""
    h_BTND = split_streams(h_BPD.float(), num_streams)
    return float(cosine_similarity(h_BTND[..., :-1, :], h_BTND[..., -1:, :], dim=-1).mean())


@torch.no_grad()
def stream_cosine(
    decoder_layers: Iterable[Any], forward: Callable[[], Any], num_streams: int
) -> dict[str, float] | None:
    """Cosines at three depths in what the decoder layers read while `forward` runs the model they belong to."""
    if num_streams == 1:
        return None
    layers = list(decoder_layers)
    found: dict[str, float] = {}

    def reads(name: str) -> Any:
        def before(_: Any, inputs: tuple[Tensor, ...]) -> None:
            found[name] = mean_cosine(inputs[0], num_streams)

        return before

    # What a layer reads is what the one before has made; the last layer itself gives last streams only.
    wanted = {"input": layers[0], "middle": layers[len(layers) // 2], "last": layers[-1]}
    handles = [layer.register_forward_pre_hook(reads(name)) for name, layer in wanted.items()]
    try:
        with _uncompiled(layers):
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def _uncompiled(layers: list[Any]) -> Iterator[None]:
    """Layers run as they are written: a hook would make `torch.compile` compile them again."""
    compiled = [layer._compiled_call_impl for layer in layers]
    for layer in layers:
        layer._compiled_call_impl = None
    try:
        yield
    finally:
        for layer, call in zip(layers, compiled, strict=True):
            layer._compiled_call_impl = call

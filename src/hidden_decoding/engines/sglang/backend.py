"""SGLang's attention backends for slots that own n rows; every other backend is refused by name.

Contract: after `register_backends`, a model of ours with n > 1 gets a backend that `KnowsStreams` or a `ConfigError`;
every other model gets what it got before. Kernels are imported when their backend is chosen. Used by `plugin`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
from sglang.srt.utils import is_hip, is_musa

from hidden_decoding.engines.sglang.limits import SUPPORTED_BACKENDS, streams_in
from hidden_decoding.errors import ConfigError


class KnowsStreams:
    """Marks a backend whose rows are positions; the model checks for it at each forward."""

    num_streams: int


def only_decoding(forward_batch: Any) -> None:
    """Refuses to capture anything but plain decoding: nothing else is described in positions."""
    if not forward_batch.forward_mode.is_decode_or_idle() or forward_batch.spec_info is not None:
        raise ConfigError(
            f"a CUDA graph of {forward_batch.forward_mode.name} batches is not supported with several positions per "
            "token; give --disable-prefill-cuda-graph"
        )


def torch_native(runner: Any, num_streams: int) -> KnowsStreams:
    """Plain PyTorch, any device."""
    from hidden_decoding.engines.sglang.attention import ScaleSeqTorchNative

    return ScaleSeqTorchNative(runner, num_streams)


def fa3(runner: Any, num_streams: int) -> KnowsStreams:
    """FlashAttention 3; NVIDIA cards of compute capability 8.x and 9.0, as for SGLang's own."""
    if is_musa():
        raise ConfigError("attention backend fa3 is a class of its own on Moore Threads cards, which is not supported")
    if runner.device == "cuda":
        from sglang.srt.utils import get_device_capability

        major, minor = get_device_capability()
        if major not in {8, 9}:
            raise ConfigError(
                f"attention backend fa3 has kernels for compute capability 8.x and 9.0, and this card has "
                f"{major}.{minor}; give --attention-backend triton"
            )
    from hidden_decoding.engines.sglang.flash import ScaleSeqFlashAttention

    return ScaleSeqFlashAttention(runner, num_streams)


def triton(runner: Any, num_streams: int) -> KnowsStreams:
    """SGLang's own Triton kernels."""
    if is_hip():
        raise ConfigError(
            "attention backend triton sizes its launches by tokens on AMD cards; give --attention-backend torch_native"
        )
    from hidden_decoding.engines.sglang.triton_rows import ScaleSeqTriton

    return ScaleSeqTriton(runner, num_streams)


OURS: dict[str, Callable[[Any, int], KnowsStreams]] = {"torch_native": torch_native, "fa3": fa3, "triton": triton}


def register_backends() -> None:
    """Puts a choice before every backend that SGLang knows, by the number of streams of the model to be served."""
    assert tuple(OURS) == SUPPORTED_BACKENDS
    for name, create in list(ATTENTION_BACKENDS.items()):
        ATTENTION_BACKENDS[name] = by_streams(name, create)


def by_streams(name: str, create: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A maker of backend `name`: SGLang's own for one stream, ours or none for several."""

    def make(runner: Any) -> Any:
        n = streams_in(runner.model_config.hf_text_config)
        if n == 1:
            return create(runner)
        if name not in OURS:
            raise ConfigError(
                f"attention backend {name} is not supported with n = {n} streams: its kernels were not written for "
                f"several rows per slot; give --attention-backend {' or '.join(SUPPORTED_BACKENDS)}"
            )
        return OURS[name](runner, n)

    return make

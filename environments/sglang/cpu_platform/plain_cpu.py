"""A platform for SGLang's tests on a CPU without its own CPU kernels: SGLANG_PLATFORM=plain_cpu."""

from __future__ import annotations

import torch
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform


class PlainCpu(CpuDeviceMixin, SRTPlatform):
    """PyTorch's own operators for everything, no graphs, no Triton."""

    _enum = PlatformEnum.OOT

    def get_default_attention_backend(self) -> str:
        """The one backend that needs no kernels."""
        return "torch_native"

    def get_torch_distributed_backend_str(self) -> str:
        """PyTorch's own for CPUs."""
        return "gloo"

    def get_group_coordinator_device(self, local_rank: int) -> torch.device:  # noqa: ARG002
        """The same for every rank."""
        return torch.device("cpu")


def activate() -> str:
    """What SGLang calls."""
    return "plain_cpu.PlainCpu"

"""The machine a training run is planned for; the flags of `train plan` derive from it. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from hidden_decoding.train.sections import Section


@dataclass(frozen=True, kw_only=True)
class PlanSettings(Section):
    """GPUs, what each can do, and what it costs."""

    gpus: int = field(default=1, metadata={"help": "GPUs over all hosts; cpt shards over them with FSDP2"})
    gpu_memory: float = field(default=80.0, metadata={"help": "memory of one GPU", "metavar": "GIB"})
    gpu_overhead: float = field(
        default=2.0,
        metadata={"help": "of that, for the CUDA context, NCCL and the allocator's gaps", "metavar": "GIB"},
    )
    peak_tflops: float = field(
        default=989.0,
        metadata={"help": "dense peak of one GPU in 1e12 operations a second (H100 and H200 in bf16: 989)"},
    )
    mfu: float = field(default=0.4, metadata={"help": "share of the peak that training reaches; measure yours"})
    price_per_gpu_hour: float | None = field(default=None, metadata={"help": "to also print what it costs"})

    def _rules(self) -> dict[str, tuple[bool, str]]:
        return {
            "gpus": (self.gpus >= 1, "a whole number from 1"),
            "gpu_memory": (self.gpu_memory > 0, "GiB above 0"),
            "gpu_overhead": (0 <= self.gpu_overhead < self.gpu_memory, "GiB from 0 to below --gpu-memory"),
            "peak_tflops": (self.peak_tflops > 0, "above 0"),
            "mfu": (0 < self.mfu <= 1, "a share above 0 and at most 1"),
            "price_per_gpu_hour": (self.price_per_gpu_hour is None or self.price_per_gpu_hour >= 0, "0 or more"),
        }

"""Linear layers for small batches on a CPU: weights kept in oneDNN's blocked layout instead of row-major.

A decode step multiplies n rows (times the running requests) with every weight. Plain row-major products are as fast as
memory for one row but two to three times slower from four rows on; the blocked layout stays near memory speed up to
about sixteen rows, which is what makes n streams nearly free at batch 1 (record: `benchmarks/`). The blocked copy
replaces the row-major one layer by layer, so memory does not grow; such a model only computes, it cannot be trained or
saved.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Rows the layout is tuned for: a decode step of one request at n = 8. It only steers the choice of blocking.
_TYPICAL_ROWS = 8


def packing_available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there are blocked kernels for this device and dtype."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class PackedLinear(nn.Module):
    """Computes as the `nn.Linear` it was made from: [..., in] -> [..., out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _TYPICAL_ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return result


def pack_linears(model: nn.Module) -> int:
    """Replaces every `nn.Linear` below `model` by its packed form; returns how many. Tied heads keep their weight."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    packed = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and id(child.weight) not in tables:
                setattr(parent, name, PackedLinear(child))
                packed += 1
    return packed

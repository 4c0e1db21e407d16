"""Linear layers with 8-bit weights: a scale per output row, products in the model's own dtype, PyTorch's own kernels.

Weight-only: activations are not rounded. A quarter of float32's weight memory. Where PyTorch multiplies 8-bit weights
directly (bfloat16, few rows) that is used; elsewhere a layer's weight is widened for the time of its product, which
costs speed on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

# Up to here the direct product beats widening the weight first, on the CPUs measured.
_DIRECT_ROWS = 16


class Int8Linear(nn.Module):
    """Computes as the `nn.Linear` it was made from, up to rounding its weight: [..., in] -> [..., out]."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach().float()
        # Symmetric: the largest weight of a row becomes 127. A row of zeros keeps a scale that does not divide by 0.
        scales = weight.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
        self.weight_int8 = (weight / scales).round().to(torch.int8)
        self.scales = scales.to(layer.weight.dtype)
        self.bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        rows = x.flatten(0, -2)
        if x.dtype == torch.bfloat16 and len(rows) <= _DIRECT_ROWS and self.bias is None:
            direct: Tensor = torch.ops.aten._weight_int8pack_mm(rows.contiguous(), self.weight_int8, self.scales[:, 0])
            return direct.unflatten(0, x.shape[:-1]) if x.ndim > 2 else direct
        return linear(x, self.weight_int8.to(x.dtype) * self.scales, self.bias)

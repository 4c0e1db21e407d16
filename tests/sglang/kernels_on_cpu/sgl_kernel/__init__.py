"""Stands in for SGLang's compiled kernels, which need a GPU: found by PYTHONPATH, in the tests of `fa3` only.

SGLang's FlashAttention backend imports this package before it imports the kernels, so they are put in place here.
"""

from __future__ import annotations

import sys
from types import ModuleType

from sgl_kernel import flash_attn

kernels = ModuleType("sglang.kernels.ops.attention.flash_attention")
kernels.flash_attn_with_kvcache = flash_attn.flash_attn_with_kvcache
kernels.flash_attn_varlen_func = flash_attn.flash_attn_varlen_func
sys.modules[kernels.__name__] = kernels


def merge_state_v2(*args, **kwargs):
    raise AssertionError("cascade attention is not used here")

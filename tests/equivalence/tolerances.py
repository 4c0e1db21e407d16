"""The one table of tolerances. Every comparison of floating-point numbers in the tests names an entry of it.

An entry says what is compared, on what scale, and why it is as large as it is. `FP32_LOGITS` was set from a
measurement on `tests.support.tiny_model` (8 streams, 320 positions, 3 seeds): sdpa against eager and fp32 against fp64
differ by at most 8e-6 on logits whose largest is 9.
"""

from __future__ import annotations

# Logits of the same function computed in another order (cached, padded, batched, another attention backend), fp32,
# tiny models with logits of order 10, where 1 ulp is 1e-6: 2e-5 is twice the largest difference measured.
FP32_LOGITS = 2e-5

# Log-probabilities that an engine with kernels of its own reports, fp32: its exponential and its order of sums differ;
# 1e-5 was the largest difference measured with vLLM on a CPU, and this is the bound set for every engine.
FP32_ENGINE_LOGPROBS = 5e-5

# Hidden states of the same, of order 10 before the final norm and 1 after it: as for logits.
FP32_HIDDEN = 2e-5

# Attention weights lie in 0..1 and sum to 1 over a row, an order of magnitude under the logits.
FP32_ATTENTION = 2e-6

# A mean of cross-entropies of order 5 over tokens: the errors of the logits average out, never add up.
FP32_LOSS = 5e-6

# Gradients, relative to the largest entry of each tensor: backward doubles the reorderings of forward, and the
# recomputed forward of gradient checkpointing is the same arithmetic again.
FP32_GRADIENT_RELATIVE = 2e-5

# bf16 keeps 8 bits: 2^-8 of logits of order 10 is 0.04 per rounding, and a few dozen roundings lie on the way: 0.29 was
# the largest difference measured. Only a check that nothing is wrong by a lot; equality is held in fp32.
BF16_LOGITS = 0.5

# A mean of cross-entropies over some hundred tokens: errors of BF16_LOGITS have no common sign and average
# out: 0.0017 was the largest difference measured after a step.
BF16_LOSS = 0.02

# A greedy token counts as a mismatch only when the reference's two best logits differ by more than so many tolerances.
TIE_FACTOR = 10

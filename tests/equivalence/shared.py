"""What the equivalence tests share: models made once, prompts, brute-force answers made once, and a counter of rows."""

from __future__ import annotations

import functools
from types import TracebackType

import torch
from torch import nn

from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM
from tests.equivalence.tolerances import FP32_LOGITS
from tests.support import BruteForce, assert_same_greedy, tiny_model

# With one stream the schemes are the same.
SHAPES = [(1, "contiguous"), *((n, scheme) for n in (2, 3, 4, 8) for scheme in ("contiguous", "linear"))]
FEW_SHAPES = [(1, "contiguous"), (2, "linear"), (3, "contiguous"), (4, "linear"), (8, "contiguous")]
STREAMS = [1, 2, 3, 4, 8]


def model_of(num_streams: int, scheme: str = "contiguous", attention: str = "sdpa") -> Qwen3ScaleSeqForCausalLM:
    """A tiny model that never ends a sequence by itself. Shared by tests: leave its weights and configuration alone."""
    return _model(num_streams, scheme, attention)  # one cache entry, however the defaults are written


@functools.cache
def _model(num_streams: int, scheme: str, attention: str) -> Qwen3ScaleSeqForCausalLM:
    model = tiny_model(num_streams, scheme)
    model.set_attn_implementation(attention)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def brute_force(num_streams: int, scheme: str = "contiguous") -> BruteForce:
    """The reference of `model_of`."""
    return _brute_force(num_streams, scheme)


@functools.cache
def _brute_force(num_streams: int, scheme: str) -> BruteForce:
    return BruteForce(model_of(num_streams, scheme))


@functools.cache
def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    """Random token ids without the special ones."""
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return tuple(torch.randint(3, 512, (length,), generator=generator).tolist())


def ids_of(tokens: tuple[int, ...]) -> torch.Tensor:
    """[1, T]."""
    return torch.tensor([tokens])


@functools.cache
def expected_logits(num_streams: int, scheme: str, tokens: tuple[int, ...]) -> torch.Tensor:
    """Brute-force logits [T, V]."""
    return brute_force(num_streams, scheme).logits(list(tokens))


@functools.cache
def expected_greedy(
    num_streams: int, scheme: str, tokens: tuple[int, ...], max_tokens: int
) -> tuple[list[int], list[float]]:
    """Brute-force greedy tokens and the reference's top-2 gaps."""
    return brute_force(num_streams, scheme).greedy(list(tokens), max_tokens)


def assert_greedy(
    actual: list[int] | torch.Tensor,
    num_streams: int,
    scheme: str,
    tokens: tuple[int, ...],
    *,
    least: int | None = None,
) -> None:
    """Generated tokens equal the reference's up to its first tie; at least `least` of them (default half) compared."""
    actual = [int(token) for token in actual]
    expected, gaps = expected_greedy(num_streams, scheme, tokens, len(actual))
    compared = assert_same_greedy(actual, expected, gaps, FP32_LOGITS)
    assert compared >= (len(actual) // 2 if least is None else least), "ties left too little to compare"


def assert_logits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal within the table's tolerance, and of a size for which the tolerance was set."""
    assert actual.shape == expected.shape
    assert 1 < expected.abs().max() < 20
    torch.testing.assert_close(actual, expected, rtol=0, atol=FP32_LOGITS)


def left_padded(prompts: list[tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """A batch as tokenizers with `padding_side="left"` make it."""
    width = max(map(len, prompts))
    return {
        "input_ids": torch.tensor([[0] * (width - len(tokens)) + list(tokens) for tokens in prompts]),
        "attention_mask": torch.tensor([[0] * (width - len(tokens)) + [1] * len(tokens) for tokens in prompts]),
    }


class Rows:
    """Records how many rows (dimension 1 of the first input) each call of each module sees, while active."""

    def __init__(self, **modules: nn.Module) -> None:
        self.modules = modules
        self.seen: dict[str, list[int]] = {name: [] for name in modules}

    def __enter__(self) -> Rows:
        def recorder(name):
            def record(_module, args, kwargs):
                rows = args[0] if args else kwargs["hidden_states"]
                self.seen[name].append(rows.shape[1])

            return record

        self.hooks = [
            module.register_forward_pre_hook(recorder(name), with_kwargs=True) for name, module in self.modules.items()
        ]
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self.hooks:
            hook.remove()

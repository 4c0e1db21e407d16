"""For each token of an answer: what each of the n streams would have predicted, had the head been applied to it.

    ids_1T -> h_1PD of every layer -> rows of the token before each answer token [A, n, D] -> head -> [A, n, V]

Contract: stream n is the model itself, so its top token is what greedy decoding gives. The other streams were never
trained to predict: read their numbers as a probe, as the paper does (arXiv 2607.08186v1). Used by `cli.lens`; public as
`hidden_decoding.lens`.

    >>> lens(model, prompt_ids=[1, 2, 3], answer_ids=[4, 5]).tokens[0].streams[-1].entropy_bits
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from hidden_decoding.errors import ConfigError
from hidden_decoding.modeling.stream_readout import TokenReadout, read_streams
from hidden_decoding.streams import split_streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM


@dataclass(frozen=True, kw_only=True)
class Guess:
    """One token that a stream would have predicted."""

    token_id: int
    token: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class StreamGuess:
    """What one stream would have predicted for one token of the answer."""

    entropy_bits: float
    agrees: bool  # its most likely token is the last stream's
    top: list[Guess]


@dataclass(frozen=True, kw_only=True)
class TokenLens:
    """One token of the answer, with the prediction of each stream of the token before it."""

    token_id: int
    token: str
    streams: list[StreamGuess]


@dataclass(frozen=True, kw_only=True)
class StreamLens:
    """A whole answer. `cosine[layer][stream]` is the mean same-token cosine with the last stream, at `layers`."""

    streams: int
    layers: list[str]
    tokens: list[TokenLens]
    cosine: list[list[float]]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        return asdict(self)


@torch.inference_mode()
def lens(
    model: Qwen3ScaleSeqForCausalLM,
    *,
    prompt_ids: list[int],
    answer_ids: list[int],
    top: int = 5,
    decode: Callable[[list[int]], str] | None = None,
) -> StreamLens:
    """Reads every stream for every token of an answer, in one forward over prompt and answer.

    `prompt_ids` and `answer_ids` are tokens, at least one each; `top` guesses are kept per stream. `decode` turns token
    ids into text (a tokenizer's). Raises `ConfigError` when the tokens do not fit the model.
    """
    ids = [*prompt_ids, *answer_ids]
    _check(model, prompt_ids, answer_ids, top)
    n = model.config.num_streams
    outputs = model.model(
        input_ids=torch.tensor([ids], device=model.device),
        return_streams=True,
        output_hidden_states=True,
        use_cache=False,
    )
    # The rows of the token before each answer token: the ones that speak about it.
    predicting = slice(len(prompt_ids) - 1, len(ids) - 1)
    by_depth = [split_streams(h_1PD, n)[0, predicting] for h_1PD in outputs.hidden_states]
    return assemble(read_streams(model.lm_head, by_depth, top=top), answer_ids, decode or (lambda _ids: ""))


def assemble(readouts: list[TokenReadout], answer_ids: list[int], text_of: Callable[[list[int]], str]) -> StreamLens:
    """The lens of an answer from the readouts of its tokens, one each and at least one."""
    depths = len(readouts[0].cosine) - 1
    return StreamLens(
        streams=len(readouts[0].entropy_bits),
        layers=["embeddings", *(f"layer {index}" for index in range(1, depths)), f"layer {depths}, normed"],
        tokens=[
            TokenLens(token_id=token, token=text_of([token]), streams=_guesses(readout, text_of))
            for token, readout in zip(answer_ids, readouts, strict=True)
        ],
        cosine=torch.tensor([readout.cosine for readout in readouts]).mean(0).tolist(),
    )


def _guesses(readout: TokenReadout, text_of: Callable[[list[int]], str]) -> list[StreamGuess]:
    models_own = readout.token_ids[-1][0]
    return [
        StreamGuess(
            entropy_bits=entropy,
            agrees=ids[0] == models_own,
            top=[
                Guess(token_id=token, token=text_of([token]), probability=probability)
                for token, probability in zip(ids, probabilities, strict=True)
            ],
        )
        for entropy, ids, probabilities in zip(
            readout.entropy_bits, readout.token_ids, readout.probabilities, strict=True
        )
    ]


def _check(model: Qwen3ScaleSeqForCausalLM, prompt_ids: list[int], answer_ids: list[int], top: int) -> None:
    vocab, most = model.config.vocab_size, model.config.max_tokens
    if not prompt_ids or not answer_ids:
        raise ConfigError(
            f"the lens needs at least one token of a prompt and one of an answer, and got {len(prompt_ids)} and "
            f"{len(answer_ids)}: the streams of a token speak about the token after it"
        )
    if outside := [token for token in (*prompt_ids, *answer_ids) if not 0 <= token < vocab]:
        raise ConfigError(f"token id {outside[0]} is outside the vocabulary of {vocab} (0 to {vocab - 1})")
    if len(prompt_ids) + len(answer_ids) > most:
        raise ConfigError(
            f"prompt and answer have {len(prompt_ids) + len(answer_ids)} tokens, and the context holds {most}; "
            "give a shorter prompt or fewer tokens"
        )
    if top < 1:
        raise ConfigError(f"top is {top}; it counts the guesses kept per stream and must be at least 1")

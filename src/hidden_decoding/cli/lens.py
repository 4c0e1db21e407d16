"""`hidden-decoding lens`: what each hidden stream would have predicted, as a table, a picture or JSON.

$ hidden-decoding lens path/to/checkpoint --prompt "Once upon a time" --out lens.png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hidden_decoding.cli.options import add_trust_remote_code
from hidden_decoding.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from hidden_decoding.stream_lens.reading import StreamLens


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the prompt, and what to make of them."""
    parser.add_argument("model", metavar="MODEL", help="checkpoint directory or hub id")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    add_trust_remote_code(parser)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="the text to continue")
    prompt.add_argument("--prompt-ids", metavar="1,2,3", help="token ids to continue; needs no tokenizer")
    parser.add_argument("--max-tokens", type=int, default=24, metavar="N", help="tokens to answer (default: 24)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="guesses kept per stream (default: 5)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the picture there, as its suffix says (.png)")
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Answers greedily, then reads every stream."""
    if args.max_tokens < 1:
        raise ConfigError(f"--max-tokens is {args.max_tokens}; it must be at least 1")
    if args.out is not None and not args.out.resolve().parent.is_dir():
        raise ConfigError(f"--out {args.out}: its directory does not exist; make it first")
    import torch

    from hidden_decoding.cli.generate import parse_ids
    from hidden_decoding.modeling.checkpoint import load_model, load_tokenizer
    from hidden_decoding.modeling.hub import resolve_model
    from hidden_decoding.stream_lens.picture import draw
    from hidden_decoding.stream_lens.reading import lens

    prompt_ids = parse_ids(args.prompt_ids)
    directory = resolve_model(args.model, args.revision)
    tokenizer = load_tokenizer(directory)
    if args.prompt is not None:
        if tokenizer is None:
            raise ConfigError(f"{directory} has no tokenizer, so --prompt cannot be read; give --prompt-ids 1,2,3")
        prompt_ids = list(tokenizer.encode(args.prompt, add_special_tokens=False))
    model = load_model(directory)
    room = model.config.max_tokens - len(prompt_ids)
    if not prompt_ids or room < 1:
        raise ConfigError(
            f"the prompt has {len(prompt_ids)} tokens; it needs at least 1 and room for an answer in the context of "
            f"{model.config.max_tokens} tokens"
        )
    ids_1T = torch.tensor([prompt_ids])
    new = min(args.max_tokens, room)
    answered = model.generate(ids_1T, attention_mask=torch.ones_like(ids_1T), max_new_tokens=new, do_sample=False)
    answer_ids = answered[0, len(prompt_ids) :].tolist()
    decode = tokenizer.decode if tokenizer is not None else None
    found = lens(model, prompt_ids=prompt_ids, answer_ids=answer_ids, top=args.top, decode=decode)
    if args.out is not None:
        draw(found, args.out)
    print(json.dumps(found.to_dict(), ensure_ascii=False) if args.json else table(found))
    return 0


def table(found: StreamLens) -> str:
    """One line per token: the answer, and each stream's own choice with its entropy."""
    head = ["token", *(f"stream {stream + 1}" for stream in range(found.streams))]
    rows = [
        [
            repr(token.token or token.token_id),
            *(
                f"{guess.top[0].token or guess.top[0].token_id!r:.10} {guess.entropy_bits:.1f}"
                for guess in token.streams
            ),
        ]
        for token in found.tokens
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    agreeing = [
        sum(token.streams[stream].agrees for token in found.tokens) / len(found.tokens)
        for stream in range(found.streams)
    ]
    share = ", ".join(f"{value:.0%}" for value in agreeing)
    return "\n".join([*lines, "", f"entropy in bits; agreement with the last stream, by stream: {share}"])

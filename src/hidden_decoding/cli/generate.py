"""`hidden-decoding generate`: text from a prompt, in this process, on the local engine.

$ hidden-decoding generate path/to/checkpoint --prompt "Once upon a time" --max-tokens 32
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from hidden_decoding.cli.options import add_dataclass_arguments, add_trust_remote_code, from_arguments
from hidden_decoding.engines.local.engine_config import EngineConfig
from hidden_decoding.engines.local.sampling_params import SamplingParams
from hidden_decoding.errors import ConfigError

if TYPE_CHECKING:
    from hidden_decoding.engines.local.engine import LocalEngine
    from hidden_decoding.engines.local.outputs import RequestOutput


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the verb; sampling and engine flags derive from their dataclasses."""
    parser.add_argument("model", metavar="MODEL", help="checkpoint directory or hub id")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    add_trust_remote_code(parser)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="the text to continue; - reads standard input")
    prompt.add_argument("--prompt-ids", metavar="1,2,3", help="token ids to continue; needs no tokenizer")
    parser.add_argument(
        "--chat", action="store_true", help="put --prompt through the chat template as a user's message"
    )
    parser.add_argument("--json", action="store_true", help="text, token_ids and timings as one JSON object")
    add_dataclass_arguments(parser, SamplingParams, only_given=True)
    # A single request: its own --seed is the one that counts.
    add_dataclass_arguments(parser, EngineConfig, skip=("max_num_seqs", "seed"))


def run(args: argparse.Namespace) -> int:
    """Loads the model, streams the answer to standard output."""
    prompt_ids = parse_ids(args.prompt_ids)
    if args.chat and args.prompt is None:
        raise ConfigError("--chat needs --prompt: the chat template works on text")
    text = sys.stdin.read() if args.prompt == "-" else args.prompt
    from hidden_decoding.engines.local.engine import LocalEngine

    started = time.perf_counter()
    engine = LocalEngine(args.model, from_arguments(EngineConfig, args, max_num_seqs=1), revision=args.revision)
    loaded = time.perf_counter()
    params = from_arguments(SamplingParams, args, defaults=engine.default_sampling)
    ids = prompt_ids if text is None else _encode(engine, text, args.chat)
    output = _stream(engine, ids, params, show=not args.json)
    seconds = time.perf_counter() - loaded
    report = _report(output, load_seconds=loaded - started, seconds=seconds)
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
    elif not args.quiet:
        print(
            f"{report['answer_tokens']} tokens in {seconds:.2f} s, {report['tokens_per_second']} tokens/s, "
            f"{engine.num_streams} positions per token, ended by {output.finish_reason}",
            file=sys.stderr,
        )
    return 1 if output.finish_reason == "error" else 0


def parse_ids(text: str | None) -> list[int]:
    """Token ids from `--prompt-ids`; empty without one."""
    if text is None:
        return []
    try:
        return [int(part) for part in text.replace(" ", ",").split(",") if part]
    except ValueError as error:
        raise ConfigError(f"--prompt-ids is {text!r}; it must be whole numbers with commas, like 1,2,3") from error


def _encode(engine: LocalEngine, text: str, chat: bool) -> list[int]:
    if not chat:
        return engine.encode(text)
    if engine.tokenizer is None or not engine.tokenizer.chat_template:
        raise ConfigError("--chat needs a chat template, and this checkpoint has none; leave --chat out")
    messages = [{"role": "user", "content": text}]
    rendered = engine.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return list(engine.tokenizer.encode(rendered, add_special_tokens=False))


def _stream(engine: LocalEngine, ids: list[int], params: SamplingParams, *, show: bool) -> RequestOutput:
    from hidden_decoding.engines.local.outputs import RequestOutput

    output = RequestOutput(request_id=engine.add_request(ids, params), prompt_token_ids=ids)
    while output.finish_reason is None:
        for delta in engine.step():
            output.add(delta)
            if show:
                print(delta.text if engine.tokenizer else f"{delta.token_ids[0]} ", end="", flush=True)
    if show:
        print()
    if output.error:
        print(f"error: {output.error}", file=sys.stderr)
    return output


def _report(output: RequestOutput, *, load_seconds: float, seconds: float) -> dict[str, Any]:
    times = output.metrics
    first = times.first_token - times.arrived if times and times.first_token else None
    return {
        "text": output.text,
        "token_ids": output.token_ids,
        "finish_reason": output.finish_reason,
        "prompt_tokens": len(output.prompt_token_ids),
        "answer_tokens": len(output.token_ids),
        "load_seconds": round(load_seconds, 3),
        "first_token_seconds": None if first is None else round(first, 4),
        "seconds": round(seconds, 4),
        "tokens_per_second": round(len(output.token_ids) / seconds, 2),
    }

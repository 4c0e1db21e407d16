"""`hidden-decoding demo`: a small model made, given streams, trained, compared, served and asked, without a network.

$ hidden-decoding demo --quick
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidden_decoding.demo.settings import DEFAULT, FULL, QUICK
from hidden_decoding.errors import ConfigError, DependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hidden_decoding.demo.settings import DemoSettings

MARKER = "demo.json"
NEEDED = ("matplotlib", "openai", "fastapi", "uvicorn")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes and what to do with the result."""
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a smaller run of about a minute")
    size.add_argument("--full", action="store_true", help="a larger run of about half an hour on two cores")
    parser.add_argument("--data", nargs="+", default=[], metavar="PATH", help="your own text instead of Python's")
    parser.add_argument("--text-key", default="text", help="key of the text in JSONL lines (default: text)")
    parser.add_argument("--out", default="demo-out", metavar="DIR", help="where everything goes (default: demo-out)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, noise and order (default: 0)")
    parser.add_argument("--serve", action="store_true", help="keep the server up at the end, until interrupted")
    parser.add_argument("--json", action="store_true", help="the result as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """The whole demonstration; results on standard output, progress on standard error."""
    started = time.monotonic()
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise DependencyError(
            f"the demonstration needs {', '.join(absent)}, not installed here; run: pip install 'hidden-decoding[demo]'"
        )
    settings = chosen(args)
    out = fresh_directory(Path(args.out))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle threads that spin slow down two cores
    show = Show(started, quiet=args.quiet, as_json=args.json)
    show.step(f"Demonstration, {settings.name} size; everything goes to {out}/. Loading PyTorch ...")
    with terminate_like_interrupt():
        demonstrate(args, settings, out, show)
    return 0


def chosen(args: argparse.Namespace) -> DemoSettings:
    """The size that the flags name, with their seed."""
    if args.seed < 0:
        raise ConfigError(f"--seed is {args.seed}; it must be a whole number from 0")
    return dataclasses.replace(QUICK if args.quick else FULL if args.full else DEFAULT, seed=args.seed)


def fresh_directory(out: Path) -> Path:
    """An empty directory; what an earlier demonstration left there goes, anything else is refused."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).is_file())):
        raise ConfigError(f"--out {out} is not empty and not from an earlier demonstration; name another directory")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARKER).write_text("{}\n", encoding="utf-8")
    return out


def demonstrate(args: argparse.Namespace, settings: DemoSettings, out: Path, show: Show) -> None:
    """Text, models, table, curves, server, one question."""
    from transformers.utils import logging as transformers_logging

    from hidden_decoding.demo import report
    from hidden_decoding.demo.pipeline import compare
    from hidden_decoding.demo.serving import ask, curl_line, served
    from hidden_decoding.demo.text import prompt_from, write_texts

    transformers_logging.disable_progress_bar()
    text = write_texts(settings, args.data, args.text_key, out / "text")
    comparison = compare(settings, text, out, say=show.step, progress=not args.quiet)
    result = report.result_of(settings, comparison)
    show.result(report.table(result) + "\n\n" + report.explanation(result))
    curves = report.draw_curves(result, out / "curves.png")
    most = max(settings.streams)
    model = comparison.continued[most].model
    assert model is not None, "a run without stop_at_step ends with a model"
    show.step(f"Curves: {curves}. Serving the n = {most} model, and asking it through the openai client ...")
    with served(model, out / "server.log") as url:
        show.piece(f"\n{(prompt := prompt_from(text.heldout_texts))}")
        completion = ask(url, prompt, settings.completion_tokens, on_text=show.piece, seed=settings.seed)
        show.piece("\n\n")
        show.result(
            f"{completion.tokens} tokens (n = {most}: {most} positions each) in {completion.seconds:.2f} s: "
            f"{completion.tokens_per_second:.1f} tokens per second, the first after "
            f"{completion.first_token_seconds:.2f} s. The prompt is the beginning of a held-out document."
        )
        result |= {
            "completion": report.completion_figures(completion),
            "curves": str(curves),
            "model": str(model),
            "total_seconds": time.monotonic() - show.started,
        }
        (out / MARKER).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        if args.json:
            print(json.dumps(result), flush=True)
        if args.serve:
            show.result(f"Serving at {url} until interrupted (Ctrl-C). Try:\n  {curl_line(url, prompt)}")
            wait_for_interrupt()
    show.result(
        f"Done in {time.monotonic() - show.started:.0f} s. All figures: {out / MARKER}; serve it again with:\n"
        f"  hidden-decoding serve {model}"
    )


@contextlib.contextmanager
def terminate_like_interrupt() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that the server it started is stopped as well."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_for_interrupt() -> None:
    """Returns on Ctrl-C or SIGTERM."""
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)


class Show:
    """Results to standard output (standard error when that carries JSON), progress with the seconds so far to error."""

    def __init__(self, started: float, *, quiet: bool, as_json: bool) -> None:
        self.started = started
        self.quiet = quiet
        self.results: Any = sys.stderr if as_json else sys.stdout

    def step(self, line: str) -> None:
        """A line of progress."""
        if not self.quiet:
            print(f"[{time.monotonic() - self.started:4.0f} s] {line}", file=sys.stderr, flush=True)

    def result(self, text: str) -> None:
        """Something the user came for."""
        print(text, file=self.results, flush=True)

    def piece(self, text: str) -> None:
        """A piece of streamed text, as it comes."""
        print(text, end="", file=self.results, flush=True)

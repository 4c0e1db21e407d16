"""Entry point of `hidden-decoding`: finds the verb, parses its flags, turns user errors into one clear message.

Contract: results go to standard output, logs and progress to standard error. Exit codes: 0 done, 1 the work itself
reports a failure, 2 misuse (a `HiddenDecodingError`, printed without a traceback), 130 interrupted. `--help` loads
neither torch nor transformers: a verb's module imports heavy things inside `run`.

    $ hidden-decoding inspect path/to/checkpoint
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys

from hidden_decoding import __version__
from hidden_decoding.cli.missing import missing_package
from hidden_decoding.errors import HiddenDecodingError

# verb -> (module below `hidden_decoding.cli`, line for --help)
VERBS = {
    "inspect": ("inspect", "what a checkpoint or config is: streams, parameters, memory, context"),
    "upcycle": ("upcycle", "give a base checkpoint n streams (or n -> k * n)"),
    "train": ("train", "continue training on text (cpt), fine-tune on chats (sft), or plan either (plan)"),
    "generate": ("generate", "text from a prompt, in this process"),
    "lens": ("lens", "what each hidden stream would have predicted"),
    "serve": ("serve", "an OpenAI-compatible server over a checkpoint"),
    "ui": ("ui", "the chat page, in front of any OpenAI-compatible server"),
    "chat": ("chat", "talk to a server in the terminal"),
    "eval": ("eval", "the release's benchmarks on any engine, beside the published figures"),
    "bench": ("bench", "how fast the engine is, or any OpenAI-compatible server under load"),
    "export": ("export", "write a checkpoint in the published format"),
    "doctor": ("doctor", "check this machine and its installation"),
    "demo": ("demo", "train, upcycle, compare, serve and query a small model"),
}


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser; with `only`, just that verb's flags are loaded (the others are listed without theirs)."""
    parser = argparse.ArgumentParser(
        prog="hidden-decoding",
        description="Make, train, evaluate and serve Sequential Hidden Decoding language models.",
    )
    parser.add_argument("--version", action="version", version=f"hidden-decoding {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, (module_name, line) in VERBS.items():
        verb_parser = verbs.add_parser(verb, help=line, description=line[0].upper() + line[1:] + ".")
        verb_parser.add_argument("-v", "--verbose", action="count", default=0, help="more log lines on standard error")
        verb_parser.add_argument("-q", "--quiet", action="store_true", help="no log lines and no progress bars")
        if only in (None, verb):
            module = importlib.import_module(f"hidden_decoding.cli.{module_name}")
            module.add_arguments(verb_parser)
            verb_parser.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    verb = next((word for word in arguments if not word.startswith("-")), None)
    passed_on: list[str] = []
    if verb == "serve" and "--" in arguments:  # the rest belongs to the engine, whatever it looks like
        cut = arguments.index("--")
        arguments, passed_on = arguments[:cut], arguments[cut + 1 :]
    try:
        parser = build_parser(verb if verb in VERBS else "")
        args = parser.parse_args(arguments, argparse.Namespace(engine_flags=passed_on))
        level = logging.ERROR if args.quiet else [logging.WARNING, logging.INFO, logging.DEBUG][min(args.verbose, 2)]
        logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
        return int(args.run(args))
    except ModuleNotFoundError as error:
        absent = missing_package(error, verb)
        if absent is None:
            raise
        print(f"error: {absent}", file=sys.stderr)
        return 2
    except HiddenDecodingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())

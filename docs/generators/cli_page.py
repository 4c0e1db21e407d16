"""The command line, from the argparse parsers themselves."""

from __future__ import annotations

import argparse

from markdown import code, sentence, table

from hidden_decoding.cli.main import VERBS, build_parser

HEAD = """# Command line

`hidden-decoding VERB --help` says the same. Every verb takes `-v` (more log lines on standard error) and `-q` (no log
lines and no progress bars). Results go to standard output, logs and progress to standard error. Exit codes: 0 done, 1
the work itself reports a failure, 2 misuse (one line that says what to do), 130 interrupted.

MODEL is a directory or a hub id; see [hub mirrors](../guides/original-readme.md#hub-mirrors-and-modelscope).

"""
EVERYWHERE = {"-h", "-v", "-q"}


def page() -> str:
    """All verbs, and the verbs inside verbs."""
    parts = [HEAD]
    for verb in VERBS:
        [verbs] = subparsers(build_parser(verb))
        parts += sections(verb, verbs.choices[verb], level=2)
    return "\n".join(parts)


def subparsers(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def sections(name: str, parser: argparse.ArgumentParser, level: int) -> list[str]:
    """A heading, the usage, and one table per group of flags; then the same for each verb inside."""
    inner = subparsers(parser)
    parts = [f"{'#' * level} {name}\n", f"{sentence(parser.description)}\n"]
    if not inner:
        parts.append(f"```text\n{usage(name, parser)}\n```\n")
    if parser.epilog:
        parts.append(sentence(parser.epilog) + "\n")
    tables: dict[str, list[tuple[str, str]]] = {"": []}
    for group in parser._action_groups:
        title = "" if group.title in ("options", "positional arguments") else f"Of `{group.title}`:\n\n"
        tables.setdefault(title, []).extend(row(action) for action in group._group_actions if shown(action))
    parts += [title + table(("flag", "what it does"), rows) for title, rows in tables.items() if rows]
    for action in inner:
        for word, below in action.choices.items():
            parts += sections(f"{name} {word}", below, level + 1)
    return parts


def shown(action: argparse.Action) -> bool:
    hidden = action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction)
    return not hidden and not EVERYWHERE & set(action.option_strings)


def usage(name: str, parser: argparse.ArgumentParser) -> str:
    """One line: what must be given."""
    needed = [a for a in parser._actions if not a.option_strings or a.required]
    words = [value(a) if not a.option_strings else f"{a.option_strings[-1]} {value(a)}" for a in needed]
    return " ".join(["hidden-decoding", name, *words, "[FLAGS]"])


def row(action: argparse.Action) -> tuple[str, str]:
    """A flag with its value, and its help text, which ends with the default."""
    text = (
        (action.help or "") % {**vars(action), "prog": "hidden-decoding"}
        if "%(" in (action.help or "")
        else action.help
    )
    if not action.option_strings:
        return code(value(action)), (text or "").replace("%%", "%")
    flags = ", ".join(action.option_strings)
    return code(f"{flags} {value(action)}".strip()), (text or "").replace("%%", "%")


def value(action: argparse.Action) -> str:
    """What stands after a flag."""
    if action.nargs == 0:
        return ""
    if action.choices:
        word = "|".join(map(str, action.choices))
    else:
        word = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return f"{word} ..." if action.nargs in ("+", "*") else word

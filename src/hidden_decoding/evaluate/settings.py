"""Settings of an evaluation, and the source of its command-line flags. Loads no torch and no harness."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hidden_decoding.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """What is asked, of whom, and what the answers may do. Raises `ConfigError` naming the flag."""

    suite: tuple[str, ...] = field(default=(), metadata={"help": "run this suite only (repeatable; default: all)"})
    data: Path | None = field(
        default=None,
        metadata={"help": "directory with the data sets (default: from the hub)", "metavar": "DIR"},
    )
    out: Path | None = field(
        default=None,
        metadata={"help": "directory of the run; the same one goes on where a run stopped", "metavar": "DIR"},
    )
    limit: int | None = field(
        default=None, metadata={"help": "questions per task; the figures then have no published ones beside them"}
    )
    samples: int | None = field(
        default=None, metadata={"help": "answers per question (default: the suite's; 16 for AIME)"}
    )
    max_answer_tokens: int | None = field(default=None, metadata={"help": "most tokens of an answer, for all suites"})
    seed: int = field(default=0, metadata={"help": "of sampling, and of the order of shuffled options"})
    thinking: bool = field(default=False, metadata={"help": "let the model think before it answers (instruct)"})
    concurrency: int = field(default=16, metadata={"help": "requests at once, to a server"})
    base_url: str | None = field(
        default=None,
        metadata={
            "help": "ask this OpenAI-compatible server; MODEL is then a name it serves, or a tokenizer's directory"
        },
    )
    api_key: str | None = field(default=None, metadata={"help": "sent to the server as a Bearer token"})
    tokenizer: Path | None = field(
        default=None,
        metadata={"help": "the served model's tokenizer (default: the server's /tokenize)", "metavar": "DIR"},
    )
    judge_url: str | None = field(
        default=None, metadata={"help": "an OpenAI-compatible server whose model judges answers a second time"}
    )
    judge_model: str | None = field(default=None, metadata={"help": "the judge's name there (default: the first)"})
    judge_api_key: str | None = field(default=None, metadata={"help": "sent to the judge's server"})
    allow_code_execution: bool = field(
        default=False,
        metadata={"help": "run the programs of MBPP+ answers, in a sandbox; without it MBPP+ is left out"},
    )

    def __post_init__(self) -> None:
        for name in ("limit", "samples", "max_answer_tokens", "concurrency"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be a whole number from 1")
        if self.judge_model is not None and self.judge_url is None:
            raise ConfigError(f"--judge-model {self.judge_model!r} needs --judge-url: where that model is served")

"""The server's own settings; the engine's are in `engines/local/engine_config.py`. Command-line flags derive from both.

Contract: plain data, checked on construction; loads nothing heavy, so `hidden-decoding serve --help` stays quick.

    $ hidden-decoding serve path/to/checkpoint --port 8000 --api-key secret
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hidden_decoding.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """How the server listens, whom it lets in, and how much it takes on. Raises `ConfigError` naming the flag."""

    host: str = field(default="127.0.0.1", metadata={"help": "address to listen on; 0.0.0.0 is every interface"})
    port: int = field(default=8080, metadata={"help": "port to listen on; 0 picks a free one"})
    api_key: tuple[str, ...] = field(
        default=(), metadata={"help": "a key that clients must send as a Bearer token (repeatable); none: open to all"}
    )
    served_model_name: tuple[str, ...] = field(
        default=(), metadata={"help": "name of the model in the API (repeatable; the first is shown in answers)"}
    )
    chat_template: str | None = field(
        default=None,
        metadata={"help": "file with a Jinja chat template, in place of the tokenizer's", "metavar": "FILE"},
    )
    reasoning_parser: str = field(
        default="qwen3",
        metadata={"help": "how thinking is told from the answer: <think> blocks, or not", "choices": ("qwen3", "none")},
    )
    max_body_bytes: int = field(
        default=8 * 2**20, metadata={"help": "largest request body; above it the answer is 413"}
    )
    max_waiting_requests: int = field(
        default=256, metadata={"help": "sequences that may queue for the engine; above it the answer is 429"}
    )
    max_sequences_per_request: int = field(
        default=256, metadata={"help": "most sequences of one request: number of prompts times n"}
    )
    request_timeout: float = field(
        default=1800.0, metadata={"help": "seconds one request may take before it is aborted; 0 is no limit"}
    )
    keep_alive_seconds: float = field(
        default=15.0, metadata={"help": "seconds without an event after which a stream gets an SSE comment"}
    )
    drain_seconds: float = field(
        default=30.0, metadata={"help": "seconds that running requests may go on after SIGTERM or SIGINT"}
    )
    allowed_origins: tuple[str, ...] = field(
        default=(), metadata={"help": "web origin that may call the API from a browser (repeatable; * is all)"}
    )

    def __post_init__(self) -> None:
        checks = (
            ("port", 0 <= self.port < 65536, "from 0 to 65535"),
            ("api_key", all(key and key.isascii() and key.isprintable() for key in self.api_key), "printable ASCII"),
            ("served_model_name", all(self.served_model_name), "a name of at least one character"),
            ("max_body_bytes", self.max_body_bytes >= 1024, "at least 1024"),
            ("max_waiting_requests", self.max_waiting_requests >= 1, "at least 1"),
            ("max_sequences_per_request", self.max_sequences_per_request >= 1, "at least 1"),
            ("request_timeout", self.request_timeout >= 0, "0 (no limit) or seconds above it"),
            ("keep_alive_seconds", self.keep_alive_seconds > 0, "seconds above 0"),
            ("drain_seconds", self.drain_seconds >= 0, "seconds from 0"),
        )
        for name, fine, allowed in checks:
            if not fine:
                # A key is a secret: its value never reaches a terminal or a log.
                seen = "as given" if name == "api_key" else repr(getattr(self, name))
                raise ConfigError(f"--{name.replace('_', '-')} {seen} cannot work; it must be {allowed}")

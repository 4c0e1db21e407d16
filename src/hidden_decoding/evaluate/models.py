"""Who is evaluated: a directory, a hub id or a URL, behind one interface; and who exactly it was, for the record.

Contract: an `Opened` model has an asker, a description, and a fingerprint that changes with the weights. Nothing is
loaded before `open_model`. Other engines run as a process of this package's own `serve`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hidden_decoding.errors import CapacityError, ConfigError
from hidden_decoding.evaluate.asking_http import HttpAsker
from hidden_decoding.evaluate.asking_local import LocalAsker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hidden_decoding.engines.local.engine_config import EngineConfig
    from hidden_decoding.evaluate.questions import Answer, Question
    from hidden_decoding.evaluate.settings import EvalConfig
    from hidden_decoding.evaluate.tokens import Encode

HASHED_BYTES = 2**20  # of each end of a weight file: enough to tell two checkpoints apart, quick for any size


class Asker(Protocol):
    """Answers questions, in the order they are done."""

    num_streams: int | None

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        """All answers, each once."""

    def describe(self) -> dict[str, Any]:
        """What answers, for the record."""

    def check_chat(self) -> None:
        """Raises `ConfigError` when chats cannot be asked."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model as named on the command line; `role` is model, compare or control."""

    name: str
    role: str = "model"
    revision: str | None = None

    @property
    def is_url(self) -> bool:
        """Whether it is asked over HTTP, by an address of its own."""
        return self.name.startswith(("http://", "https://"))

    @property
    def short(self) -> str:
        """For headings and directory names."""
        if self.is_url:
            address, _, name = self.name.partition("#")
            return name or re.sub(r"^https?://|/v1/?$", "", address)
        return Path(self.name).name or self.name

    @property
    def slug(self) -> str:
        """A directory name of its own for every name."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", self.short).strip("-.") or "model"
        return f"{plain}-{hashlib.sha256(self.name.encode()).hexdigest()[:6]}"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model ready to be asked."""

    spec: ModelSpec
    asker: Asker
    fingerprint: str
    chat_template: str | None = None


@contextlib.contextmanager
def open_model(spec: ModelSpec, engine: str, config: EvalConfig, engine_config: EngineConfig) -> Iterator[Opened]:
    """Loads or connects; closes again what was started."""
    if spec.is_url or config.base_url is not None:
        opened, asker = _connect(spec, config)
        with contextlib.closing(asker):
            yield opened
    elif engine == "local":
        from hidden_decoding.engines.local.engine import LocalEngine
        from hidden_decoding.modeling.checkpoint import resolve_model

        directory = resolve_model(spec.name, spec.revision)
        local = LocalEngine(spec.name, engine_config, revision=spec.revision)
        template = getattr(local.tokenizer, "chat_template", None)
        yield Opened(
            spec=spec,
            asker=LocalAsker(local),
            fingerprint=f"{weights_fingerprint(directory)}/{engine_config.dtype}/{engine_config.quantization}",
            chat_template=template and str(template),
        )
    else:
        from hidden_decoding.modeling.checkpoint import resolve_model

        directory = resolve_model(spec.name, spec.revision)
        with _served(directory, engine) as url:
            asker = HttpAsker(url, concurrency=config.concurrency, encode=encoder_of(directory), engine=engine)
            asker.num_streams = asker.num_streams or _streams_of(directory)
            with contextlib.closing(asker):
                yield Opened(spec=spec, asker=asker, fingerprint=f"{weights_fingerprint(directory)}/{engine}")


def _connect(spec: ModelSpec, config: EvalConfig) -> tuple[Opened, HttpAsker]:
    address, _, name = spec.name.partition("#") if spec.is_url else (config.base_url or "", "", spec.name)
    here = None if spec.is_url or not Path(name).is_dir() else Path(name)
    tokenizer = config.tokenizer or here
    asker = HttpAsker(
        address,
        model=None if here or name in {"", "default"} else name,
        api_key=config.api_key,
        concurrency=config.concurrency,
        encode=None if tokenizer is None else encoder_of(tokenizer),
    )
    return Opened(spec=spec, asker=asker, fingerprint=f"served: {asker.model}"), asker


def encoder_of(directory: Path) -> Encode:
    """Text to token ids, by the tokenizer of a checkpoint directory."""
    from hidden_decoding.modeling.checkpoint import load_tokenizer

    tokenizer = load_tokenizer(directory) if directory.is_dir() else None
    if tokenizer is None:
        raise ConfigError(f"--tokenizer {str(directory)!r} holds no tokenizer; give a directory with tokenizer.json")
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False))


def _streams_of(directory: Path) -> int:
    from hidden_decoding.modeling.checkpoint import load_config

    return int(load_config(directory).num_streams)


def weights_fingerprint(directory: Path) -> str:
    """SHA-256 over the configuration and both ends of every weight file."""
    digest = hashlib.sha256()
    for path in sorted([directory / "config.json", *directory.glob("*.safetensors")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(HASHED_BYTES))
            file.seek(max(0, size - HASHED_BYTES))
            digest.update(file.read())
    return digest.hexdigest()


@contextlib.contextmanager
def _served(directory: Path, engine: str) -> Iterator[str]:
    """`hidden-decoding serve` with another engine, on a free port, as long as the block runs."""
    command = [sys.executable, "-m", "hidden_decoding.cli.main", "serve", str(directory), "--engine", engine]
    process = subprocess.Popen([*command, "--port", "0", "-q"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None, "a pipe was asked for"
        for line in process.stdout:
            if line.startswith("URL"):
                yield line.split()[-1]
                return
        raise CapacityError(f"{' '.join(command)} ended before it served (exit code {process.wait()}); see above why")
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()

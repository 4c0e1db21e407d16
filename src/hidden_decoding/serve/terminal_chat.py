"""A conversation in the terminal with any OpenAI-compatible server: history, streaming, a few commands.

Contract: answers go to `out` as they arrive, everything else (prompt, thinking, speed, errors) to `info`; a failed
request leaves the history as it was. Knows nothing of the engine: only HTTP.

    >>> Conversation(ChatClient("http://127.0.0.1:8080/v1"), out=sys.stdout, info=sys.stderr).handle("Hello")
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import httpx

from hidden_decoding.errors import ConfigError, HiddenDecodingError

if TYPE_CHECKING:
    from collections.abc import Iterator

HELP = """\
/system TEXT      set the system prompt (without TEXT: remove it)
/set NAME VALUE   set a sampling field, for example /set temperature 0.2 (without VALUE: remove; alone: show all)
/save FILE        write the conversation as JSON
/reset            forget the conversation
/quit             leave (so does the end of the input)"""
_FIXED_FIELDS = {"messages", "model", "stream", "stream_options", "n"}


class ServerAnswerError(HiddenDecodingError):
    """The server refused a request or broke off."""


@dataclass(kw_only=True)
class Reply:
    """One answer as it came in, with its times in seconds."""

    text: str = ""
    started: float = field(default_factory=time.monotonic)
    first: float | None = None
    last: float | None = None
    pieces: int = 0
    usage: dict[str, Any] | None = None

    def speed(self) -> str:
        """One line: tokens, tokens per second after the first, time to the first."""
        if self.first is None or self.last is None:
            return "no answer"
        counted = (self.usage or {}).get("completion_tokens")
        # A server that sends no usage still sends about one piece per token.
        tokens, unit = (self.pieces, "pieces") if counted is None else (counted, "tokens")
        seconds = self.last - self.first
        rate = f", {(tokens - 1) / seconds:.1f} {unit}/s" if tokens > 1 and seconds > 0 else ""
        return f"{tokens} {unit}{rate}, first after {(self.first - self.started) * 1000:.0f} ms"


class ChatClient:
    """The two calls a chat needs."""

    def __init__(self, base_url: str, *, api_key: str | None = None, model: str | None = None) -> None:
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self.base_url = base_url.rstrip("/")
        self.http = httpx.Client(headers=headers, timeout=httpx.Timeout(30, read=None))
        self.model = model or self._first_model()

    def _first_model(self) -> str:
        try:
            answer = self.http.get(f"{self.base_url}/models", timeout=10)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ConfigError(
                f"no server answers at {self.base_url} ({error}); start one with: hidden-decoding serve MODEL"
            ) from error
        if answer.status_code != httpx.codes.OK:
            raise ConfigError(f"{self.base_url}/models: {_error_text(answer.status_code, answer.content)}")
        try:
            return str(answer.json()["data"][0]["id"])
        except (ValueError, LookupError, TypeError) as error:
            raise ConfigError(f"{self.base_url} lists no models; name one with --model") from error

    def stream(self, messages: list[dict[str, str]], options: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of one answer. Raises `ServerAnswerError`."""
        body = {
            **options,
            "model": self.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            with self.http.stream("POST", f"{self.base_url}/chat/completions", json=body) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise ServerAnswerError(_error_text(answer.status_code, answer.read()))
                for line in answer.iter_lines():
                    data = line.removeprefix("data:").strip()
                    if line.startswith("data:") and data != "[DONE]":
                        yield _chunk(data)
        except httpx.HTTPError as error:
            raise ServerAnswerError(f"the connection failed: {error or type(error).__name__}") from error


class Conversation:
    """The history, its settings, and what a line typed by the user does."""

    def __init__(self, client: ChatClient, *, out: TextIO, info: TextIO, system: str | None = None) -> None:
        self.client = client
        self.out = out
        self.info = info
        self.system = system
        self.options: dict[str, Any] = {}
        self.history: list[dict[str, str]] = []

    def handle(self, line: str) -> bool:
        """Handles one line; False when the user wants to leave."""
        line = line.strip()
        if not line:
            return True
        try:
            if line.startswith("/"):
                return self._command(line)
            self._ask(line)
        except HiddenDecodingError as error:
            self._say(f"error: {error}")
        return True

    def messages(self) -> list[dict[str, str]]:
        """System prompt and history, as they are sent."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.history]

    def _ask(self, text: str) -> None:
        self.history.append({"role": "user", "content": text})
        reply = Reply()
        try:
            self._receive(reply)
        except BaseException:
            self.history.pop()
            raise
        self.history.append({"role": "assistant", "content": reply.text})
        self._say(f"[{reply.speed()}]")

    def _receive(self, reply: Reply) -> None:
        """Prints the answer as it comes; an interrupt keeps what is there."""
        try:
            for chunk in self.client.stream(self.messages(), self.options):
                reply.usage = chunk.get("usage") or reply.usage
                reply.last = time.monotonic() if chunk.get("choices") else reply.last
                for choice in chunk.get("choices") or []:
                    self._show(choice.get("delta") or {}, reply)
        except KeyboardInterrupt:
            self._say("\n[stopped]")
        self.out.write("\n")
        self.out.flush()

    def _show(self, delta: dict[str, Any], reply: Reply) -> None:
        thinking = delta.get("reasoning_content") or delta.get("reasoning") or ""
        content = delta.get("content") or ""
        if thinking or content:
            reply.first = reply.first or time.monotonic()
            reply.pieces += 1
        if thinking:
            self.info.write(thinking)
            self.info.flush()
        if content:
            reply.text += content
            self.out.write(content)
            self.out.flush()

    def _command(self, line: str) -> bool:
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word in ("/quit", "/exit"):
            return False
        commands = {"/system": self._set_system, "/set": self._set, "/save": self._save, "/reset": self._reset}
        if word in commands:
            commands[word](rest)
        else:
            self._say(HELP if word == "/help" else f"{word} is not a command\n{HELP}")
        return True

    def _set_system(self, text: str) -> None:
        self.system = text or None
        self._say("system prompt set" if text else "system prompt removed")

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if name in _FIXED_FIELDS:
            raise ConfigError(f"{name} is not a sampling field; try temperature, top_p, max_tokens or seed")
        if name and value.strip():
            self.options[name] = _value(value.strip())
        elif name:
            self.options.pop(name, None)
        self._say(json.dumps(self.options, ensure_ascii=False))

    def _save(self, name: str) -> None:
        if not name:
            raise ConfigError("/save needs the name of a file")
        saved = {"model": self.client.model, "options": self.options, "messages": self.messages()}
        try:
            Path(name).expanduser().write_text(json.dumps(saved, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{name!r} cannot be written ({error.strerror})") from error
        self._say(f"saved {len(saved['messages'])} messages to {name}")

    def _reset(self, _: str) -> None:
        self.history.clear()
        self._say("conversation forgotten")

    def _say(self, text: str) -> None:
        self.info.write(f"{text}\n")
        self.info.flush()


def _chunk(data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise ServerAnswerError(f"the server sent something that is not JSON: {data[:80]!r}") from error
    if not isinstance(chunk, dict) or chunk.get("error"):
        raise ServerAnswerError(str(_message(chunk)))
    return chunk


def _message(answer: Any) -> Any:
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    return error.get("message", error) if isinstance(error, dict) else error


def _error_text(status: int, body: bytes) -> str:
    try:
        message = _message(json.loads(body))
    except ValueError:
        message = body[:200].decode("utf-8", "replace")
    return f"the server answered {status}: {message}"


def _value(text: str) -> Any:
    """JSON where it is JSON (0.2, true, ["a"]), else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text

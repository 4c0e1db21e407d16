"""Any OpenAI-compatible server as the one who answers.

Contract: likelihoods by `echo` over token ids, as lm-evaluation-harness asks for them; chats and completions with the
sampling fields as they stand in the question. What a server refuses (HTTP 400) is an answer with an error; a server
that is not there, or that answers nothing of use, is a `ConfigError` after a few tries. Everything counts tokens.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from hidden_decoding.errors import ConfigError, DependencyError
from hidden_decoding.evaluate.questions import Answer, Question
from hidden_decoding.evaluate.tokens import Encode, continuation_tokens, shortened

TRIES = 5
FIRST_PAUSE = 0.5  # seconds before the second try; doubled each time


class HttpAsker:
    """Asks `base_url` with so many questions at once."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        concurrency: int = 16,
        timeout: float = 1800.0,
        encode: Encode | None = None,
        engine: str = "OpenAI-compatible server",
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise DependencyError("a server needs httpx; run: pip install 'hidden-decoding[eval]'") from error
        self.base_url = base_url.rstrip("/")
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"--base-url {base_url!r} is no URL; it looks like http://127.0.0.1:8080/v1")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=concurrency)
        self._client = httpx.Client(headers=headers, timeout=timeout, limits=limits, trust_env=False)
        self.concurrency = concurrency
        self.engine = engine
        card = self._card(model)
        self.model = str(card["id"])
        self.num_streams: int | None = card.get("streams")
        self.context_tokens: int | None = card.get("max_model_len")
        self.encode: Encode = encode or self._encode_there
        self._known: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    def describe(self) -> dict[str, Any]:
        """What answers, for the record."""
        return {
            "engine": self.engine,
            "model": self.model,
            "streams": self.num_streams,
            "context_tokens": self.context_tokens,
            "concurrency": self.concurrency,
        }

    def check_chat(self) -> None:
        """A server says for itself whether it can chat."""

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    # ----------------------------------------------------------------------------------------------------- talking

    def _send(self, method: str, url: str, body: dict[str, Any] | None = None) -> Any:
        """The response; tries again while the server is busy or away."""
        import httpx

        pause, reason = FIRST_PAUSE, ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(pause)
                pause *= 2
            try:
                response = self._client.request(method, url, json=body)
            except httpx.TimeoutException:
                reason = "it did not answer in time"
                continue
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
                if attempt == 0 and body is None:  # the first contact: most likely a wrong address
                    break
                continue
            if response.status_code not in {408, 429} and response.status_code < 500:
                return response
            reason = f"HTTP {response.status_code}"
        raise ConfigError(
            f"{url} cannot be reached ({reason}); start the server or correct --base-url, then run again: it goes on"
        )

    def _card(self, wanted: str | None) -> dict[str, Any]:
        """The server's entry of the model to ask: the one named, or the first."""
        response = self._send("GET", f"{self.base_url}/models")
        if response.status_code == 401:
            raise ConfigError(f"{self.base_url} wants a key; give it with --api-key")
        try:
            cards = response.json()["data"]
            names = [card["id"] for card in cards]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.base_url}/models does not answer like an OpenAI-compatible server (HTTP "
                f"{response.status_code}); --base-url ends in /v1 for most servers"
            ) from error
        if wanted is None and cards:
            return dict(cards[0])
        if wanted not in names:
            raise ConfigError(f"{self.base_url} does not serve {wanted!r}; it has {', '.join(names) or 'no model'}")
        return dict(cards[names.index(wanted)])

    def _encode_there(self, text: str) -> list[int]:
        """The server's own tokenizer, by the route that vLLM, SGLang and our server have; each text once."""
        if text not in self._known:
            root = self.base_url.removesuffix("/v1")
            body = {"model": self.model, "prompt": text, "add_special_tokens": False}
            response = self._send("POST", f"{root}/tokenize", body)
            if response.status_code != 200:
                raise ConfigError(
                    f"{root} has no /tokenize (HTTP {response.status_code}), and likelihoods need token ids; give the "
                    "model's tokenizer with --tokenizer DIR"
                )
            with self._lock:
                self._known[text] = list(response.json()["tokens"])
        return self._known[text]

    # ------------------------------------------------------------------------------------------------------ asking

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Answer]]:
        """All answers, as they come; a window of questions is on its way at any time."""
        waiting, last = iter(questions), time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(self.concurrency) as pool:
            first = itertools.islice(waiting, 2 * self.concurrency)
            running = {pool.submit(self._one, question): question for question in first}
            try:
                while running:
                    done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                    for future in done:
                        question = running.pop(future)
                        if (following := next(waiting, None)) is not None:
                            running[pool.submit(self._one, following)] = following
                        now = time.perf_counter()
                        yield question, Answer(**{**future.result(), "wall_seconds": round(now - last, 5)})
                        last = now
            finally:
                for future in running:
                    future.cancel()

    def _one(self, question: Question) -> dict[str, Any]:
        started = time.perf_counter()
        if question.continuation is not None:
            route, body, first, truncated = self._scoring(question)
        elif question.messages is not None:
            route, first, truncated = "chat/completions", 0, 0
            body = {**_sampling(question), "messages": question.messages}
            body["chat_template_kwargs"] = {"enable_thinking": bool(question.thinking)}
        else:
            route, first, truncated = "completions", 0, 0
            body = {**_sampling(question), "prompt": question.prompt}
        response = self._send("POST", f"{self.base_url}/{route}", {"model": self.model, **body})
        common: dict[str, Any] = {"truncated_tokens": truncated, "seconds": round(time.perf_counter() - started, 4)}
        if response.status_code != 200:
            if response.status_code in {401, 403, 404}:
                raise ConfigError(f"{self.base_url}/{route} answers HTTP {response.status_code}: {_message(response)}")
            return {"error": f"HTTP {response.status_code}: {_message(response)}", **common}
        try:
            content = response.json()
            return {**common, **_counts(content.get("usage") or {}), **_taken(question, content["choices"][0], first)}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ConfigError(
                f"{self.base_url}/{route} does not answer like an OpenAI-compatible server ({type(error).__name__}: "
                f"{error}); likelihoods need echo and logprobs, which not every server has"
            ) from error

    def _scoring(self, question: Question) -> tuple[str, dict[str, Any], int, int]:
        """A request for a continuation's likelihood, and where its tokens begin."""
        context, continuation = continuation_tokens(self.encode, question.prompt or "", question.continuation or "")
        ids, truncated = context + continuation, 0
        if self.context_tokens is not None:
            ids, truncated = shortened(ids, self.context_tokens - 1)
        first = len(ids) - len(continuation)
        body = {"prompt": ids, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
        # Our server then takes the context from its prefix cache; others ignore the field.
        return "completions", {**body, "logprob_start_len": first}, first, truncated


def _sampling(question: Question) -> dict[str, Any]:
    """Fields as servers know them; an empty list of stops is left out."""
    return {key: value for key, value in question.sampling.items() if key != "stop" or value}


def _counts(usage: dict[str, Any]) -> dict[str, int]:
    """Tokens of a request, as the server counted them."""
    return {
        "prompt_tokens": usage.get("prompt_tokens") or 0,
        "answer_tokens": usage.get("completion_tokens") or 0,
        "cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
    }


def _message(response: Any) -> str:
    try:
        content = response.json()
        error = content.get("error", content)
        return str(error.get("message", error) if isinstance(error, dict) else error)[:300]
    except (ValueError, AttributeError):
        return str(response.text)[:300]


def _taken(question: Question, choice: dict[str, Any], first: int) -> dict[str, Any]:
    if question.continuation is not None:
        logprobs = choice["logprobs"]
        # The last token is the one the server generated.
        values, tops = logprobs["token_logprobs"][first:-1], logprobs["top_logprobs"][first:-1]
        greedy = all(max(top.values()) == value for top, value in zip(tops, values, strict=True))
        return {"logprob": sum(values), "greedy": greedy, "finish_reason": "scored"}
    if question.messages is None:
        return {"text": choice.get("text") or "", "finish_reason": choice.get("finish_reason")}
    message = choice["message"]
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    return {"text": message.get("content") or "", "reasoning": thought, "finish_reason": choice.get("finish_reason")}

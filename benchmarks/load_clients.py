"""A process of clients for the load test: each asks, compares, leaves, or sends nonsense, by a seed; one in a loop.

Contract: reads questions from a file, says on standard output what it starts and how it ended, one JSON line each, and
stops after a line on standard input. Imports nothing heavy, so that a killed process is soon replaced.

    outcome   right: the whole answer was its own; left: hung up midway, what came was a beginning of its own answer;
              refused: a bad request got its 4xx; busy: 429; broken: a connection that was never a request;
              wrong, mixed_up (another question's answer), failed, hung: what must not happen
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import time
from pathlib import Path

import httpx

ROUTE = "/v1/completions"
PATIENCE_SECONDS = 120.0
KINDS = {"stream": 56, "whole": 14, "leave_stream": 14, "leave_whole": 4, "malformed": 5, "oversized": 3, "broken": 4}
MALFORMED = [
    "", "{", "[]", "null", '"text"', '{"prompt": 5}', '{"prompt": ""}', '{"prompt": [1, -1]}', '{"prompt": "\\ud800"}',
    '{"prompt": [1], "temperature": -1}', '{"prompt": [1], "max_tokens": "many"}', '{"prompt": [1], "n": 0}',
    '{"prompt": [1], "stop": [1]}', '{"prompt": [1], "logit_bias": {"a": 1}}', '{"prompt": [1, 99999999]}',
    '{"prompt": ' + "[" * 3000 + "]" * 3000 + "}",
]  # fmt: skip
BROKEN = [
    b"",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n{\"prompt\": [1",
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n{",
    b"GET " + b"/" * 70000,
]  # fmt: skip


class Clients:
    """All clients of this process."""

    def __init__(self, url: str, questions: list[dict], rng: random.Random, name: str) -> None:
        self.url, self.questions, self.rng, self.name = url, questions, rng, name
        self.stopping = asyncio.Event()
        self.count = 0
        self.http = httpx.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS, limits=httpx.Limits(max_connections=None))

    async def client(self) -> None:
        """Asks until told to stop."""
        while not self.stopping.is_set():
            kind = self.rng.choices(list(KINDS), KINDS.values())[0]
            number = self.rng.randrange(len(self.questions))
            self.count += 1
            request = f"{self.name}-{self.count}"
            say(event="start", id=request, kind=kind, question=number)
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    found = await getattr(self, f"_{kind}")(number)
            except TimeoutError:
                found = {"outcome": "hung"}
            except Exception as error:  # every kind of failure is a finding
                found = {"outcome": "failed", "detail": f"{type(error).__name__}: {error}"}
            say(event="end", id=request, kind=kind, question=number, **found)
            if found["outcome"] == "busy":
                await asyncio.sleep(self.rng.uniform(0.2, 1.0))

    def _body(self, number: int, **options) -> dict:
        question = self.questions[number]
        fixed = {"temperature": 0, "ignore_eos": True, "return_token_ids": True, "model": "default"}
        return {"prompt": question["prompt"], "max_tokens": len(question["answer"]), **fixed, **options}

    async def _stream(self, number: int, stop_after: int | None = None) -> dict:
        ids, text, last, gap, usage, reason, done = [], "", None, 0.0, None, None, False
        body = self._body(number, stream=True, stream_options={"include_usage": True})
        async with self.http.stream("POST", ROUTE, json=body) as answer:
            if answer.status_code != 200:
                return refusal(answer.status_code, await answer.aread(), 429, "busy")
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    done = True
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    return {"outcome": "failed", "detail": str(event)[:300]}
                usage = event.get("usage") or usage
                for choice in event["choices"]:
                    now = time.perf_counter()
                    gap, last = max(gap, now - last if last else 0.0), now
                    ids += choice["token_ids"]
                    text += choice["text"]
                    reason = choice["finish_reason"] or reason
                if stop_after is not None and len(ids) >= stop_after:
                    return self._compared(number, ids, text, whole=False)
        found = self._compared(number, ids, text, whole=True)
        if not done or reason != "length" or usage["completion_tokens"] != len(ids):
            found = {"outcome": "failed", "detail": f"ended with {reason}, usage {usage}, done {done}"}
        return {**found, "gap": gap}

    async def _whole(self, number: int) -> dict:
        copies = self.rng.choice([1, 1, 2, 3])
        answer = await self.http.post(ROUTE, json=self._body(number, n=copies))
        if answer.status_code != 200:
            return refusal(answer.status_code, answer.content, 429, "busy")
        choices = answer.json()["choices"]
        if len(choices) != copies:
            return {"outcome": "failed", "detail": f"{len(choices)} choices, asked for {copies}"}
        found = [self._compared(number, choice["token_ids"], choice["text"], whole=True) for choice in choices]
        worst = next((one for one in found if one["outcome"] != "right"), found[0])
        return {**worst, "tokens": sum(one.get("tokens", 0) for one in found)}

    async def _leave_stream(self, number: int) -> dict:
        longest = len(self.questions[number]["answer"])
        return await self._stream(number, stop_after=self.rng.randint(1, max(1, longest - 1)))

    async def _leave_whole(self, number: int) -> dict:
        try:
            async with asyncio.timeout(self.rng.uniform(0.005, 0.3)):
                return await self._whole(number)
        except TimeoutError:
            return {"outcome": "left", "tokens": 0}

    async def _malformed(self, _: int) -> dict:
        headers = {"content-type": "application/json"}
        answer = await self.http.post(ROUTE, content=self.rng.choice(MALFORMED), headers=headers)
        return refusal(answer.status_code, answer.content, 400, "refused")

    async def _oversized(self, _: int) -> dict:
        if self.rng.random() < 0.5:
            answer = await self.http.post(ROUTE, json={"prompt": [5] * 5000})
            return refusal(answer.status_code, answer.content, 400, "refused")
        answer = await self.http.post(ROUTE, json={"prompt": "a" * 200_000})
        return refusal(answer.status_code, answer.content, 413, "refused")

    async def _broken(self, _: int) -> dict:
        host, _, port = self.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(self.rng.choice(BROKEN))
        with contextlib.suppress(TimeoutError, ConnectionError):
            await writer.drain()
            async with asyncio.timeout(self.rng.uniform(0.0, 0.5)):
                await reader.read(1000)
        writer.transport.abort()
        return {"outcome": "broken"}

    def _compared(self, number: int, ids: list[int], text: str, *, whole: bool) -> dict:
        """Tokens up to the first tie, the text where no tie came before its end, the length always."""
        question = self.questions[number]
        certain = min(question["certain"], len(ids))
        tied = certain < len(ids)
        right = ids[:certain] == question["answer"][:certain] and len(ids) <= len(question["answer"])
        if whole:
            right = right and len(ids) == len(question["answer"]) and (tied or text == question["text"])
        else:
            right = right and (tied or question["text"].startswith(text))
        if right:
            return {"outcome": "right" if whole else "left", "tokens": certain, "tied": tied}
        others = [other for other in self.questions if other is not question]
        taken = any(other["answer"][: len(ids)] == ids for other in others)
        detail = f"got {ids[:20]} {text[:40]!r}, expected {question['answer'][:20]}"
        return {"outcome": "mixed_up" if taken else "wrong", "detail": detail}


def refusal(status: int, content: bytes, expected: int, outcome: str) -> dict:
    """The expected status in OpenAI's shape is fine; anything else is a failure."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        shape = set(json.loads(content)["error"])
        if status == expected and shape == {"message", "type", "param", "code"}:
            return {"outcome": outcome, "status": status}
    return {"outcome": "failed", "detail": f"HTTP {status}, expected {expected}: {content[:200]!r}"}


def say(**event) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


async def main(url: str, path: str, name: str, count: str) -> None:
    questions = json.loads(Path(path).read_text(encoding="utf-8"))
    clients = Clients(url, questions, random.Random(name), name)
    asyncio.get_running_loop().add_reader(sys.stdin, clients.stopping.set)
    await asyncio.gather(*(clients.client() for _ in range(int(count))))
    await clients.http.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

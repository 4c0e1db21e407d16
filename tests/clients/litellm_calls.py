"""Run by the interpreter of litellm's own environment: calls a server through litellm, prints what came back as JSON.

$ .venv-litellm/bin/python tests/clients/litellm_calls.py http://127.0.0.1:8080/v1
"""

from __future__ import annotations

import asyncio
import json
import sys

import litellm

HELLO = [{"role": "user", "content": "Hello"}]


def main(base_url: str) -> dict:
    common = {"api_base": base_url, "api_key": "none", "temperature": 0, "max_tokens": 8, "num_retries": 0}
    chat = {"model": "openai/tiny", "messages": HELLO, **common}
    whole = litellm.completion(**chat)
    pieces = list(litellm.completion(**chat, stream=True, stream_options={"include_usage": True}))
    later = asyncio.run(litellm.acompletion(**chat))
    text = litellm.text_completion(model="text-completion-openai/tiny", prompt="Hello", **common)
    hosted = litellm.completion(**{**chat, "model": "hosted_vllm/default"})
    return {
        "whole": whole.choices[0].message.content,
        "finish_reason": whole.choices[0].finish_reason,
        "usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens],
        "streamed": "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices),
        "streamed_usage": next(piece.usage.completion_tokens for piece in pieces if getattr(piece, "usage", None)),
        "later": later.choices[0].message.content,
        "hosted": hosted.choices[0].message.content,
        "text": text.choices[0].text,
        "errors": [error_of(chat, temperature=-1), error_of(chat, model="openai/absent"), too_long(chat)],
    }


def error_of(chat: dict, **changes) -> str:
    """The name of the exception that litellm makes of a refusal."""
    try:
        litellm.completion(**{**chat, **changes})
    except Exception as error:
        return type(error).__name__
    return "none"


def too_long(chat: dict) -> str:
    return error_of(chat, messages=[{"role": "user", "content": "word " * 400}])


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))

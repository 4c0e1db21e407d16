"""Bad inputs and what the server says to them: one table, run by `test_errors.py` and printed in the documentation.

Each row: route, body (what differs from a good one; a `str` is sent as it is), status, field named in `param`, and a
piece of the message. The server under test has a context of 256 tokens and a vocabulary of 512.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

COMPLETIONS, CHAT, TOKENIZE, DETOKENIZE = "/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"

# What each row changes; a value of `REMOVED` takes the field away.
GOOD: dict[str, dict[str, Any]] = {
    COMPLETIONS: {"prompt": [1, 2, 3], "max_tokens": 2},
    CHAT: {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    TOKENIZE: {"prompt": "Hi"},
    DETOKENIZE: {"tokens": [1, 2]},
}
REMOVED = object()
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@dataclass(frozen=True)
class BadInput:
    """One row of the table."""

    route: str
    body: dict[str, Any] | str
    param: str | None
    message: str
    status: int = 400


def content_of(bad: BadInput) -> str:
    """The body to send."""
    if isinstance(bad.body, str):
        return bad.body
    body = {**GOOD[bad.route], **bad.body}
    return json.dumps({key: value for key, value in body.items() if value is not REMOVED})


def _both(body: dict[str, Any], param: str, message: str) -> list[BadInput]:
    return [BadInput(COMPLETIONS, body, param, message), BadInput(CHAT, body, param, message)]


BAD_INPUTS: list[BadInput] = [
    # Bodies
    BadInput(COMPLETIONS, "", None, "JSON object"),
    BadInput(COMPLETIONS, "{", None, "not valid JSON"),
    BadInput(COMPLETIONS, "[]", None, "JSON object"),
    BadInput(COMPLETIONS, '"text"', None, "JSON object"),
    BadInput(COMPLETIONS, "null", None, "JSON object"),
    BadInput(CHAT, '{"messages": ' + "[" * 5000 + "]" * 5000 + "}", None, ""),
    BadInput(CHAT, '{"messages": ' + "[" * 200 + "]" * 200 + "}", None, "nested too deeply"),
    BadInput(COMPLETIONS, '{"prompt": "a", "max_tokens": 1' + "0" * 5000 + "}", None, ""),
    # Prompts
    BadInput(COMPLETIONS, {"prompt": REMOVED}, "prompt", "prompt is missing"),
    BadInput(COMPLETIONS, {"prompt": None}, "prompt", "must be text, a list of token ids"),
    BadInput(COMPLETIONS, {"prompt": 5}, "prompt", "must be text, a list of token ids"),
    BadInput(COMPLETIONS, {"prompt": ""}, "prompt", "empty"),
    BadInput(COMPLETIONS, {"prompt": []}, "prompt", "empty"),
    BadInput(COMPLETIONS, {"prompt": [[]]}, "prompt", "empty"),
    BadInput(COMPLETIONS, {"prompt": ["a", ""]}, "prompt", "empty"),
    BadInput(COMPLETIONS, {"prompt": [1, "a"]}, "prompt", "must be text, a list of token ids"),
    BadInput(COMPLETIONS, {"prompt": [1, 2.5]}, "prompt", "must be text, a list of token ids"),
    BadInput(COMPLETIONS, {"prompt": [True]}, "prompt", "must be text, a list of token ids"),
    BadInput(COMPLETIONS, {"prompt": [1, -1]}, "prompt", "greater than or equal to 0"),
    BadInput(COMPLETIONS, {"prompt": [1, 512]}, "prompt", "the vocabulary has ids 0 to 511"),
    BadInput(COMPLETIONS, {"prompt": [[1], [10**30]]}, "prompt", "less than or equal to"),
    BadInput(COMPLETIONS, {"prompt": [5] * 256}, "prompt", "maximum context length is 256 tokens"),
    BadInput(COMPLETIONS, '{"prompt": "\\ud800"}', "prompt", "surrogate"),
    BadInput(COMPLETIONS, {"prompt": [[1]] * 300}, "prompt", "at most 256 are allowed"),
    BadInput(COMPLETIONS, {"suffix": "end"}, "suffix", "not supported"),
    # Messages
    BadInput(CHAT, {"messages": REMOVED}, "messages", "messages is missing"),
    BadInput(CHAT, {"messages": []}, "messages", "at least 1 item"),
    BadInput(CHAT, {"messages": "Hi"}, "messages", "valid list"),
    BadInput(CHAT, {"messages": [{"content": "Hi"}]}, "messages", "messages[0].role is missing"),
    BadInput(CHAT, {"messages": [{"role": "robot", "content": "Hi"}]}, "messages", "'system', 'developer', 'user'"),
    BadInput(CHAT, {"messages": [{"role": "user"}]}, "messages", "needs content"),
    BadInput(CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages", "messages[0].content"),
    BadInput(CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "must be 'text'"),
    BadInput(CHAT, '{"messages": [{"role": "user", "content": "\\udfff"}]}', "messages", "surrogate"),
    BadInput(CHAT, {"messages": [{"role": "user", "content": "word " * 400}]}, "messages", "maximum context length"),
    BadInput(CHAT, {"continue_final_message": True}, "continue_final_message", "last message of the assistant"),
    BadInput(CHAT, {"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs", "cannot set tokenize"),
    BadInput(CHAT, {"chat_template_kwargs": [1]}, "chat_template_kwargs", "valid dictionary"),
    # Lengths
    *_both({"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
    *_both({"max_tokens": 0}, "max_tokens", "max_tokens is 0"),
    *_both({"max_tokens": "many"}, "max_tokens", "valid integer"),
    *_both({"max_tokens": 2.5}, "max_tokens", "valid integer"),
    *_both({"max_tokens": True}, "max_tokens", "valid integer"),
    *_both({"max_tokens": 1000}, "max_tokens", "maximum context length is 256 tokens"),
    *_both({"max_tokens": 10**40}, "max_tokens", "less than or equal to"),
    BadInput(CHAT, {"max_completion_tokens": 1000}, "max_completion_tokens", "maximum context length is 256 tokens"),
    BadInput(CHAT, {"max_completion_tokens": 0}, "max_completion_tokens", "from 1"),
    *_both({"min_tokens": 3}, "min_tokens", "above max_tokens, which is 2"),
    # Sampling
    *_both({"temperature": -0.1}, "temperature", "from 0 to 100"),
    *_both({"temperature": "hot"}, "temperature", "valid number"),
    BadInput(COMPLETIONS, '{"prompt": "a", "temperature": NaN}', "temperature", "finite"),
    BadInput(COMPLETIONS, '{"prompt": "a", "temperature": Infinity}', "temperature", "finite"),
    BadInput(COMPLETIONS, '{"prompt": "a", "temperature": 1e999}', "temperature", "finite"),
    BadInput(COMPLETIONS, '{"prompt": "a", "top_p": -Infinity}', "top_p", "finite"),
    *_both({"top_p": 0}, "top_p", "above 0 and at most 1"),
    *_both({"top_p": 1.1}, "top_p", "above 0 and at most 1"),
    *_both({"top_k": -2}, "top_k", "greater than or equal to -1"),
    *_both({"top_k": 1.5}, "top_k", "valid integer"),
    *_both({"min_p": 2}, "min_p", "from 0 to 1"),
    *_both({"presence_penalty": 2.5}, "presence_penalty", "from -2 to 2"),
    *_both({"frequency_penalty": -3}, "frequency_penalty", "from -2 to 2"),
    *_both({"repetition_penalty": 0}, "repetition_penalty", "above 0"),
    *_both({"seed": 2**64}, "seed", "less than or equal to"),
    *_both({"seed": "x"}, "seed", "valid integer"),
    *_both({"n": 0}, "n", "greater than or equal to 1"),
    *_both({"n": 129}, "n", "less than or equal to 128"),
    BadInput(COMPLETIONS, {"best_of": 2}, "best_of", "only best_of equal to n"),
    *_both({"stop": ""}, "stop", "at least one character"),
    *_both({"stop": [1]}, "stop", "valid string"),
    *_both({"stop": ["a"] * 65}, "stop", "at most 64"),
    *_both({"stop_token_ids": [512]}, "stop_token_ids", "the vocabulary has ids 0 to 511"),
    *_both({"stop_token_ids": "a"}, "stop_token_ids", "valid list"),
    *_both({"logit_bias": {"512": 1}}, "logit_bias", "the vocabulary has ids 0 to 511"),
    *_both({"logit_bias": {"a": 1}}, "logit_bias", "keys are token ids"),
    *_both({"logit_bias": {"-1": 1}}, "logit_bias", "keys are token ids"),
    *_both({"logit_bias": {"1": 101}}, "logit_bias", "-100 to 100"),
    *_both({"logit_bias": {"1": "x"}}, "logit_bias", "valid number"),
    *_both({"logit_bias": [1]}, "logit_bias", "valid dictionary"),
    # Log-probabilities
    BadInput(COMPLETIONS, {"logprobs": -1}, "logprobs", "greater than or equal to 0"),
    BadInput(COMPLETIONS, {"logprobs": 101}, "logprobs", "less than or equal to 100"),
    BadInput(COMPLETIONS, {"logprobs": True}, "logprobs", "valid integer"),
    BadInput(CHAT, {"logprobs": 1}, "logprobs", "valid boolean"),
    BadInput(CHAT, {"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
    BadInput(CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
    # Streams
    *_both({"stream": "yes"}, "stream", "valid boolean"),
    *_both({"stream_options": {"include_usage": True}}, "stream_options", "needs 'stream': true"),
    *_both({"stream": True, "stream_options": {"include_usage": 5}}, "stream_options", "valid boolean"),
    *_both({"stream": True, "temperature": -1}, "temperature", "from 0 to 100"),
    BadInput(COMPLETIONS, {"stream": True, "prompt": [5] * 300}, "prompt", "maximum context length"),
    *_both({"stream_lens": "yes"}, "stream_lens", "valid boolean"),
    BadInput(COMPLETIONS, {"stream_lens": True, "max_tokens": 0, "echo": True}, "stream_lens", "generated tokens"),
    # Grammars and tools
    *_both({"response_format": {"type": "xml"}}, "response_format", "'json_object'"),
    *_both({"response_format": {"type": "json_schema"}}, "response_format", "needs a json_schema"),
    *_both(
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 5}}}},
        "response_format",
        "cannot be used",
    ),
    BadInput(CHAT, {"tools": [{"type": "function"}]}, "tools", "tools[0].function is missing"),
    BadInput(CHAT, {"tools": [{"type": "search", "function": {"name": "f"}}]}, "tools", "must be 'function'"),
    BadInput(CHAT, {"tool_choice": "required"}, "tool_choice", "offers no tools"),
    BadInput(CHAT, {"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice", "'auto', 'none' or 'required'"),
    BadInput(
        CHAT,
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
        "not among the tools",
    ),
    BadInput(
        CHAT,
        {"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "json_object"}},
        "tool_choice",
        "ask for one of them",
    ),
    # Models and the small routes
    BadInput(COMPLETIONS, {"model": "gpt-9"}, "model", "does not exist here; this server has tiny", 404),
    BadInput(CHAT, {"model": "gpt-9"}, "model", "does not exist here; this server has tiny", 404),
    BadInput(CHAT, {"model": 5}, "model", "valid string"),
    BadInput(TOKENIZE, {"prompt": REMOVED}, "prompt", "either prompt or messages"),
    BadInput(TOKENIZE, {"prompt": 5}, "prompt", "valid string"),
    BadInput(DETOKENIZE, {"tokens": [512]}, "tokens", "the vocabulary has ids 0 to 511"),
    BadInput(DETOKENIZE, {"tokens": [-1]}, "tokens", "greater than or equal to 0"),
    BadInput(DETOKENIZE, {"tokens": "ab"}, "tokens", "valid list"),
]

"""The OpenAI-compatible HTTP server over the local engine, and the terminal client that talks to any such server.

Life of a request: `middleware` (key, body) -> `app` (route, `protocol` checks fields) -> `completions` or `chat` ->
`prompts` (token ids) and `sampling` (parameters) -> `generation` (the engine's deltas) -> pieces of `answers` -> one
body, or `sse` events. `errors` turns whatever goes wrong on the way into OpenAI's shape.
"""

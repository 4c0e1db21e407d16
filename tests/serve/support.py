"""A real server on a free port, in a thread of the test process, and a model that says what it is told to say."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import torch
import uvicorn
from tokenizers import AddedToken

from hidden_decoding.engines.local.engine import LocalEngine
from hidden_decoding.serve.app import create_app
from hidden_decoding.serve.launch import bind, make_state
from hidden_decoding.serve.settings import ServeConfig
from hidden_decoding.serve.state import ServerState
from hidden_decoding.train.tokenizer import standard_library_texts, train_tokenizer
from hidden_decoding.ui.page_files import local_page
from tests.support import tiny_model


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """What a test needs to talk to a server and to look inside."""

    url: str
    state: ServerState
    key: str = "none"

    @property
    def engine(self) -> LocalEngine:
        return self.state.engine

    def openai(self, **options) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=60, **options)

    def async_openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=60)

    def http(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def busy(self) -> bool:
        """Whether anything of any request is left in the engine."""
        stats = self.engine.stats()
        return bool(stats.num_running or stats.num_waiting or stats.kv_cache_usage or self.state.running)


@contextlib.contextmanager
def running_server(
    model: Path, *, template: str | None = None, engine: dict | None = None, with_page: bool = False, **settings
) -> Iterator:
    """A server over the checkpoint `model`; `engine` and `settings` are fields of the two configurations."""
    config = ServeConfig(port=0, **settings)
    local = LocalEngine(model, **{"kv_cache_memory_bytes": "64MiB", **(engine or {})})
    state = make_state(local, config, model=str(model), chat_template=template)
    app = create_app(state, local_page) if with_page else create_app(state)
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    assert server.started, "the server did not start"
    try:
        yield RunningServer(
            url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            state=state,
            key=(config.api_key or ("none",))[0],
        )
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"


def wait_until(done, seconds: float = 20.0) -> None:
    """Polls until `done()`, or fails."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


# What the scripted model says, piece by piece; a piece is one token. Pieces differ within and between scripts.
SCRIPTS = {
    "think": ["<think>", "\n", "Let", " me", " see", ".", "\n\n", "</think>", "\n\n\n", "It", " is", " 4", "!"],
    "split": ["<thi", "nk> ", "Two ", "plus ", "two</th", "ink>", " four ", "<think> end"],
    "plain": ["Just ", "an ", "answer", " < ", "</tool", " x"],
    "tool": ["I look", " it up", ".\n", "<tool_", 'call>\n{"name', '": "get_weather', '", "argu', 'ments": {"city"',
             ": ", '"Paris"', "}", "}\n</tool_call>", "\n \n", "<tool_call>", '{"name": "add", "arguments": {}}',
             "</tool_call>"],
    "badtool": ["Hm ", "<tool_call>non", "sense", "</tool_call> done"],
    "open": ["still ", "thinking", "</think>ready"],
    "bytes": [" Grüße", " 你好", " 🙂", " bye"],
}  # fmt: skip

# Ends a conversation with the marker of the script that shall follow.
SCRIPT_TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}"
    "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}"
    "{{ '[' + (script or 'plain') + ']' }}"
)


def save_scripted_checkpoint(
    directory: Path, num_streams: int = 2, *, scripts: dict[str, list[str]] = SCRIPTS, template: str = SCRIPT_TEMPLATE
) -> Path:
    """A real checkpoint whose next token depends only on the last one, along `scripts`.

    Attention and MLP add nothing (their output projections are zero), so the logits are the head's product with the
    last stream's embedding; the head's row of each token points along the embedding of the token before it.
    """
    tokenizer = train_tokenizer(standard_library_texts(limit_bytes=50_000), 300)
    pairs: list[tuple[str, str]] = []
    for name, pieces in scripts.items():
        chain = [f"[{name}]", *pieces]
        pairs += zip(chain, [*chain[1:], tokenizer.eos_token], strict=True)
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    assert len({before for before, _ in pairs}) == len(pairs), "a piece that stands in two places has two successors"
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in texts])
    tokenizer.chat_template = template
    shape = {"vocab_size": 512, "hidden_size": 256, "num_hidden_layers": 1}
    model = tiny_model(num_streams, max_position_embeddings=1024 * num_streams, **shape)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        tables = [model.model.embed_tokens, *model.model.scale_seq_embed_tokens_list]
        head = model.lm_head.weight
        head.zero_()
        for before, after in pairs:
            row = tables[-1].weight[tokenizer.convert_tokens_to_ids(before)]
            head[tokenizer.convert_tokens_to_ids(after)] += row / row.norm() * 2
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory

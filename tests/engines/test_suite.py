"""The local engine passes the suite of all engines: steps of 13 tokens, blocks of 5, a cache for few requests."""

from __future__ import annotations

import pytest

from hidden_decoding import LocalEngine, SamplingParams
from hidden_decoding.errors import RequestError
from hidden_decoding.streams import kv_bytes_per_token
from tests.engine_suite import (
    CHUNK,
    NEW,
    RUNNING,
    SHAPES,
    Answer,
    Basics,
    Engine,
    Limited,
    Penalties,
    Preempting,
    recorder,
)
from tests.support import tiny_model

SLOTS = 160  # tokens the cache holds


class Local(Engine):
    block = 5
    too_long = RequestError

    def __init__(self, num_streams: int, scheme: str) -> None:
        super().__init__(num_streams, scheme)
        config = tiny_model(num_streams, scheme).config
        per_token = kv_bytes_per_token(
            num_streams, config.num_hidden_layers, config.num_key_value_heads, config.head_dim, 4
        )
        self.engine = LocalEngine.from_model(
            tiny_model(num_streams, scheme),
            max_model_len=self.context,
            max_num_batched_tokens=CHUNK,
            max_num_seqs=RUNNING,
            block_size=self.block,
            kv_cache_memory_bytes=str(per_token * SLOTS),
        )

    def ask(self, cases, *, tokens=NEW, scored=False, **penalties):
        logprobs = {"logprobs": 0, "prompt_logprobs": 0} if scored else {}
        params = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=tokens, **logprobs, **penalties)
        answers = []
        for output in self.engine.generate(cases, params):
            entries = [*output.prompt_logprobs[1:], *output.logprobs] if scored else []
            pairs = [(entry.token_id, entry.logprob) for entry in entries]
            answers.append(Answer(output.token_ids, output.finish_reason, output.cached_tokens, pairs))
        stats = self.engine.stats()
        assert stats.free_blocks == stats.total_blocks, "blocks leaked"
        return answers

    def preempted(self):
        return self.engine.stats().preemptions

    def steps(self):
        return recorder(self.engine.model.model.layers[0])


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: f"n{shape[0]}-{shape[1]}")
def engine(request):
    return Local(*request.param)


class TestLocalEngine(Basics, Penalties, Preempting, Limited):
    pass

"""The same questions in this process and over HTTP: likelihoods to 1e-4, also when cut; engines as processes."""

from __future__ import annotations

import httpx
import pytest
import torch

from hidden_decoding.engines.local.engine import LocalEngine
from hidden_decoding.errors import ConfigError
from hidden_decoding.evaluate.asking_http import HttpAsker
from hidden_decoding.evaluate.asking_local import LocalAsker
from hidden_decoding.evaluate.models import _served, weights_fingerprint
from hidden_decoding.evaluate.questions import Question
from hidden_decoding.evaluate.tokens import continuation_tokens
from tests.serve.support import running_server
from tests.support import BruteForce, tiny_model, tiny_tokenizer

TOLERANCE = 1e-4
PAIRS = [
    ("The function returns", " None"),
    ("The function returns", " a list of strings"),
    ("A class is", " not callable"),
    ("Grüße aus dem Modul ", "und mehr 你好"),  # a space that belongs to the continuation
    ("def add(a, b):\n    return", " a + b"),
    ("word " * 400 + "the end is", " near"),  # longer than the context of 256 tokens
]


def questions():
    return [
        Question(suite="s", task="t", doc=number, prompt=context, continuation=continuation)
        for number, (context, continuation) in enumerate(PAIRS)
    ]


@pytest.fixture(scope="module")
def tiny_server(tiny_checkpoint):
    with running_server(tiny_checkpoint(2), served_model_name=("tiny",)) as running:
        yield running


def test_likelihoods_in_process_over_http_and_by_brute_force(tiny_checkpoint, tiny_server):
    local = LocalAsker(LocalEngine(tiny_checkpoint(2), kv_cache_memory_bytes="32MiB"))
    over_http = HttpAsker(f"{tiny_server.url}/v1", concurrency=3)  # tokens by the server's own /tokenize
    here = {question.doc: answer for question, answer in local.ask(questions())}
    there = {question.doc: answer for question, answer in over_http.ask(questions())}
    over_http.close()
    brute, tokenizer = BruteForce(tiny_model(2)), tiny_tokenizer()
    assert here.keys() == there.keys() == set(range(len(PAIRS)))
    for number, (context, continuation) in enumerate(PAIRS):
        before, after = continuation_tokens(tokenizer.encode, context, continuation)
        ids = (before + after)[-255:]
        logprobs_TV = torch.log_softmax(brute.logits(ids).double(), dim=-1)[-len(after) - 1 : -1]
        expected = float(logprobs_TV.gather(1, torch.tensor(after)[:, None]).sum())
        greedy = bool((logprobs_TV.argmax(-1) == torch.tensor(after)).all())
        for answer in (here[number], there[number]):
            assert answer.logprob == pytest.approx(expected, abs=TOLERANCE)
            assert answer.greedy is greedy
            assert answer.truncated_tokens == len(before + after) - len(ids)
            assert answer.prompt_tokens == len(ids)


def test_a_prompt_the_server_refuses_is_an_answer_with_an_error(tiny_server):
    asker = HttpAsker(f"{tiny_server.url}/v1")
    question = Question(suite="s", task="t", doc=0, prompt="word " * 400, sampling={"max_tokens": 5, "stop": []})
    [(_, answer)] = list(asker.ask([question]))
    asker.close()
    assert answer.error.startswith("HTTP 400")


def test_models_are_found_by_name(tiny_server):
    asker = HttpAsker(f"{tiny_server.url}/v1", model="tiny")
    assert (asker.model, asker.num_streams) == ("tiny", 2)
    asker.close()
    with pytest.raises(ConfigError, match="does not serve 'other'; it has tiny"):
        HttpAsker(f"{tiny_server.url}/v1", model="other")
    with pytest.raises(ConfigError, match="does not answer like an OpenAI-compatible server"):
        HttpAsker(tiny_server.url)


@pytest.mark.slow
def test_another_engine_runs_as_a_process_and_ends(tiny_checkpoint):
    """`--engine vllm` starts `serve` in this way; here with the engine that is always there."""
    with _served(tiny_checkpoint(1), "local") as url:
        asker = HttpAsker(url)
        [(_, answer)] = list(asker.ask(questions()[:1]))
        asker.close()
        assert answer.logprob < 0
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url}/models", timeout=5, trust_env=False)


def test_a_fingerprint_tells_weights_apart(tiny_checkpoint, tmp_path):
    assert weights_fingerprint(tiny_checkpoint(1)) != weights_fingerprint(tiny_checkpoint(2))
    tiny_model(2, seed=1).save_pretrained(tmp_path)
    assert weights_fingerprint(tmp_path) != weights_fingerprint(tiny_checkpoint(2))

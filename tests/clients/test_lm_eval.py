"""lm-evaluation-harness over HTTP: what it scores and what it lets write equal brute force in this process.

`local-completions` sends token ids with `echo`, and slices the log-probabilities it gets back; a server that is off by
one token passes nothing here.
"""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from tests.conftest import missing
from tests.equivalence.tolerances import FP32_LOGITS, TIE_FACTOR
from tests.support import tiny_tokenizer

pytestmark = pytest.mark.slow
LOGLIKELIHOOD_TOLERANCE = 1e-4  # a sum over at most a dozen tokens, each within FP32_LOGITS
MAX_TOKENS = 12
QUESTIONS = [
    ("The function returns", [" None", " a list of strings", " the object itself"], 1),
    ("A class is", [" an object", " not callable"], 0),
    ("Grüße aus dem Modul", [" und mehr", " 你好"], 1),
    ("def add(a, b):\n    return", [" a + b", " a", " None if a is None else b"], 0),
    ("import", [" sys", " os\nimport sys"], 0),
]
PROMPTS = ["The function", "Return a", "class Node:\n    def", "Grüße", "for i in range("]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory, brute):
    """Two tasks over local files: multiple choice, and continuations whose targets brute force wrote."""
    directory = tmp_path_factory.mktemp("tasks")
    choices = [{"question": q, "choices": c, "answer": a} for q, c, a in QUESTIONS]
    written = [{"prompt": prompt, "target": brute_text(brute, prompt)} for prompt in PROMPTS]
    written[-1]["target"] = "something else entirely"  # so that a perfect score would be wrong
    for name, rows in (("choices", choices), ("written", written)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = {"dataset_path": "json", "test_split": "test"}
    multiple = {
        **common,
        "task": "tiny_choices",
        "dataset_kwargs": {"data_files": {"test": str(directory / "choices.jsonl")}},
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    generate = {
        **common,
        "task": "tiny_written",
        "dataset_kwargs": {"data_files": {"test": str(directory / "written.jsonl")}},
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{target}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": MAX_TOKENS, "temperature": 0, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    for task in (multiple, generate):
        (directory / f"{task['task']}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return directory


def brute_text(brute, prompt: str) -> str:
    """What greedy decoding writes up to a line's end, an end token, or the limit."""
    tokenizer = tiny_tokenizer()
    ids, gaps = brute.greedy(tokenizer.encode(prompt), MAX_TOKENS)
    assert min(gaps) > TIE_FACTOR * FP32_LOGITS, "choose other prompts: a tie decides nothing"
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>"), 0}
    length = next((index for index, token in enumerate(ids) if token in ends), len(ids))
    return tokenizer.decode(ids[:length], skip_special_tokens=True).split("\n")[0]


def brute_loglikelihood(brute, context: str, continuation: str) -> tuple[float, bool]:
    """Sum over the continuation's tokens, and whether each was the likeliest."""
    tokenizer = tiny_tokenizer()
    whole, before = tokenizer.encode(context + continuation), len(tokenizer.encode(context))
    logprobs_TV = torch.log_softmax(brute.logits(whole).double(), dim=-1)[before - 1 : -1]
    targets_T = torch.tensor(whole[before:])
    greedy = bool((logprobs_TV.argmax(-1) == targets_T).all())
    return float(logprobs_TV.gather(1, targets_T[:, None]).sum()), greedy


@pytest.fixture(scope="module", params=[(1, 1), (3, 4)], ids=["one-by-one", "batches-at-once"])
def evaluated(request, tasks, server, checkpoint, tmp_path_factory):
    """What lm-eval reports, with every sample."""
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError:
        missing("lm-evaluation-harness (pip install 'lm_eval[api]')")
    concurrent, batch = request.param
    arguments = {
        "model": "tiny",
        "base_url": f"{server.url}/v1/completions",
        "tokenizer": str(checkpoint),
        "num_concurrent": concurrent,
        "max_retries": 1,
        "max_length": 256,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        return lm_eval.simple_evaluate(
            model="local-completions",
            model_args=arguments,
            tasks=["tiny_choices", "tiny_written"],
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            batch_size=batch,
            bootstrap_iters=0,
            log_samples=True,
        )


def test_loglikelihoods_equal_brute_force(evaluated, brute):
    compared = 0
    for sample in evaluated["samples"]["tiny_choices"]:
        question, choices, _ = QUESTIONS[sample["doc_id"]]
        for choice, ((value, greedy),) in zip(choices, sample["resps"], strict=True):
            expected, expected_greedy = brute_loglikelihood(brute, question, choice)
            assert float(value) == pytest.approx(expected, abs=LOGLIKELIHOOD_TOLERANCE)
            assert greedy in (expected_greedy, str(expected_greedy))
            compared += 1
    assert compared == sum(len(choices) for _, choices, _ in QUESTIONS)


def test_accuracy_is_brute_forces(evaluated, brute):
    right = [
        max(range(len(c)), key=lambda index: brute_loglikelihood(brute, q, c[index])[0]) == a for q, c, a in QUESTIONS
    ]
    assert evaluated["results"]["tiny_choices"]["acc,none"] == pytest.approx(sum(right) / len(right))


def test_generations_equal_brute_force(evaluated, brute):
    samples = evaluated["samples"]["tiny_written"]
    assert {PROMPTS[sample["doc_id"]]: sample["resps"][0][0] for sample in samples} == {
        prompt: brute_text(brute, prompt) for prompt in PROMPTS
    }
    # All but the one whose target was replaced.
    assert evaluated["results"]["tiny_written"]["exact_match,none"] == pytest.approx(1 - 1 / len(PROMPTS))

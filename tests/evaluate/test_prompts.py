"""Our questions are the harness's own prompts, for every task it has, with the release's numbers of examples.

The harness builds its side alone: its configuration files, its `build_all_requests`, over the same rows.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from hidden_decoding.evaluate.data_sets import DataSource, data_set_of, rows_as_dataset
from hidden_decoding.evaluate.harness import FEWSHOT_SEED, quiet_harness, ready_tasks
from hidden_decoding.evaluate.pack import load_pack
from hidden_decoding.evaluate.questions import Asking, items_of

SHOTS = {
    "bbh": 3, "mmlu": 5, "mbpp_plus": 1, "math": 4, "arc_challenge": 25, "hellaswag": 10, "gsm8k": 4,
    "aime24": 0, "aime25": 0, "math500": 0, "gpqa_diamond": 0, "mmlu_pro": 5,
}  # fmt: skip
SUITES = [(table, suite) for table in ("base", "instruct") for suite in load_pack(table).suites if suite.name in SHOTS]
DOCS = 3


def harness_requests(folder: str, name: str, suite, source, chat: bool):
    """What lm-evaluation-harness sends, told by its own files."""
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    root = Path(lm_eval.__file__).parent / "tasks" / folder
    entry = TaskManager(include_path=str(root), include_defaults=False).task_index[name]
    config = load_yaml(entry.yaml_path, resolve_func=suite.name != "mbpp_plus")
    if suite.name == "mbpp_plus":  # its module would run code when it is imported: what it returns, from its source
        source_text = (root / "utils.py").read_text(encoding="utf-8")
        namespace: dict = {}
        exec(source_text[source_text.index("def list_fewshot_samples") :], namespace)
        config |= {"fewshot_config": {"sampler": "first_n", "samples": namespace["list_fewshot_samples"]}}
        config |= {"metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]}
        config["unsafe_code"] = False
    known = data_set_of(config["dataset_path"])
    dataset = rows_as_dataset(source.splits(known.name, config.get("dataset_name") if known.subsets else None))
    for key in ("tag", "include", "group"):
        config.pop(key, None)
    random.seed(0)
    task = ConfigurableTask(config={**config, "metadata": None, "custom_dataset": lambda **_: dataset})
    task.set_config(key="num_fewshot", value=SHOTS[suite.name])
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    task.build_all_requests(
        limit=DOCS,
        system_instruction=suite.system,
        apply_chat_template=chat,
        chat_template=(lambda messages, **_: json.dumps(messages)) if chat else None,
    )
    return [request.args for request in task.instances]


@pytest.mark.parametrize(("table", "suite"), SUITES, ids=[suite.name for _, suite in SUITES])
def test_prompts_are_the_harness_own(table, suite, data):
    pack, source = load_pack(table), DataSource(data)
    assert suite.shots == SHOTS[suite.name]
    tasks = ready_tasks(suite, source, seed=0)
    for ready in tasks[:: max(1, len(tasks) // 4)]:
        items = list(items_of(ready, suite, pack, Asking(limit=DOCS)))
        questions = [question for item in items for question in item.questions if question.sample == 0]
        with quiet_harness():
            expected = harness_requests(suite.folders[0], ready.name, suite, source, pack.chat)
        assert len(questions) == len(expected)
        for question, (context, rest) in zip(questions, expected, strict=True):
            if suite.by_likelihood:
                assert (question.prompt, question.continuation) == (context, rest)
            elif pack.chat:
                assert question.messages == json.loads(context)
            else:
                assert question.prompt == context
                assert question.sampling["stop"] == (suite.stops or rest["until"][:4])
                assert question.sampling["temperature"] == 0


def test_sampling_is_the_release(data):
    pack = load_pack("instruct")
    wanted = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "presence_penalty": 1.5, "max_tokens": 4096}
    for suite in pack.suites:
        if suite.name not in {"aime24", "gpqa_diamond"}:
            continue
        [ready] = ready_tasks(suite, DataSource(data), seed=0)
        items = list(items_of(ready, suite, pack, Asking(limit=2)))
        for item in items:
            assert len(item.questions) == (16 if suite.name == "aime24" else 1)
            assert all(wanted.items() <= question.sampling.items() for question in item.questions)
            assert all(question.thinking is False for question in item.questions)
        seeds = [question.sampling["seed"] for item in items for question in item.questions]
        assert len(set(seeds)) == len(seeds)


def test_published_figures_are_the_release():
    """Against the numbers of the public README and model cards, typed here a second time."""
    base = {"bbh": "78.8/81.3/83/83.9", "mmlu": "79.8/80.9/81.9/82.2", "mbpp_plus": "66.7/69.4/68.7/69.4"}
    base |= {"math": "56/58.2/60/61.1", "arc_challenge": "93.9/94.3/94.4/94.7", "hellaswag": "79.7/83.1/85/85.3"}
    base |= {"gsm8k": "92.5/93.3/93.9/94.6", "arc_challenge_options": "93.9/94.3/94.4/94.7"}
    instruct = {"aime24": "29.42/19.09/30", "aime25": "20.58/17.67/26.25", "math500": "85.16/84.19/89.04"}
    instruct |= {"gpqa_diamond": "48.79/50.91/55.25", "cmmlu": "78.2/75.05/81.15", "ceval": "78.67/76.04/83.2"}
    instruct |= {"mmlu_pro": "65.84/68.35/75.7", "supergpqa": "36.79/41.2/48.35"}
    for table, figures in (("base", base), ("instruct", instruct)):
        assert {s.name: "/".join(f"{value:g}" for value in s.published) for s in load_pack(table).suites} == figures

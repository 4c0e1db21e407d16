"""Small data sets in the exact schema of the published ones, for what no directory of real data holds.

Every set has as many questions per subset as asked for; each names its number, so that a mock can tell them apart.
"""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

from hidden_decoding.evaluate.data_files import MATH_TYPES
from hidden_decoding.evaluate.harness import _index, _leaves
from hidden_decoding.evaluate.pack import load_pack

LETTERS = "ABCDEFGHIJ"
CATEGORIES = (
    "biology", "business", "chemistry", "computer science", "economics", "engineering", "health", "history", "law",
    "math", "other", "philosophy", "physics", "psychology",
)  # fmt: skip


def subsets_of(suite_name: str) -> list[str]:
    """Names of the configurations that a suite's tasks use, from the harness's own files."""
    suite = next(s for table in ("base", "instruct") for s in load_pack(table).suites if s.name == suite_name)
    index = _index(tuple(suite.folders))
    from lm_eval.tasks._yaml_loader import load_yaml

    return [
        load_yaml(index[name].yaml_path, resolve_func=False)["dataset_name"] for name in _leaves(suite.tasks, index)
    ]


def options(rng: random.Random, count: int) -> list[str]:
    return [f"value {number}" for number in rng.sample(range(100, 10_000), count)]


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_ceval(directory: Path, per_subset: int = 20) -> None:
    """ceval/{val,dev}/SUBJECT_{val,dev}.csv, columns as in the published archive."""
    rng = random.Random(1)
    for subset in subsets_of("ceval"):
        for split, count in (("val", per_subset), ("dev", 5)):
            rows = []
            for number in range(count):
                texts = options(rng, 4)
                row = {"id": number, "question": f"关于{subset}的第{number}题（{split}），下列哪一项正确？"}
                row |= dict(zip("ABCD", texts, strict=True)) | {"answer": rng.choice("ABCD")}
                rows.append(row | ({"explanation": "略"} if split == "dev" else {}))
            write_csv(directory / "ceval" / split / f"{subset}_{split}.csv", rows)


def write_gpqa(directory: Path, count: int = 20) -> None:
    """gpqa_diamond.csv with the columns that prompts use, among others."""
    rng = random.Random(2)
    rows = []
    for number in range(count):
        texts = options(rng, 4)
        rows.append(
            {
                "Record ID": f"rec{number}",
                "Question": f"Which quantity results from experiment {number}?",
                "Correct Answer": texts[0],
                "Incorrect Answer 1": texts[1],
                "Incorrect Answer 2": texts[2],
                "Incorrect Answer 3": texts[3],
                "Subdomain": "Physics",
            }
        )
    write_csv(directory / "gpqa_diamond.csv", rows)


def write_everything(directory: Path, count: int = 3) -> None:
    """All sets, small, in the layout NAME/[SUBSET/]SPLIT.jsonl."""
    rng = random.Random(3)
    write_ceval(directory, count)
    write_gpqa(directory, count)
    for split, many in (("train", 8), ("test", count)):
        rows = [
            {"question": f"What is {n} and {n} ({split})?", "answer": f"Add.\n#### {2 * n}"} for n in range(1, many + 1)
        ]
        write_jsonl(directory / "gsm8k" / f"{split}.jsonl", rows)
    for split, many in (("train", 30), ("validation", 2), ("test", count)):
        choices = [{"text": options(rng, 4), "label": list("ABCD")} for _ in range(many)]
        rows = [
            {
                "id": str(n),
                "question": f"Which of these ({split} {n})?",
                "choices": choice,
                "answerKey": rng.choice("ABCD"),
            }
            for n, choice in enumerate(choices)
        ]
        write_jsonl(directory / "arc_challenge" / f"{split}.jsonl", rows)
    for split, many in (("train", 12), ("validation", count)):
        rows = [
            {
                "activity_label": "Walking",
                "ctx_a": f"A man number {n} ({split}) walks.",
                "ctx_b": "he",
                "endings": options(rng, 4),
                "label": str(n % 4),
            }
            for n in range(many)
        ]
        write_jsonl(directory / "hellaswag" / f"{split}.jsonl", rows)
    for subset in subsets_of("bbh"):
        rows = [
            {"input": f"{subset} number {n}: true or not?", "target": rng.choice(["True", "False"])}
            for n in range(count)
        ]
        write_jsonl(directory / "bbh" / subset / "test.jsonl", rows)
    for subset in subsets_of("mmlu"):
        for split, many in (("dev", 5), ("test", count)):
            rows = [
                {
                    "question": f"{subset} {split} {n}?",
                    "subject": subset,
                    "choices": options(rng, 4),
                    "answer": rng.randrange(4),
                }
                for n in range(many)
            ]
            write_jsonl(directory / "mmlu" / subset / f"{split}.jsonl", rows)
    for subset in subsets_of("cmmlu"):
        for split, many in (("dev", 5), ("test", count)):
            rows = [
                {
                    "Question": f"{subset}第{n}题（{split}）？",
                    **dict(zip("ABCD", options(rng, 4), strict=True)),
                    "Answer": rng.choice("ABCD"),
                }
                for n in range(many)
            ]
            write_jsonl(directory / "cmmlu" / subset / f"{split}.jsonl", rows)
    for subset, kind in MATH_TYPES.items():
        rows = [
            {
                "problem": f"{kind} {n}: half of {n}?",
                "level": "Level 1",
                "type": kind,
                "solution": f"It is $\\boxed{{\\frac{{{n}}}{{2}}}}$.",
            }
            for n in range(3, 3 + 2 * count, 2)
        ]
        write_jsonl(directory / "math" / subset / "test.jsonl", rows)
    halves = [(f"Half of {n}?", f"\\frac{{{n}}}{{2}}") for n in range(3, 3 + 2 * count, 2)]
    write_jsonl(
        directory / "math500" / "test.jsonl",
        [{"problem": p, "solution": f"$\\boxed{{{a}}}$", "answer": a} for p, a in halves],
    )
    write_jsonl(
        directory / "aime24" / "train.jsonl",
        [{"Problem": f"Twice {n}?", "Answer": 2 * n} for n in range(40, 40 + count)],
    )
    write_jsonl(
        directory / "aime25" / "test.jsonl",
        [{"problem": f"Thrice {n}?", "answer": str(3 * n)} for n in range(40, 40 + count)],
    )
    for split, many in (("validation", 5), ("test", count)):
        rows = []
        for category in CATEGORIES:
            for n in range(many):
                letter = rng.choice(LETTERS)
                row = {
                    "question": f"{category} {split} {n}?",
                    "options": options(rng, 10),
                    "answer": letter,
                    "category": category,
                }
                cot = f"A: Let's think step by step. The answer is ({letter})."
                rows.append(
                    row | {"answer_index": LETTERS.index(letter), "cot_content": cot if split == "validation" else ""}
                )
        write_jsonl(directory / "mmlu_pro" / f"{split}.jsonl", rows)
    rows = []
    for n in range(count):
        texts, letter = options(rng, 10), rng.choice(LETTERS)
        rows.append(
            {
                "question": f"Super {n}?",
                "options": texts,
                "answer": texts[LETTERS.index(letter)],
                "answer_letter": letter,
            }
        )
    write_jsonl(directory / "supergpqa" / "train.jsonl", rows)
    rows = [
        {
            "task_id": f"Mbpp/{10_000 + n}",
            "prompt": f"'''\nWrite a function that adds {n}.\n'''",
            "entry_point": f"add_{n}",
            "canonical_solution": f"\ndef add_{n}(x):\n  return x + {n}\n",
            "base_input": [[1], [2]],
            "plus_input": [[-3], [10**20]],
            "atol": 0,
            "assertion": "".join(f"\nassert add_{n}({x}) == {x + n}" for x in (1, 2, 5)),
        }
        for n in range(count)
    ]
    write_jsonl(directory / "mbpp_plus.jsonl", rows)

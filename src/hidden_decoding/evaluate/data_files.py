"""Local files -> rows in the hub's schema, so that a task's own prompts work on them unchanged.

Contract: a reader gets the rows of one file, its split and its subset, and returns rows; nothing is guessed silently, a
file that is not what the reader expects raises `ConfigError` with its path. Used by `data_sets`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hidden_decoding.errors import ConfigError

Row = dict[str, Any]
Reader = Callable[[list[Row], str, str | None], list[Row]]

HELLASWAG_EXAMPLES = 100  # rows of a sample that serve as few-shot examples, and are not asked
MATH_TYPES = {
    "algebra": "Algebra",
    "counting_and_probability": "Counting & Probability",
    "geometry": "Geometry",
    "intermediate_algebra": "Intermediate Algebra",
    "number_theory": "Number Theory",
    "prealgebra": "Prealgebra",
    "precalculus": "Precalculus",
}
_OPTION_LINE = re.compile(r"(?m)^([A-Z])\. ?")


def read_rows(path: Path) -> list[Row]:
    """All rows of a .jsonl, .json or .csv file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                return [dict(row) for row in csv.DictReader(file)]
            if path.suffix == ".json":
                content = json.load(file)
                return list(content["examples"] if isinstance(content, dict) else content)
            return [json.loads(line) for line in file if line.strip()]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read as {path.suffix[1:]} ({error}); fetch it again") from error


def adapt(reader: str, rows: list[Row], path: Path, split: str, subset: str | None) -> list[Row]:
    """Rows in the hub's schema; `ConfigError` when a field the reader needs is not there."""
    try:
        return READERS[reader](rows, split, subset)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} does not look like its data set ({type(error).__name__}: {error})") from error


def _as_is(rows: list[Row], _split: str, _subset: str | None) -> list[Row]:
    # The unnamed first column of some CSV files is a row number.
    return [{key: value for key, value in row.items() if key} for row in rows]


def _ai2_arc(rows: list[Row], _split: str, _subset: str | None) -> list[Row]:
    """The hub keeps texts and labels of the choices as two lists."""
    return [
        {
            "id": row["id"],
            "question": row["question"]["stem"],
            "choices": {
                "text": [choice["text"] for choice in row["question"]["choices"]],
                "label": [choice["label"] for choice in row["question"]["choices"]],
            },
            "answerKey": row["answerKey"],
        }
        for row in rows
    ]


def _hellaswag(rows: list[Row], _split: str, _subset: str | None) -> list[Row]:
    return [{**row, "label": str(row["label"])} for row in rows]


def _hellaswag_sample(rows: list[Row], split: str, subset: str | None) -> list[Row]:
    part = rows[:HELLASWAG_EXAMPLES] if split == "train" else rows[HELLASWAG_EXAMPLES:]
    return _hellaswag(part, split, subset)


def _bbh(rows: list[Row], _split: str, _subset: str | None) -> list[Row]:
    return [{"input": row["input"], "target": row["target"]} for row in rows]


def _mmlu(rows: list[Row], _split: str, subset: str | None) -> list[Row]:
    return [
        {
            "question": row["question"],
            "subject": subset,
            "choices": [row[f"choice{index}"] for index in range(4)],
            "answer": int(row["answer"]),
        }
        for row in rows
    ]


def _math_by_type(rows: list[Row], _split: str, subset: str | None) -> list[Row]:
    wanted = MATH_TYPES[subset or ""]
    return [
        {"problem": row["problem"], "level": row["level"], "type": row["type"], "solution": row["solution"]}
        for row in rows
        if row["type"] == wanted
    ]


def _aime24(rows: list[Row], _split: str, _subset: str | None) -> list[Row]:
    return [
        {"ID": str(row["id"]), "Problem": row["problem"], "Solution": row["solution"], "Answer": int(row["answer"])}
        for row in rows
    ]


def _evalplus(rows: list[Row], _split: str, _subset: str | None) -> list[Row]:
    """The prompt without its quotes, and the asserts that it shows; the checks stay JSON until a program is run."""
    return [
        {
            "task_id": int(row["task_id"].partition("/")[2]),
            "prompt": row["prompt"].strip().strip("'\"").strip(),
            "test_list": [line for line in row["assertion"].splitlines() if line.startswith("assert ")],
            "code": row["canonical_solution"].strip("\n"),
            "check": json.dumps(
                {key: row[key] for key in ("entry_point", "canonical_solution", "base_input", "plus_input", "atol")}
            ),
        }
        for row in rows
    ]


def _split_options(text: str) -> tuple[str, list[str]]:
    """A question whose options stand in its last lines as `A. ...`, `B. ...`: the question, and the options' texts."""
    text = text.replace("\n Options are:\n", "\n")
    marks = list(_OPTION_LINE.finditer(text))
    # The options are the last run A, B, C, ... in order; lines of the question may look like options too.
    for start in range(len(marks) - 1, -1, -1):
        run = marks[start:]
        letters = "".join(mark.group(1) for mark in run)
        if letters == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(letters)] and len(letters) > 1:
            ends = [mark.start() for mark in run[1:]] + [len(text)]
            options = [text[mark.end() : end].strip() for mark, end in zip(run, ends, strict=True)]
            return text[: run[0].start()].strip(), options
    raise ValueError(f"no options in {text[-120:]!r}")


def _mmlu_pro_flat(rows: list[Row], _split: str, _subset: str | None) -> list[Row]:
    """Categories are not in these files; all rows go to the category `other`."""
    out = []
    for number, row in enumerate(rows):
        question, options = _split_options(row["question"])
        letter = row["answer"]
        out.append(
            {
                "question_id": number,
                "question": question,
                "options": options,
                "answer": letter,
                "answer_index": "ABCDEFGHIJ".index(letter),
                "cot_content": row["cot"],
                "category": "other",
            }
        )
    return out


def _supergpqa_flat(rows: list[Row], _split: str, _subset: str | None) -> list[Row]:
    out = []
    for row in rows:
        question, options = _split_options(row["question"])
        letter = row["answer"].partition(".")[0]
        out.append(
            {
                "question": question,
                "options": options,
                "answer": options["ABCDEFGHIJ".index(letter)],
                "answer_letter": letter,
            }
        )
    return out


READERS: dict[str, Reader] = {
    "as_is": _as_is,
    "ai2_arc": _ai2_arc,
    "hellaswag": _hellaswag,
    "hellaswag_sample": _hellaswag_sample,
    "bbh": _bbh,
    "mmlu": _mmlu,
    "math_by_type": _math_by_type,
    "aime24": _aime24,
    "evalplus": _evalplus,
    "mmlu_pro_flat": _mmlu_pro_flat,
    "supergpqa_flat": _supergpqa_flat,
}

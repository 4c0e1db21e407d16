"""What the oracle says: right answers in many surface forms, and near-misses that a careless scorer would accept.

`planted(suite, item, number)` gives (what to find in the prompt, what to say, whether it is right).
"""

from __future__ import annotations

import json
import re
import string

from hidden_decoding.evaluate.scores import gold_of, options_of

NUMBER = (
    "First 3, then 4.\n#### {x}", "The answer is {x}.", "So she pays ${x}.00.", "Thus \\boxed{{{x}}}.", "**{x}**",
    "Final answer: {x} dollars", "答案是{x}。", "7 - 2 = 5, and the answer is therefore: {x}",
)  # fmt: skip
NUMBER_MISS = (
    "#### {wrong}", "The answer is not {x} but {wrong}.", "{x} + 1 = {wrong}\n#### {wrong}", "\\boxed{{{wrong}}}",
    "It looks like {x}. The answer is {wrong}.", "答案不是{x}，而是{wrong}。", "I do not know.",
)  # fmt: skip
LETTER = (
    "{L}", "({L})", "The answer is ({L}).", "**{L}**", "答案：{L}", "So it is \\boxed{{{L}}}.",
    "{other} looks right at first.\nThe correct answer is {L}.", "因此选{L}。", "答案是（{L}）", "Answer: ({low})",
    "<think>Is it {other}? The answer is {other}.</think>\n\n{L}",
)  # fmt: skip
WORDS = ("The correct answer is: {T}", "{T}", "{L}. {T}", "答案：{L}. {T}")
LETTER_MISS = (
    "{other}", "The answer is ({other}).", "答案：{other}", "The answer is {L} or {other}.", "The answer is not {L}.",
    "The answer is not ({L}) but ({other}).", "\\boxed{{{other}}}", "{L} looks right.\nThe answer is {other}.", "",
    "A good question!\nI cannot say.", "答案不是{L}，而是{other}", "{all}",
)  # fmt: skip
EXACT = (
    "We think. So the answer is {x}.", "the answer is **{x}**", "Answer: {x}", "\\boxed{{{x}}}", "{x}", "答案是 {x}",
)  # fmt: skip
EXACT_MISS = ("So the answer is {wrong}.", "It is not {x}.\nAnswer: {wrong}", "{wrong}", "So the answer is not {x}.")
LATEX = (
    "\\boxed{{{x}}}", "Final Answer: The final answer is ${x}$. I hope it is correct.", "The answer is ${x}$.",
    "答案是 ${x}$。", "So we get\n$${x}$$", "Therefore the answer is \\({spelt}\\).",
    "The final answer is: $\\boxed{{{spelt}}}$",
)  # fmt: skip
LATEX_MISS = (
    "\\boxed{{{wrong}}}", "Final Answer: The final answer is ${wrong}$. I hope it is correct.",
    "First ${x}$, but this is wrong. The answer is ${wrong}$.", "答案是 ${wrong}$。", "$${wrong}$$",
    "Almost ${x}$, I give up.\nWhy?",
)  # fmt: skip
CODE = (
    "{code}\n", "```python\n{code}\n```", "Here is the function:\n\n```python\n{code}\n```\nIt works.",
    "[BEGIN]\n{code}\n[DONE]",
    "```\n{code}\n```", "{code}\n\nprint('done')\n", "Sure!\n{code}\nThis returns the result.",
)  # fmt: skip
CODE_MISS = (
    "def {name}(*args):\n    while True:\n        pass\n",
    "def {name}(*args):\n    open('{path}', 'w').write('here')\n    return None\n",
    "import sys\nsys.exit(0)\n",
    "import os\nos._exit(0)\n",
    "class Same:\n    def __eq__(self, other):\n        return True\ndef {name}(*args):\n    return Same()\n",
    "def {name}(*args):\n    return 'no result is this'\n",
    "import subprocess\ndef {name}(*args):\n    return subprocess.run(['true'])\n",
    "def {name}(*args)\n    return 1\n",
    "I am sorry, I cannot write that.",
    "import os\nos.kill(os.getppid(), 9)\ndef {name}(*args):\n    return 1\n",
    "{code}\ndef {name}(*args):\n    raise ValueError\n",
)  # fmt: skip


def is_right(number: int) -> bool:
    """Three of five answers are right, in no simple order."""
    return (number * 7) % 5 in (0, 1, 3)


def planted(suite, item, number: int, path: str) -> tuple[str, object, bool]:
    """One document's needle, what to say, and whether that is right."""
    kind = suite.scorer["kind"]
    right = is_right(number)
    if kind == "loglikelihood":
        return needle_of(item), likelihoods(item, suite, number, right), right
    gold, turn = gold_of(suite, item.doc), number // 5 * 3 + number % 5
    if kind == "code":
        name = json.loads(item.doc["check"])["entry_point"]
        return needle_of(item), pick(CODE if right else CODE_MISS, turn).format(code=gold, name=name, path=path), right
    if kind == "number":
        gold = gold.rpartition("####")[2].strip()
        value = gold.replace(",", "")
        wrong = (f"{value}0", str(int(value) + 1), f"{value}.5")[turn % 3]
        return needle_of(item), pick(NUMBER if right else NUMBER_MISS, turn).format(x=gold, wrong=wrong), right
    if kind == "mathematics":
        return needle_of(item), mathematics(suite, gold, turn, right), right
    if kind == "option":
        return needle_of(item), option(options_of(suite, item.doc), gold.strip("()"), turn, right), right
    return needle_of(item), exact(gold, item.doc["input"], turn, right), right


def pick(forms: tuple[str, ...], turn: int) -> str:
    return forms[turn % len(forms)]


def needle_of(item) -> str:
    """The question's own words, as they stand at the end of the prompt."""
    prompt = item.questions[0].prompt or item.questions[0].messages[-1]["content"]
    return prompt[-600:]


def option(texts: list[str], letter: str, turn: int, right: bool) -> str:
    letters = string.ascii_uppercase[: len(texts)]
    other = letters[(letters.index(letter) + 1 + turn % (len(letters) - 1)) % len(letters)]
    text = texts[letters.index(letter)].strip()
    plain = len(text) >= 4 and "\n" not in text and texts.count(text) == 1 and re.fullmatch(r"[\w ,'-]+", text)
    forms = (LETTER + WORDS if plain else LETTER) if right else LETTER_MISS
    listed = "\n".join(f"{name}. {body}" for name, body in zip(letters, texts, strict=True))
    return pick(forms, turn).format(L=letter, T=text, other=other, low=letter.lower(), all=listed)


def exact(target: str, question: str, turn: int, right: bool) -> str:
    if re.fullmatch(r"\([A-Z]\)", target):
        texts = re.findall(r"(?m)^\([A-Z]\) (.*)$", question)
        return option(texts, target[1], turn, right).replace("\n", " " if right else "\n")
    pairs = {
        "True": "False",
        "False": "True",
        "yes": "no",
        "no": "yes",
        "Yes": "No",
        "No": "Yes",
        "valid": "invalid",
        "invalid": "valid",
    }
    if target in pairs:
        wrong = pairs[target]
    elif re.fullmatch(r"-?\d+", target):
        wrong = str(-int(target) - 1)
    elif " " in target:
        wrong = " ".join(reversed(target.split())) if target.split() != target.split()[::-1] else target + " ]"
    else:
        wrong = target + "x" if target.isalnum() else target[:-1] + ("]" if target[-1] != "]" else "}")
    return pick(EXACT if right else EXACT_MISS, turn).format(x=target, wrong=wrong)


def mathematics(suite, gold: str, turn: int, right: bool) -> str:
    if suite.scorer.get("integer"):
        value = str(int(gold))
        return pick(LATEX if right else LATEX_MISS, turn).format(x=value, spelt=gold.zfill(3), wrong=f"{value}0")
    spelt = gold.replace("\\frac", "\\dfrac").replace("\\left", "").replace("\\right", "")
    wrong = "\\text{Nobody}" if "\\text" in gold else f"{gold}+17" if turn % 2 else "98765"
    return pick(LATEX if right else LATEX_MISS, turn).format(x=gold, spelt=spelt, wrong=wrong)


def likelihoods(item, suite, number: int, right: bool) -> dict[str, float]:
    """Totals per continuation. The best differs by little, by much, or only after lengths are taken into account."""
    target = item.task.task.doc_to_target(item.doc)
    target = int(target)
    continuations = [question.continuation for question in item.questions]
    best = target if right else (target + 1 + number % (len(continuations) - 1)) % len(continuations)
    margin = (1e-3, 0.5, 3.0, 1e-2, 30.0)[number % 5]
    totals = {}
    for index, continuation in enumerate(continuations):
        per = -2.0 if index == best else -2.0 - margin
        length = len(continuation.removeprefix(" ")) if suite.scorer["metric"] == "acc_norm" else 1
        totals[continuation] = per * length
    return totals

"""Final answers in text: forms that must be understood, and texts that give no answer or another one."""

from __future__ import annotations

import pytest

from hidden_decoding.evaluate.scoring.exact import score_exact
from hidden_decoding.evaluate.scoring.mathematics import score_integer, score_mathematics
from hidden_decoding.evaluate.scoring.numbers import score_number
from hidden_decoding.evaluate.scoring.options import chosen_letter

OPTIONS = ["paralysis of the facial muscles", "loss of taste", "decreased salivation", "none of the above"]
TEN = [str(100 + number) for number in range(10)]

LETTERS = {
    "B": [
        "B", "(B)", "**B**", "The answer is (B).", "The answer is B", "the correct answer is **B**.",
        "Answer: B", "答案：B", "答案是B", "因此选B。", "故选：B",
        "正确答案为（B）", "所以答案是 B 项。", "本题选 B",
        "我认为应该选择B。",
        "答案不是A，而是B", "答案：B\n解释：因为B正确", "答案：loss of taste", "\\boxed{B}", "$\\boxed{\\text{B}}$",
        "The answer is loss of taste.", "loss of taste", "It must be loss of taste", "B. loss of taste",
        "B) loss of taste because", "Option B is correct.",
        "Therefore, option B is the correct answer.", "B is correct",
        "We think. A is wrong, C is wrong. The answer is B.", "The answer is not A but B.", "The answer is\n\nB",
        "<think>The answer is A</think>\n\nThe answer is B.", "Answer: (b)", "### Answer\nB",
        "The answer is (B) loss of taste, since A is wrong", "Final answer: **(B) loss of taste**",
        "The answer is A. No wait, the answer is B.",
    ],
    None: [
        "", "The answer is A or B", "The answer is A and B.",
        "A. paralysis\nB. loss of taste\nC. less",
        "I am not sure.",
        "The answer is not B.", "A person cannot know.", "The answer is A person.", "It is not loss of taste.",
        "The answer is E.", "<think>The answer is B", "答案不是B",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("text", "letter"), [(text, letter) for letter, texts in LETTERS.items() for text in texts])
def test_letters(text, letter):
    assert chosen_letter(text, OPTIONS) == letter


@pytest.mark.parametrize(
    ("text", "letter"), [("The answer is I.", "I"), ("The answer is I think C", None), ("The answer is 105.", "F")]
)
def test_ten_options(text, letter):
    assert chosen_letter(text, TEN) == letter


@pytest.mark.parametrize(
    ("text", "gold", "correct"),
    [
        ("#### 18", "18", True),
        ("The answer is 18.", "18", True),
        ("She makes $18.00 a day.", "18", True),
        ("The final answer is: $\\boxed{18\\text{ dollars}}$", "18", True),
        ("The answer is $18 per day for 7 days.", "18", True),
        ("so 3*6 = 18 dollars", "18", True),
        ("答案是18元。", "18", True),
        ("The answer is 1,234.", "1234", True),
        ("#### 12,345.50 dollars", "12345.5", True),
        ("#### 180", "18", False),
        ("#### 1.8", "18", False),
        ("The answer is not 18 but 19.", "18", False),
        ("Answer: -18", "18", False),
        ("It costs 18 dollars. That is 5 more than before.", "18", False),
        ("I had 18.\nI give up.", "18", False),
    ],
)
def test_numbers(text, gold, correct):
    assert score_number(text, f"work\n#### {gold}").correct is correct


@pytest.mark.parametrize(
    ("text", "gold", "correct"),
    [
        ("\\boxed{\\frac{1}{2}}", "\\frac12", True),
        ("The answer is $0.5$.", "\\frac12", True),
        ("1/2", "\\frac12", True),
        ("答案是 $\\dfrac{1}{2}$。", "\\frac12", True),
        ("(3, \\pi/2)", "\\left( 3, \\frac{\\pi}{2} \\right)", True),
        ("The answer is Evelyn.", "\\text{Evelyn}", True),
        ("$x=5$", "5", True),
        ("\\boxed{5\\text{ cm}}", "5", True),
        ("The answer is $\\$10,000$.", "10000", True),
        ("\\sqrt{8}", "2\\sqrt2", True),
        ("50\\%", "50", True),
        ("\\boxed{-\\frac12}", "\\frac12", False),
        ("\\boxed{2}", "\\frac12", False),
        ("[3, \\pi/2]", "\\left( 3, \\frac{\\pi}{2} \\right)", False),
        ("Evelin", "\\text{Evelyn}", False),
        ("", "5", False),
    ],
)
def test_mathematics(text, gold, correct):
    assert score_mathematics(text, gold).correct is correct


@pytest.mark.parametrize(("text", "correct"), [("\\boxed{33}", True), ("答案为033", True), ("\\boxed{330}", False)])
def test_integers(text, correct):
    assert score_integer(text, "033").correct is correct


@pytest.mark.parametrize(
    ("text", "target", "correct"),
    [
        ("So the answer is (B).", "(B)", True),
        ("The answer is z w.", "(B)", True),
        ("So the answer is (A).", "(B)", False),
        ("the answer is **true**", "True", True),
        ("So the answer is not True", "True", False),
        ("So the answer is yes or no.", "Yes", False),
        ("So the answer is invalid.", "valid", False),
        ("the answer is not valid", "valid", False),
        ("So the answer is -24.", "-24", True),
        ("So the answer is 24.", "-24", False),
        ("So the answer is ])}.", "] ) }", True),
        ("So the answer is ] ).", "] ) }", False),
        ("So the answer is costume, counterpart, oven", "costume counterpart oven", True),
        ("So the answer is costume oven counterpart.", "costume counterpart oven", False),
        ("It is True that x.\nFalse", "True", False),
    ],
)
def test_exact(text, target, correct):
    assert score_exact(text, target, "Options:\n(A) x y\n(B) z w").correct is correct

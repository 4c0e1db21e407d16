"""What an answer is worth. A scorer takes a document and an answer's text and returns a `Verdict`.

final      where in a text the final answer stands: markers in English and Chinese, boxes, negations
numbers    a number equals a number (GSM8K)
options    a letter, or an option's own words
exact      BBH: truth values, letters, numbers, lists of words, brackets
mathematics  LaTeX, by math-verify
code       programs, run in the sandbox

Nothing that stands in the reasoning counts: only what the text gives as its answer, and a text that gives two gives
none.
"""

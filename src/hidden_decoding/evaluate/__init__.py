"""Evaluation: the benchmarks of the release, asked and scored the same way on any engine.

packs/          what is asked: suites, data sets, the judge's prompts, published figures, all versioned YAML
pack            reads a pack; data_sets, data_files check and read the data
harness         tasks of lm-evaluation-harness over that data; questions makes them into single questions
asking_*        who answers: the local engine in this process, or any OpenAI-compatible URL
store           every answer on disk as it comes: a run that was killed goes on where it stopped
scoring/        what an answer is worth; sandbox runs code; judge asks a model for a second opinion
results, report figures with their uncertainty, beside the published ones, as JSON, Markdown and HTML

Flow: pack -> data -> tasks -> questions -> answers (store) -> scores -> results.json -> report.
"""

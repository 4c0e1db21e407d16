"""The demonstration: a small model made, given streams, trained, compared, served and asked, in a few minutes.

Sits beside the command line, above everything else, and uses only what a user has: `train_cpt`, `upcycle`, the command
`serve`, and the `openai` client. `settings.py` holds the sizes, `text.py` the text, `pipeline.py` the training,
`serving.py` the server and its question, `report.py` what is shown.
"""

"""The model and its files: configuration, network, cache view, strict loading, export. Differences from Qwen3 only.

Sits after `streams` and before upcycling, training and the engines.
"""

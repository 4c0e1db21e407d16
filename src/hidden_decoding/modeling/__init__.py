"""The model and its files: configuration, network, cache view, strict loading, export. Written as differences from Qwen3.

Sits after `streams` and before upcycling, training and the engines. Importing this package loads transformers.
"""

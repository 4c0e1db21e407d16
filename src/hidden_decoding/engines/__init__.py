"""Engines that run a hidden-decoding model: `local` (ours), and plugins for vLLM and SGLang loaded only by those."""

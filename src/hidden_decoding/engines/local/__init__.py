"""The local engine: continuous batching over tokens on the transformers model, for one machine without vLLM or SGLang.

Flow of a step: `scheduler` picks requests and their tokens -> `runner` builds one flat batch and calls the model ->
`attention` writes K/V into the `kv_pool` and attends -> `sampler` picks tokens -> `progress` turns them into text.
"""

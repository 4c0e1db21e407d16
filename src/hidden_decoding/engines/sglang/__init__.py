"""The SGLang plugin: `pip install 'hidden-decoding[sglang]'`, and an unmodified SGLang reads our checkpoints.

SGLang's world stays logical: for its scheduler, sampler, radix cache, limits and usage one token is one token. Only the
model and its attention backend see the n positions of a token; the KV slot of a token owns n rows.

    plugin     what SGLang's entry point calls in each of its processes: names the classes below, hooks two methods
    limits     context in tokens, and refusal of what cannot work
    model      the network: tables per stream, expansion, last stream, strict weights
    backend    the attention backends that know of n rows per slot; any other is refused by name
    attention  causal attention of a batch whose slots own n rows, in plain PyTorch
    flags      the original release's launch flags in today's units

    $ python -m sglang.launch_server --model-path path/to/checkpoint
"""

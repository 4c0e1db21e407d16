"""The SGLang plugin: `pip install 'hidden-decoding[sglang]'`, and an unmodified SGLang reads our checkpoints.

SGLang's world stays logical: for its scheduler, sampler, radix cache, limits and usage one token is one token. Only the
model and its attention backend see the n positions of a token; the KV slot of a token owns n rows.

    plugin       what SGLang's entry point calls in each of its processes: names the classes below, hooks two methods
    limits       context in tokens, defaults that fit, and refusal of what cannot work
    model        the network: tables per stream, expansion, last stream, strict weights
    backend      which attention backends know of n rows per slot; any other is refused by name
    rows         SGLang's KV pool as kernels must see it: one row per position
    attention    torch_native: plain PyTorch, any device
    flash        fa3: FlashAttention on pages of n times as many rows, eager and in CUDA graphs
    triton_rows  triton: the extend kernel for prompts and decoding, eager and in CUDA graphs
    flags        the original release's launch flags as today's SGLang takes them

    $ python -m sglang.launch_server --model-path path/to/checkpoint
"""

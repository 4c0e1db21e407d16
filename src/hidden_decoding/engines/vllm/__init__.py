"""The vLLM plugin: `pip install 'hidden-decoding[vllm]'`, and an unmodified `vllm serve MODEL` reads our checkpoints.

vLLM's world stays logical: for its scheduler, sampler, block manager, limits and usage one token is one token. Only the
model and its attention layers see the n positions of a token; the KV slot of a token owns n rows. So chunked prefill,
prefix caching, preemption, structured output, n-gram speculation and compiled graphs are vLLM's own, untouched.

    plugin    what vLLM's entry point calls in each of its processes: names the classes below, loads little
    limits    context and batch size in tokens, and refusal of what cannot work, before any weight is loaded
    model     the network: tables per stream, expansion and last stream inside the compiled forward, strict weights
    backend   a supported attention backend whose KV cache holds n rows per token
    metadata  the batch as that backend's kernels must see it: in positions

    $ vllm serve path/to/checkpoint
"""

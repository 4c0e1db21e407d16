"""Other engines behind the same command: which one to take, its flags from ours, and its process.

choice            picks the engine and says why
flags             our flags as vLLM's; one without a counterpart is refused by name
process           starts the engine, waits until it answers, hands signals on
vllm_reasoning    the reasoning parser that vLLM loads: an answer without think tags is content
"""

"""The load test's model, its questions, and the one right answer to each, known before the server starts.

Contract: an answer comes from the engine decoding that prompt alone, and is kept only when brute force agrees: plain
Qwen3 over interleaved embeddings, without a cache, must choose every token of it. Lengths count tokens.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hidden_decoding import LocalEngine, SamplingParams  # noqa: E402
from hidden_decoding.engines.local.detokenizer import Detokenizer  # noqa: E402
from hidden_decoding.modeling.checkpoint import load_tokenizer  # noqa: E402
from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM  # noqa: E402
from hidden_decoding.streams import tokens_to_positions  # noqa: E402
from tests.equivalence.tolerances import FP32_LOGITS, TIE_FACTOR  # noqa: E402
from tests.support import BruteForce, save_tiny_checkpoint  # noqa: E402

CONTEXT_TOKENS = 512
LONGEST_PROMPT, LONGEST_ANSWER = 320, 120
SHARED_PREFIXES, PREFIX_TOKENS = 6, 96


def make_checkpoint(directory: Path, num_streams: int) -> Path:
    """Random weights, three layers, a context of 512 tokens."""
    return save_tiny_checkpoint(
        directory, num_streams, max_position_embeddings=tokens_to_positions(CONTEXT_TOKENS, num_streams)
    )


def draw_prompts(count: int, vocabulary: int, seed: int) -> list[tuple[list[int], int]]:
    """Prompts and answer lengths: mostly short, some of several chunks, a third with one of a few shared beginnings."""
    rng = random.Random(seed)
    beginnings = [[rng.randrange(3, vocabulary) for _ in range(PREFIX_TOKENS)] for _ in range(SHARED_PREFIXES)]
    drawn = []
    for _ in range(count):
        length = min(LONGEST_PROMPT - PREFIX_TOKENS, max(1, round(rng.lognormvariate(3.2, 1.1))))
        prompt = [rng.randrange(3, vocabulary) for _ in range(length)]
        if rng.random() < 1 / 3:
            prompt = rng.choice(beginnings) + prompt
        drawn.append((prompt, rng.randint(4, LONGEST_ANSWER)))
    return drawn


def questions(checkpoint: Path, count: int, seed: int) -> list[dict]:
    """What the clients ask, each with its answer's tokens and text, and how many tokens come before the first tie."""
    model = Qwen3ScaleSeqForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    engine = LocalEngine(checkpoint, kv_cache_memory_bytes="64MiB", dtype="float32", max_num_seqs=1)
    brute, tokenizer = BruteForce(model), load_tokenizer(checkpoint)
    asked = []
    for prompt, length in tqdm(draw_prompts(count, model.config.vocab_size, seed), unit="answer", desc="oracle"):
        params = SamplingParams(max_tokens=length, temperature=0.0, ignore_eos=True)
        answer = engine.generate([prompt], params)[0].token_ids
        asked.append(
            {
                "prompt": prompt,
                "answer": answer,
                "certain": certain_tokens(brute, prompt, answer),
                "text": text_of(tokenizer, prompt, answer),
            }
        )
    return asked


def certain_tokens(brute: BruteForce, prompt: list[int], answer: list[int]) -> int:
    """How many tokens of the answer brute force chooses too before the first tie; stops the run when it disagrees."""
    logits_TV = brute.logits(prompt + answer[:-1])[len(prompt) - 1 :]
    best = logits_TV.topk(2)
    gaps = (best.values[:, 0] - best.values[:, 1]).tolist()
    for index, (token, chosen, gap) in enumerate(zip(answer, best.indices[:, 0].tolist(), gaps, strict=True)):
        if gap <= TIE_FACTOR * FP32_LOGITS:
            return index
        if token != chosen:
            sys.exit(f"token {index}: the engine alone says {token}, brute force {chosen} by {gap:.2e}; no oracle")
    return len(answer)


def text_of(tokenizer, prompt: list[int], answer: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer, prompt)
    return detokenizer.add(answer, final=True)

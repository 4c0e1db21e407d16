"""Experiment A and D: a task where more compute per token can pay, with everything about the start varied.

The text is made up: x_t = table[x_{t-1}, x_{t-3}, x_{t-6}, x_{t-10}] over 4 letters, one in ten replaced by a random
letter, so that no model can expect less than 0.349 nats a token. A 2-layer base of one head trains 300 steps on it.
From that base every start (n, position scheme, initialisation) continues for 600 steps on the *same* fresh batches, and
is evaluated on the same held-out rows. Every finished run is kept in `results/synthetic.json` at once; runs in it are
not repeated.

    $ python experiments/synthetic.py --minutes 20
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional

from hidden_decoding import Qwen3ScaleSeqConfig, Qwen3ScaleSeqForCausalLM
from hidden_decoding.streams import replicated_stream, tokens_to_positions

RESULTS = Path(__file__).parent / "results" / "synthetic.json"
LETTERS, LAGS, NOISE, TOKENS, ROWS = 4, (1, 3, 6, 10), 0.1, 40, 32
FLOOR = -(1 - 0.75 * NOISE) * math.log(1 - 0.75 * NOISE) - 0.75 * NOISE * math.log(NOISE / LETTERS)
BASE_STEPS, STEPS, RATE, EVALUATE_EVERY, HELD_OUT_ROWS, RAMP_STEPS = 300, 600, 4e-3, 50, 256, 100


@dataclass(frozen=True, kw_only=True)
class Start:
    """One way to begin continued pretraining. `initialisation`: copy, noise (0.1 sigma), zero-jump, random, mean."""

    streams: int
    positions: str = "linear"
    initialisation: str = "copy"
    progressive: bool = False


def starts() -> list[list[Start]]:
    """All starts in order of importance, so that a run cut short holds whole comparisons over all seeds."""
    first = [Start(streams=n) for n in (1, 2, 4)]
    second = [Start(streams=n, initialisation="zero-jump") for n in (2, 4)]
    third = [Start(streams=n, positions="contiguous") for n in (2, 4)]
    fourth = [Start(streams=n, initialisation="noise") for n in (2, 4)] + [Start(streams=8)]
    fifth = [Start(streams=4, progressive=True), Start(streams=2, initialisation="random")]
    sixth = [Start(streams=2, initialisation="mean"), Start(streams=8, initialisation="zero-jump")]
    seventh = [Start(streams=n, positions="contiguous", initialisation="noise") for n in (2, 4)]
    eighth = [
        Start(streams=8, positions="contiguous"),
        Start(streams=8, initialisation="noise"),
        Start(streams=8, positions="contiguous", initialisation="noise"),
    ]
    return [first, second, third, fourth, fifth, sixth, seventh, eighth]


def make_rows(table: torch.Tensor, rows: int, generator: torch.Generator) -> torch.Tensor:
    """[rows, TOKENS + 1] letters; those before the longest lag are random."""
    ids = torch.randint(LETTERS, (rows, TOKENS + 1), generator=generator)
    noisy = torch.rand(ids.shape, generator=generator) < NOISE
    for t in range(max(LAGS), TOKENS + 1):
        lawful = table[tuple(ids[:, t - lag] for lag in LAGS)]
        ids[:, t] = torch.where(noisy[:, t], ids[:, t], lawful)
    return ids


def new_model(streams: int, positions: str) -> Qwen3ScaleSeqForCausalLM:
    """The 2-layer model with n tables."""
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": 10000.0}
    if positions == "linear" and streams > 1:
        rope = {**rope, "rope_type": "linear", "factor": float(streams)}
    config = Qwen3ScaleSeqConfig(
        scale_seq_times=streams - 1,
        vocab_size=LETTERS,
        hidden_size=48,
        intermediate_size=144,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=48,
        max_position_embeddings=tokens_to_positions(64, streams),
        rope_parameters=rope,
        tie_word_embeddings=False,
        eos_token_id=0,
    )
    return Qwen3ScaleSeqForCausalLM(config)


def grown(base: Qwen3ScaleSeqForCausalLM, start: Start, seed: int) -> Qwen3ScaleSeqForCausalLM:
    """`base` with n streams, in memory (`hidden_decoding.upcycle` does the same from directory to directory)."""
    generator = torch.Generator().manual_seed(seed)
    model = new_model(start.streams, start.positions)
    weights = base.state_dict()
    model.load_state_dict(weights, strict=False)
    have = base.config.num_streams
    for stream in range(have, start.streams):
        source = replicated_stream(stream, have)
        name = "embed_tokens" if source == 0 else f"scale_seq_embed_tokens_list.{source - 1}"
        table = weights[f"model.{name}.weight"].clone()
        drawn = torch.randn(table.shape, generator=generator)
        if start.initialisation == "noise":
            table += 0.1 * table.std() * drawn
        elif start.initialisation == "random":
            table = table.std() * drawn
        elif start.initialisation == "mean":
            table = table.mean(0, keepdim=True).expand_as(table)
        with torch.no_grad():
            model.model.scale_seq_embed_tokens_list[stream - 1].weight.copy_(table)
    return model


def masks(model: Qwen3ScaleSeqForCausalLM, opened: float | None) -> dict[str, torch.Tensor] | None:
    """Zero-jump: causal, with log(opened) added where streams differ; None is the ordinary causal mask."""
    n = model.config.num_streams
    if opened is None or n == 1:
        return None
    rows = torch.arange(tokens_to_positions(TOKENS, n))
    stream = rows.remainder(n)
    bias = torch.zeros(len(rows), len(rows))
    bias[stream[:, None] != stream[None, :]] = math.log(opened) if opened > 0 else -math.inf
    bias[rows[None, :] > rows[:, None]] = -math.inf
    return {"full_attention": bias[None, None]}


def loss_of(model: Qwen3ScaleSeqForCausalLM, ids: torch.Tensor, opened: float | None = None) -> torch.Tensor:
    """Mean nats over the tokens that follow the law."""
    logits = model(ids[:, :-1], attention_mask=masks(model, opened), use_cache=False).logits
    first = max(LAGS) - 1
    return functional.cross_entropy(logits[:, first:].flatten(0, 1), ids[:, first + 1 :].flatten())


def opened_at(start: Start, step: int) -> float | None:
    """Share of cross-stream attention open at a step; None is all of it."""
    return step / RAMP_STEPS if start.initialisation == "zero-jump" and step < RAMP_STEPS else None


def train(model, table, steps: int, data_seed: int, held_out, start: Start | None = None) -> list[tuple[int, float]]:
    """AdamW, cosine to 0, on fresh rows; returns the held-out loss at every evaluation."""
    generator = torch.Generator().manual_seed(data_seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    start = start or Start(streams=1)
    curve = [(0, evaluate(model, held_out, opened_at(start, 0)))]
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss_of(model, make_rows(table, ROWS, generator), opened_at(start, step)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if (step + 1) % EVALUATE_EVERY == 0:
            curve.append((step + 1, evaluate(model, held_out, opened_at(start, step + 1))))
    return curve


@torch.no_grad()
def evaluate(model, held_out: torch.Tensor, opened: float | None) -> float:
    """Held-out loss, nats a token."""
    return float(loss_of(model, held_out, opened))


def make_base(seed: int) -> tuple:
    """(the trained n = 1 base, the law, held-out rows) of a seed."""
    torch.manual_seed(seed)
    made = torch.Generator().manual_seed(1000 + seed)
    table = torch.randint(LETTERS, (LETTERS,) * len(LAGS), generator=made)
    held_out = make_rows(table, HELD_OUT_ROWS, made)
    base = new_model(1, "linear")
    train(base, table, BASE_STEPS, 2000 + seed, held_out)
    return base, table, held_out


def measure_jumps(seeds: int) -> None:
    """Step 0 of every start, which needs no training beyond the base: `results/synthetic_step0.json`."""
    runs = []
    for seed in range(seeds):
        base, _, held_out = make_base(seed)
        base_loss = evaluate(base, held_out, None)
        for streams in (2, 4, 8):
            for positions in ("linear", "contiguous"):
                for way in ("copy", "noise", "zero-jump", "mean", "random"):
                    start = Start(streams=streams, positions=positions, initialisation=way)
                    loss = evaluate(grown(base, start, 3000 + seed), held_out, opened_at(start, 0))
                    runs.append({**asdict(start), "seed": seed, "base_loss": base_loss, "step0_loss": loss})
        kept = {"command": "python experiments/synthetic.py --step0", "runs": runs}
        RESULTS.with_name("synthetic_step0.json").write_text(json.dumps(kept, indent=1) + "\n")


def run_one(start: Start, seed: int, bases: dict[int, tuple]) -> dict[str, object]:
    """One start and seed: base (made once per seed), growth, continued pretraining."""
    if seed not in bases:
        bases[seed] = make_base(seed)
    base, table, held_out = bases[seed]
    started = time.process_time()
    source = base
    if start.progressive:  # 1 -> 2 for half of the steps, then 2 -> 4 for the other half, each with its own cosine
        half = Start(streams=start.streams // 2)
        source = grown(base, half, 3000 + seed)
        before = train(source, table, STEPS // 2, 4000 + seed, held_out, half)
        model = grown(source, start, 3000 + seed)
        after = train(model, table, STEPS // 2, 5000 + seed, held_out, start)
        curve = before[:-1] + [(step + STEPS // 2, loss) for step, loss in after]
    else:
        model = grown(source, start, 3000 + seed)
        curve = train(model, table, STEPS, 4000 + seed, held_out, start)
    base_loss = evaluate(base, held_out, None)
    return {
        **asdict(start),
        "seed": seed,
        "base_loss": base_loss,
        "curve": curve,
        "final_loss": curve[-1][1],
        "processor_seconds": time.process_time() - started,
    }


def key(run: dict) -> tuple:
    """What makes a run the same run."""
    return tuple(run[name] for name in (*Start.__dataclass_fields__, "seed"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60, help="starts no run after this long")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--step0", action="store_true", help="only the loss of every start before any step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.step0:
        measure_jumps(options.seeds)
        return
    kept = json.loads(RESULTS.read_text())["runs"] if RESULTS.exists() else []
    done, bases, until = {key(run) for run in kept}, {}, time.time() + 60 * options.minutes
    for tier in starts():
        for seed in range(options.seeds):
            for start in tier:
                if key({**asdict(start), "seed": seed}) in done or time.time() > until:
                    continue
                kept.append(run_one(start, seed, bases))
                write(kept)
                print({name: value for name, value in kept[-1].items() if name != "curve"}, flush=True)
    write(kept)


def write(runs: list[dict]) -> None:
    """All runs and the settings they share."""
    settings = {
        "floor": FLOOR,
        "base_steps": BASE_STEPS,
        "steps": STEPS,
        "learning_rate": RATE,
        "rows_per_step": ROWS,
        "tokens_per_row": TOKENS,
        "held_out_rows": HELD_OUT_ROWS,
        "ramp_steps": RAMP_STEPS,
        "backbone_parameters": sum(
            weight.numel()
            for name, weight in new_model(1, "linear").named_parameters()
            if "embed" not in name and "lm_head" not in name
        ),
        "torch": torch.__version__,
        "command": "python experiments/synthetic.py",
    }
    RESULTS.parent.mkdir(exist_ok=True)
    part = RESULTS.with_suffix(".part")
    part.write_text(json.dumps({"settings": settings, "runs": runs}, indent=1) + "\n")
    part.replace(RESULTS)


if __name__ == "__main__":
    main()

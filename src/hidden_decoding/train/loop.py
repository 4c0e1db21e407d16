"""Continued pretraining: one loop for a CPU, one GPU, or many processes under `torchrun`.

    rows of tokens -> loss on last streams -> gradients, clipped -> AdamW -> metrics, evaluation, checkpoint

Contract: `train_cpt(config)` trains `config.model` on `config.data` and leaves in `config.run.out`: `run.json` (the
settings), `metrics.jsonl`, `checkpoints/` and `model/` (the result in the published format, with tokenizer). Losses
are nats per token of last streams, the same for any number of streams, processes and passes. Settings that cannot work
are refused before weights are loaded.

    >>> train_cpt(CptConfig.build(model="base", data=("books.jsonl",), out="runs/cpt", steps=100)).heldout_loss
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hidden_decoding.modeling.flops import training_flops_per_token
from hidden_decoding.streams import tokens_to_positions
from hidden_decoding.train import checkpoint, parallelize
from hidden_decoding.train.config import CptConfig
from hidden_decoding.train.data import Batch, make_batch
from hidden_decoding.train.disk import full_disk_is_clear, warn_of_little_room
from hidden_decoding.train.evaluation import bits_per_byte, heldout_loss
from hidden_decoding.train.export import export_model
from hidden_decoding.train.loss import CausalLoss
from hidden_decoding.train.metrics import Metrics, peak_memory_bytes, peak_tflops, read_metrics
from hidden_decoding.train.nonfinite import Nonfinite
from hidden_decoding.train.optimiser import freeze, gradient_norms, learning_rate, make_optimisers
from hidden_decoding.train.prepare import Prepared, load_weights, prepare, row_stream
from hidden_decoding.train.start import remove_start
from hidden_decoding.train.stream_cosine import stream_cosine
from hidden_decoding.train.trackers import make_tracker
from hidden_decoding.train.zero_jump import ZeroJump

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CptResult:
    """What a run left. `model` is None when it stopped before its last step."""

    out: Path
    model: Path | None
    streams: int
    step: int
    tokens: int
    positions: int
    seconds: float
    heldout_loss: float | None
    bits_per_byte: float | None
    records: list[dict[str, Any]]


def train_cpt(config: CptConfig, *, progress: bool = True, label: str = "training") -> CptResult:
    """Runs to the last step (or `stop_at_step`), resuming where asked; see the module's contract."""
    world = parallelize.start(config.run.device)
    try:
        return train_in(world, config, progress=progress, label=label)
    finally:
        parallelize.stop(world)


def train_in(world: parallelize.World, config: CptConfig, *, progress: bool, label: str) -> CptResult:
    """`train_cpt` in processes that have joined already, and stay joined."""
    out = Path(config.run.out)
    with full_disk_is_clear(out, checkpoint.latest):
        prepared = prepare(config, world, progress=progress)
        result = CptRun(config, prepared, world, progress=progress, label=label).run()
    if result.model is not None:
        remove_start(out, world)
    return result


class CptRun:
    """The state of a run in this process: model, optimiser, place in the data, totals."""

    def __init__(
        self, config: CptConfig, prepared: Prepared, world: parallelize.World, *, progress: bool, label: str
    ) -> None:
        self.config, self.world, self.prepared = config, world, prepared
        self.out = Path(config.run.out)
        self.streams = prepared.model_config.num_streams
        torch.manual_seed(config.run.seed + world.rank)
        self.rows = row_stream(config, prepared, world)  # refuses an empty source before weights are read
        model = load_weights(config, prepared).to(world.device)
        self.zero_jump = ZeroJump(config.schedule.zero_jump_steps)
        self.zero_jump.check(model)
        self.module = CausalLoss(model, config.run.loss_chunk_tokens).train()
        freeze(self.module, config.optimiser)
        if config.model.compile:
            parallelize.compile_layers(self.module)
        parallelize.shard(self.module, world, config.run.precision)
        self.optimisers = make_optimisers(self.module, config.optimiser)
        self.flops_per_token = training_flops_per_token(prepared.model_config, config.data.tokens_per_sequence)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.nonfinite = Nonfinite(config.run.on_nonfinite, config.optimiser.learning_rate)
        path = self.out / "metrics.jsonl"
        self.metrics = Metrics(path, steps=config.schedule.steps, label=label, active=world.first, progress=progress)

    def run(self) -> CptResult:
        """All remaining steps, with evaluations and checkpoints between them, then the final model."""
        run, last = self.config.run, self.config.schedule.steps
        until = min(last, run.stop_at_step or last)
        self._begin()
        while self.step < until:
            self._train_step()
            if self._due(run.evaluate_every) or self.step == last:
                self._evaluate()
            if self._due(run.checkpoint_every) or (self.step == until and until < last):
                self._save()
        exported = None
        if self.step == last:
            exported = export_model(self.module, self.prepared, self.config, self.world)
        return self._finish(exported)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _begin(self) -> None:
        found = checkpoint.latest(self.out) if self.config.run.resume else None
        if found is not None:
            state = checkpoint.read_state(found)
            checkpoint.check_settings(state["settings"], self._trajectory(), found)
            self.rows.restore(state["data"])
            checkpoint.load(found, self.module, self.optimisers, self.world)
            self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
            log.info("resumed %s at step %d", self.out, self.step)
        self.metrics.rewind(self.step if found is not None else None)
        if self.world.first:
            self.metrics.tracker = make_tracker(self.config.run.track, self.out, self.config.as_dict(), self.step)
            run, steps = self.config.run, self.config.schedule.steps
            warn_of_little_room(
                self.out, self.module, steps=steps, every=run.checkpoint_every, keep=run.keep_checkpoints
            )
        if found is None:
            self.metrics.write({"kind": "start", "step": 0, "seconds": 0.0, **self._about()})
            self._evaluate()

    def _about(self) -> dict[str, Any]:
        width, rows = self.config.data.tokens_per_sequence, self.config.run.sequences_per_step
        per_step = width * rows
        parameters = sum(parameter.numel() for parameter in self.module.parameters())
        return {
            "streams": self.streams,
            "parameters": parameters,
            "processes": self.world.size,
            "device": str(self.world.device),
            "training_tokens_available": self.prepared.training_tokens,
            "broken_left_out": self.prepared.corpus.broken if self.prepared.corpus else 0,
            "heldout_tokens": self.prepared.heldout.tokens if self.prepared.heldout else 0,
            "tokens_per_step": per_step,
            "positions_per_step": tokens_to_positions(per_step, self.streams),
        }

    # ------------------------------------------------------------------------------------------------- one step

    def _train_step(self) -> None:
        started = time.perf_counter()
        self.zero_jump.before_step(self.module, self.step)
        passes = self._passes()
        counts = torch.tensor([sum(batch.predicted for batch in passes), sum(batch.tokens for batch in passes)])
        predicted, tokens = self.world.total(counts.double()).tolist()
        rate = learning_rate(self.step, self.config.optimiser.learning_rate, self.config.schedule)
        for group in (group for optimiser in self.optimisers for group in optimiser.param_groups):
            group["lr"] = rate * group["rate"]
        # Gradients of several processes are averaged; the loss is one mean over the step's tokens.
        scale = self.world.size / max(predicted, 1)
        total = torch.zeros((), dtype=torch.float64)
        for batch in passes:
            loss = self._loss(batch.to(self.world.device))
            (loss * scale).backward()
            total += loss.detach().double().cpu()
        loss = float(self.world.total(total)) / max(predicted, 1)
        norms = gradient_norms(self.module)  # before clipping
        norm = self._clip()
        usable = math.isfinite(loss) and math.isfinite(norm)
        for optimiser in self.optimisers:
            if usable:
                optimiser.step()
            optimiser.zero_grad()
        took = time.perf_counter() - started
        self.step += 1
        self.tokens += int(tokens)
        self.seconds += took
        if usable:
            self.nonfinite.row = 0
            self._record_step(loss, rate, norm, norms, tokens / took)
        else:
            self._nonfinite(loss, norm)

    def _passes(self) -> list[Batch]:
        """This process's rows of the step, in batches of at most `sequences_per_pass` rows."""
        run = self.config.run
        mine = self.rows.take(run.sequences_per_step, self.world.rank, self.world.size)
        size = run.sequences_per_pass or len(mine)
        return [make_batch(mine[start : start + size]) for start in range(0, len(mine), size)]

    def _loss(self, batch: Batch) -> torch.Tensor:
        with self._autocast():
            loss: torch.Tensor = self.module(batch.ids_BT, batch.position_ids_BT, batch.targets_BT)
        return loss

    def _autocast(self) -> Any:
        if self.config.run.precision == "bf16":
            return torch.autocast(self.world.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def _clip(self) -> float:
        """Clips the whole gradient; returns its norm from before."""
        bound = self.config.optimiser.clip_norm or math.inf
        norm: Any = torch.nn.utils.clip_grad_norm_(self.module.parameters(), bound)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _nonfinite(self, loss: float, norm: float) -> None:
        """Records a step that left the weights as they were; raises where the run is to stop, or skips too often."""
        self.metrics.write(self.nonfinite.met(self.step, self.seconds, loss, norm))
        if self.nonfinite.stops:
            raise self.nonfinite.error(self.step, loss, norm)

    def _record_step(
        self, loss: float, rate: float, norm: float, norms: dict[str, float], tokens_per_second: float
    ) -> None:
        flops = tokens_per_second * self.flops_per_token
        peak = self.config.run.peak_tflops or peak_tflops(self.world.device)
        self.metrics.write(
            {
                "kind": "step",
                "step": self.step,
                "seconds": self.seconds,
                "loss": loss,
                "learning_rate": rate,
                "gradient_norm": norm,
                "gradient_norms": norms,
                "tokens": self.tokens,
                "positions": tokens_to_positions(self.tokens, self.streams),
                "tokens_per_second": tokens_per_second,
                "positions_per_second": tokens_per_second * tokens_to_positions(1, self.streams),
                "model_flops_per_second": flops,
                "mfu": flops / (1e12 * peak * self.world.size) if peak else None,
                "memory_bytes": peak_memory_bytes(self.world.device),
            }
        )

    # ------------------------------------------------------------------------------------ evaluation, checkpoint

    @torch.no_grad()
    def _evaluate(self) -> None:
        heldout, run = self.prepared.heldout, self.config.run
        if heldout is None or run.evaluate_every == 0:
            return
        self.zero_jump.before_step(self.module, self.step)
        self.module.eval()
        started = time.perf_counter()
        loss, tokens = heldout_loss(self._loss, heldout, run, self.world)
        sample = make_batch([heldout.row(0)]).to(self.world.device)
        cosine = stream_cosine(self.module.model.model.layers, lambda: self._loss(sample), self.streams)
        self.module.train()
        self.metrics.write(
            {
                "kind": "evaluation",
                "step": self.step,
                "seconds": self.seconds,
                "heldout_loss": loss,
                "bits_per_byte": bits_per_byte(loss, heldout),
                "heldout_tokens": tokens,
                "stream_cosine": cosine,
                "tokens": self.tokens,
                "positions": tokens_to_positions(self.tokens, self.streams),
                "evaluation_seconds": time.perf_counter() - started,
            }
        )

    def _trajectory(self) -> dict[str, Any]:
        """The settings that decide what the next step is; a resumed run must have the same."""
        settings = self.config.as_dict()
        return {
            "streams": self.streams,
            **settings["optimiser"],
            **settings["schedule"],
            "sequences_per_step": self.config.run.sequences_per_step,
            "precision": self.config.run.precision,
        }

    def _save(self) -> None:
        state = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "data": self.rows.state(),
            "settings": self._trajectory(),
        }
        path = checkpoint.save(
            self.out, self.module, self.optimisers, state, self.world, keep=self.config.run.keep_checkpoints
        )
        log.info("checkpoint %s", path)

    def _finish(self, exported: Path | None) -> CptResult:
        self.metrics.write({"kind": "end", "step": self.step, "seconds": self.seconds, "tokens": self.tokens})
        self.metrics.close()
        records = read_metrics(self.metrics.path) if self.world.first else []
        last: dict[str, Any] = next((record for record in reversed(records) if record["kind"] == "evaluation"), {})
        return CptResult(
            out=self.out,
            model=exported,
            streams=self.streams,
            step=self.step,
            tokens=self.tokens,
            positions=tokens_to_positions(self.tokens, self.streams),
            seconds=self.seconds,
            heldout_loss=last.get("heldout_loss"),
            bits_per_byte=last.get("bits_per_byte"),
            records=records,
        )

"""TRL's SFTTrainer with what our runs need: exact held-out loss, records, checkpoints that are complete or ignored.

Contract: the training step, its loss (the mean over all tokens that carry loss of a step, whatever the number of
passes and processes) and gradients are TRL's own. `heldout_loss` is the same forward, summed over tokens. The recorder
writes `metrics.jsonl` as `train cpt` does, evaluates, and marks a checkpoint complete when all of it is written.

Place in the flow: between `sft.py`, which sets it up, and TRL.
"""

from __future__ import annotations

import math
import time
import zlib
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from trl import SFTTrainer

from hidden_decoding.modeling.flops import ForwardFlops, training_flops
from hidden_decoding.streams import tokens_to_positions
from hidden_decoding.train import sft_setup
from hidden_decoding.train.metrics import Metrics, peak_memory_bytes, peak_tflops
from hidden_decoding.train.nonfinite import Nonfinite
from hidden_decoding.train.optimiser import gradient_norms, learning_rate
from hidden_decoding.train.sft_checkpoints import mark
from hidden_decoding.train.sft_config import SftConfig
from hidden_decoding.train.stream_cosine import stream_cosine


class ChatTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer with our optimiser, that counts what a step read, and evaluates exactly."""

    optimizer: Any
    lr_scheduler: Any

    def __init__(self, config: SftConfig, schedule: Any, **kwargs: Any) -> None:
        self.config, self.schedule = config, schedule
        self.new_step()
        super().__init__(**kwargs)

    def new_step(self) -> None:
        """Begins to count anew. `step_broken` is the loss of a pass that was not finite."""
        self.step_tokens, self.step_learned, self.step_rows = 0, 0, 0
        self.step_broken: float | None = None

    def create_optimizer(self, model: Any = None) -> Any:
        """Ours, over the model as it is trained."""
        if self.optimizer is None:
            self.optimizer = sft_setup.make_optimiser(model or self.model, self.config)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002 - theirs
        """Ours, whose length is in the schedule."""
        if self.lr_scheduler is None:
            self.lr_scheduler = sft_setup.make_scheduler(optimizer or self.optimizer, self.schedule)
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """One forward and backward pass; remembers how many tokens it had, and a checksum of them."""
        ids = inputs["input_ids"]
        self.step_tokens += ids.numel()
        self.step_learned += int((inputs["labels"][:, 1:] >= 0).sum())
        self.step_rows = zlib.crc32(ids.cpu().numpy().tobytes(), self.step_rows)
        loss = super().training_step(model, inputs, *args, **kwargs)
        if torch.isfinite(loss):
            return loss
        self.step_broken = float(loss)  # in the trainer's own sum it would stay for the rest of the run
        return torch.zeros_like(loss)

    def _evaluated(self) -> Any:
        return self.model_wrapped if self.is_fsdp_enabled else self.model

    @torch.no_grad()
    def heldout_loss(self, rows: Any) -> tuple[float, int]:
        """Nats per token that carries loss, over all `rows`, and how many those are; called by all processes."""
        model = self._evaluated()
        model.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        mine, others = self.accelerator.process_index, self.accelerator.num_processes
        for start in range(0, len(rows), others):
            # Every process makes the same number of passes; one without a row of its own counts nothing.
            number = start + mine
            inputs = self._prepare_inputs(self.data_collator([rows[min(number, len(rows) - 1)]]))
            with self.compute_loss_context_manager():
                out = model(**inputs, use_cache=False, fused_lm_head=True)
            if number < len(rows):
                sums += torch.stack([-out.log_probs.double().sum(), out.label_mask.double().sum()]).cpu()
        model.train()
        nats, tokens = self.accelerator.reduce(sums.to(self.args.device).float() if others > 1 else sums).tolist()
        return nats / max(tokens, 1), int(tokens)

    @torch.no_grad()
    def stream_cosine(self, row: Any, num_streams: int) -> dict[str, float] | None:
        """How alike the streams of one row's tokens are, see `stream_cosine.py`; called by all processes."""
        model, inputs = self._evaluated(), self._prepare_inputs(self.data_collator([row]))
        plain = self.accelerator.unwrap_model(model)
        plain = plain.get_base_model() if hasattr(plain, "get_base_model") else plain
        model.eval()
        with self.compute_loss_context_manager():
            found = stream_cosine(
                plain.model.layers, lambda: model(**inputs, use_cache=False, fused_lm_head=True), num_streams
            )
        model.train()
        return found


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Records, evaluations and marks of one run; `begin` is the first record's content."""

    def __init__(
        self,
        config: SftConfig,
        *,
        schedule: Any,
        streams: int,
        flops: ForwardFlops,
        heldout: Any,
        heldout_bytes: int,
        metrics: Metrics,
        settings: dict[str, Any],
        begin: dict[str, Any],
    ) -> None:
        self.config, self.schedule, self.streams, self.flops = config, schedule, streams, flops
        self.heldout, self.heldout_bytes = heldout, heldout_bytes
        self.metrics, self.settings, self.begin = metrics, settings, begin
        self.trainer: Any = None  # set when there is one
        self.tokens, self.learned, self.seconds, self.started, self.took = 0, 0, 0.0, 0.0, 0.0
        self.clipped_norms: dict[str, float] = {}
        self.rows_checksum = 0
        self.nonfinite = Nonfinite(config.run.on_nonfinite, config.optimiser.learning_rate)

    def resume(self, totals: dict[str, Any]) -> None:
        """Goes on counting from a checkpoint's totals."""
        self.tokens, self.learned, self.seconds = totals["tokens"], totals["learned_tokens"], totals["seconds"]

    def on_train_begin(self, _args: Any, state: Any, _control: Any, model: Any = None, **_: Any) -> None:
        """The first record and evaluation of a new run."""
        if state.global_step == 0:
            sharded = all(isinstance(parameter, DTensor) for parameter in model.parameters())
            self.metrics.write({"kind": "start", "step": 0, "seconds": 0.0, **self.begin, "sharded": sharded})
            self.evaluate(0)

    def on_step_begin(self, *_args: Any, **_: Any) -> None:
        """Starts the clock."""
        self.started = time.perf_counter()

    def on_pre_optimizer_step(self, _args: Any, _state: Any, _control: Any, model: Any = None, **_: Any) -> None:
        """Each group's gradient, which has been clipped already; one that is not finite is taken away."""
        self.clipped_norms = gradient_norms(model)
        if not all(map(math.isfinite, self.clipped_norms.values())):
            model.zero_grad(set_to_none=True)  # the optimiser leaves parameters without gradients as they are

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stops the clock; ends the run early where asked."""
        self.took = time.perf_counter() - self.started
        if state.global_step == self.config.run.stop_at_step and state.global_step < self.schedule.steps:
            control.should_training_stop = control.should_save = True

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        """One step's record, then an evaluation if one is due."""
        if not logs or "loss" not in logs:
            return
        step, norm, broken = state.global_step, float(logs.get("grad_norm", math.nan)), self.trainer.step_broken
        loss = float(logs["loss"]) if broken is None else broken
        tokens, learned = self._count()
        if math.isfinite(loss) and math.isfinite(norm):
            self.nonfinite.row = 0
            self._write_step(step, loss, norm, tokens, learned)
        else:
            self.metrics.write(self.nonfinite.met(step, self.seconds, loss, norm))
            if self.nonfinite.stops:
                raise self.nonfinite.error(step, loss, norm)
        every = self.config.run.evaluate_every
        if (every and step % every == 0) or step == self.schedule.steps:
            self.evaluate(step)

    def _count(self) -> tuple[int, int]:
        """Tokens that the step read and learned in all processes, added to the run's."""
        trainer = self.trainer
        counts = torch.tensor([trainer.step_tokens, trainer.step_learned], device=trainer.args.device)
        tokens, learned = trainer.accelerator.reduce(counts).tolist()
        self.tokens, self.learned, self.seconds = self.tokens + tokens, self.learned + learned, self.seconds + self.took
        self.rows_checksum = trainer.step_rows
        trainer.new_step()
        return tokens, learned

    def _write_step(self, step: int, loss: float, norm: float, tokens: int, learned: int) -> None:
        trainer, device = self.trainer, self.trainer.args.device
        lora = bool(self.config.model.lora_rank)
        flops = training_flops(self.flops, tokens=tokens, learned_tokens=learned, adapters=lora) / self.took
        peak = self.config.run.peak_tflops or peak_tflops(device)
        self.metrics.write(
            {
                "kind": "step",
                "step": step,
                "seconds": self.seconds,
                "loss": loss,
                "learning_rate": learning_rate(step - 1, self.config.optimiser.learning_rate, self.schedule),
                "gradient_norm": norm,
                "gradient_norms": self._norms(norm),
                "tokens": self.tokens,
                "learned_tokens": self.learned,
                "positions": tokens_to_positions(self.tokens, self.streams),
                "tokens_per_second": tokens / self.took,
                "positions_per_second": tokens_to_positions(tokens, self.streams) / self.took,
                "model_flops_per_second": flops,
                "mfu": flops / (1e12 * peak * trainer.accelerator.num_processes) if peak else None,
                "memory_bytes": peak_memory_bytes(device),
                "rows_checksum": self.rows_checksum,
            }
        )

    def _norms(self, whole: float) -> dict[str, float]:
        """The groups' norms from before clipping, which scaled all of them alike; `whole` is the gradient's then."""
        clipped = math.hypot(*self.clipped_norms.values())
        return {name: norm * whole / clipped if clipped else 0.0 for name, norm in self.clipped_norms.items()}

    def evaluate(self, step: int) -> None:
        """Held-out loss, where there is something held out."""
        if not len(self.heldout) or self.config.run.evaluate_every == 0:
            return
        started = time.perf_counter()
        loss, tokens = self.trainer.heldout_loss(self.heldout)
        record = {
            "kind": "evaluation",
            "step": step,
            "seconds": self.seconds,
            "heldout_loss": loss,
            "bits_per_byte": loss / math.log(2) * tokens / max(1, self.heldout_bytes),
            "heldout_tokens": tokens,
            "stream_cosine": self.trainer.stream_cosine(self.heldout[0], self.streams),
            "tokens": self.tokens,
            "positions": tokens_to_positions(self.tokens, self.streams),
            "evaluation_seconds": time.perf_counter() - started,
        }
        self.metrics.write(record)

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Marks the checkpoint: all processes have written theirs."""
        self.trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            totals = {"tokens": self.tokens, "learned_tokens": self.learned, "seconds": self.seconds}
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            mark(folder, {"step": state.global_step, "settings": self.settings, **totals})

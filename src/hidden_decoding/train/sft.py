"""Supervised fine-tuning on chats, by TRL: all weights or LoRA, any number of streams, and the n = 1 control.

    chats -> samples with loss on assistant turns -> packed rows -> TRL's SFTTrainer -> metrics, model

Contract: `train_sft(config)` trains `config.model.model` and leaves in `config.run.out`: `run.json`, `metrics.jsonl`,
`checkpoints/`, `model/` (published format, LoRA merged, ends at `<|im_end|>`) and with LoRA `adapter/`. With
`config.model.control`, an n = 1 checkpoint, it then trains that one in the same way in `OUT/control`: the same samples
in the same order (their checksums are recorded), same settings. Losses are nats per token that carries loss.

    >>> train_sft(SftConfig.build(model="base-n2", data=("chats.jsonl",), out="runs/sft")).heldout_loss
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hidden_decoding.errors import ConfigError, DependencyError
from hidden_decoding.modeling.checkpoint import load_config, load_tokenizer, resolve_model
from hidden_decoding.modeling.flops import forward_flops_per_token
from hidden_decoding.streams import tokens_to_positions
from hidden_decoding.train import sft_checkpoints, sft_setup
from hidden_decoding.train.chat_tokens import END
from hidden_decoding.train.checkpoint import check_settings
from hidden_decoding.train.disk import full_disk_is_clear, warn_of_little_room
from hidden_decoding.train.export import write_model
from hidden_decoding.train.metrics import Metrics, read_metrics
from hidden_decoding.train.optimiser import check_groups
from hidden_decoding.train.prepare import check_context, check_out, check_tokenizer
from hidden_decoding.train.sft_config import SftConfig
from hidden_decoding.train.sft_data import Chats, load_chats, rows_of
from hidden_decoding.train.trackers import check_tracker, make_tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SftResult:
    """What a run left. `model` is None when it stopped before its last step; `tokens` are all that were read."""

    out: Path
    model: Path | None
    adapter: Path | None
    streams: int
    step: int
    tokens: int
    positions: int
    learned_tokens: int
    seconds: float
    heldout_loss: float | None
    bits_per_byte: float | None
    chats: dict[str, Any]
    remarks: list[str]
    records: list[dict[str, Any]]
    control: SftResult | None = None


def train_sft(config: SftConfig, *, progress: bool = True) -> SftResult:
    """Trains, and then the control where there is one; see the module's contract."""
    try:
        import peft  # noqa: F401
        import trl  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"train sft needs TRL and peft ({error.name} is missing); run: pip install 'hidden-decoding[train]'"
        ) from error
    run = SftRun(config, label="sft", progress=progress, first_of_two=config.model.control is not None)
    control = _control_of(run, progress=progress) if config.model.control else None
    result = run.result()
    return dataclasses.replace(result, control=control.result()) if control else result


def _control_of(run: SftRun, *, progress: bool) -> SftRun:
    """The run of the n = 1 control; its start is checked before the first run begins."""
    config = run.config
    model = dataclasses.replace(config.model, model=config.model.control or "", revision=None, control=None)
    out = dataclasses.replace(config.run, out=str(Path(config.run.out) / "control"))
    control = SftRun(dataclasses.replace(config, model=model, run=out), label="control n=1", progress=progress)
    if control.streams != 1:
        raise ConfigError(
            f"--control {config.model.control} has n = {control.streams} streams; give an n = 1 checkpoint"
        )
    if control.chats.digest != run.chats.digest:
        raise ConfigError(
            f"--control {config.model.control} has another tokenizer or chat template than {config.model.model}: the "
            "samples would not be the same; give the n = 1 checkpoint that the model was made from"
        )
    return control


class SftRun:
    """One run, checked and with its chats read; `result` trains it."""

    def __init__(self, config: SftConfig, *, label: str, progress: bool, first_of_two: bool = False) -> None:
        self.config, self.label, self.progress = config, label, progress
        self.out, self.world = Path(config.run.out), int(os.environ.get("WORLD_SIZE", "1"))
        self.first = int(os.environ.get("RANK", "0")) == 0
        self.finished = config.run.resume and (self.out / "model").is_dir() and (first_of_two or label != "sft")
        if not self.finished:
            check_out(self.out, resume=config.run.resume)
        check_tracker(config.run.track)
        self.on_cpu = sft_setup.on_cpu(config.run.device)
        self.shard = sft_setup.shards(config, self.world, on_cpu=self.on_cpu)
        self.accumulate = sft_setup.passes_per_step(config, self.world)
        self.directory = resolve_model(config.model.model, config.model.revision)
        self.model_config = load_config(self.directory)
        self.streams = self.model_config.num_streams
        check_context(config.data.tokens_per_sequence, self.model_config)
        tied = bool(self.model_config.tie_word_embeddings)
        check_groups(config.optimiser, streams=self.streams, tied=tied)
        self.tokenizer: Any = load_tokenizer(self.directory)
        check_tokenizer(self.tokenizer, self.directory, self.model_config)
        self.chats: Chats = load_chats(config.data, self.tokenizer, progress=progress and self.first)
        self.remarks = self.chats.counts.describe(config.data.tokens_per_sequence)
        for line in self.remarks[1:] if label == "sft" else ():
            log.warning(line)
        self.rows = rows_of(self.chats.training, config.data)
        passes = math.ceil(len(self.rows) / (config.run.sequences_per_pass * self.world))
        per_epoch = math.ceil(passes / self.accumulate)
        self.schedule = config.schedule.of(config.schedule.steps or math.ceil(config.schedule.epochs * per_epoch))

    def result(self) -> SftResult:
        """Trains to the last step, or to `stop_at_step`; a finished run that is resumed is only read."""
        with full_disk_is_clear(self.out, sft_checkpoints.latest):
            return self._result(None if self.finished else self._train())

    def _train(self) -> int:
        """Returns the step it came to."""
        self.out.mkdir(parents=True, exist_ok=True)
        if self.first:
            text = json.dumps(self.config.as_dict(), indent=2) + "\n"
            (self.out / "run.json").write_text(text, encoding="utf-8")
            sft_checkpoints.remove_half_written(self.out)
        found = sft_checkpoints.latest(self.out) if self.config.run.resume else None
        trainer, recorder = self._trainer()
        if found is not None:
            recorder.resume(self._checked(found, recorder.settings))
        step = None if found is None else int(sft_checkpoints.read_mark(found)["step"])
        recorder.metrics.rewind(step)
        if self.first:
            recorder.metrics.tracker = make_tracker(self.config.run.track, self.out, self.config.as_dict(), step or 0)
            warn_of_little_room(
                self.out,
                trainer.model,
                steps=self.schedule.steps,
                every=self.config.run.checkpoint_every,
                keep=self.config.run.keep_checkpoints,
                adapters=bool(self.config.model.lora_rank),
            )
        with sft_setup.quiet():
            trainer.train(resume_from_checkpoint=None if found is None else str(found))
        reached = int(trainer.state.global_step)
        recorder.metrics.write({"kind": "end", "step": reached, "seconds": recorder.seconds, "tokens": recorder.tokens})
        recorder.metrics.close()
        if reached == self.schedule.steps:
            self._export(trainer)
        return reached

    def _checked(self, found: Path, settings: dict[str, Any]) -> dict[str, Any]:
        """The totals of a checkpoint; refuses one that was trained with other settings."""
        then = sft_checkpoints.read_mark(found)
        check_settings(then["settings"], settings, found)
        log.info("resumed %s at step %d", self.out, then["step"])
        return then

    # ----------------------------------------------------------------------------------------------- setting up TRL

    def _trainer(self) -> tuple[Any, Any]:
        from hidden_decoding.train.sft_trainer import ChatTrainer, Recorder

        config = self.config
        metrics = Metrics(
            self.out / "metrics.jsonl",
            steps=self.schedule.steps,
            label=self.label,
            active=self.first,
            progress=self.progress,
        )
        model = sft_setup.make_model(config, self.directory)
        recorder = Recorder(
            config,
            schedule=self.schedule,
            streams=self.streams,
            flops=forward_flops_per_token(self.model_config, config.data.tokens_per_sequence),
            heldout=rows_of(self.chats.heldout, config.data),
            heldout_bytes=sum(sample.text_bytes for sample in self.chats.heldout),
            metrics=metrics,
            settings=self._trajectory(),
            begin=self._about(model),
        )
        with sft_setup.quiet():
            trainer = ChatTrainer(
                config,
                self.schedule,
                model=model,
                args=sft_setup.arguments(
                    config, self.schedule, accumulate=self.accumulate, on_cpu=self.on_cpu, shard=self.shard
                ),
                train_dataset=self.rows,
                processing_class=self.tokenizer,
                callbacks=[recorder],
            )
        from transformers.trainer_callback import PrinterCallback

        trainer.remove_callback(PrinterCallback)
        recorder.trainer = trainer
        return trainer, recorder

    def _trajectory(self) -> dict[str, Any]:
        """The settings that decide what the next step is; a resumed run must have the same."""
        settings, run = self.config.as_dict(), self.config.run
        lora = {name: value for name, value in settings["model"].items() if name.startswith("lora")}
        return {
            "streams": self.streams,
            "samples": self.chats.digest,
            **settings["optimiser"],
            **dataclasses.asdict(self.schedule),
            **lora,
            "packing": self.config.data.packing,
            "data_seed": self.config.data.data_seed,
            "sequences_per_step": run.sequences_per_step,
            "sequences_per_pass": run.sequences_per_pass,
            "precision": run.precision,
            "shard": self.shard,  # the two kinds of checkpoint do not read each other
        }

    def _about(self, model: Any) -> dict[str, Any]:
        width, rows = self.config.data.tokens_per_sequence, self.config.run.sequences_per_step
        return {
            "streams": self.streams,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "processes": self.world,
            "device": "cpu" if self.on_cpu else "cuda",
            "rows": len(self.rows),
            "steps": self.schedule.steps,
            "tokens_per_step": width * rows,
            "positions_per_step": tokens_to_positions(width * rows, self.streams),
            **self.chats.about(),
        }

    # --------------------------------------------------------------------------------------------------- the result

    def _export(self, trainer: Any) -> None:
        """Writes the adapter, if any, and the whole model; called by all processes."""
        weights = trainer.accelerator.get_state_dict(trainer.model)
        if not self.first:
            return
        if self.config.model.lora_rank:
            trainer.model.save_pretrained(str(self.out / "adapter"))
            weights = trainer.model.merge_and_unload().state_dict()
        ends = [self.tokenizer.convert_tokens_to_ids(END)]
        if self.tokenizer.eos_token_id not in (None, *ends):
            ends.append(self.tokenizer.eos_token_id)
        write_model(
            self.out / "model",
            {name: weight.cpu() for name, weight in weights.items()},
            self.directory,
            self.config.run.export_dtype,
            generation={"eos_token_id": ends},
        )

    def _result(self, step: int | None) -> SftResult:
        records = read_metrics(self.out / "metrics.jsonl") if self.first else []
        steps = [record for record in records if record["kind"] == "step"]
        last: dict[str, Any] = steps[-1] if steps else {}
        evaluation: dict[str, Any] = next((r for r in reversed(records) if r["kind"] == "evaluation"), {})
        done = step is None or step == self.schedule.steps
        adapter = self.out / "adapter"
        return SftResult(
            out=self.out,
            model=self.out / "model" if done else None,
            adapter=adapter if done and self.config.model.lora_rank else None,
            streams=self.streams,
            step=last.get("step", 0) if step is None else step,
            tokens=last.get("tokens", 0),
            positions=last.get("positions", 0),
            learned_tokens=last.get("learned_tokens", 0),
            seconds=last.get("seconds", 0.0),
            heldout_loss=evaluation.get("heldout_loss"),
            bits_per_byte=evaluation.get("bits_per_byte"),
            chats=self.chats.about(),
            remarks=self.remarks,
            records=records,
        )

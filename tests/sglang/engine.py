"""Starting SGLang on tiny checkpoints, and asking it what the suite of all engines asks."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

from tests.engine_suite import CHUNK, NEW, RUNNING, Answer, Engine

SLOTS = 300  # tokens the cache holds: fewer than 16 mixed requests need at once
ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def started(directory, **options):
    """A running `sglang.Engine` in fp32 with small steps and few slots; ended afterwards."""
    import sglang

    options = {
        "device": "cpu",
        "disable_cuda_graph": True,
        "sampling_backend": "pytorch",
        "dtype": "float32",
        "mem_fraction_static": 0.1,
        "max_total_tokens": SLOTS,
        "max_running_requests": RUNNING,
        "chunked_prefill_size": CHUNK,
        "log_level": "warning",
        **options,
    }
    engine = sglang.Engine(model_path=str(directory), **options)
    try:
        yield engine
    finally:
        engine.shutdown()


def recording(config: dict) -> object:
    """A hook for SGLang's `--forward-hooks`, made in its scheduler's process: appends a layer's positions to a file."""
    path = Path(config["path"])

    def record(_module: object, inputs: tuple, _output: object) -> None:
        with path.open("a") as file:
            file.write(json.dumps(inputs[0].tolist()) + "\n")

    return record


class Sglang(Engine):
    """For the suite of all engines: SGLang in steps of 13 tokens."""

    context = 256  # tokens: tests.support.tiny_config
    reserved, refuses_more = 2, True
    too_long = ValueError
    penalty_order = {"additive_first": True, "repeats_prompt": False}

    def __init__(self, engine, num_streams: int, scheme: str, positions: Path) -> None:
        super().__init__(num_streams, scheme)
        self.engine, self.positions, self.retracted = engine, positions, 0

    def ask(self, cases, *, tokens=NEW, scored=False, **penalties):
        params = {"temperature": 0.0, "max_new_tokens": tokens, "ignore_eos": True, **penalties}
        answers = []
        for said in self.engine.generate(
            input_ids=cases,
            sampling_params=params,
            return_logprob=scored,
            logprob_start_len=0 if scored else -1,
        ):
            info = said["meta_info"]
            self.retracted += info["num_retractions"]
            answer = Answer(said["output_ids"], info["finish_reason"]["type"], info["cached_tokens"])
            if scored:
                given = [*info["input_token_logprobs"][1:], *info["output_token_logprobs"]]
                answer.scored = [(token, logprob) for logprob, token, _ in given]
            answers.append(answer)
        return answers

    def preempted(self):
        return self.retracted

    @contextlib.contextmanager
    def steps(self):
        steps, known = [], len(self.positions.read_text().splitlines())
        yield steps
        steps += [json.loads(line) for line in self.positions.read_text().splitlines()[known:]]


@contextlib.contextmanager
def tight(directory, num_streams: int, scheme: str, *, retract: bool = False, **options):
    """The suite's engine; its process writes down which positions the first layer reads.

    With `retract` requests lose their slots every third step and are computed again, by SGLang's own switch for tests.
    """
    paths = [os.environ.get("PYTHONPATH"), str(ROOT)]
    changes = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "SGLANG_TEST_RETRACT": str(int(retract))}
    with tempfile.TemporaryDirectory() as folder, changed_environment(**changes):
        positions = Path(folder) / "positions"
        positions.touch()
        hook = {
            "name": "positions",
            "target_modules": ["model.layers.0"],
            "hook_factory": "tests.sglang.engine:recording",
            "config": {"path": str(positions)},
        }
        with started(directory, forward_hooks=[hook], **options) as engine:
            yield Sglang(engine, num_streams, scheme, positions)


@contextlib.contextmanager
def changed_environment(**changes: str):
    """What the engine's processes find in their environment, for a while."""
    kept = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)

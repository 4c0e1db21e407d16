"""The local engine: requests in, text out. One step reads schedule -> run -> sample -> hand out.

Contract: speaks tokens throughout. Not thread-safe; `async_engine` gives it a thread of its own. Bad requests raise
`RequestError` when added, a failing step fails only the requests in it.

    >>> from hidden_decoding import LocalEngine, SamplingParams
    >>> LocalEngine("path/to/checkpoint").generate(["Hello"], SamplingParams(max_tokens=8))[0].text
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hidden_decoding.engines.local.decode_graphs import graphs_for
from hidden_decoding.engines.local.detokenizer import Detokenizer
from hidden_decoding.engines.local.engine_config import EngineConfig
from hidden_decoding.engines.local.grammar import Grammar, load_grammar_tokenizer
from hidden_decoding.engines.local.kv_blocks import BlockPool
from hidden_decoding.engines.local.kv_pool import KVPool, bytes_per_token
from hidden_decoding.engines.local.loading import (
    context_tokens_of,
    end_tokens,
    kv_capacity_tokens,
    parameter_count,
    pick_device,
    read_generation_config,
    refuse_stream_attention,
    sampling_defaults,
)
from hidden_decoding.engines.local.outputs import Delta, RequestOutput
from hidden_decoding.engines.local.packed_linear import pack_linears, packing_available
from hidden_decoding.engines.local.progress import take_result
from hidden_decoding.engines.local.request import Request
from hidden_decoding.engines.local.runner import ModelRunner, SpanLogits
from hidden_decoding.engines.local.sampler import sample
from hidden_decoding.engines.local.sampling_params import SamplingParams
from hidden_decoding.engines.local.scheduler import Scheduler
from hidden_decoding.engines.local.weights import linear_form, load_for_engine
from hidden_decoding.errors import RequestError
from hidden_decoding.modeling.checkpoint import load_tokenizer, resolve_model
from hidden_decoding.modeling.model import Qwen3ScaleSeqForCausalLM
from hidden_decoding.streams import positions_to_tokens, tokens_to_positions

log = logging.getLogger(__name__)

# Rows of one step when nothing is said: enough to fill a CPU or GPU matrix multiply, few enough to keep a step short.
DEFAULT_STEP_POSITIONS = 2048


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """A snapshot of the engine. Counts of prefixes are tokens since the start."""

    num_running: int
    num_waiting: int
    kv_cache_usage: float
    free_blocks: int
    total_blocks: int
    prefix_cache_queries: int
    prefix_cache_hits: int
    preemptions: int
    steps: int


class LocalEngine:
    """Runs many requests together on one transformers model."""

    def __init__(
        self, model: str | Path, config: EngineConfig | None = None, *, revision: str | None = None, **options: Any
    ) -> None:
        """`model` is a directory or hub id; `options` are fields of `EngineConfig` when no `config` is given."""
        config = config or EngineConfig(**options)
        directory = resolve_model(model, revision)
        loaded = load_for_engine(directory, config, pick_device(config.device))
        self._set_up(loaded, load_tokenizer(directory), config, read_generation_config(directory))

    @classmethod
    def from_model(
        cls,
        model: Qwen3ScaleSeqForCausalLM,
        tokenizer: Any | None = None,
        config: EngineConfig | None = None,
        **options: Any,
    ) -> LocalEngine:
        """An engine over a model that is already in memory. The model's attention stays set to the engine's.

        Weights are left as they are unless `pack_weights=True` says otherwise: the caller may still want to train.
        """
        config = config or EngineConfig(**{"pack_weights": False, **options})
        form = linear_form(config, model.config.num_streams)
        if form == "packed" and packing_available(model.device, model.dtype):
            pack_linears(model)
        engine = cls.__new__(cls)
        engine._set_up(model.eval(), tokenizer, config, {})
        return engine

    def _set_up(
        self,
        model: Qwen3ScaleSeqForCausalLM,
        tokenizer: Any | None,
        config: EngineConfig,
        generation_config: dict[str, Any],
    ) -> None:
        refuse_stream_attention(model.config)
        self.config = config
        self.model = model
        self.model_config = model.config
        self.num_streams: int = model.config.num_streams
        self.tokenizer = tokenizer
        self.default_sampling = sampling_defaults(generation_config)
        self.end_token_ids = end_tokens(model.config, generation_config, tokenizer)
        device, dtype = model.device, model.dtype
        capacity = kv_capacity_tokens(model.config, config, dtype=dtype, device=device)
        self.max_model_len = context_tokens_of(model.config, config, capacity)
        self.pool = BlockPool(
            capacity // config.block_size, config.block_size, prefix_caching=config.enable_prefix_caching
        )
        step_tokens = config.max_num_batched_tokens or max(
            positions_to_tokens(DEFAULT_STEP_POSITIONS, self.num_streams), config.max_num_seqs
        )
        self.scheduler = Scheduler(self.pool, max_running=config.max_num_seqs, max_step_tokens=step_tokens)
        self.runner = ModelRunner(model, KVPool(model.config, capacity, dtype=dtype, device=device), config.block_size)
        self.runner.decoder = graphs_for(self.runner, config, self.max_model_len)
        self.shared_generator = torch.Generator(device=device).manual_seed(config.seed)
        self.steps = 0
        self._requests: dict[str, Request] = {}
        self._numbers = itertools.count()
        self._grammar_tokenizer: Any = None

    # ------------------------------------------------------------------------------------------------- requests

    def make_request(
        self, prompt_token_ids: Sequence[int], params: SamplingParams, request_id: str | None = None
    ) -> Request:
        """A checked request, not yet queued. Raises `RequestError` naming what cannot be served."""
        ids = list(prompt_token_ids)
        self._check_prompt(ids)
        grammar = None if params.structured_output is None else self._grammar(params.structured_output)
        generator = None
        if params.seed is not None:
            generator = torch.Generator(device=self.model.device).manual_seed(params.seed)
        vocabulary = self.model_config.vocab_size
        for name, tokens in (("logit_bias", params.logit_bias), ("stop_token_ids", params.stop_token_ids)):
            if bad := [token for token in tokens if not 0 <= token < vocabulary]:
                raise RequestError(
                    f"{name} names token {bad[0]}, but the vocabulary ends at {vocabulary - 1}", param=name
                )
        return Request(
            request_id=request_id or f"request-{next(self._numbers)}",
            prompt_token_ids=ids,
            params=params,
            detokenizer=Detokenizer(
                self.tokenizer,
                ids,
                stop=params.stop,
                skip_special_tokens=params.skip_special_tokens,
                include_stop=params.include_stop_str_in_output,
            ),
            max_total_tokens=min(len(ids) + params.max_tokens, self.max_model_len),
            end_token_ids=self.end_token_ids,
            generator=generator,
            grammar=grammar,
        )

    def _check_prompt(self, ids: list[int]) -> None:
        if not ids:
            raise RequestError("the prompt is empty; it needs at least one token", param="prompt")
        if len(ids) >= self.max_model_len:
            raise RequestError(
                f"the prompt has {len(ids)} tokens ({tokens_to_positions(len(ids), self.num_streams)} positions), but "
                f"the context holds {self.max_model_len} tokens, prompt and answer together; shorten the prompt",
                param="prompt",
            )
        vocabulary = self.model_config.vocab_size
        if bad := [token for token in ids if not 0 <= token < vocabulary]:
            raise RequestError(
                f"the prompt holds token {bad[0]}, but the vocabulary ends at {vocabulary - 1}", param="prompt"
            )

    def _grammar(self, wanted: dict[str, object]) -> Grammar:
        if self.tokenizer is None:
            raise RequestError(
                "response_format needs a tokenizer, and this checkpoint has none", param="response_format"
            )
        vocabulary = self.model_config.vocab_size
        if self._grammar_tokenizer is None:
            self._grammar_tokenizer = load_grammar_tokenizer(self.tokenizer, vocabulary, sorted(self.end_token_ids))
        return Grammar(self._grammar_tokenizer, wanted, vocabulary)

    def queue(self, request: Request) -> str:
        """Puts a request in line; returns its id."""
        if request.request_id in self._requests:
            raise RequestError(f"a request {request.request_id!r} is already running", param="request_id")
        self._requests[request.request_id] = request
        self.scheduler.add(request)
        return request.request_id

    def add_request(
        self, prompt_token_ids: Sequence[int], params: SamplingParams, request_id: str | None = None
    ) -> str:
        """Checks and queues a request; returns its id."""
        return self.queue(self.make_request(prompt_token_ids, params, request_id))

    def abort(self, request_id: str) -> None:
        """Ends a request; its KV slots are free at once. Unknown ids are ignored: the answer may just have ended."""
        if (request := self._requests.pop(request_id, None)) is not None:
            self.scheduler.finish(request)

    @property
    def has_unfinished(self) -> bool:
        """Whether any request waits or runs."""
        return bool(self._requests)

    # ----------------------------------------------------------------------------------------------------- steps

    def step(self) -> list[Delta]:
        """One forward for all scheduled requests, and what it added to each."""
        spans = self.scheduler.schedule()
        if not spans:
            return []
        self.steps += 1
        now = time.monotonic()
        for span in spans:
            span.request.metrics.scheduled = span.request.metrics.scheduled or now
        try:
            results = self.runner.run(spans)
            chosen = self._sample(results)
        except Exception as error:
            log.exception("a step of %d requests failed", len(spans))
            return [self._fail(span.request, error) for span in spans]
        deltas = []
        for result in results:
            try:
                self.scheduler.advance(result.span)
                deltas += self._take(result, chosen.get(result.span.request.request_id))
            except Exception as error:
                log.exception("taking the result of request %s failed", result.span.request.request_id)
                deltas.append(self._fail(result.span.request, error))
        return deltas

    def _sample(self, results: list[SpanLogits]) -> dict[str, int]:
        """The next token of every request whose span reached its end."""
        ready = [result for result in results if result.span.completes]
        if not ready:
            return {}
        requests = [result.span.request for result in ready]
        tokens = sample(torch.stack([result.logits_RV[-1] for result in ready]), requests, self.shared_generator)
        return {request.request_id: token for request, token in zip(requests, tokens, strict=True)}

    def _take(self, result: SpanLogits, token_id: int | None) -> list[Delta]:
        delta = take_result(result, token_id)
        if delta is None:
            return []
        if delta.finish_reason is not None:
            result.span.request.metrics.finished = time.monotonic()
            self.abort(delta.request_id)
        return [delta]

    def _fail(self, request: Request, error: Exception) -> Delta:
        self.abort(request.request_id)
        return Delta(
            request_id=request.request_id,
            finish_reason="error",
            error=f"{type(error).__name__} while computing the answer",
        )

    def fail_all(self) -> list[Delta]:
        """Ends every request with an error; the engine itself is empty and usable afterwards."""
        error = RuntimeError("the engine failed")
        return [self._fail(request, error) for request in list(self._requests.values())]

    # ------------------------------------------------------------------------------------------------- whole jobs

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """One whole answer per prompt, in their order. Prompts are texts or lists of token ids."""
        texts_or_ids: list[Any] = [prompts] if isinstance(prompts, str) else list(prompts)
        if texts_or_ids and isinstance(texts_or_ids[0], int):
            texts_or_ids = [texts_or_ids]
        shared = params or SamplingParams(**self.default_sampling)
        each = [shared] * len(texts_or_ids) if isinstance(shared, SamplingParams) else list(shared)
        requests = [
            self.make_request(self.encode(prompt) if isinstance(prompt, str) else prompt, wanted)
            for prompt, wanted in zip(texts_or_ids, each, strict=True)
        ]
        outputs = {
            self.queue(request): RequestOutput(request_id=request.request_id, prompt_token_ids=request.prompt_token_ids)
            for request in requests
        }
        try:
            while any(output.finish_reason is None for output in outputs.values()):
                for delta in self.step():
                    if delta.request_id in outputs:
                        outputs[delta.request_id].add(delta)
        finally:
            for request_id in outputs:
                self.abort(request_id)
        return list(outputs.values())

    def encode(self, text: str) -> list[int]:
        """Text to token ids. Raises `RequestError` when the checkpoint has no tokenizer."""
        if self.tokenizer is None:
            raise RequestError("this checkpoint has no tokenizer; send token ids instead of text", param="prompt")
        return list(self.tokenizer.encode(text))

    def stats(self) -> EngineStats:
        """A snapshot for metrics and tests."""
        free = self.pool.free_blocks
        return EngineStats(
            num_running=len(self.scheduler.running),
            num_waiting=len(self.scheduler.waiting),
            kv_cache_usage=1 - free / self.pool.num_blocks,
            free_blocks=free,
            total_blocks=self.pool.num_blocks,
            prefix_cache_queries=self.scheduler.prefix_queries,
            prefix_cache_hits=self.scheduler.prefix_hits,
            preemptions=self.scheduler.preemptions,
            steps=self.steps,
        )

    def summary(self) -> dict[str, Any]:
        """What `serve` prints at its start; units in the names."""
        capacity = self.pool.num_blocks * self.pool.block_size
        return {
            "streams": self.num_streams,
            "parameters": parameter_count(self.model_config),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
            "attention": "request by request" if self.runner.paged is None else self.runner.paged.name,
            "context_tokens": self.max_model_len,
            "context_positions": tokens_to_positions(self.max_model_len, self.num_streams),
            "kv_cache_tokens": capacity,
            "kv_cache_positions": tokens_to_positions(capacity, self.num_streams),
            "kv_cache_bytes": capacity * bytes_per_token(self.model_config, self.model.dtype),
            "step_tokens": self.scheduler.max_step_tokens,
            "max_num_seqs": self.config.max_num_seqs,
        }

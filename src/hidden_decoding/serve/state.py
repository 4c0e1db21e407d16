"""What all routes of one server share: the engine, the model's names and limits, counters, and whether it is draining.

Contract: made once by `launch` (or a test) and kept on `app.state.server`; touched only from the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hidden_decoding.serve.errors import ApiError, shown
from hidden_decoding.serve.metrics import Metrics
from hidden_decoding.serve.prompts import Prompts
from hidden_decoding.serve.sampling import ModelLimits
from hidden_decoding.serve.token_text import TokenTexts

if TYPE_CHECKING:
    from hidden_decoding.engines.local.async_engine import AsyncLocalEngine
    from hidden_decoding.engines.local.engine import LocalEngine
    from hidden_decoding.serve.generation import Generation
    from hidden_decoding.serve.protocol import RequestBody
    from hidden_decoding.serve.settings import ServeConfig

log = logging.getLogger(__name__)
_MOST_FIELD_NAMES = 64


class ServerState:
    """One served model."""

    def __init__(
        self,
        engine: LocalEngine,
        async_engine: AsyncLocalEngine,
        settings: ServeConfig,
        *,
        model: str,
        chat_template: str | None = None,
    ) -> None:
        """`model` is what the user named: a hub id or a directory, of which only the last part is ever shown."""
        self.engine = engine
        self.async_engine = async_engine
        self.settings = settings
        self.names = settings.served_model_name or (model if not Path(model).is_dir() else Path(model).resolve().name,)
        self._accepted = {*self.names, "default", model}
        self.created = int(time.time())
        self.limits = ModelLimits(
            context_tokens=engine.max_model_len,
            vocabulary=engine.model_config.vocab_size,
            defaults=engine.default_sampling,
        )
        self.prompts = Prompts(engine.tokenizer, chat_template=chat_template, vocabulary=self.limits.vocabulary)
        self.token_texts = TokenTexts(engine.tokenizer)
        self.metrics = Metrics(engine, self.names[0])
        self.draining = False
        self.running: set[Generation] = set()
        # Sequences that run and wait together; more are refused.
        self.most_sequences = engine.config.max_num_seqs + settings.max_waiting_requests
        self._unknown_fields: set[str] = set()

    def check_model(self, name: str | None) -> str:
        """The name to answer with; a name that is not served is a 404."""
        if name is None or name in self._accepted:
            return name if name in self.names else self.names[0]
        known = ", ".join(self.names)
        raise ApiError(
            404,
            f"the model {shown(name)} does not exist here; this server has {known}",
            param="model",
            code="model_not_found",
        )

    def note_unknown_fields(self, request: RequestBody) -> None:
        """Counts fields the server does not know, and warns about each once."""
        for name in request.model_extra or {}:
            if name not in self._unknown_fields and len(self._unknown_fields) < _MOST_FIELD_NAMES:
                self._unknown_fields.add(name)
                log.warning("requests have a field %s, which this server does not know and ignores", shown(name))
            self.metrics.unknown_fields.labels(name if name in self._unknown_fields else "other").inc()

    async def drain(self, seconds: float) -> None:
        """Takes no more requests, lets running ones end for up to `seconds`, then ends the rest with an error."""
        self.draining = True
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for generation in list(self.running):
            generation.fail(ApiError(503, "the server is stopping and could not finish this request"))
        while self.running and time.monotonic() < deadline + 2:
            await asyncio.sleep(0.02)

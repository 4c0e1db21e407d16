"""transformers' `generate` passes the suite of all engines, as far as it can be asked: it has no scheduler.

Neither preemption nor a limit of the context exists there; of the penalties it has the repetition penalty.
"""

from __future__ import annotations

import copy

import pytest
import torch

from tests.engine_suite import CHUNK, NEW, SHAPES, Answer, Basics, Engine, Penalties, recorder
from tests.equivalence.shared import left_padded, model_of
from tests.penalties import PENALTIES


class Transformers(Engine):
    """Batches are padded on the left; a prompt alone goes on from the cache of the one before, as far as they agree."""

    def __init__(self, num_streams: int, scheme: str) -> None:
        super().__init__(num_streams, scheme)
        self.model = model_of(num_streams, scheme)
        self.held: tuple[list[int], object] = ([], None)

    def ask(self, cases, *, tokens=NEW, scored=False, **penalties):
        options = {"do_sample": False, "max_new_tokens": tokens, "return_dict_in_generate": True, **penalties}
        if len(cases) > 1:
            out = self.model.generate(**left_padded(cases), **options, prefill_chunk_size=CHUNK)
            width = max(map(len, cases))
            answers = [Answer(row[width:].tolist(), "length") for row in out.sequences]
        else:
            answers = [self.ask_alone(cases[0], options)]
        if scored:
            for ids, answer in zip(cases, answers, strict=True):
                answer.scored = self.score(ids + answer.token_ids)
        return answers

    def ask_alone(self, ids, options):
        known, cache = self.held
        shared = next(
            (i for i, (a, b) in enumerate(zip(known, ids, strict=False)) if a != b), min(len(known), len(ids))
        )
        shared = min(shared, len(ids) - 1)  # the last token is read again, for what it predicts
        if cache is not None and shared:
            cache = copy.deepcopy(cache)
            cache.crop(shared)
            options = {**options, "past_key_values": cache}
        else:
            shared, options = 0, {**options, "prefill_chunk_size": CHUNK}
        out = self.model.generate(torch.tensor([ids]), **options)
        text = out.sequences[0].tolist()
        self.held = (text[:-1], out.past_key_values)
        return Answer(text[len(ids) :], "length", shared)

    @torch.no_grad()
    def score(self, text):
        logprobs_TV = self.model(torch.tensor([text])).logits[0].log_softmax(-1)
        return [(token, float(logprobs_TV[index, token])) for index, token in enumerate(text[1:])]

    def steps(self):
        return recorder(self.model.model.layers[0])


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: f"n{shape[0]}-{shape[1]}")
def engine(request):
    return Transformers(*request.param)


class TestTransformers(Basics, Penalties):
    @pytest.mark.parametrize("penalties", [p for p in PENALTIES if set(p) == {"repetition_penalty"}], ids="+".join)
    def test_penalties_count_tokens(self, engine, penalties):
        """Of them `generate` has one."""
        super().test_penalties_count_tokens(engine, penalties)

    def test_chunks_end_between_tokens(self, engine):
        """A batch is padded to one length here, so chunks are tested one prompt at a time."""
        n, ids = engine.num_streams, [11, 12, 13] * 14
        engine.held = ([], None)
        with engine.steps() as steps:
            engine.match([ids])
        sizes = [len(rows) // n for rows in steps]
        assert sizes == [CHUNK] * 3 + [3] + [1] * (NEW - 1)
        for rows in steps:
            assert rows == list(range(rows[0], rows[0] + len(rows)))
            assert rows[0] % n == 0

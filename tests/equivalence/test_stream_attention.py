"""Stream-factorised attention against a dense mask, with and without a cache; the zero-jump start against the base."""

from __future__ import annotations

import pytest
import torch

from hidden_decoding import Qwen3ScaleSeqForCausalLM
from hidden_decoding.errors import ConfigError
from hidden_decoding.modeling.inspection import inspect_checkpoint
from hidden_decoding.train.config import CptConfig
from hidden_decoding.train.loop import train_cpt
from hidden_decoding.train.zero_jump import ZeroJump
from hidden_decoding.upcycling.config import UpcycleConfig
from tests.equivalence.tolerances import FP32_LOGITS
from tests.support import plain_qwen3, save_tiny_checkpoint, tiny_config, tiny_model

LAYOUT, WINDOW, TOKENS = ["intra", "local", "full"], 5, 11


def dense_masks(n: int, tokens: int) -> dict[str, torch.Tensor]:
    """The definition, row by row: token, stream -> what it sees, as additive masks."""
    rows = [(t, k) for t in range(tokens) for k in range(n)]
    masks = {kind: torch.full((len(rows), len(rows)), torch.finfo(torch.float32).min) for kind in LAYOUT}
    for i, (t, k) in enumerate(rows):
        for j, (s, m) in enumerate(rows):
            masks["full"][i, j] *= j > i
            masks["local"][i, j] *= not i - WINDOW < j <= i
            masks["intra"][i, j] *= not (s <= t and m == k)
    return {kind: mask[None, None] for kind, mask in masks.items()}


@torch.no_grad()
def dense_logits(model: Qwen3ScaleSeqForCausalLM, ids: list[int]) -> torch.Tensor:
    """Stock Qwen3's layers, each given its dense mask and its rotation: [T, V]."""
    n, backbone = model.config.num_streams, plain_qwen3(model).model
    masks = dense_masks(n, len(ids))
    tables = [model.model.embed_tokens, *model.model.scale_seq_embed_tokens_list]
    h = torch.stack([table(torch.tensor(t)) for t in ids for table in tables])[None]
    positions = torch.arange(len(ids) * n)[None]
    linear = model.config.rope_parameters["rope_type"] == "linear"
    token_starts = positions // n * (n if linear else 1)  # the linear factor is n: start of token t rotates by t
    for kind, layer in zip(LAYOUT, backbone.layers, strict=True):
        rotation = backbone.rotary_emb(h, token_starts if kind == "intra" else positions)
        h = layer(h, attention_mask=masks[kind], position_embeddings=rotation)
    return model.lm_head(backbone.norm(h))[0, n - 1 :: n]


@pytest.mark.parametrize("positions", ["contiguous", "linear"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_every_kind_of_layer_is_its_dense_mask(n: int, positions: str) -> None:
    model = tiny_model(n, positions, stream_attention=LAYOUT, stream_window=WINDOW)
    ids = torch.randint(1, 512, (TOKENS,), generator=torch.Generator().manual_seed(n)).tolist()
    expected = dense_logits(model, ids)
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(logits, expected, rtol=0, atol=FP32_LOGITS)
    unrestricted = tiny_model(n, positions)
    with torch.no_grad():
        assert (unrestricted(torch.tensor([ids])).logits[0] - expected).abs().max() > 100 * FP32_LOGITS


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("positions", ["contiguous", "linear"])
def test_generation_with_a_cache_and_left_padding(positions: str, cache: str) -> None:
    model = tiny_model(2, positions, stream_attention=LAYOUT, stream_window=WINDOW)
    prompts = [[5, 6, 7, 8], [0, 0, 9, 10]]
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    out = model.generate(
        torch.tensor(prompts),
        attention_mask=mask,
        max_new_tokens=6,
        min_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
        cache_implementation=cache,
    )
    for row, prompt in zip(out[:, 4:].tolist(), ([5, 6, 7, 8], [9, 10]), strict=True):
        ids = list(prompt)
        for _ in range(6):
            logits = dense_logits(model, ids)[-1]
            logits[0] = -torch.inf  # min_new_tokens keeps the end token away
            ids.append(int(logits.argmax()))
        assert row == ids[len(prompt) :]


def test_gradients_and_packed_documents() -> None:
    model = tiny_model(2, stream_attention=LAYOUT, stream_window=WINDOW).train()
    packed = model(
        torch.tensor([[5, 6, 7, 8, 9, 10]]), position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]), use_cache=False
    ).logits
    apart = model(torch.tensor([[8, 9, 10]]), use_cache=False).logits
    torch.testing.assert_close(packed[:, 3:], apart, rtol=0, atol=FP32_LOGITS)
    packed.square().mean().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


def test_the_layout_is_saved_and_its_absence_too(tmp_path) -> None:
    model = tiny_model(2, stream_attention=LAYOUT, stream_window=WINDOW)
    model.save_pretrained(tmp_path / "sfa")
    again = Qwen3ScaleSeqForCausalLM.from_pretrained(tmp_path / "sfa")
    assert (again.config.stream_attention, again.config.stream_window) == (LAYOUT, WINDOW)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(again.eval()(ids).logits, model(ids).logits)
    tiny_model(2).save_pretrained(tmp_path / "full")
    assert "stream_" not in (tmp_path / "full" / "config.json").read_text()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"stream_attention": ["full"]}, "3 layers"),
        ({"stream_attention": ["full", "inter", "full"]}, "inter"),
        ({"stream_attention": ["full", "local", "full"]}, "stream_window"),
    ],
)
def test_impossible_layouts_are_refused(fields: dict, named: str) -> None:
    with pytest.raises(Exception, match=named):
        tiny_config(2, **fields)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("n", [2, 4])
def test_zero_jump_begins_at_the_base_and_ends_at_the_copy(n: int, implementation: str) -> None:
    base, model = tiny_model(1), tiny_model(n, "linear")
    weights = base.state_dict()
    for stream in range(n - 1):
        weights[f"model.scale_seq_embed_tokens_list.{stream}.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    model.set_attn_implementation(implementation)
    ids = torch.randint(1, 512, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    jump = ZeroJump(4)
    jump.check(model)
    with torch.no_grad():
        wanted, copy = base(ids, labels=ids).loss, model(ids, labels=ids).loss
        losses = []
        for step in range(5):
            jump.before_step(model, step)
            losses.append(model(ids, labels=ids).loss)
    torch.testing.assert_close(losses[0], wanted, rtol=0, atol=1e-4)
    assert torch.equal(losses[4], copy)
    assert all((losses[step] - losses[0]).abs() > 1e-3 for step in range(1, 5))


def test_upcycling_chooses_a_layout_and_the_local_engine_refuses_it(tmp_path) -> None:
    from hidden_decoding import LocalEngine, upcycle

    save_tiny_checkpoint(tmp_path / "base", 1)
    upcycle(tmp_path / "base", 2, tmp_path / "n2", sfa="1:2", progress=False)
    found = inspect_checkpoint(tmp_path / "n2")
    assert found.stream_attention == ["full", "intra", "intra"]
    assert not found.missing
    with pytest.raises(ConfigError, match=r"stream_attention.*local engine"):
        LocalEngine(tmp_path / "n2")
    for wrong in ("1", "0:0", "a:b", "1:-2"):
        with pytest.raises(ConfigError, match="--sfa"):
            UpcycleConfig(streams=2, sfa=wrong)


def test_zero_jump_refuses_what_would_not_be_exact() -> None:
    with pytest.raises(ConfigError, match="linear positions"):
        ZeroJump(4).check(tiny_model(2, "contiguous"))
    with pytest.raises(ConfigError, match="unchanged copy"):
        ZeroJump(4).check(tiny_model(2, "linear"))
    ZeroJump(0).check(tiny_model(2, "contiguous"))


def test_training_with_a_zero_jump_starts_at_the_loss_of_the_base(tmp_path) -> None:
    from hidden_decoding import upcycle

    save_tiny_checkpoint(tmp_path / "base", 1)
    upcycle(tmp_path / "base", 2, tmp_path / "n2", progress=False)
    text = tmp_path / "text.jsonl"
    text.write_text("".join(f'{{"text": "the {number} houses of the town"}}\n' for number in range(60)))

    def run(model: str, **settings: int):
        config = CptConfig.build(
            model=str(tmp_path / model),
            data=(str(text),),
            heldout_fraction=0.2,
            out=str(tmp_path / f"run-{model}-{len(settings)}"),
            tokens_per_sequence=16,
            sequences_per_step=2,
            steps=3,
            device="cpu",
            **settings,
        )
        return train_cpt(config, progress=False)

    base, jump, copy = run("base"), run("n2", zero_jump_steps=2), run("n2")
    first = [
        next(r["heldout_loss"] for r in result.records if r["kind"] == "evaluation") for result in (base, jump, copy)
    ]
    assert first[1] == pytest.approx(first[0], abs=1e-4)
    assert abs(first[2] - first[0]) > 1e-3
    assert "zero" not in (jump.model / "config.json").read_text()

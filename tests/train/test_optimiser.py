"""Groups, freezing, Muon against its definition, WSD, and steps that are not finite."""

from __future__ import annotations

import pytest
import torch

from hidden_decoding.errors import ConfigError
from hidden_decoding.modeling.checkpoint import load_model
from hidden_decoding.train.config import CptConfig, OptimiserSettings, ScheduleSettings
from hidden_decoding.train.loop import CptRun, train_cpt
from hidden_decoding.train.metrics import read_metrics
from hidden_decoding.train.nonfinite import MOST_SKIPPED
from hidden_decoding.train.optimiser import check_groups, group_of, learning_rate, make_optimisers
from tests.support import save_tiny_checkpoint
from tests.train.support import losses, settings, write_corpus


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("text") / "text.jsonl", 30_000)


def changed(before, after) -> set[str]:
    """Groups of which at least one tensor changed."""
    old, new = load_model(before).state_dict(), load_model(after).state_dict()
    return {group_of(name) for name, tensor in new.items() if not torch.equal(tensor, old[name])}


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
@pytest.mark.parametrize("group", ["tables", "backbone", "head"])
def test_a_frozen_group_keeps_every_bit_and_the_others_learn(tiny_checkpoint, text, tmp_path, group, optimiser):
    start = tiny_checkpoint(2)
    run = settings(start, text, tmp_path / "run", steps=2, warmup_steps=0, optimiser=optimiser, **{f"{group}_rate": 0})
    result = train_cpt(run, progress=False)
    trained = {"tables", "backbone", "head"} - {group}
    assert changed(start, result.model) == trained
    (first, _) = [record for record in result.records if record["kind"] == "step"]
    assert set(first["gradient_norms"]) == trained
    squares = sum(norm**2 for norm in first["gradient_norms"].values())
    assert squares**0.5 == pytest.approx(first["gradient_norm"], rel=1e-5)


def test_groups_have_their_own_rate_and_decay(tiny_checkpoint):
    model = load_model(tiny_checkpoint(2))
    given = OptimiserSettings(tables_rate=3, head_rate=0.5, tables_weight_decay=0.0, head_weight_decay=0.7)
    (optimiser,) = make_optimisers(model, given)
    names = {id(p): group_of(name) for name, p in model.named_parameters()}
    found = {(names[id(p)], g["rate"], g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}
    assert found == {("tables", 3, 0), ("head", 0.5, 0.7), ("backbone", 1, 0.1), ("backbone", 1, 0)}


def newton_schulz(gradient):
    """The orthogonalised update by the published quintic, written out; bfloat16 as in its reference."""
    x = gradient.bfloat16()
    x = x / x.norm()
    wide = x if x.shape[0] <= x.shape[1] else x.T
    for _ in range(5):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.775 * gram + 2.0315 * gram @ gram) @ wide
    return (wide if x.shape[0] <= x.shape[1] else wide.T).float()


def test_muon_steps_as_defined_and_only_on_matrices_of_layers(tiny_checkpoint):
    model = load_model(tiny_checkpoint(2))
    given = OptimiserSettings(optimiser="muon", learning_rate=0.01, weight_decay=0.2, muon_momentum=0.9)
    muon, adamw = make_optimisers(model, given)
    names = {id(p): name for name, p in model.named_parameters()}
    taken = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert taken == {name for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2}
    rest = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert rest == set(names.values()) - taken
    weight = model.model.layers[0].mlp.up_proj.weight
    expected, momentum = weight.detach().clone(), torch.zeros_like(weight)
    for seed in range(2):
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        momentum = 0.9 * momentum + 0.1 * weight.grad
        nesterov = 0.1 * weight.grad + 0.9 * momentum
        scale = 0.2 * max(weight.shape) ** 0.5
        expected = expected * (1 - 0.01 * 0.2) - 0.01 * scale * newton_schulz(nesterov)
        muon.step()
    step = 0.01 * scale
    assert (weight - expected).abs().max() < 0.05 * step  # bfloat16 inside; a whole update is of order `step`
    assert (weight - load_model(tiny_checkpoint(2)).model.layers[0].mlp.up_proj.weight).abs().max() > 0.2 * step


def test_muon_resumed_equals_uninterrupted_bit_for_bit(tiny_checkpoint, text, tmp_path):
    start, muon = tiny_checkpoint(2), {"optimiser": "muon", "tables_rate": 2.0, "schedule": "wsd"}
    straight = train_cpt(settings(start, text, tmp_path / "straight", **muon), progress=False)
    train_cpt(settings(start, text, tmp_path / "parted", stop_at_step=3, **muon), progress=False)
    resumed = train_cpt(settings(start, text, tmp_path / "parted", resume=True, **muon), progress=False)
    assert losses(resumed) == losses(straight)
    plain = train_cpt(settings(start, text, tmp_path / "plain"), progress=False)
    assert losses(plain)[1:] != losses(straight)[1:]
    assert losses(straight)[-1] < losses(straight)[0]


@pytest.mark.parametrize(
    ("changes", "about", "words"),
    [
        ({"head_rate": 0}, {"tied": True}, "tied to its input"),
        ({"tables_rate": 1, "backbone_rate": 0, "head_rate": 0}, {"streams": 1}, "nothing would be trained"),
    ],
)
def test_groups_that_cannot_be_meant_are_refused(changes, about, words):
    with pytest.raises(ConfigError, match=words):
        check_groups(OptimiserSettings(**changes), **{"streams": 2, "tied": False, **about})


def test_wsd_warms_up_holds_and_falls_in_a_line():
    schedule = ScheduleSettings(steps=100, warmup_steps=10, schedule="wsd", decay_steps=20, final_fraction=0.1)
    rates = [learning_rate(step, 2.0, schedule) for step in range(101)]
    assert rates[:2] == pytest.approx([0.2, 0.4])
    assert rates[9:81] == [2.0] * 72
    assert rates[90] == pytest.approx(1.1)
    assert rates[100] == pytest.approx(0.2)
    default = ScheduleSettings(steps=100, schedule="wsd")
    assert learning_rate(80, 1.0, default) == 1.0 > learning_rate(81, 1.0, default)


@pytest.mark.parametrize(
    "changes", [{"decay_steps": 5}, {"schedule": "wsd", "decay_steps": 0}, {"schedule": "wsd", "decay_steps": 99}]
)
def test_impossible_decays_are_refused(changes):
    with pytest.raises(ConfigError, match="decay_steps"):
        CptConfig.build(model="m", data=("d",), out="o", steps=98, **changes)


def poison(monkeypatch, steps: set[int]) -> None:
    """Makes the loss of some steps NaN."""
    whole = CptRun._loss

    def loss(self, batch):
        value = whole(self, batch)
        return value * float("nan") if self.module.training and self.step in steps else value

    monkeypatch.setattr(CptRun, "_loss", loss)


def test_a_step_that_is_not_finite_stops_with_a_record_and_resumes(tiny_checkpoint, text, tmp_path, monkeypatch):
    start, out = tiny_checkpoint(2), tmp_path / "run"
    with monkeypatch.context() as patched:
        poison(patched, {3})
        with pytest.raises(ConfigError, match=r"at step 4 the loss is nan.*--on-nonfinite skip"):
            train_cpt(settings(start, text, out, checkpoint_every=2), progress=False)
    last = read_metrics(out / "metrics.jsonl")[-1]
    assert (last["kind"], last["step"], last["loss"], last["action"]) == ("nonfinite", 4, "nan", "stop")
    resumed = train_cpt(settings(start, text, out, checkpoint_every=2, resume=True), progress=False)
    straight = train_cpt(settings(start, text, tmp_path / "straight"), progress=False)
    assert losses(resumed) == losses(straight)


def test_a_step_that_is_not_finite_is_left_out_when_asked(tiny_checkpoint, text, tmp_path, monkeypatch):
    poison(monkeypatch, {1, 3})
    result = train_cpt(settings(tiny_checkpoint(2), text, tmp_path / "run", on_nonfinite="skip"), progress=False)
    assert [(r["kind"], r["step"]) for r in result.records if r["kind"] in {"step", "nonfinite"}] == [
        ("step", 1),
        ("nonfinite", 2),
        ("step", 3),
        ("nonfinite", 4),
        ("step", 5),
        ("step", 6),
    ]
    assert all(torch.isfinite(tensor).all() for tensor in load_model(result.model).state_dict().values())


def test_skipping_ends_when_nothing_is_finite_any_more(text, tmp_path, monkeypatch):
    poison(monkeypatch, set(range(99)))
    start = save_tiny_checkpoint(tmp_path / "m", 1)
    run = settings(start, text, tmp_path / "run", on_nonfinite="skip", steps=20, evaluate_every=0)
    with pytest.raises(ConfigError, match=f"after {MOST_SKIPPED} such steps in a row"):
        train_cpt(run, progress=False)

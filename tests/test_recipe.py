"""The recipe: schedules against their formulas, and an optimizer that is carried from one experience to the next."""

import math

import pytest
import torch

from cl_framework import ConfigError, Strategy
from cl_framework.check_runs import Stop, assert_same_result, learn
from cl_framework.checkpoint import Vault
from cl_framework.models import MLP
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.toys import Toy, toy_model


def test_a_cosine_ends_at_lr_end():
    recipe = Recipe(lr=0.2, lr_end=0.05, scheduler="cosine")
    assert recipe.lr_factor(0, 100) == 1.0
    assert recipe.lr_factor(100, 100) == pytest.approx(0.25)
    assert recipe.lr_factor(50, 100) == pytest.approx((0.2 + 0.05) / 2 / 0.2)


def test_restarts_are_those_of_torch():
    """Seven epochs of ten steps hold cycles of 1, 2 and 4 epochs, as torch's scheduler has them."""
    recipe = Recipe(optimizer="sgd", lr=0.05, lr_end=0.0005, scheduler="restarts", epochs=7)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=1, T_mult=2, eta_min=0.0005)
    optimizer.step()
    for step in range(70):
        schedule.step(step / 10)
        assert math.isclose(0.05 * recipe.lr_factor(step, 70), optimizer.param_groups[0]["lr"], rel_tol=1e-6), step


@pytest.mark.parametrize("fields", [{"lr_end": 0.1, "lr": 0.01, "scheduler": "cosine"}, {"lr_end": 1e-4}])
def test_an_end_that_means_nothing_is_refused(fields):
    with pytest.raises(ConfigError, match="lr_end"):
        Recipe(**fields)


def test_a_carried_optimizer_equals_one_loop_by_hand():
    """Two experiences with one Adam are the same as a plain loop with one Adam over both."""
    stream = Toy(sizes=(2, 2)).open()
    recipe = Recipe(lr=0.01, epochs=1, batch_size=64, reset_optimizer=False)
    model = toy_model(stream)
    run_stream(Strategy(), stream, model, recipe=recipe)
    ours = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    plain = toy_model(stream)
    optimizer = torch.optim.Adam(plain.parameters(), 0.01)
    for experience in stream:
        plain.observe(experience.classes)
        x = plain.preprocess(experience.train.raw)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(plain(x).logits, experience.train.y).backward()
        optimizer.step()
    assert torch.allclose(ours, torch.cat([p.detach().flatten() for p in plain.parameters()]), atol=1e-6)
    fresh = toy_model(stream)
    run_stream(Strategy(), stream, fresh, recipe=Recipe(lr=0.01, epochs=1, batch_size=64))
    assert not torch.allclose(ours, torch.cat([p.detach().flatten() for p in fresh.parameters()]), atol=1e-4)


@pytest.mark.parametrize("stop", [Stop(after_experience=0), Stop(after_step=20)])
def test_a_carried_optimizer_survives_a_stop(stop, tmp_path):
    recipe = Recipe(lr=0.01, epochs=2, batch_size=4, reset_optimizer=False, checkpoint_every=0.0)
    toy, vault = Toy(n_train=40), Vault(tmp_path, "test")
    whole = learn(Strategy(), toy.open(), recipe=recipe)
    assert learn(Strategy(), toy.open(), recipe=recipe, vault=vault, observer=stop).record is None
    assert_same_result(whole, learn(Strategy(), toy.open(), recipe=recipe, vault=vault))


def test_a_growing_head_cannot_carry_its_optimizer():
    stream = Toy(sizes=(2, 2)).open()
    model = build_model(MLP(hidden=[8], head="growing"), stream.info, 0)
    with pytest.raises(ConfigError, match=r"model\.head=whole"):
        run_stream(Strategy(), stream, model, recipe=Recipe(reset_optimizer=False))

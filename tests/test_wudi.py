"""WUDI's operator in float64 against autograd, torch's own Adam, and the minimiser in closed form."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from cl_framework.merging import Layer, Merger
from cl_framework.protocol import run_stream
from cl_framework.strategies.wudi import WUDI
from cl_framework.toys import Toy, toy_model, toy_recipe
from cl_framework.wudi import Interference, interference_loss, short_factor, wudi

SHAPES = [(5, 7), (7, 5), (2, 17)]
"""The last one goes through the stacked updates."""
WEIGHTS = [1.0, 0.5, 2.0]


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotation(n, seed=0):
    return torch.linalg.qr(draw(n, n, seed=seed)).Q


def close(a, b, rtol=1e-9, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def loss(x, updates, weights):
    """The definition, one expert after the other."""
    return sum(w * ((x - update) @ update.mT).square().sum() / update.square().sum()
               for w, update in zip(weights, updates, strict=True))


def by_torch(updates, weights, n_steps, lr, eps):
    """torch's Adam from the sum, with gradients by autograd."""
    x = nn.Parameter(updates.sum(0))
    optimizer = torch.optim.Adam([x], lr=lr, eps=eps)
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss(x, updates, weights).backward()
        optimizer.step()
    return x.detach()


def minimiser(updates, weights):
    """X* = (sum_i w_i D_i D_i^T D_i / n_i) (sum_i w_i D_i^T D_i / n_i)^+."""
    shares = [w / update.square().sum() for w, update in zip(weights, updates, strict=True)]
    left = sum(s * d @ d.mT @ d for s, d in zip(shares, updates, strict=True))
    return left @ torch.linalg.pinv(sum(s * d.mT @ d for s, d in zip(shares, updates, strict=True)))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_that_of_the_loss(shape):
    updates, offset = draw(3, *shape), draw(*shape, seed=1)
    x = nn.Parameter(updates.sum(0) + offset)
    value = loss(x, updates, WEIGHTS)
    value.backward()
    close(Interference(updates, WEIGHTS).gradient(offset), x.grad)
    close(interference_loss(x.detach(), updates, WEIGHTS), value.detach())


@pytest.mark.parametrize("shape", SHAPES)
def test_its_steps_are_those_of_adam(shape):
    updates = draw(3, *shape)
    close(wudi(updates, WEIGHTS, n_steps=60, lr=1e-3), by_torch(updates, WEIGHTS, 60, 1e-3, 1e-8))
    size = float(updates.square().mean().sqrt())
    close(wudi(updates, WEIGHTS, n_steps=60, lr=1e-2, is_relative=True),
          by_torch(updates, WEIGHTS, 60, 1e-2 * size, 1e-10 * size))


@pytest.mark.parametrize("is_relative", [False, True])
def test_layers_of_one_shape_are_merged_side_by_side(is_relative):
    updates = draw(3, 2, 4, 5, 7) * torch.tensor([1.0, 0.01], dtype=torch.float64).view(2, 1, 1, 1)
    together = wudi(updates, WEIGHTS, n_steps=20, lr=1e-2, is_relative=is_relative)
    for i in range(2):
        for j in range(4):
            close(together[i, j], wudi(updates[:, i, j], WEIGHTS, n_steps=20, lr=1e-2, is_relative=is_relative))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_falls_at_every_step_and_not_below_its_minimum(shape):
    updates = draw(3, *shape)
    losses = [float(loss(wudi(updates, WEIGHTS, n_steps=n, lr=1e-3, is_relative=True), updates, WEIGHTS))
              for n in range(101)]
    assert all(later < earlier for earlier, later in pairwise(losses))
    best = minimiser(updates, WEIGHTS)
    assert losses[-1] > loss(best, updates, WEIGHTS)
    close(Interference(updates, WEIGHTS).gradient(best - updates.sum(0)), torch.zeros(shape, dtype=torch.float64),
          atol=1e-9)


def low_rank(n, rank=2, seed=0):
    """Updates of adapters beside a layer of [30, 40]."""
    return torch.stack([draw(30, rank, seed=seed + 2 * i) @ draw(rank, 40, seed=seed + 2 * i + 1) for i in range(n)])


def test_updates_of_low_rank_take_the_same_steps_through_short_factors():
    updates = low_rank(3)
    assert [short_factor(update, 6).shape for update in updates] == [(2, 40)] * 3
    offset = draw(30, 40, seed=9)
    x = nn.Parameter(updates.sum(0) + offset)
    loss(x, updates, WEIGHTS).backward()
    found = Interference(updates, WEIGHTS)
    close(found.gradient(offset), x.grad)
    close(found.constant, Interference(torch.cat([updates, 0 * draw(12, 30, 40)]), [*WEIGHTS, *[1.0] * 12]).constant)
    close(wudi(updates, WEIGHTS, n_steps=60, lr=1e-3), by_torch(updates, WEIGHTS, 60, 1e-3, 1e-8))
    together = torch.stack([updates, low_rank(3, rank=3, seed=20)], 1)
    assert short_factor(together[0], 6).shape == (2, 3, 40)
    close(wudi(together, lr=1e-3)[1], wudi(together[:, 1], lr=1e-3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [1, 5, 6, 7, 30])
def test_a_short_factor_has_the_geometry_to_rounding_or_is_the_update(dtype, rank):
    update = low_rank(1, rank)[0].to(dtype)
    factor, gram = short_factor(update, 6), update.double().mT @ update.double()
    assert len(factor) == (rank if rank <= 6 else 30)
    eps = torch.finfo(dtype).eps
    assert (factor.double().mT @ factor.double() - gram).norm() <= 3 * eps * update.double().square().sum()
    assert torch.equal(factor, short_factor(update, 6))
    assert short_factor(torch.zeros_like(update), 6).shape == (0, 40)


def test_rounding_of_weights_does_not_hide_that_an_update_is_of_low_rank():
    base = 0.05 * draw(30, 40).float()
    update = (base + 1e-3 * low_rank(1)[0].float()) - base
    assert int((torch.linalg.svdvals(update.double()) > 1e-12).sum()) == 30
    assert len(short_factor(update, 6)) == 2


def test_many_small_steps_come_to_the_minimum():
    updates = draw(3, 6, 4)
    x = wudi(updates, n_steps=2000, lr=1e-2)
    assert loss(x, updates, [1, 1, 1]) < 1.0001 * loss(minimiser(updates, [1, 1, 1]), updates, [1, 1, 1])


def test_the_minimiser_turns_and_grows_with_the_updates():
    updates, left, right = draw(3, 5, 7), rotation(5), rotation(7, 1)
    best = minimiser(updates, WEIGHTS)
    close(minimiser(7.0 * left @ updates @ right, WEIGHTS), 7.0 * left @ best @ right, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("is_relative", [False, True])
def test_updates_that_read_other_inputs_are_added_up(dtype, is_relative):
    updates = torch.zeros(3, 4, 9, dtype=dtype)
    for i in range(3):
        updates[i, :, 3 * i:3 * i + 3] = draw(4, 3, seed=i)
    assert interference_loss(updates.sum(0), updates) == 0
    assert torch.equal(wudi(updates, lr=1.0, is_relative=is_relative), updates.sum(0))


def test_copies_of_one_update_are_drawn_back_to_it():
    update = draw(4, 6)
    copies = torch.stack([update] * 3)
    close(minimiser(copies, [1, 1, 1]), update, rtol=1e-7, atol=1e-9)
    far = [float((wudi(copies, n_steps=n, lr=1e-2) - update).norm()) for n in (0, 10, 30, 100)]
    assert far[0] == pytest.approx(2 * float(update.norm()))
    assert far == sorted(far, reverse=True)


def test_one_update_stays_as_it_is():
    update = draw(1, 4, 6).float()
    assert torch.equal(wudi(update, lr=1.0), update[0])


def test_updates_of_zeros_count_nothing():
    update, nothing = draw(4, 6), torch.zeros(4, 6, dtype=torch.float64)
    assert torch.equal(wudi(torch.stack([nothing, nothing]), is_relative=True), nothing)
    assert torch.equal(wudi(torch.stack([nothing, update])), update)
    close(wudi(torch.stack([update, nothing, 2 * update]), lr=1e-3), wudi(torch.stack([update, 2 * update]), lr=1e-3))


@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_only_a_relative_learning_rate_keeps_the_scale(scale):
    updates = draw(3, 5, 7)
    close(wudi(scale * updates, lr=1e-3, is_relative=True), scale * wudi(updates, lr=1e-3, is_relative=True), rtol=1e-6)
    moved = [float((wudi(c * updates) - c * updates.sum(0)).norm() / (c * updates.sum(0)).norm()) for c in (1.0, scale)]
    assert max(moved) > 10 * min(moved)


# the strategy

LAYERS = [Layer(name="body.0.weight", kind="linear"), Layer(name="body.0.bias"),
          Layer(name="body.1.weight", kind="conv"), Layer(name="body.qkv.weight", kind="linear")]


def expert(seed):
    return {"body.0.weight": draw(5, 7, seed=seed), "body.0.bias": draw(5, seed=seed + 10),
            "body.1.weight": draw(4, 3, 2, 2, seed=seed + 20), "body.qkv.weight": draw(12, 4, seed=seed + 30)}


def test_the_rule_merges_matrices_and_averages_the_rest():
    experts = [expert(seed) for seed in range(3)]
    merger = Merger(WUDI(lr=1e-3, coefficient=0.5), LAYERS)
    for each in experts:
        merger.absorb([each])
    stacked = {name: torch.stack([each[name] for each in experts]) for name in experts[0]}
    close(merger.merged["body.0.weight"], wudi(stacked["body.0.weight"], lr=1e-3))
    close(merger.merged["body.0.bias"], stacked["body.0.bias"].mean(0))
    kernel = wudi(stacked["body.1.weight"].flatten(2), lr=1e-3)
    close(merger.merged["body.1.weight"], kernel.view(4, 3, 2, 2))
    parts = [wudi(part, lr=1e-3) for part in stacked["body.qkv.weight"].split(4, 1)]
    close(merger.merged["body.qkv.weight"], torch.cat(parts))
    base = draw(5, 7, seed=99)
    close(merger.weight("body.0.weight", base), base + 0.5 * merger.merged["body.0.weight"])


def test_without_steps_it_is_task_arithmetic_in_linear_layers():
    experts = [expert(seed) for seed in range(3)]
    merger = Merger(WUDI(n_steps=0), LAYERS)
    merger.absorb(experts)
    close(merger.merged["body.0.weight"], sum(each["body.0.weight"] for each in experts))


def test_the_order_of_experiences_makes_no_difference():
    experts = [expert(seed) for seed in range(3)]
    one, other = Merger(WUDI(lr=1e-3), LAYERS), Merger(WUDI(lr=1e-3), LAYERS)
    one.absorb(experts)
    for each in reversed(experts):
        other.absorb([each])
    for layer in LAYERS:
        close(one.merged[layer.name], other.merged[layer.name], rtol=1e-7)


def test_it_learns_a_stream():
    stream = Toy().open()
    strategy = WUDI(lr_mode="relative", lr=1e-3, n_steps=20)
    record = run_stream(strategy, stream, toy_model(stream), recipe=toy_recipe())
    assert record.accuracy[0, 0] > 0.9
    assert strategy.metrics()["merged_update_norm"] > 0

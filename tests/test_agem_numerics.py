"""A-GEM: the projection against its definition, and the gradient that it projects."""

import pytest
import torch
from torch import nn

from cl_framework.functional import cross_entropy
from cl_framework.strategies.agem import AGEM, project
from cl_framework.toys import Toy, toy_model
from cl_framework.types import Setting


def randn(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(8))
def test_projection_is_the_nearest_gradient_that_does_not_conflict(seed):
    g, ref = randn(12, seed=seed), randn(12, seed=100 + seed)
    parts = [g[:4].clone().view(2, 2), g[4:].clone()]
    project(parts, [ref[:4].view(2, 2), ref[4:]])
    got = torch.cat([part.flatten() for part in parts])
    if g @ ref >= 0:
        assert torch.equal(got, g)
    else:
        torch.testing.assert_close(got, g - (g @ ref) / (ref @ ref) * ref)
        assert abs(float(got @ ref)) < 1e-12
        # no other point of the half space is nearer
        for other in (randn(12, seed=1000 + i) for i in range(50)):
            if other @ ref >= 0:
                assert (got - g).norm() <= (other - g).norm()


def test_a_zero_reference_changes_nothing():
    g = [torch.tensor([1.0, -2.0])]
    project(g, [torch.zeros(2)])
    assert g[0].tolist() == [1.0, -2.0]


def prepared(setting=Setting.CLASS, **fields):
    """A model after experience 0, in experience 1, with the gradient of a batch."""
    stream, strategy = Toy(setting=setting).open(), AGEM(memory_size=10_000, reference_batch_size=10_000, **fields)
    model = toy_model(stream)
    strategy.setup(model, stream.info)
    for index in (0, 1):
        experience = stream[index]
        model.observe(experience.classes, experience.task)
        strategy.before_experience(model, experience)
        batch = experience.train.take(torch.arange(16))
        output = model(model.preprocess(batch.raw))
        model.zero_grad()
        strategy.loss(model, batch, output).backward()
        if index == 0:
            strategy.after_experience(model, experience)
    return stream, strategy, model


@pytest.mark.parametrize("setting", [Setting.CLASS, Setting.TASK])
def test_the_reference_is_the_mean_gradient_of_the_stored_rows(setting):
    stream, strategy, model = prepared(setting)
    past = stream[0].train
    loss = cross_entropy(model(model.preprocess(past.raw)).logits, past.y, model.allowed(past.task))
    reference = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    g = torch.cat([param.grad.flatten() for param in model.parameters()])
    strategy.after_backward(model)
    got = torch.cat([param.grad.flatten() for param in model.parameters()])
    along = g @ reference
    if setting is Setting.CLASS:
        assert along < 0, "class-incremental batches conflict with the past"
    expected = g - (along / (reference @ reference)) * reference if along < 0 else g
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_without_stored_rows_gradients_are_untouched():
    stream = Toy().open()
    for strategy in (AGEM(), AGEM(memory_size=0)):
        model = toy_model(stream)
        strategy.setup(model, stream.info)
        model.observe((0, 1))
        model(model.preprocess(stream[0].train.raw)).logits.sum().backward()
        before = [param.grad.clone() for param in model.parameters()]
        strategy.after_backward(model)
        assert all(torch.equal(a, param.grad) for a, param in zip(before, model.parameters(), strict=True))


def test_weights_without_a_gradient_keep_none():
    _, strategy, model = prepared()
    model.body.register_module("unused", nn.Identity())
    model.extra = nn.Parameter(torch.ones(2))
    first = next(model.parameters())
    first.grad = None
    strategy.after_backward(model)
    assert model.extra.grad is None and first.grad is None
    assert all(param.grad.isfinite().all() for param in model.parameters() if param.grad is not None)


def test_it_draws_from_a_generator_of_its_own():
    _, strategy, model = prepared()
    before = torch.get_rng_state()
    strategy.after_backward(model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("is_online", "n_first"), [(True, 16), (False, 0)])
def test_when_rows_enter(is_online, n_first):
    stream, strategy = Toy(is_online=is_online).open(), AGEM(memory_size=10_000)
    model = toy_model(stream)
    strategy.setup(model, stream.info)
    model.observe((0, 1))
    batch = strategy.prepare_batch(model, stream[0].train.take(torch.arange(16)))
    output = model(model.preprocess(batch.raw))
    strategy.after_step(model, batch, output)
    assert strategy.state_dict()["buffer"]["n_seen"] == n_first
    strategy.after_experience(model, stream[0])
    expected = n_first if is_online else len(stream[0].train)
    assert strategy.state_dict()["buffer"]["n_seen"] == expected

"""Pure functions against closed forms, numpy and loops."""

import numpy as np
import pytest
import torch
from torch import nn

from cl_framework.data import Dataset
from cl_framework.functional import (
    cross_entropy,
    distillation,
    dot,
    gradients_of,
    leading,
    quadratic,
    quantile,
    symmetric_cross_entropy,
)
from cl_framework.models import Head, Model
from cl_framework.sensitivity import fisher_diagonal


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [1, 2, 3, 10, 101, 1000])
@pytest.mark.parametrize("q", [0.0, 0.03, 0.25, 0.5, 0.51, 0.97, 0.999, 1.0])
def test_quantile_is_numpys(n, q):
    values = randn(n, seed=n)
    assert float(quantile(values, q)) == pytest.approx(np.quantile(values.numpy(), q, method="linear"), rel=1e-12)


@pytest.mark.parametrize("q", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_quantile_with_ties(q):
    values = torch.tensor([0.0] * 7 + [1.0] * 3, dtype=torch.float64)
    assert float(quantile(values, q)) == pytest.approx(np.quantile(values.numpy(), q, method="linear"))


def test_cross_entropy_is_restricted_to_allowed_classes():
    logits, y = randn(5, 4), torch.tensor([0, 1, 1, 0, 1])
    allowed = torch.tensor([True, True, False, False]).expand(5, 4)
    expected = nn.functional.cross_entropy(logits[:, :2], y)
    torch.testing.assert_close(cross_entropy(logits, y, allowed), expected)
    logits.requires_grad_()
    cross_entropy(logits, y, allowed).backward()
    assert (logits.grad[:, 2:] == 0).all() and logits.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distillation_is_the_scaled_divergence(temperature):
    student, teacher = randn(6, 3, seed=1), randn(6, 3, seed=2)
    p, q = (np.exp(z.numpy() / temperature) for z in (teacher, student))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    expected = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    assert float(distillation(student, teacher, temperature)) == pytest.approx(expected, rel=1e-12)
    assert float(distillation(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-15)


def test_symmetric_cross_entropy_is_symmetric():
    a, b = randn(4, 5, seed=1), randn(4, 5, seed=2)
    torch.testing.assert_close(symmetric_cross_entropy(a, b), symmetric_cross_entropy(b, a), rtol=1e-14, atol=0)


def test_symmetric_cross_entropy_of_itself_is_the_entropy():
    z = randn(4, 5)
    p = z.softmax(1)
    torch.testing.assert_close(symmetric_cross_entropy(z, z), -(p * p.log()).sum(1).mean())


def test_at_equal_arguments_it_has_half_the_entropys_gradient():
    z = randn(4, 5).requires_grad_()
    p = z.softmax(1)
    entropy, = torch.autograd.grad(-(p * p.log()).sum(1).mean(), z)
    ours, = torch.autograd.grad(symmetric_cross_entropy(z, z.detach()), z)
    torch.testing.assert_close(ours, entropy / 2)


def test_quadratic_by_hand_and_with_new_rows():
    params = {"w": torch.tensor([[1.0, 2.0], [9.0, 9.0]]), "scale": torch.tensor(3.0)}
    anchor = {"w": torch.tensor([[0.0, 4.0]]), "scale": torch.tensor(1.0)}
    importance = {"w": torch.tensor([[2.0, 0.5]]), "scale": torch.tensor(10.0)}
    assert float(quadratic(params, anchor, importance)) == 2 * 1 + 0.5 * 4 + 10 * 4


def test_leading_and_dot_and_gradients():
    assert leading(torch.arange(5), torch.zeros(2)).tolist() == [0, 1]
    assert float(dot([torch.ones(2), torch.tensor(2.0)], [torch.ones(2), torch.tensor(3.0)])) == 8
    param = nn.Parameter(torch.ones(3))
    assert gradients_of([param])[0].tolist() == [0, 0, 0]


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Model(nn.Identity(), nn.Sequential(nn.Linear(3, 4), nn.Tanh()), Head(4, 5)).double()
    model.observe([0, 1, 2])
    return model


def brute_force(model, data, task=None):
    """One row at a time, through plain backward."""
    total = {name: torch.zeros_like(param) for name, param in model.named_parameters()}
    for i in range(len(data)):
        batch = data.take(torch.tensor([i]))
        model.zero_grad()
        logits = model(batch.raw).logits
        cross_entropy(logits, batch.y, model.allowed(batch.task)).backward()
        for name, param in model.named_parameters():
            total[name] += param.grad**2
    model.zero_grad()
    return {name: value / len(data) for name, value in total.items()}


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_empirical_fisher_is_the_mean_of_squared_gradients_of_single_rows(chunk):
    model, data = network(), Dataset(randn(11, 3), torch.arange(11) % 3)
    expected = brute_force(model, data)
    fisher = fisher_diagonal(model, data, n_samples=99, generator=torch.Generator(), chunk=chunk, labels="data")
    for name, value in expected.items():
        torch.testing.assert_close(fisher[name], value, rtol=1e-10, atol=1e-14)
    assert (fisher["head.weight"][3:] == 0).all() and model.training
    assert all(param.grad is None for param in model.parameters())


def test_fisher_respects_task_labels():
    model = network()
    model.observe([0, 1], task=0)
    model.observe([2], task=1)
    data = Dataset(randn(8, 3), torch.arange(8) % 2, None, torch.zeros(8, dtype=torch.int64))
    expected = brute_force(model, data)
    fisher = fisher_diagonal(model, data, n_samples=8, generator=torch.Generator(), labels="data")
    for name, value in expected.items():
        torch.testing.assert_close(fisher[name], value, rtol=1e-10, atol=1e-14)
    assert (fisher["head.weight"][2] == 0).all()


def test_fisher_with_drawn_labels_approaches_the_expectation():
    model, x = network(), randn(1, 3)
    data = Dataset(x.expand(6000, 3).contiguous(), torch.zeros(6000, dtype=torch.int64))
    exact = 0.0
    with torch.no_grad():
        p = model(x).logits.softmax(1)[0]
    for label in range(3):
        exact = exact + p[label] * brute_force(model, Dataset(x, torch.tensor([label])))["head.bias"]
    fisher = fisher_diagonal(model, data, n_samples=6000, generator=torch.Generator().manual_seed(1), chunk=1000)
    torch.testing.assert_close(fisher["head.bias"], exact, rtol=0.05, atol=0)


def test_fisher_ignores_the_given_labels_when_it_draws_its_own():
    model, x = network(), randn(20, 3)
    a, b = (fisher_diagonal(model, Dataset(x, y), n_samples=20, generator=torch.Generator().manual_seed(3))
            for y in (torch.zeros(20, dtype=torch.int64), torch.arange(20) % 3))
    assert all(torch.equal(a[name], b[name]) for name in a)

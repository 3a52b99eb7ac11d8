"""EWC in float64 against loops and against the sum of quadratics that it merges."""

import io

import pytest
import torch
from torch import nn

from cl_framework.data import Dataset
from cl_framework.experience import Experience
from cl_framework.functional import cross_entropy
from cl_framework.models import Head, Model
from cl_framework.strategies.ewc import EWC
from cl_framework.types import NOT_YET, Batch, Output, StreamInfo

INFO = StreamInfo(n_experiences=3, n_classes=6, input_shape=(3,))


def network(is_growing):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = Head(4, 0 if is_growing else 6)
        return Model(nn.Identity(), nn.Sequential(nn.Linear(3, 4), nn.Tanh()), head).double()


def experience(index, n=15):
    raw = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(index))
    y = torch.arange(n) % 2 + 2 * index
    return Experience(index=index, classes=(2 * index, 2 * index + 1), class_names=("a", "b"), train=Dataset(raw, y))


def brute_force_fisher(model, data):
    total = {name: torch.zeros_like(param) for name, param in model.named_parameters()}
    for i in range(len(data)):
        row = data.take(torch.tensor([i]))
        loss = cross_entropy(model(row.raw).logits, row.y)
        for (name, _), g in zip(model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())),
                                strict=True):
            total[name] += g**2 / len(data)
    return total


def penalty(strategy, model, n=5):
    raw = torch.zeros(n, 3, dtype=torch.float64)
    batch = Batch(raw, raw, torch.zeros(n, dtype=torch.int64))
    return strategy.penalty(model, batch, model(raw))


def live(strategy, model, n_experiences):
    """Learn nothing but wander; returns what a sum over experiences must contain."""
    strategy.setup(model, INFO)
    kept = []
    for index in range(n_experiences):
        now = experience(index)
        model.observe(now.classes)
        strategy.before_experience(model, now)
        with torch.no_grad():
            for i, param in enumerate(model.parameters()):
                param.add_(0.3 * torch.randn(param.shape, dtype=torch.float64,
                                             generator=torch.Generator().manual_seed(10 * index + i)))
        kept.append((brute_force_fisher(model, now.train),
                     {name: param.detach().clone() for name, param in model.named_parameters()}))
        strategy.after_experience(model, now)
    return kept


def the_sum(kept, model, importance):
    """lambda/2 sum_k F_k (theta - theta_k)^2, an experience and a parameter at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for fisher, theta in kept:
        for name, param in model.named_parameters():
            n = len(fisher[name])
            total = total + importance / 2 * (fisher[name] * (param[:n] - theta[name]) ** 2).sum()
    return total


@pytest.mark.parametrize("is_growing", [False, True])
@pytest.mark.parametrize("n_experiences", [1, 2, 3])
def test_the_merged_quadratic_is_the_sum_up_to_a_constant(is_growing, n_experiences):
    model, strategy = network(is_growing), EWC(importance=7.0, labels="data")
    kept = live(strategy, model, n_experiences)
    differences = []
    for seed in range(4):
        with torch.no_grad():
            for param in model.parameters():
                param.add_(torch.randn(param.shape, dtype=torch.float64,
                                       generator=torch.Generator().manual_seed(seed)))
        ours, expected = penalty(strategy, model), the_sum(kept, model, 7.0)
        differences.append((expected - ours).item())
        for a, b in zip(torch.autograd.grad(ours, list(model.parameters())),
                        torch.autograd.grad(expected, list(model.parameters())), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert max(differences) - min(differences) < 1e-9
    if n_experiences == 1:
        assert abs(differences[0]) < 1e-9


def test_it_is_zero_and_flat_at_the_anchor():
    model, strategy = network(False), EWC()
    live(strategy, model, 1)
    value = penalty(strategy, model)
    assert value.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(value, list(model.parameters())))


def test_it_does_not_depend_on_the_batch():
    model, strategy = network(False), EWC()
    live(strategy, model, 2)
    assert penalty(strategy, model, 1).item() == penalty(strategy, model, 64).item()


def test_rows_of_classes_not_met_yet_are_free():
    model, strategy = network(False), EWC(importance=1e6)
    live(strategy, model, 1)
    with torch.no_grad():
        model.head.weight[2:].add_(5)
        model.head.bias[2:].sub_(5)
    assert penalty(strategy, model).item() == 0


def test_before_the_first_anchor_there_is_no_penalty():
    strategy, model = EWC(), network(False)
    strategy.setup(model, INFO)
    output = Output(torch.zeros(1, 2), torch.zeros(1, 2))
    assert strategy.penalty(model, Batch(NOT_YET, NOT_YET, NOT_YET), output).item() == 0


@pytest.mark.parametrize("labels", ["model", "data"])
def test_state_goes_through_a_file(labels):
    model, strategy = network(True), EWC(labels=labels)
    live(strategy, model, 2)
    file = io.BytesIO()
    torch.save([model.state_dict(), strategy.state_dict()], file)
    weights, state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again, resumed = network(True), EWC(labels=labels)
    resumed.setup(again, INFO)
    again.load_state_dict(weights)
    resumed.load_state_dict(again, state)
    for some, other in ((strategy, model), (resumed, again)):
        other.observe((4, 5))
        with torch.no_grad():
            for param in other.parameters():
                param.fill_(0.1)
        some.after_experience(other, experience(2))
        with torch.no_grad():
            other.head.weight.fill_(0.5)
    assert penalty(strategy, model).item() == penalty(resumed, again).item() > 0


def test_memory_does_not_grow_with_experiences():
    model, strategy = network(False), EWC()
    live(strategy, model, 3)
    n = sum(param.numel() for param in model.parameters())
    assert strategy.metrics() == {"memory_bytes": 2 * 8 * n}

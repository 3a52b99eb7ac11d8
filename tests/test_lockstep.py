"""What launcher=vector is made of: runs in lockstep, and networks as one, against each by itself."""

from functools import partial

import pytest
import torch
from torch import nn

from cl_framework.lockstep import Ask, Lockstep, learned
from cl_framework.models import MLP, Model
from cl_framework.observer import Cursor
from cl_framework.protocol import build_model
from cl_framework.stacked_layers import Network
from cl_framework.stacked_weights import Unlike, Weights
from cl_framework.toys import Toy
from cl_framework.vector import obstacle

SEEDS = 3


# Lockstep

def test_runs_draw_what_they_draw_alone_and_the_last_to_come_catches_up():
    class Counter:
        def __init__(self, step):
            self.cursor = Cursor(step=step)

        def steps(self, chunk):
            self.cursor.step += 1
            return torch.rand(1)

    together, order = {}, []

    def answer(asks):
        order.append([ask.position[-1] for ask in asks])
        for ask in asks:
            ask.alone()

    def body(seed):
        torch.manual_seed(seed)
        counter = Counter(2 * seed)
        while counter.cursor.step < 5:
            together.setdefault(seed, []).append([float(torch.rand(())), float(learned(counter, []))])
        return seed

    before = torch.get_rng_state()
    assert Lockstep(answer).run([partial(body, seed) for seed in (0, 1)]) == [0, 1]
    assert torch.equal(before, torch.get_rng_state())
    assert order == [[0], [1], [2, 2], [3, 3], [4, 4]]
    for seed in (0, 1):
        torch.manual_seed(seed)
        assert together[seed] == [[float(torch.rand(())), float(torch.rand(1))] for _ in range(5 - 2 * seed)]


def test_what_ends_the_command_ends_every_run():
    def answer(asks):
        raise KeyboardInterrupt

    class Still:
        cursor = Cursor()

    ended = []

    def body():
        try:
            learned(Still(), [])
        finally:
            ended.append(1)

    with pytest.raises(KeyboardInterrupt):
        Lockstep(answer).run([body, body])
    assert ended == [1, 1]


def test_a_fault_of_the_answer_is_raised_in_each_run():
    def answer(asks):
        raise ValueError("no")

    def body():
        with pytest.raises(ValueError, match="no"):
            learned(Asked, [])
        return "told"

    class Asked:
        cursor = Cursor()

    assert Lockstep(answer).run([body, body]) == ["told", "told"]
    assert Ask(Asked, []).position == (0, 0, 0, 0)


# What cannot be stacked

class Odd(nn.Module):
    def forward(self, x):
        return x.flatten(1)


def test_networks_without_a_batched_form_are_named():
    info = Toy().open().info
    assert obstacle(build_model(MLP(), info, 0)) is None
    plain = build_model(MLP(hidden=[4]), info, 0)
    assert obstacle(Model(plain.preprocess, Odd(), plain.head)) == "a layer of type Odd has no batched form"
    assert "plain network" in obstacle(type("Other", (Model,), {})(plain.preprocess, plain.body, plain.head))
    circular = nn.Sequential(nn.Conv2d(1, 1, 3, padding_mode="circular"))
    assert "circular" in obstacle(Model(plain.preprocess, circular, plain.head))
    with pytest.raises(Unlike, match="other shapes"):
        Weights([plain, build_model(MLP(hidden=[5]), info, 0)])


def test_outputs_and_slopes_are_those_of_each_network_in_its_own_weights():
    """Against autograd through each network alone, with a frozen layer and no bias."""
    info = Toy().open().info
    nets = [build_model(MLP(hidden=[6, 5]), info, seed).double() for seed in range(SEEDS)]
    for net in nets:
        net.observe([0, 1])
        net.body[3] = nn.Linear(6, 5, bias=False, dtype=torch.float64)
        net.body[1].weight.requires_grad_(False)
    x = torch.randn(SEEDS, 7, 1, 4, 4, dtype=torch.float64)
    expected = [net(rows) for net, rows in zip(nets, x, strict=True)]
    slopes = [torch.autograd.grad(out.logits.square().sum(), [p for p in net.parameters() if p.requires_grad])
              for out, net in zip(expected, nets, strict=True)]
    weights = Weights(nets)
    weights.place()
    network = Network(nets, weights, lambda s: torch.enable_grad())
    weights.join(is_watched=True)
    logits, features = network(x)
    for s, net in enumerate(nets):
        assert torch.allclose(logits[s], expected[s].logits, atol=1e-12)
        assert torch.allclose(features[s], expected[s].features, atol=1e-12)
        own = torch.autograd.grad(logits[s].square().sum(), [p for p in net.parameters() if p.requires_grad],
                                  retain_graph=True)
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(own, slopes[s], strict=True))
    with weights.collecting():
        logits.square().sum().backward()
    assert weights.gather()
    for net, own in zip(nets, slopes, strict=True):
        grads = [p.grad for p in net.parameters() if p.requires_grad]
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(grads, own, strict=True))

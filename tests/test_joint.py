"""Joint training: it sees all data so far, and begins anew."""

import dataclasses

import pytest
import torch

from cl_framework.errors import DataLeak
from cl_framework.models import CNN, MLP
from cl_framework.strategies.joint import Joint
from cl_framework.toys import Toy


@pytest.mark.parametrize("head", ["whole", "growing"])
@pytest.mark.parametrize("architecture", [MLP(hidden=[5]), CNN(channels=[3])])
def test_each_experience_begins_with_the_initial_weights(head, architecture):
    stream = Toy().open()
    torch.manual_seed(0)
    model = dataclasses.replace(architecture, head=head).build(stream.info)
    strategy, fresh = Joint(), {}
    strategy.setup(model, stream.info)
    for index, experience in enumerate(stream):
        n_before = len(model.head.weight)
        model.observe(experience.classes)
        for name, value in model.state_dict().items():
            if name not in fresh and name != "_extra_state":
                fresh[name] = value.clone()
        if index and head == "growing":
            for name in ("head.weight", "head.bias"):
                fresh[name] = torch.cat([fresh[name], model.state_dict()[name][n_before:].clone()])
        strategy.before_experience(model, experience)
        for name, value in model.state_dict().items():
            if name in fresh:
                assert torch.equal(value, fresh[name]), (index, name)
        model.train()
        output = model(model.preprocess(experience.train.raw))
        output.logits.sum().backward()
        with torch.no_grad():
            for param in model.parameters():
                param.add_(torch.randn_like(param))


def test_it_goes_on_where_it_should():
    stream = Toy().open()
    model, strategy = MLP(hidden=[5]).build(stream.info), Joint(from_scratch=False)
    strategy.setup(model, stream.info)
    model.observe((0, 1))
    before = [param.clone() for param in model.parameters()]
    strategy.before_experience(model, stream[0])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_it_trains_on_all_rows_so_far():
    stream, strategy = Toy().open(), Joint()
    strategy.setup(MLP(hidden=[5]).build(stream.info), stream.info)
    for index, experience in enumerate(stream):
        data = strategy.train_data(experience, experience.train)
        expected = torch.cat([stream[i].train.y for i in range(index + 1)])
        assert torch.equal(data.y, expected)
        assert torch.equal(data.raw, torch.cat([stream[i].train.raw for i in range(index + 1)]))


def test_without_the_right_to_history_it_says_so():
    stream, strategy = Toy().open(), Joint()
    strategy.setup(MLP(hidden=[5]).build(stream.info), stream.info)
    blind = dataclasses.replace(stream[1], past=None)
    with pytest.raises(DataLeak, match="does not declare it"):
        strategy.train_data(blind, blind.train)


def test_a_growing_heads_rows_survive_a_checkpoint():
    stream = Toy().open()
    torch.manual_seed(0)
    model, strategy = MLP(hidden=[5], head="growing").build(stream.info), Joint()
    strategy.setup(model, stream.info)
    for index in (0, 1):
        model.observe(stream[index].classes)
        strategy.before_experience(model, stream[index])
    state, initial = strategy.state_dict(), model.head.weight.detach().clone()
    other = MLP(hidden=[5], head="growing").build(stream.info)
    resumed = Joint()
    resumed.setup(other, stream.info)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(other, state)
    with torch.no_grad():
        other.head.weight.mul_(3)
    other.observe(stream[2].classes)
    resumed.before_experience(other, stream[2])
    assert torch.equal(other.head.weight[:4], initial)


def test_the_cost_counts_past_rows_and_initial_weights():
    stream = Toy().open()
    model, strategy = MLP(hidden=[5]).build(stream.info), Joint()
    strategy.setup(model, stream.info)
    strategy.train_data(stream[2], stream[2].train)
    tensors = [*model.parameters(), *model.buffers()]
    assert strategy.metrics() == {"memory_bytes": 2 * 44 * 16 + sum(t.numel() * 4 for t in tensors)}

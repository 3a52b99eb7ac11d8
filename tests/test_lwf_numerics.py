"""LwF: the distillation by hand, the teacher frozen, and the right classes."""

import copy
import io

import pytest
import torch

from cl_framework.models import MLP
from cl_framework.protocol import build_model
from cl_framework.strategies.lwf import LwF
from cl_framework.toys import Toy, toy_model
from cl_framework.types import Setting


def upto(strategy, stream, index, model=None, start=0, step=0.3):
    """Wander through experiences before `index` and begin it; the model is changed a little in each."""
    model = model or toy_model(stream)
    if start == 0:
        strategy.setup(model, stream.info)
    for i in range(start, index + 1):
        model.observe(stream[i].classes, stream[i].task)
        strategy.before_experience(model, stream[i])
        if i < index:
            with torch.no_grad():
                for k, param in enumerate(model.parameters()):
                    param.add_(step * torch.randn(param.shape, generator=torch.Generator().manual_seed(10 * i + k)))
            strategy.after_experience(model, stream[i])
    return model


def stepped(strategy, model, stream, index):
    batch = stream[index].train.take(torch.arange(12))
    batch = batch._replace(x=model.preprocess(batch.raw))
    output = model(batch.x)
    return strategy.penalty(model, batch, output), batch, output


def divergence(student, teacher, temperature):
    """T^2 mean_b sum_c p log(p / q), with loops."""
    total = 0.0
    for s, t in zip(student.double(), teacher.double(), strict=True):
        p, q = torch.exp(t / temperature), torch.exp(s / temperature)
        p, q = p / p.sum(), q / q.sum()
        total += (p * (p / q).log()).sum().item()
    return temperature**2 * total / len(student)


def disturb(model):
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(1.3).add_(0.05)


@pytest.mark.parametrize(("setting", "groups"), [
    (Setting.CLASS, [[0, 1, 2, 3]]), (Setting.TASK, [[0, 1], [2, 3]]), (Setting.DOMAIN, [[0, 1]])])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_penalty_by_hand(setting, groups, temperature):
    stream, strategy = Toy(setting=setting).open(), LwF(alpha=0.7, temperature=temperature)
    model = upto(strategy, stream, 2)
    before = copy.deepcopy(model)
    disturb(model)
    value, batch, output = stepped(strategy, model, stream, 2)
    with torch.no_grad():
        target = before(batch.x).logits
    expected = 0.7 * sum(divergence(output.logits[:, g], target[:, g], temperature) for g in groups)
    assert value.item() == pytest.approx(expected, rel=1e-4) and expected > 0.01


def test_it_is_zero_and_flat_before_the_first_step():
    stream, strategy = Toy().open(), LwF()
    model = upto(strategy, stream, 1)
    value, _, _ = stepped(strategy, model, stream, 1)
    assert value.item() == pytest.approx(0, abs=1e-6)
    value.backward()
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) < 1e-6


def test_the_first_experience_has_no_teacher():
    stream, strategy = Toy().open(), LwF()
    model = upto(strategy, stream, 0)
    value, _, _ = stepped(strategy, model, stream, 0)
    assert value.item() == 0 and not value.requires_grad
    assert strategy.metrics() == {"memory_bytes": 0}


def test_new_classes_are_not_distilled():
    stream, strategy = Toy().open(), LwF()
    model = upto(strategy, stream, 1)
    disturb(model)
    value, _, _ = stepped(strategy, model, stream, 1)
    value.backward()
    assert (model.head.weight.grad[2:] == 0).all() and (model.head.weight.grad[:2] != 0).any()


def test_the_teacher_is_frozen_and_in_eval_mode():
    stream, strategy = Toy().open(), LwF()
    model = upto(strategy, stream, 1)
    teacher = strategy._teacher
    before = copy.deepcopy(teacher.state_dict())
    model.train()
    disturb(model)
    stepped(strategy, model, stream, 1)[0].backward()
    assert not teacher.training
    assert all(not param.requires_grad and param.grad is None for param in teacher.parameters())
    after = teacher.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if k != "_extra_state")
    assert model.training and all(param.requires_grad for param in model.parameters())
    n = sum(t.numel() * 4 for t in [*model.parameters(), *model.buffers()])
    assert strategy.metrics() == {"memory_bytes": n}


@pytest.mark.parametrize("head", ["whole", "growing"])
def test_state_goes_through_a_file(head):
    from cl_framework.models import MLP

    stream, strategy = Toy().open(), LwF()
    torch.manual_seed(0)
    model = upto(strategy, stream, 2, MLP(hidden=[6], head=head).build(stream.info))
    disturb(model)
    file = io.BytesIO()
    torch.save([model.state_dict(), strategy.state_dict()], file)
    weights, state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again, resumed = MLP(hidden=[6], head=head).build(stream.info), LwF()
    resumed.setup(again, stream.info)
    again.load_state_dict(weights)
    resumed.load_state_dict(again, state)
    assert stepped(strategy, model, stream, 2)[0].item() == stepped(resumed, again, stream, 2)[0].item() > 0
    assert resumed._teacher.n_seen == strategy._teacher.n_seen


def test_a_full_head_is_distilled_over_the_classes_met_alone():
    """Classes still to come are in the softmax, but nothing holds them where the teacher has them."""
    stream = Toy(sizes=(2, 2, 2)).open()
    model = build_model(MLP(hidden=[6], head="full"), stream.info, 0)
    strategy = LwF()
    strategy.setup(model, stream.info)
    for experience, met in zip(stream, ([0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]), strict=True):
        strategy.before_experience(model, experience)
        strategy.after_experience(model, experience)
        assert strategy._groups == [met]

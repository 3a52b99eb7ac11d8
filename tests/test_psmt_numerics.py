"""The supervised adaptation of PSMT: teacher, mask, penalty and Fisher against their definitions."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from cl_framework.functional import cross_entropy
from cl_framework.models import CNN, MLP
from cl_framework.strategies._selection import batch_fisher, unselected
from cl_framework.strategies.psmt import PSMT
from cl_framework.toys import Toy
from cl_framework.types import Setting


class ToDouble(nn.Module):
    def forward(self, raw):
        return raw.double() / 64 - 2


def build(stream, head="whole", architecture=MLP):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fields = {"hidden": [6]} if architecture is MLP else {"channels": [3]}
        model = architecture(head=head, **fields).build(stream.info).double()
    model.preprocess = ToDouble()
    return model


def forward(model, batch):
    x = model.preprocess(batch.raw)
    return batch._replace(x=x), model(x)


def step(strategy, model, batch, lr=0.2):
    """One step of plain gradient descent; returns the squared gradients that it used."""
    model.zero_grad()
    batch, output = forward(model, strategy.prepare_batch(model, batch))
    (strategy.loss(model, batch, output) + strategy.penalty(model, batch, output)).backward()
    strategy.after_backward(model)
    squared = {name: param.grad.square() for name, param in model.named_parameters()}
    with torch.no_grad():
        for param in model.parameters():
            param.sub_(lr * param.grad)
    strategy.after_step(model, batch, output)
    return squared


def run(strategy, stream, stop, model=None, n_steps=4):
    """Learn the experiences before `stop`, then begin that one."""
    model = model or build(stream)
    strategy.setup(model, stream.info)
    for index in range(stop + 1):
        experience = stream[index]
        model.observe(experience.classes, experience.task)
        strategy.before_experience(model, experience)
        if index < stop:
            model.train()
            for i in range(n_steps):
                step(strategy, model, experience.train.take(torch.arange(8) + 8 * (i % 4)))
            strategy.after_experience(model.eval(), experience)
    return model.train()


def batch_of(stream, index, first=0):
    return stream[index].train.take(torch.arange(first, first + 8))


def weights(model):
    return {name: param.detach().clone() for name, param in model.named_parameters()}


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9, 1.0])
def test_without_a_mask_the_teacher_is_the_textbook_average(momentum):
    stream, strategy = Toy(setting=Setting.DOMAIN).open(), PSMT(selected_fraction=0.0, momentum=momentum)
    model = run(strategy, stream, 1)
    expected = weights(strategy._form.teacher)
    for i in range(3):
        step(strategy, model, batch_of(stream, 1, 8 * i))
        for name, param in weights(model).items():
            expected[name] = momentum * expected[name] + (1 - momentum) * param
            torch.testing.assert_close(weights(strategy._form.teacher)[name], expected[name], rtol=1e-14, atol=1e-15)


def test_momentum_one_keeps_the_teacher_and_zero_makes_it_the_student():
    stream = Toy(setting=Setting.DOMAIN).open()
    for momentum in (1.0, 0.0):
        strategy = PSMT(selected_fraction=0.0, momentum=momentum)
        model = run(strategy, stream, 1)
        before = weights(strategy._form.teacher)
        step(strategy, model, batch_of(stream, 1))
        expected = before if momentum else weights(model)
        assert all(torch.equal(value, expected[name]) for name, value in weights(strategy._form.teacher).items())


@pytest.mark.parametrize("mask", ["crucial", "least"])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("fraction", [0.03, 0.3, 0.9])
def test_selected_entries_stay_and_the_others_move(mask, scope, fraction):
    stream = Toy(setting=Setting.DOMAIN).open()
    strategy = PSMT(selected_fraction=fraction, mask=mask, mask_scope=scope, momentum=0.9)
    model = run(strategy, stream, 1)
    before = weights(strategy._form.teacher)
    squared = step(strategy, model, batch_of(stream, 1))
    pooled = np.concatenate([value.numpy().ravel() for value in squared.values()])
    for name, value in weights(strategy._form.teacher).items():
        pool = squared[name].numpy().ravel() if scope == "layer" else pooled
        if mask == "crucial":
            selected = squared[name] > np.quantile(pool, 1 - fraction)
        else:
            selected = squared[name] < np.quantile(pool, fraction)
        average = 0.9 * before[name] + 0.1 * weights(model)[name]
        assert torch.equal(value[selected], before[name][selected])
        torch.testing.assert_close(value[~selected], average[~selected], rtol=1e-13, atol=1e-15)


def test_each_teacher_entry_lies_between_the_old_one_and_the_student():
    stream, strategy = Toy().open(), PSMT()
    model = run(strategy, stream, 2)
    for i in range(3):
        before = weights(strategy._form.teacher)
        step(strategy, model, batch_of(stream, 2, 8 * i))
        for name, value in weights(strategy._form.teacher).items():
            low = torch.minimum(before[name], weights(model)[name])
            high = torch.maximum(before[name], weights(model)[name])
            assert ((low - 1e-15 <= value) & (value <= high + 1e-15)).all()


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.03, 0.25, 0.5, 1.0])
def test_how_many_entries_are_selected(fraction):
    values = torch.rand(997, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for mask in ("crucial", "least"):
        kept = unselected({"a": values[:400], "b": values[400:].view(-1, 3)}, fraction, mask, "global")
        n = sum(int((~value).sum()) for value in kept.values())
        assert abs(n - fraction * 997) <= 1
        assert n == 0 or fraction > 0


def test_ties_are_not_selected():
    zeros = {"a": torch.zeros(50)}
    assert unselected(zeros, 0.1, "least", "global")["a"].all()
    assert unselected(zeros, 0.1, "crucial", "layer")["a"].all()


def test_masks_go_by_name():
    values = {name: torch.rand(40, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("abc")}
    shuffled = {name: values[name] for name in "cab"}
    ours, theirs = (unselected(v, 0.2, "crucial", "global") for v in (values, shuffled))
    assert all(torch.equal(ours[name], theirs[name]) for name in values)
    with_more = unselected({"cls_token": torch.rand(7), **values}, 0.2, "crucial", "layer")
    alone = unselected(values, 0.2, "crucial", "layer")
    assert all(torch.equal(with_more[name], alone[name]) for name in values)


@pytest.mark.parametrize("n_rows", [3, 6])
def test_the_batch_fisher_is_the_mean_of_squared_batch_gradients(n_rows):
    stream = Toy().open()
    model = build(stream)
    model.observe((0, 1))
    data = stream[0].train.subset(torch.arange(12))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(4))
    expected = {name: torch.zeros_like(param) for name, param in model.named_parameters()}
    for rows in order.split(n_rows):
        _, output = forward(model, data.take(rows))
        loss = cross_entropy(output.logits, output.logits.argmax(1))
        for total, g in zip(expected.values(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
            total += g**2 / (12 / n_rows) * n_rows / 200

    def fisher(rows):
        return batch_fisher(model, rows, n_samples=12, batch_size=n_rows, generator=torch.Generator().manual_seed(4))

    got = fisher(data)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-10, atol=1e-15)
    permuted = data.subset(torch.arange(12))
    permuted.y = 1 - permuted.y
    assert all(torch.equal(value, got[name]) for name, value in fisher(permuted).items())
    assert model.training and all(param.grad is None for param in model.parameters())


def without_fisher(strategy, model, stream, index, kappa):
    """Penalty of one batch, and what the consistency term should be, by hand."""
    batch, output = forward(model, batch_of(stream, index))
    with torch.no_grad():
        target = strategy._form.teacher(batch.x).logits[:, : strategy._form.n_old].log_softmax(1)
        answer = output.logits[:, : strategy._form.n_old].log_softmax(1)
    sce = -0.5 * (target.exp() * answer).sum(1) - 0.5 * (answer.exp() * target).sum(1)
    return strategy.penalty(model, batch, output), kappa * sce.mean().item()


def test_the_penalty_by_hand():
    stream, strategy = Toy().open(), PSMT(kappa=0.6, penalty_strength=30.0)
    model = run(strategy, stream, 2)
    for i in range(2):
        step(strategy, model, batch_of(stream, 2, 8 * i))
    value, consistency = without_fisher(strategy, model, stream, 2, 0.6)
    anchor = sum((strategy._form.fisher[name] * (param - strategy._form.anchor[name]) ** 2).sum().item()
                 for name, param in weights(model).items())
    assert anchor > 0 and value.item() == pytest.approx(consistency + 30 * anchor, rel=1e-9)


def test_in_the_first_experience_there_is_no_penalty():
    stream, strategy = Toy().open(), PSMT()
    model = run(strategy, stream, 0)
    batch, output = forward(model, batch_of(stream, 0))
    value = strategy.penalty(model, batch, output)
    assert value.item() == 0 and not value.requires_grad


def test_the_anchor_is_the_last_student_and_fisher_the_running_mean():
    stream, strategy = Toy().open(), PSMT(kappa=0.0)
    model = run(strategy, stream, 1)
    first, at_end = dict(strategy._form.fisher), dict(strategy._form.anchor)
    assert all(torch.equal(at_end[name], value) for name, value in weights(model).items())
    batch, output = forward(model, batch_of(stream, 1))
    value = strategy.penalty(model, batch, output)
    assert value.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(value, list(model.parameters())))
    step(strategy, model, batch_of(stream, 1))
    generator = torch.Generator()
    generator.set_state(strategy.state_dict()["generator"])
    second = batch_fisher(model, stream[1].train, n_samples=10_000, batch_size=200, generator=generator)
    strategy.after_experience(model, stream[1])
    for name, value in strategy._form.fisher.items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2, rtol=1e-6, atol=1e-14)


def test_a_stronger_penalty_keeps_the_student_nearer():
    stream, distances = Toy().open(), []
    for strength in (0.0, 50.0, 500.0):
        strategy = PSMT(kappa=0.0, penalty_strength=strength)
        model = run(strategy, stream, 1, n_steps=3)
        start = weights(model)
        reference = batch_fisher(model, stream[0].train, n_samples=999, batch_size=200, generator=torch.Generator())
        for i in range(5):
            step(strategy, model, batch_of(stream, 1, 8 * (i % 4)), lr=0.01)
        distances.append(sum((reference[n] * (p - start[n]) ** 2).sum().item() for n, p in weights(model).items()))
    assert distances[0] > distances[1] > distances[2]


@pytest.mark.parametrize("head", ["whole", "growing"])
def test_new_rows_of_the_head_are_free(head):
    stream, strategy = Toy().open(), PSMT(selected_fraction=0.5, momentum=0.9)
    model = run(strategy, stream, 1, build(stream, head))
    teacher = strategy._form.teacher
    assert teacher.n_seen == model.n_seen == 4 and len(teacher.head.weight) == len(model.head.weight)
    assert torch.equal(teacher.head.weight[2:], model.head.weight[2:])
    seen = []
    for i in range(3):
        step(strategy, model, batch_of(stream, 1, 8 * i))
        seen.append(model.head.weight[2:4].detach().clone())
        torch.testing.assert_close(teacher.head.weight[2:4], torch.stack(seen).mean(0), rtol=1e-13, atol=1e-15)
    assert all(name not in strategy._form.fisher or (value[2:] == 0).all()
               for name, value in strategy._form.fisher.items() if name.startswith("head"))


def test_whole_and_growing_heads_agree():
    stream, answers = Toy().open(), []
    for head in ("whole", "growing"):
        strategy, model = PSMT(), build(stream)
        if head == "growing":
            full, model = model, build(stream, head)
            model.body.load_state_dict(full.body.state_dict())
            grow = model.head.grow

            def like_the_whole(n_seen, grow=grow, model=model, full=full):
                old = len(model.head.weight)
                grow(n_seen)
                with torch.no_grad():
                    model.head.weight[old:] = full.head.weight[old:n_seen]
                    model.head.bias[old:] = full.head.bias[old:n_seen]

            model.head.grow = like_the_whole
        model = run(strategy, stream, 2, model)
        for i in range(3):
            step(strategy, model, batch_of(stream, 2, 8 * i))
        _, output = forward(strategy._form.teacher, batch_of(stream, 0))
        answers.append(output.logits)
    torch.testing.assert_close(*answers, rtol=1e-9, atol=1e-12)


def test_in_the_first_experience_the_teacher_is_the_mean_of_the_student():
    stream, strategy = Toy().open(), PSMT(selected_fraction=0.5)
    model, seen = run(strategy, stream, 0), []
    for i in range(4):
        step(strategy, model, batch_of(stream, 0, 8 * i))
        seen.append(weights(model))
        for name, value in weights(strategy._form.teacher).items():
            mean = torch.stack([one[name] for one in seen]).mean(0)
            torch.testing.assert_close(value, mean, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("n_steps", "expected"), [(0, 0.99), (1999, 0.99), (2000, 0.999)])
def test_the_default_momentum_follows_the_length_of_an_experience(n_steps, expected):
    stream, strategy = Toy(setting=Setting.DOMAIN).open(), PSMT(selected_fraction=0.0)
    model = run(strategy, stream, 1)
    strategy._form.n_steps = n_steps
    before = weights(strategy._form.teacher)
    step(strategy, model, batch_of(stream, 1))
    for name, value in weights(strategy._form.teacher).items():
        torch.testing.assert_close(value, expected * before[name] + (1 - expected) * weights(model)[name],
                                   rtol=1e-13, atol=1e-15)


def test_running_statistics_are_averaged_into_the_teacher():
    stream, strategy = Toy(setting=Setting.DOMAIN).open(), PSMT(momentum=0.8)
    model = run(strategy, stream, 1, build(stream, architecture=CNN))
    before = {name: value.clone() for name, value in strategy._form.teacher.named_buffers()}
    step(strategy, model, batch_of(stream, 1))
    student = dict(model.named_buffers())
    for name, value in strategy._form.teacher.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert torch.equal(value, student[name])
        else:
            torch.testing.assert_close(value, 0.8 * before[name] + 0.2 * student[name])
    assert not torch.equal(student["body.1.running_mean"], before["body.1.running_mean"])


def test_teacher_and_anchor_have_no_gradient_and_stay_in_place():
    stream, strategy = Toy().open(), PSMT()
    model = run(strategy, stream, 2)
    anchor = {name: value.clone() for name, value in strategy._form.anchor.items()}
    step(strategy, model, batch_of(stream, 2))
    assert not strategy._form.teacher.training
    form = strategy._form
    for tensor in [*form.teacher.parameters(), *form.anchor.values(), *form.fisher.values()]:
        assert not tensor.requires_grad and tensor.grad is None
    assert all(torch.equal(value, anchor[name]) for name, value in strategy._form.anchor.items())
    assert all(param.requires_grad for param in model.parameters())


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_who_answers(who):
    stream, strategy = Toy().open(), PSMT(predict_with=who)
    model = run(strategy, stream, 1)
    step(strategy, model, batch_of(stream, 1))
    x = model.preprocess(stream.test(0).data.raw)
    answer = strategy.predict(model, x, None)
    expected = (strategy._form.teacher if who == "teacher" else model)(x).logits
    assert torch.equal(answer, expected)
    assert not torch.equal(model(x).logits, strategy._form.teacher(x).logits)


def test_with_all_terms_at_zero_the_student_is_fine_tuned():
    stream, neutral = Toy().open(), PSMT(**PSMT.neutral)
    ours, plain = run(neutral, stream, 2), build(stream)
    for index in range(2):
        plain.observe(stream[index].classes)
        for i in range(4):
            plain.zero_grad()
            batch, output = forward(plain, stream[index].train.take(torch.arange(8) + 8 * (i % 4)))
            cross_entropy(output.logits, batch.y).backward()
            with torch.no_grad():
                for param in plain.parameters():
                    if param.grad is not None:
                        param.sub_(0.2 * param.grad)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("head", ["whole", "growing"])
def test_a_run_taken_up_inside_an_experience_goes_on_bit_for_bit(head):
    stream, strategy = Toy().open(), PSMT()
    model = run(strategy, stream, 1, build(stream, head))
    step(strategy, model, batch_of(stream, 1))
    file = io.BytesIO()
    torch.save([model.state_dict(), strategy.state_dict()], file)
    saved, state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again, resumed = build(stream, head), PSMT()
    resumed.setup(again, stream.info)
    again.load_state_dict(saved)
    resumed.load_state_dict(again, state)
    for some, other in ((strategy, model), (resumed, again)):
        for i in (1, 2):
            step(some, other, batch_of(stream, 1, 8 * i))
        some.after_experience(other, stream[1])
        other.observe(stream[2].classes)
        if head == "growing":
            with torch.no_grad():
                other.head.weight[4:].fill_(0.1)
                other.head.bias[4:].fill_(0.0)
        some.before_experience(other, stream[2])
        step(some, other, batch_of(stream, 2))
    for a, b in ((model, again), (strategy._form.teacher, resumed._form.teacher)):
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_the_memory_that_it_declares():
    stream, strategy = Toy().open(), PSMT()
    model = run(strategy, stream, 1)
    n, statistics = sum(p.numel() for p in model.parameters()), sum(b.numel() for b in model.buffers())
    assert strategy.metrics() == {"memory_bytes": 8 * (3 * n + statistics)}

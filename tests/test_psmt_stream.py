"""PSMT on an unlabelled stream: the properties of the method, and both forms against float64 by hand."""

import io
from dataclasses import fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cl_framework.checks import checks_of, outcome_of
from cl_framework.data import Dataset
from cl_framework.errors import ConfigError, DataLeak
from cl_framework.experience import Experience
from cl_framework.functional import quantile, symmetric_cross_entropy
from cl_framework.models import Head, Model
from cl_framework.strategies import _psmt_stream
from cl_framework.strategies._psmt_stream import Rules
from cl_framework.strategies._psmt_variants import _UNLABELLED
from cl_framework.strategies.psmt import PSMT
from cl_framework.types import Need, StreamInfo

C, B, N_IN, N_HIDDEN = 3, 12, 6, 5
NAMES = ("body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias", "head.weight", "head.bias")


class Raw(nn.Module):
    def forward(self, raw):
        return raw


def info(**own):
    return StreamInfo(**{"n_experiences": 2, "n_classes": C, "input_shape": (N_IN,), "is_labelled": False,
                         "batch_size": B, **own})


def build(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Linear(N_IN, N_HIDDEN), nn.BatchNorm1d(N_HIDDEN), nn.Tanh())
        model = Model(Raw(), body, Head(N_HIDDEN, C, is_full=True)).double()
        for param in model.parameters():
            param.data.add_(0.3 * torch.randn(param.shape, dtype=torch.float64))
        body[1].running_mean.normal_()
        body[1].running_var.uniform_(0.5, 2)
    return model.eval()


def batches(n=5, seed=1, size=B):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, N_IN, generator=generator, dtype=torch.float64) * (1 + i) for i in range(n)]


def experience(index=0, past=None):
    rows = Dataset(torch.zeros(1, N_IN, dtype=torch.float64), torch.tensor([0]))
    return Experience(index=index, classes=(0, 1, 2), class_names=("a", "b", "c"), train=rows, past=past)


def start(strategy, model=None, source=None, is_apart=True, **own):
    """Set up, and put the teacher of `paper` apart from the student: without views, two equal ones learn nothing."""
    model = build() if model is None else model
    strategy.setup(model, info(**own))
    strategy.before_experience(model, experience(0, None if source is None else (source,)))
    if strategy.variant == "paper" and is_apart:
        draw = torch.Generator().manual_seed(5)
        for param in strategy._form.teacher.parameters():
            param.data.add_(0.5 * torch.randn(param.shape, generator=draw).to(param))
    return model


def paper(**own):
    return PSMT(**{"variant": "paper", "n_views": 0, "lr": 0.05, "update_rule": "sgd", **own})


def release(**own):
    return PSMT(**{"variant": "release", "lr": 0.05, "update_rule": "sgd", "fisher": "stream", **own})


def weights(model):
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def close(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **{"rtol": 1e-10, "atol": 1e-12, **tolerance})


def by_hand(w, x):
    """The network written out, with the statistics of the batch."""
    h = x @ w["body.0.weight"].T + w["body.0.bias"]
    h = (h - h.mean(0)) / (((h - h.mean(0)) ** 2).mean(0) + 1e-5).sqrt()
    h = torch.tanh(h * w["body.1.weight"] + w["body.1.bias"])
    return h @ w["head.weight"].T + w["head.bias"]


def slopes(loss, w):
    return dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))


def leaves(w):
    return {name: value.clone().requires_grad_() for name, value in w.items()}


class Adam:
    """Kingma and Ba, algorithm 1."""

    def __init__(self):
        self.t, self.m, self.v = 0, {}, {}

    def step(self, w, g, lr):
        self.t += 1
        for k in g:
            self.m[k] = 0.9 * self.m.get(k, 0) + 0.1 * g[k]
            self.v[k] = 0.999 * self.v.get(k, 0) + 0.001 * g[k] ** 2
            w[k] = w[k] - lr * (self.m[k] / (1 - 0.9**self.t)) / ((self.v[k] / (1 - 0.999**self.t)).sqrt() + 1e-8)


def test_release_step_by_step():
    """Section by section of the released algorithm, with its source Fisher, in plain float64."""
    lr, alpha, lam, rho, n_source = 0.01, 0.9, 40.0, 0.2, 36
    source = torch.randn(n_source, N_IN, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    labels = torch.zeros(n_source, dtype=torch.int64)
    strategy = PSMT(variant="release", lr=lr, momentum=alpha, penalty_strength=lam, selected_fraction=rho,
                    n_samples=n_source, fisher_batch_size=n_source)
    assert strategy.needs == {Need.UNLABELLED, Need.SOURCE_DATA}
    model = start(strategy, source=Dataset(source, labels))
    w = weights(build())
    first, teacher = dict(w), dict(w)
    leaf = leaves(w)
    z = by_hand(leaf, source)
    fisher = {k: g**2 * n_source / 200 for k, g in slopes(F.cross_entropy(z, z.argmax(1)), leaf).items()}
    adam = Adam()
    for x in batches():
        answer = strategy.adapt(model, x)
        leaf = leaves(w)
        zs, zt = by_hand(leaf, x), by_hand(teacher, x)
        ps, pt = zs.softmax(1), zt.softmax(1)
        loss = (-0.5 * (pt * ps.log()).sum(1) - 0.5 * (ps * pt.log()).sum(1)).mean()
        loss = loss + lam * sum((fisher[k] * (leaf[k] - first[k]) ** 2).sum() for k in leaf)
        g = slopes(loss, leaf)
        torch.testing.assert_close(answer, (zs + zt).detach(), rtol=1e-9, atol=1e-10)
        threshold = np.quantile(torch.cat([v.flatten() for v in g.values()]).pow(2).numpy(), rho)
        adam.step(w, g, lr)
        for k in w:
            teacher[k] = alpha * teacher[k] + (1 - alpha) * w[k]
            m = (g[k] ** 2 < threshold).double()
            w[k] = m * first[k] + (1 - m) * w[k]
            teacher[k] = m * w[k] + (1 - m) * (alpha * teacher[k] + (1 - alpha) * w[k])
        close(weights(model), w, rtol=1e-7, atol=1e-9)
        close(weights(strategy._form.teacher), teacher, rtol=1e-7, atol=1e-9)


def test_paper_step_by_step():
    lr, alpha, lam, rho = 0.03, 0.8, 60.0, 0.1
    strategy = paper(lr=lr, momentum=alpha, penalty_strength=lam, selected_fraction=rho, has_class_factor=True)
    model = start(strategy)
    w = weights(build())
    teacher, anchor, fisher, velocity = weights(strategy._form.teacher), dict(w), None, {}
    for x in batches():
        answer = strategy.adapt(model, x)
        leaf = leaves(w)
        zs, zt = by_hand(leaf, x), by_hand(teacher, x)
        g = slopes(-(zt.softmax(1) * zs.log_softmax(1)).sum(1).mean() / C, leaf)
        f = {k: v**2 for k, v in g.items()}
        threshold = np.quantile(torch.cat([v.flatten() for v in f.values()]).numpy(), 1 - rho)
        torch.testing.assert_close(answer, (zs + zt).detach(), rtol=1e-9, atol=1e-10)
        before = dict(w)
        for k in w:
            total = g[k] if fisher is None else g[k] + 2 * lam * fisher[k] * (w[k] - anchor[k])
            velocity[k] = 0.9 * velocity.get(k, 0) + total
            w[k] = w[k] - lr * velocity[k]
            m = (f[k] > threshold).double()
            teacher[k] = m * teacher[k] + (1 - m) * (alpha * teacher[k] + (1 - alpha) * w[k])
        anchor, fisher = before, {k: v * B / 200 for k, v in f.items()}
        close(weights(model), w)
        close(weights(strategy._form.teacher), teacher)
        close(strategy._form.fisher, fisher)
    assert max((w[k] - value).abs().max() for k, value in weights(build()).items()) > 1e-3, "it must have learned"


@pytest.mark.parametrize(("rule", "beta", "decay"), [("sgd", 0.5, 0.1), ("nesterov", 0.7, 0.0), ("nesterov", 0.0, 0.2),
                                                     ("adam", 0.6, 0.3)])
def test_update_rules_by_hand(rule, beta, decay):
    """Sutskever et al. 2013 for momentum; Kingma and Ba, algorithm 1, for Adam; weight decay joins the gradient."""
    strategy = paper(update_rule=rule, beta=beta, weight_decay=decay, momentum=1.0, selected_fraction=0.0,
                     penalty_strength=0.0)
    model = start(strategy)
    teacher = weights(strategy._form.teacher)
    w, first, second = weights(model), {}, {}
    for step, x in enumerate(batches(3), 1):
        own = leaves(w)
        loss = -(by_hand(teacher, x).softmax(1) * by_hand(own, x).log_softmax(1)).sum(1).mean()
        for k, slope in slopes(loss, own).items():
            g = slope + decay * w[k]
            if rule == "adam":
                first[k] = beta * first.get(k, 0) + (1 - beta) * g
                second[k] = 0.999 * second.get(k, 0) + 0.001 * g**2
                move = first[k] / (1 - beta**step) / ((second[k] / (1 - 0.999**step)).sqrt() + 1e-8)
            else:
                first[k] = beta * first.get(k, 0) + g
                move = g + beta * first[k] if rule == "nesterov" else first[k]
            w[k] = w[k] - 0.05 * move
        strategy.adapt(model, x)
    close(weights(model), w, rtol=1e-8)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.999, 1.0])
def test_without_a_mask_the_paper_teacher_is_the_textbook_average(momentum):
    strategy = paper(momentum=momentum, selected_fraction=0.0)
    model = start(strategy)
    first = expected = weights(strategy._form.teacher)
    for x in batches():
        strategy.adapt(model, x)
        expected = {k: momentum * expected[k] + (1 - momentum) * v for k, v in weights(model).items()}
        close(weights(strategy._form.teacher), expected, rtol=1e-14, atol=1e-15)
    if momentum in (0, 1):
        exact = weights(model) if momentum == 0 else first
        assert all(torch.equal(v, exact[k]) for k, v in weights(strategy._form.teacher).items())


def test_a_full_mask_keeps_the_paper_teacher(monkeypatch):
    monkeypatch.setattr(_psmt_stream, "unselected", lambda f, *_: {k: torch.zeros_like(v, dtype=torch.bool)
                                                                  for k, v in f.items()})
    strategy = paper()
    model = start(strategy)
    first = weights(strategy._form.teacher)
    for x in batches():
        strategy.adapt(model, x)
    assert all(torch.equal(v, first[k]) for k, v in weights(strategy._form.teacher).items())
    assert (model.head.weight - build().head.weight).abs().max() > 1e-3


def test_an_empty_and_a_full_mask_of_the_release(monkeypatch):
    strategy = release(momentum=0.9, selected_fraction=0.0, penalty_strength=0.0)
    plain = paper(consistency="symmetric", penalty_strength=0.0, selected_fraction=0.0, momentum=0.9**2)
    model, other, first = start(strategy), start(plain, is_apart=False), weights(build())
    x = batches()[0]
    strategy.adapt(model, x)
    plain.adapt(other, x)
    close(weights(model), weights(other))
    close(weights(strategy._form.teacher), weights(plain._form.teacher), rtol=1e-12)
    monkeypatch.setattr(_psmt_stream, "unselected", lambda f, *_: {k: torch.zeros_like(v, dtype=torch.bool)
                                                                  for k, v in f.items()})
    strategy = release()
    model = start(strategy)
    strategy.adapt(model, x)
    for values in (weights(model), weights(strategy._form.teacher)):
        assert all(torch.equal(v, first[k]) for k, v in values.items())


@pytest.mark.parametrize("make", [paper, release])
def test_each_teacher_entry_lies_between_what_it_is_made_of(make):
    strategy = make(selected_fraction=0.3)
    model, first = start(strategy), weights(build())
    for x in batches():
        before = weights(strategy._form.teacher)
        strategy.adapt(model, x)
        parts = [before, weights(model), *([first] if make is release else [])]
        for name, value in weights(strategy._form.teacher).items():
            low = torch.stack([part[name] for part in parts]).amin(0)
            high = torch.stack([part[name] for part in parts]).amax(0)
            assert ((low - 1e-15 <= value) & (value <= high + 1e-15)).all()


@pytest.mark.parametrize(("make", "fraction"), [(paper, 0.0), (paper, 0.1), (paper, 0.5), (release, 0.1)])
def test_how_many_weights_are_selected(make, fraction):
    strategy = make(selected_fraction=fraction, mask_scope="global")
    model = start(strategy)
    for x in batches():
        strategy.adapt(model, x)
    density, n = strategy.metrics().get("mask_density", 0.0), sum(p.numel() for p in model.parameters())
    assert density == pytest.approx(fraction, abs=1.5 / n) and (density > 0) == (fraction > 0)


def test_release_with_zero_gradients_selects_nothing():
    model = build()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.body[1].weight.zero_()
    strategy = release(selected_fraction=0.03, penalty_strength=0.0)
    start(strategy, model)
    strategy.adapt(model, batches()[0])
    assert strategy.metrics()["mask_density"] == 0


@pytest.mark.parametrize("q", [0.0, 0.03, 0.5, 0.97, 1.0])
def test_the_quantile_is_numpys_also_of_many_values(q):
    for n in (1, 2, 7, 1001, 200_001):
        values = torch.rand(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
        assert quantile(values, q).item() == pytest.approx(np.quantile(values.numpy(), q), rel=1e-14)


def test_the_penalty_is_zero_first_and_a_brake_then():
    """A logistic model of one weight a class, and the second step by hand."""
    strategy = paper(penalty_strength=30.0, selected_fraction=0.0, lr=0.1, statistics="source")
    plain = paper(penalty_strength=0.0, selected_fraction=0.0, lr=0.1, statistics="source")
    models = []
    for one in (strategy, plain):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = Model(Raw(), nn.Identity(), Head(1, 2, is_full=True)).double().eval()
        model.head.bias.requires_grad_(False)
        models.append(start(one, model, n_classes=2, input_shape=(1,)))
    x = torch.tensor([[0.5], [-2.0], [1.5]], dtype=torch.float64)
    before, first = weights(models[0]), weights(strategy._form.teacher)
    for one, model in zip((strategy, plain), models, strict=True):
        one.adapt(model, x)
    close(weights(models[0]), weights(models[1]))
    now, teacher = weights(models[0]), weights(strategy._form.teacher)
    leaf = leaves(before)
    p = F.softmax(x @ first["head.weight"].T + first["head.bias"], 1)
    f = {k: g**2 * 3 / 200 for k, g in slopes(
        -(p * (x @ leaf["head.weight"].T + leaf["head.bias"]).log_softmax(1)).sum(1).mean(), leaf).items()}
    velocity = {k: (before[k] - now[k]) / 0.1 for k in now}
    leaf = leaves(now)
    target = (x @ teacher["head.weight"].T + teacher["head.bias"]).softmax(1)
    loss = -(target * (x @ leaf["head.weight"].T + leaf["head.bias"]).log_softmax(1)).sum(1).mean()
    loss = loss + 30.0 * sum((f[k] * (leaf[k] - before[k]) ** 2).sum() for k in leaf)
    strategy.adapt(models[0], x)
    expected = {k: now[k] - 0.1 * (0.9 * velocity[k] + g) for k, g in slopes(loss, leaf).items()}
    close(weights(models[0]), expected)
    assert (expected["head.weight"] - before["head.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize("variant", ["paper", "release"])
def test_a_stronger_penalty_keeps_the_student_nearer(variant):
    source, distances = batches(1, seed=5, size=60)[0], []
    for strength in (0.0, 100.0, 3000.0):
        strategy = PSMT(variant=variant, anchor="source", fisher="source", n_views=0, selected_fraction=0.0, lr=0.02,
                        update_rule="sgd", penalty_strength=strength, consistency="symmetric", fisher_batch_size=60)
        model = start(strategy, source=Dataset(source, torch.zeros(60, dtype=torch.int64)))
        reference = strategy._form.fisher if strength else None
        for x in batches(8, seed=2):
            strategy.adapt(model, x / x.abs().max())
        distances.append((weights(model), reference))
    fisher, first = distances[-1][1], weights(build())
    far = [sum((fisher[k] * (w[k] - first[k]) ** 2).sum().item() for k in w) for w, _ in distances]
    assert far[0] > far[1] > far[2]


def test_paper_rules_with_the_release_anchor_have_the_release_penalty():
    source = Dataset(batches(1, seed=5, size=40)[0], torch.zeros(40, dtype=torch.int64))
    own = {"selected_fraction": 0.0, "penalty_strength": 70.0, "fisher_batch_size": 40}
    like = paper(anchor="source", fisher="source", consistency="symmetric", momentum=0.9**2, **own)
    strategy = release(fisher="source", momentum=0.9, **own)
    models = [start(one, source=source, is_apart=False) for one in (like, strategy)]
    for x in batches():
        for one, model in zip((like, strategy), models, strict=True):
            one.adapt(model, x)
        close(weights(models[0]), weights(models[1]), rtol=1e-8)


def test_a_segment_keeps_its_anchor():
    strategy = paper(anchor="segment", segment=2, penalty_strength=1.0)
    model, seen = start(strategy), [weights(build())]
    for x in batches():
        strategy.adapt(model, x)
        seen.append(weights(model))
        close(strategy._form.anchor, seen[(len(seen) - 2) // 2 * 2], rtol=0, atol=0)


def test_the_fisher_of_the_stream_is_the_mean_of_its_first_batches():
    strategy = paper(fisher="stream", anchor="source", n_fisher_batches=2, selected_fraction=0.0, penalty_strength=1.0)
    model, expected = start(strategy), []
    for i, x in enumerate(batches()):
        leaf = leaves(weights(model))
        z = by_hand(leaf, x)
        if i < 2:
            g = slopes(F.cross_entropy(z, z.argmax(1)), leaf)
            expected.append({k: v**2 * B / 200 for k, v in g.items()})
        strategy.adapt(model, x)
    close(strategy._form.fisher, {k: (expected[0][k] + expected[1][k]) / 2 for k in NAMES})


def test_source_labels_do_not_matter():
    rows, seen = batches(1, seed=5, size=30)[0], []
    for labels in (torch.zeros(30, dtype=torch.int64), torch.arange(30) % 3):
        strategy = PSMT(variant="release")
        start(strategy, source=Dataset(rows, labels))
        seen.append(strategy._form.fisher)
    assert all(torch.equal(seen[0][k], seen[1][k]) for k in NAMES)


def test_copies_have_no_gradient_and_the_source_stays():
    strategy = release(n_fisher_batches=3)
    model, first = start(strategy), weights(build())
    for x in batches():
        strategy.adapt(model, x)
    stream = strategy._form
    for value in [*stream.teacher.parameters(), *stream.source.values(), *stream.fisher.values()]:
        assert not value.requires_grad and value.grad is None
    assert all(torch.equal(stream.source[k], first[k]) for k in first)
    assert all(param.grad is None for param in model.parameters()) and not model.training
    assert torch.equal(model.body[1].running_mean, build().body[1].running_mean)


def test_symmetric_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    torch.testing.assert_close(symmetric_cross_entropy(a, b), symmetric_cross_entropy(b, a))
    entropy = -(a.softmax(1) * a.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(symmetric_cross_entropy(a, a.detach()), entropy)
    own, = torch.autograd.grad(symmetric_cross_entropy(a, a.detach()), a)
    whole, = torch.autograd.grad(entropy, a)
    torch.testing.assert_close(own, whole / 2)


def test_weights_of_other_names_are_left_alone():
    class WithToken(nn.Sequential):
        def __init__(self, *layers):
            super().__init__(*layers)
            self.cls_token = nn.Parameter(torch.zeros(N_HIDDEN, dtype=torch.float64))

        def forward(self, x):
            return super().forward(x) + self.cls_token

    seen = []
    for kind in (nn.Sequential, WithToken):
        model = build()
        model.body = kind(*model.body)
        strategy = release(selected_fraction=0.2)
        start(strategy, model)
        for x in batches():
            strategy.adapt(model, x)
        seen.append({k: v for k, v in weights(model).items() if "token" not in k})
    assert all(torch.equal(seen[0][k], seen[1][k]) for k in seen[0])


@pytest.mark.parametrize("make", [paper, release])
def test_predict_then_adapt(make):
    answers = []
    for lr in (0.0, 0.5):
        strategy = make(lr=lr)
        model = start(strategy)
        answers.append([strategy.adapt(model, x) for x in batches()])
    assert torch.equal(answers[0][0], answers[1][0]) and not torch.equal(answers[0][1], answers[1][1])


@pytest.mark.parametrize("who", ["teacher", "student", "sum"])
def test_who_answers(who):
    strategy = paper(predict_with=who)
    model = start(strategy)
    xs = batches()
    strategy.adapt(model, xs[0])
    z = {"teacher": by_hand(weights(strategy._form.teacher), xs[1]), "student": by_hand(weights(model), xs[1])}
    z["sum"] = z["teacher"] + z["student"]
    with torch.no_grad():
        torch.testing.assert_close(strategy.predict(model, xs[1], None), z[who])
    torch.testing.assert_close(strategy.adapt(model, xs[1]), z[who])


IMAGES = {"input_shape": (1, 4, 4), "mean": (0.5,), "std": (0.25,)}


def image_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        return Model(Raw(), body, Head(16, C, is_full=True)).eval()


def image_batches(n=5):
    generator = torch.Generator().manual_seed(4)
    return [(torch.rand(B, 1, 4, 4, generator=generator) - 0.5) / 0.25 for _ in range(n)]


@pytest.mark.parametrize("own", [{"n_views": 2, "confidence_gate": 0.7}, {"n_views": 1, "anchor": "segment"},
                                 {"variant": "release", "fisher": "stream"}])
def test_taken_up_in_the_middle_it_ends_with_the_same_bits(own):
    own = {"variant": "paper", "penalty_strength": 20.0, "fisher_momentum": 0.5, **own}
    strategy, file = PSMT(**own), io.BytesIO()
    model = start(strategy, image_model(), **IMAGES)
    for x in image_batches()[:2]:
        strategy.adapt(model, x)
    torch.save([model.state_dict(), strategy.state_dict()], file)
    saved, state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again, resumed = image_model(), PSMT(**own)
    resumed.setup(again, info(**IMAGES))
    again.load_state_dict(saved)
    resumed.load_state_dict(again, state)
    for x in image_batches()[2:]:
        assert torch.equal(strategy.adapt(model, x), resumed.adapt(again, x))
    for a, b in ((model, again), (strategy._form.teacher, resumed._form.teacher)):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert strategy.metrics() == resumed.metrics()


def test_the_same_seed_gives_the_same_trajectory():
    ends = []
    for seed in (0, 0, 1):
        strategy = PSMT(variant="paper", n_views=2)
        model = start(strategy, image_model(), seed=seed, **IMAGES)
        torch.rand(3)
        for x in image_batches():
            strategy.adapt(model, x)
        ends.append(weights(model))
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])
    assert not torch.equal(ends[0]["head.weight"], ends[2]["head.weight"])


@pytest.mark.parametrize("own", [{"variant": "paper", "n_views": 1}, {"variant": "paper", "n_views": 0},
                                 {"variant": "release", "fisher": "stream", "n_fisher_batches": 1}])
def test_a_step_has_three_passes_and_never_waits_for_the_device(own, monkeypatch):
    strategy = PSMT(**own)
    model = start(strategy, image_model(), **IMAGES)
    xs = image_batches()
    strategy.adapt(model, xs[0])
    counts = {"teacher": 0, "student": 0, "backward": 0}

    def counted(name, function):
        def call(*arguments, **named):
            counts[name] += 1
            return function(*arguments, **named)
        return call

    strategy._form.teacher.body.register_forward_hook(counted("teacher", lambda *_: None))
    model.body.register_forward_hook(counted("student", lambda *_: None))
    monkeypatch.setattr(torch.Tensor, "backward", counted("backward", torch.Tensor.backward))
    as_list = torch.Tensor.tolist
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy", "nonzero"):
        def refuse(self, *_, name=name):
            if name == "tolist" and self.dtype == torch.int64 and len(self) == 5:
                return as_list(self)  # the order of colour changes, whose generator is on the CPU everywhere
            raise AssertionError(f"the step waits for a tensor: {name}")
        monkeypatch.setattr(torch.Tensor, name, refuse)
    strategy.adapt(model, xs[1])
    monkeypatch.undo()
    assert counts == {"teacher": 1, "student": 1, "backward": 1}


def test_entropy_of_the_answers_is_reported_over_the_rows_so_far():
    strategy = paper(lr=0.0, selected_fraction=0.0)
    model, xs = start(strategy, is_apart=False), batches()
    z = [2 * by_hand(weights(model), x) for x in xs]
    h = [-(a.softmax(1) * a.log_softmax(1)).sum(1).mean().item() for a in z]
    for n, x in enumerate(xs, 1):
        strategy.adapt(model, x)
        assert strategy.metrics()["entropy"] == pytest.approx(sum(h[:n]) / n)


def test_the_memory_that_it_declares():
    strategy = release(lr=0.1)
    model = start(strategy)
    strategy.adapt(model, batches()[0])
    n, statistics = sum(p.numel() for p in model.parameters()), sum(b.numel() for b in model.buffers())
    assert strategy.metrics()["memory_bytes"] == 8 * (4 * n + statistics)


@pytest.mark.parametrize(("own", "words"), [
    ({"variant": "paper", "kappa": 0.0}, r"^PSMT\.kappa is read by variant=supervised alone.*variant is paper"),
    ({"lr": 0.01, "n_views": 2}, r"^PSMT\.lr is read by variant=paper and variant=release .*train\.\*\)\n"
                                 r"PSMT\.n_views is read by"),
])
def test_fields_of_another_variant_are_refused(own, words):
    with pytest.raises(ConfigError, match=words):
        PSMT(**own)


def test_every_field_that_rules_a_step_on_an_unlabelled_stream_belongs_to_it():
    """What both read goes to the labelled form, too; what it does not read is in the table."""
    shared = {"penalty_strength", "momentum", "selected_fraction", "mask", "mask_scope", "n_samples",
              "fisher_batch_size"}
    read = {spec.name for spec in fields(Rules)} - {"is_restored", "is_symmetric", "sees_penalty", "answer"}
    assert read - shared == set(_UNLABELLED) - {"consistency"}


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ConfigError, match=r"unlabelled stream.*scenario=corrupted"):
        PSMT(variant="paper").setup(build(), info(is_labelled=True))
    with pytest.raises(ConfigError, match=r"strategy\.psmt\.variant=paper"):
        PSMT().setup(build(), info())
    with pytest.raises(ConfigError, match=r"batch of one row.*scenario\.batch_size"):
        paper().setup(build(), info(batch_size=1))
    with pytest.raises(ConfigError, match=r"shape \(6,\).*strategy=tent"):
        PSMT(variant="paper").setup(build(), info())
    with pytest.raises(DataLeak):
        start(PSMT(variant="release"))
    assert PSMT(variant="release", fisher="stream").needs == PSMT(variant="paper").needs == {Need.UNLABELLED}
    assert PSMT().needs == frozenset()


@pytest.mark.parametrize("plugin", [PSMT(variant="paper", n_views=1), PSMT(variant="release")])
def test_conformance_of_other_forms(plugin):
    """All checks but the long one of memory, which is tested above."""
    outcomes = [outcome_of(plugin, check) for check in checks_of(plugin) if check.__name__ != "declares_its_memory"]
    assert len(outcomes) > 10 and not [outcome for outcome in outcomes if not outcome.is_fine]


def test_what_an_ablation_leaves_of_the_method():
    """Plain mean teacher, anchor alone, selective average alone, and the other direction, by configuration."""
    densities = {}
    for name, own in {"mean teacher": {"selected_fraction": 0.0, "penalty_strength": 0.0},
                      "anchor": {"selected_fraction": 0.0}, "average": {"penalty_strength": 0.0},
                      "least": {"mask": "least"}}.items():
        strategy = paper(**own)
        model = start(strategy)
        for x in batches():
            strategy.adapt(model, x)
        densities[name] = strategy.metrics().get("mask_density", 0.0)
        assert bool(strategy._form.fisher) == (own.get("penalty_strength") is None)
    assert densities["mean teacher"] == densities["anchor"] == 0 < densities["average"]

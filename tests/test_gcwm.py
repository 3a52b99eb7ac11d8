"""GCWM in float64 against a brute-force derivation with dense roots, full decompositions and torch's own Adam."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import LinAlgWarning, sqrtm
from torch import nn

from cl_framework.errors import ConfigError
from cl_framework.geometry import conflict
from cl_framework.merging import Layer, Merger, Totals
from cl_framework.protocol import run_stream
from cl_framework.strategies.gcwm import GCWM
from cl_framework.toys import Toy, toy_model, toy_recipe
from cl_framework.types import Setting
from cl_framework.wasserstein import Metric
from cl_framework.wudi import wudi

LINEAR = Layer(name="body.0.weight", kind="linear")
OPEN = {"alpha_min": 1.0, "alpha_max": 1.0}
SHUT = {"alpha_min": 0.0, "alpha_max": 0.0}


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotation(n, seed=0):
    return torch.linalg.qr(draw(n, n, seed=seed)).Q


def decaying(p, d, seed):
    """An update whose singular values halve from one to the next."""
    k = min(p, d)
    return rotation(p, seed)[:, :k] @ torch.diag(0.5 ** torch.arange(k).double()) @ rotation(d, seed + 50)[:k]


def close(a, b, rtol=1e-9, atol=1e-12):
    torch.testing.assert_close(torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64),
                               rtol=rtol, atol=atol)


def merged(rule, updates, layer=LINEAR):
    return rule.merge(layer, updates, Totals())


def root(matrix):
    """Of a semidefinite one, which scipy warns of or not as rounding falls."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)
        return torch.from_numpy(np.real(sqrtm(matrix.numpy())))


def floored(matrix, exponent, floor):
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return vectors @ torch.diag(values.clamp_min(floor) ** exponent) @ vectors.mT


def by_adam(updates, weights, n_steps, lr, eps):
    x = nn.Parameter(sum(updates))
    optimizer = torch.optim.Adam([x], lr=lr, eps=eps)
    for _ in range(n_steps):
        optimizer.zero_grad()
        sum(w * ((x - u) @ u.mT).square().sum() / u.square().sum()
            for w, u in zip(weights, updates, strict=True)).backward()
        optimizer.step()
    return x.detach()


def rms(updates):
    return float(torch.stack([*updates]).square().mean().sqrt())


def brute(rule, updates, weights):
    """The algorithm as it is written: merged, plain, geometric update, dense metric, conflict, gate."""
    shares = [w / sum(weights) for w in weights]
    kept = []
    for update in updates:
        _, s, vh = torch.linalg.svd(update)
        energy = s.square().cumsum(0) / s.square().sum()
        r = min(rule.rank, int((energy < rule.energy).sum()) + 1, len(s))
        kept.append((vh[:r].mT, s[:r]))
    basis = torch.linalg.qr(torch.cat([v for v, _ in kept], 1)).Q
    inner = [(basis.mT @ v * s**2) @ (basis.mT @ v).mT for v, s in kept]
    if rule.covariance == "full":
        inner = [basis.mT @ u.mT @ u @ basis for u in updates]
    identity, floor = torch.eye(basis.shape[1]).double(), 0.0
    ridge = rule.ridge * float(np.mean([b.trace() for b in inner])) / len(identity)
    score_ridge = 0.0
    if rule.numerics == "released":
        floor = ridge = score_ridge = rule.ridge
    roots = (lambda m, e: floored(m, e, floor)) if floor else \
            (lambda m, e: root(m) if e > 0 else torch.linalg.inv(root(m)))

    def gamma(a, b):
        a, b = a + score_ridge * identity, b + score_ridge * identity
        half = roots(a, 0.5)
        total = a.trace() + b.trace()
        return max(float((total - 2 * roots(half @ b @ half, 0.5).trace()) / (total + score_ridge)), 0.0)

    pairs = list(itertools.combinations(range(len(updates)), 2))
    score = sum(weights[i] * weights[j] * gamma(inner[i], inner[j]) for i, j in pairs)
    score = score / sum(weights[i] * weights[j] for i, j in pairs) if pairs else 0.0
    sigmoid = 1 / (1 + math.exp(-rule.kappa * (score - rule.tau)))
    alpha = 1.0 if rule.gate == "none" else rule.alpha_min + (rule.alpha_max - rule.alpha_min) * sigmoid
    inner = [b + ridge * identity for b in inner]
    shared = sum(w * (b + floor * identity) for w, b in zip(shares, inner, strict=True)) + floor * identity
    if rule.metric == "mean":
        shared = sum(w * b for w, b in zip(shares, inner, strict=True))
    for _ in range(rule.n_metric_steps if rule.metric == "barycenter" else 0):
        half, inverse = roots(shared, 0.5), roots(shared, -0.5)
        step = sum(w * roots(half @ (b + floor * identity) @ half, 0.5) for w, b in zip(shares, inner, strict=True))
        new = inverse @ step @ step @ inverse + floor * identity
        done = (new - shared).norm() / (shared.norm() + floor) < 1e-5
        shared = new
        if done:
            break
    outside = torch.eye(len(basis)).double() - basis @ basis.mT
    forth = basis @ roots(shared, -0.5) @ basis.mT + ridge**-0.5 * outside
    back = basis @ roots(shared, 0.5) @ basis.mT + ridge**0.5 * outside
    lr = geometric_lr = rule.lr
    if rule.lr_mode == "relative":
        lr = rule.lr * rms(updates)
        geometric_lr = lr * math.sqrt(len(basis) / float((back @ back).trace()))
    eps = (lambda rate: 1e-8 * rate) if rule.lr_mode == "relative" else (lambda rate: 1e-8)
    plain = by_adam(updates, weights, rule.n_steps, lr, eps(lr))
    geometric = by_adam([u @ forth for u in updates], weights, rule.n_steps, geometric_lr, eps(geometric_lr)) @ back
    return alpha * geometric + (1 - alpha) * plain, plain, geometric, back, score, alpha


UPDATES = [decaying(6, 9, seed) for seed in range(3)]


@pytest.mark.parametrize("fields", [
    {},
    {"gate": "none"},
    {"metric": "mean"},
    {"covariance": "full"},
    {"old_weight": 0.5, "new_weight": 2.0},
    {"rank": 2, "energy": 1.0, "tau": 0.5, "kappa": 5.0},
    {"numerics": "released", "lr_mode": "absolute", "lr": 1e-3, "kappa": 12.0},
    {"numerics": "released", "metric": "mean", "old_weight": 0.5},
], ids=str)
def test_it_is_the_algorithm_as_written(fields):
    rule = GCWM(n_steps=30, **fields)
    weights = [rule.old_weight, rule.old_weight, rule.new_weight]
    expected, plain, geometric, back, score, alpha = brute(rule, UPDATES, weights)
    ours = merged(rule, UPDATES)
    close(ours.update, expected, rtol=1e-4, atol=1e-6)
    close(ours.notes["conflict"], score, rtol=1e-5)
    close(ours.notes["gate"], alpha, rtol=1e-5)
    close(ours.notes["merged_norm"], expected.norm(), rtol=1e-5)
    close(ours.notes["geometric_norm"], geometric.norm(), rtol=1e-5)
    if rule.gate == "sigmoid":
        close(ours.notes["plain_norm"], plain.norm())
        distance = ((geometric - plain) @ back).norm()
        close(ours.notes["displacement"], distance, rtol=1e-3)
        close(((expected - plain) @ back).norm(), alpha * distance)
        close(((ours.update - plain) @ back).norm(), alpha * distance, rtol=1e-3)
        close(((ours.update - geometric) @ back).norm(), (1 - alpha) * distance, rtol=1e-3)


@pytest.mark.parametrize("numerics", ["exact", "released"])
def test_a_single_update_is_its_own_merge_and_the_model_takes_a_share_of_it(numerics):
    update, base = draw(6, 9), draw(6, 9, seed=1)
    plain, geometric, blend = (merged(GCWM(numerics=numerics, **fields), [update]) for fields in (SHUT, OPEN, {}))
    assert torch.equal(plain.update, update)
    close(geometric.update, update, rtol=1e-9, atol=1e-10)
    close(blend.update, update, rtol=1e-9, atol=1e-10)
    assert blend.notes["conflict"] == 0
    merger = Merger(GCWM(numerics=numerics, coefficient=0.3), [LINEAR])
    merger.absorb([{LINEAR.name: update}])
    close(merger.weight(LINEAR.name, base), base + 0.3 * update, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("kappa", "alpha"), [(10.0, 0.335), (12.0, 0.303)])
def test_at_no_conflict_the_gate_is_still_a_third_open(kappa, alpha):
    update = decaying(6, 9, 0)
    pair = [update, rotation(6, 7) @ update]
    ours = merged(GCWM(kappa=kappa), pair)
    assert ours.notes["conflict"] < 1e-12
    assert ours.notes["gate"] == pytest.approx(alpha, abs=5e-4)
    plain = merged(GCWM(**SHUT), pair).update
    assert not torch.equal(ours.update, plain)
    assert torch.equal(merged(GCWM(alpha_min=0.0, kappa=100.0), pair).update, plain)


def test_the_gate_opens_with_the_conflict():
    def pair(angle):
        out = draw(4, 1)
        return [out @ torch.tensor([row], dtype=torch.float64) for row in
                ([1.0, 0.0], [math.cos(angle), math.sin(angle)])]

    scores = [merged(GCWM(), pair(angle)).notes for angle in np.linspace(0, math.pi / 2, 9)]
    assert all(a["conflict"] < b["conflict"] and a["gate"] < b["gate"] for a, b in itertools.pairwise(scores))
    assert all(0.15 <= each["gate"] <= 0.95 for each in scores)
    for each, angle in zip(scores, np.linspace(0, math.pi / 2, 9), strict=True):
        close(each["conflict"], 1 - math.cos(angle), atol=1e-9)
    middle = merged(GCWM(tau=0.5), pair(math.pi / 3)).notes
    assert middle["gate"] == pytest.approx((0.15 + 0.95) / 2)
    assert merged(GCWM(gate="none"), pair(0.3)).notes["gate"] == 1
    assert merged(GCWM(kappa=1e6), pair(0.0)).notes["gate"] == pytest.approx(0.15)


def test_branches_with_a_small_share_are_left_out():
    plain, geometric = merged(GCWM(**SHUT), UPDATES), merged(GCWM(**OPEN), UPDATES)
    assert "geometric_norm" not in plain.notes and "plain_norm" not in geometric.notes
    for share, expected in ((0.05, plain), (0.95, geometric)):
        assert torch.equal(merged(GCWM(alpha_min=share, alpha_max=share), UPDATES).update, expected.update)
    between = merged(GCWM(alpha_min=0.06, alpha_max=0.06), UPDATES).update
    close(between, 0.06 * geometric.update + 0.94 * plain.update)
    with pytest.raises(ConfigError, match="alpha_min must be at most alpha_max"):
        GCWM(alpha_min=0.5, alpha_max=0.2)


def test_in_an_isotropic_metric_both_branches_are_the_same():
    basis = rotation(9)[:, :4]
    metric = Metric.of(0.01 * torch.eye(4).double(), basis, 0.01)
    updates = torch.stack(UPDATES)
    close(metric.recoloured(wudi(metric.whitened(updates), lr=1e-3, is_relative=True)),
          wudi(updates, lr=1e-3, is_relative=True), rtol=1e-7)
    turns = [0.02 * rotation(5, seed) for seed in range(3)]
    ours = merged(GCWM(energy=1.0), turns)
    close(ours.update, merged(GCWM(**SHUT), turns).update, rtol=1e-7)
    assert ours.notes["displacement"] < 1e-9


def test_a_relative_rate_moves_both_branches_alike_and_keeps_the_scale():
    updates = [decaying(64, 64, seed) for seed in range(3)]
    plain, geometric = (merged(GCWM(**fields), updates).update for fields in (SHUT, OPEN))
    total = sum(updates)
    moved = [float((each - total).norm() / total.norm()) for each in (plain, geometric)]
    assert all(0.01 < each < 0.15 for each in moved)
    for scale in (1e-4, 1e3):
        close(merged(GCWM(), [scale * u for u in updates]).update, scale * merged(GCWM(), updates).update,
              rtol=1e-5, atol=1e-8 * scale)


@pytest.mark.parametrize("entry", [1e-4, 1e-3, 1e-2])
def test_with_the_released_rate_the_whitened_branch_stays_at_the_sum(entry):
    updates = [entry * decaying(64, 64, seed) / rms([decaying(64, 64, seed)]) for seed in range(3)]
    released = {"numerics": "released", "lr_mode": "absolute", "lr": 1e-5}
    plain, geometric = (merged(GCWM(**released, **fields), updates).update for fields in (SHUT, OPEN))
    total = sum(updates)
    assert (geometric - total).norm() < 0.02 * total.norm()
    assert (plain - total).norm() > 5 * (geometric - total).norm()


@pytest.mark.parametrize(("energy", "released"), [(1.0, 0.998), (1e-1, 0.980), (1e-2, 0.80), (1e-3, 0.0)])
def test_released_conflicts_of_small_updates_vanish(energy, released):
    pair = [torch.diag(torch.tensor(d)).double() * math.sqrt(energy) for d in ([1.0, 0.0], [0.0, 1.0])]
    assert merged(GCWM(numerics="released"), pair).notes["conflict"] == pytest.approx(released, abs=6e-4)
    assert merged(GCWM(), pair).notes["conflict"] == pytest.approx(1)


@pytest.mark.parametrize("energy", [1.0, 1e-6, 1e-12])
def test_exact_conflicts_do_not_know_the_scale(energy):
    pair = [math.sqrt(energy) * update for update in UPDATES[:2]]
    exact = float(conflict(*UPDATES[:2]))
    assert merged(GCWM(energy=1.0), pair).notes["conflict"] == pytest.approx(exact, rel=1e-9)


# memory

def absorbed(rule, updates, at_once=False):
    merger = Merger(rule, [LINEAR])
    for chunk in [updates] if at_once else [[update] for update in updates]:
        merger.absorb([{LINEAR.name: update} for update in chunk])
    return merger


def test_steps_of_the_paper_end_where_one_merge_of_all_does():
    rule, base = GCWM(coefficient=0.3), draw(6, 9, seed=9)
    theta, before = base.clone(), torch.zeros_like(base)
    merger = Merger(rule, [LINEAR])
    for update in UPDATES:
        merger.absorb([{LINEAR.name: update}])
        theta += 0.3 * (merger.merged[LINEAR.name] - before)
        before = merger.merged[LINEAR.name]
        close(merger.weight(LINEAR.name, base), theta)
    close(theta, absorbed(rule, UPDATES, at_once=True).weight(LINEAR.name, base))


def test_all_history_does_not_know_the_order():
    expected = absorbed(GCWM(), UPDATES).merged[LINEAR.name]
    for order in itertools.permutations(UPDATES):
        close(absorbed(GCWM(), order).merged[LINEAR.name], expected, rtol=1e-6, atol=1e-9)


def test_the_newest_n_are_merged():
    merger = absorbed(GCWM(n_recent=2), UPDATES)
    close(merger.merged[LINEAR.name], merged(GCWM(), UPDATES[1:]).update)
    assert len(merger.kept) == 2


def test_the_current_anchor_stands_for_what_was_merged():
    rule = GCWM(memory="current_anchor", old_weight=2.0)
    merger = absorbed(rule, UPDATES)
    anchor = merged(rule, UPDATES[:1]).update
    for update in UPDATES[1:]:
        anchor = merged(rule, [anchor, update]).update
    close(merger.merged[LINEAR.name], anchor)
    assert merger.kept == []
    assert (absorbed(rule, UPDATES[::-1]).merged[LINEAR.name] - anchor).norm() > 0.01 * anchor.norm()


# scope

def test_updates_of_zeros_and_small_shapes_are_finite():
    nothing = torch.zeros(6, 9, dtype=torch.float64)
    for numerics in ("exact", "released"):
        rule = GCWM(numerics=numerics)
        assert torch.equal(merged(rule, [nothing, nothing]).update, nothing)
        ours = merged(rule, [nothing, UPDATES[0]])
        assert ours.update.isfinite().all()
        close(ours.update, UPDATES[0], rtol=1e-6, atol=1e-9)
        for shape in ((1, 9), (9, 1), (1, 1), (3, 2)):
            assert merged(rule, [draw(*shape), draw(*shape, seed=1)]).update.isfinite().all()
    assert merged(GCWM(), [nothing, UPDATES[0]]).notes["conflict"] == 1


def test_kernels_are_matrices_and_a_fused_projection_is_three():
    kernels = [draw(4, 3, 2, 2, seed=seed) for seed in range(2)]
    ours = merged(GCWM(), kernels, Layer(name="body.1.weight", kind="conv"))
    close(ours.update, merged(GCWM(), [k.flatten(1) for k in kernels]).update.view(4, 3, 2, 2))
    fused = [draw(12, 4, seed=seed) for seed in range(2)]
    for update in fused:
        update[4:8] = 0
    ours = merged(GCWM(), fused, Layer(name="body.attention.qkv.weight", kind="linear"))
    parts = [merged(GCWM(), part) for part in zip(*(f.split(4) for f in fused), strict=True)]
    close(ours.update, torch.cat([part.update for part in parts]))
    close(ours.notes["conflict"], np.mean([part.notes["conflict"] for part in parts]))
    close(ours.notes["displacement"], np.mean([parts[i].notes["displacement"] for i in (0, 2)]))


@pytest.mark.parametrize("layer", [Layer(name="body.0.bias"), Layer(name="body.embeddings.weight", kind="linear"),
                                   Layer(name="body.norm.weight")])
def test_what_is_no_matrix_keeps_its_value(layer):
    pair = [draw(6, 9), draw(6, 9, seed=1)]
    for rest in ("frozen", "dropped"):
        merger = Merger(GCWM(rest=rest), [layer])
        merger.absorb([{layer.name: update} for update in pair])
        base = draw(6, 9, seed=2).bfloat16()
        assert torch.equal(merger.weight(layer.name, base), base)


@pytest.mark.parametrize("memory", ["all_history", "current_anchor"])
def test_or_it_is_averaged(memory):
    bias, base = Layer(name="body.0.bias"), draw(5, seed=9)
    updates = [draw(5, seed=seed) for seed in range(3)]
    merger = Merger(GCWM(rest="mean", memory=memory, coefficient=0.3), [bias])
    for update in updates:
        merger.absorb([{bias.name: update}])
    close(merger.weight(bias.name, base), base + sum(updates) / 3)


class Recorded(GCWM):
    """Notes every expert's weights before they are merged."""

    def before_experience(self, model, experience):
        super().before_experience(model, experience)
        if experience.index == 0:
            self.base, self.experts = {name: value.clone() for name, value in self._anchor.items()}, []

    def after_experience(self, model, experience):
        self.experts.append({name: param.detach().clone() for name, param in model.named_parameters()})
        super().after_experience(model, experience)


@pytest.mark.parametrize("rest", ["frozen", "dropped", "mean"])
@pytest.mark.parametrize("setting", [Setting.CLASS, Setting.DOMAIN])
def test_a_stream_ends_at_the_merge_of_its_experts(rest, setting):
    stream = Toy(setting=setting).open()
    model = toy_model(stream)
    rule = Recorded(rest=rest, coefficient=0.5, n_steps=20)
    record = run_stream(rule, stream, model, recipe=toy_recipe())
    now = {name: param.detach() for name, param in model.named_parameters()}
    weights = [name for name in now if name.startswith("body.") and now[name].dim() == 2]
    biases = [name for name in now if name.startswith("body.") and now[name].dim() == 1]
    assert weights and biases and record.accuracy[0, 0] > 0.8
    for name in weights:
        updates = [each[name] - rule.base[name] for each in rule.experts]
        torch.testing.assert_close(now[name], rule.base[name] + 0.5 * merged(rule, updates).update)
    for name in biases:
        assert all(torch.equal(each[name], rule.base[name]) == (rest == "frozen") for each in rule.experts)
        if rest == "mean":
            torch.testing.assert_close(now[name], torch.stack([each[name] for each in rule.experts]).mean(0))
        else:
            assert torch.equal(now[name], rule.base[name])
    if setting is Setting.DOMAIN:
        torch.testing.assert_close(now["head.weight"], torch.stack([e["head.weight"] for e in rule.experts]).mean(0))


def test_a_body_without_matrices_is_refused_and_not_left_untrained():
    stream = Toy().open()
    rule = GCWM(exclude=["body"])
    with pytest.raises(ConfigError, match=r"the body of this model has none that strategy\.exclude leaves"):
        run_stream(rule, stream, toy_model(stream), recipe=toy_recipe())
    run_stream(GCWM(exclude=["body"], rest="mean"), stream, toy_model(stream), recipe=toy_recipe())


# two linear regressions

def fitted(base, x, y):
    """The nearest weights to `base` with x W^T = y: where gradient descent from it ends."""
    return base + (torch.linalg.pinv(x) @ (y - x @ base.mT)).mT


def test_regressions_on_other_inputs_are_both_solved():
    base, truth = draw(4, 8), draw(4, 8, seed=1)
    inputs = [torch.cat([draw(20, 4, seed=2), torch.zeros(20, 4)], 1).double(),
              torch.cat([torch.zeros(20, 4), draw(20, 4, seed=3)], 1).double()]
    merger = absorbed(GCWM(coefficient=1.0), [fitted(base, x, x @ truth.mT) - base for x in inputs])
    weight = merger.weight(LINEAR.name, base)
    for x in inputs:
        before, after = ((x @ (each - truth).mT).norm() for each in (base, weight))
        assert before > 1 and after < 1e-4 * before  # Adam takes rounding for a gradient, if a small one


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_updates_that_read_other_inputs_are_added_up_in_either_branch(alpha):
    """Row spaces that are orthogonal in no common axes; Adam takes rounding for a gradient."""
    turned = torch.linalg.qr(draw(12, 12, seed=5)).Q
    updates = [draw(6, 4, seed=i) @ turned[4 * i:4 * i + 4] for i in range(3)]
    ours = merged(GCWM(alpha_min=alpha, alpha_max=alpha), updates).update
    assert (ours - sum(updates)).norm() < 1e-3 * sum(updates).norm()


def test_opposite_targets_on_the_same_inputs_cannot_be():
    base, x, y = torch.zeros(4, 8, dtype=torch.float64), draw(20, 8, seed=2), draw(20, 8, seed=2) @ draw(8, 4, seed=3)
    updates = [fitted(base, x, target) for target in (y, -y)]
    ours = merged(GCWM(), updates)
    assert ours.notes["conflict"] < 1e-9
    errors = [(x @ ours.update.mT - target).square().sum() for target in (y, -y)]
    assert sum(errors) >= 2 * y.square().sum() * (1 - 1e-12)

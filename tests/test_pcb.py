"""PCB in float64 against its definition over whole flat updates; order statistics against sorting."""

import itertools
import math

import pytest
import torch

from cl_framework.merging import Layer, Merger
from cl_framework.order_statistics import order_statistic
from cl_framework.protocol import run_stream
from cl_framework.strategies.pcb import PCB
from cl_framework.toys import Toy, toy_model, toy_recipe

SHAPES = {"body.0.weight": (40, 50), "body.0.bias": (40,), "body.1.weight": (20, 3, 5, 5), "body.scale": ()}
LAYERS = [Layer(name=name) for name in SHAPES]
D = sum(math.prod(shape) for shape in SHAPES.values())
BALANCES = ["product", "sign_product", "pairs", "softmax"]


def draw(seed, size=1e-3):
    noise = torch.randn(D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return size * noise


def parts(flat):
    pieces = flat.split([math.prod(shape) for shape in SHAPES.values()])
    return {name: piece.view(shape) for (name, shape), piece in zip(SHAPES.items(), pieces, strict=True)}


def flat(update):
    return torch.cat([update[name].flatten() for name in SHAPES])


def merger_of(rule, updates):
    merger = Merger(rule, LAYERS)
    for update in updates:
        merger.absorb([parts(update)])
    return merger


def merged(rule, updates):
    return flat(merger_of(rule, updates).merged)


def close(a, b, rtol=1e-9, atol=1e-15):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def normalised(x):
    low, high = x.min(), x.max()
    return (x - low) / (high - low) if high > low else torch.zeros_like(x)


def cut(update, tail):
    """tau~ and N(a)."""
    ordered, d = update.abs().sort().values, len(update)
    low, high = ordered[int(d * tail)], ordered[min(int(d * (1 - tail)), d - 1)]
    size = update.abs().clamp(low, high)
    return update.sign() * size, normalised(size)


def brute(updates, density, tail, balance="product", counts=None):
    """The definition, on rows of the matrix T [n, d]: M, and each s_i."""
    n = len(updates)
    cuts, sizes = zip(*[cut(update, tail) for update in updates], strict=True)
    scores = []
    for i, tau in enumerate(updates):
        if balance == "product":
            between = torch.tanh(tau * sum(updates))
        elif balance == "sign_product":
            between = torch.tanh(tau * sum(other.sign() * size for other, size in zip(updates, sizes, strict=True)))
        elif balance == "pairs":
            between = sum(torch.tanh(tau.sign() * sizes[i] * updates[j].sign() * sizes[j]) for j in range(n))
        else:
            between = sum(torch.softmax(normalised(tau * other), 0) for other in updates)
        b = torch.exp(n * sizes[i] ** 2) * between
        least = b.sort().values[min(int(len(b) * (1 - density)), len(b) - 1)]
        scores.append(normalised(b.clamp_min(least)))
    weights = [s * c for s, c in zip(scores, counts or [1] * n, strict=True)]
    return sum(w * t for w, t in zip(weights, cuts, strict=True)) / sum(weights).clamp_min(1e-12), scores


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize(("density", "tail"), [(0.1, 1e-4), (0.3, 0.01), (1.0, 0.0)])
def test_it_is_the_definition_over_the_whole_update(balance, n, density, tail):
    updates = [draw(seed) for seed in range(n)]
    expected, _ = brute(updates, density, tail, balance)
    close(merged(PCB(balance=balance, density=density, tail=tail), updates), expected, rtol=1e-7)


def test_the_sequential_form_counts_the_experts_that_are_merged():
    updates = [draw(seed) for seed in range(4)]
    expected = updates[0]
    for n, update in enumerate(updates[1:], 1):
        expected, _ = brute([expected, update], 0.1, 1e-4, counts=[n, 1])
    merger = merger_of(PCB(mode="sequential"), updates)
    close(flat(merger.merged), expected, rtol=1e-7)
    assert merger.kept == []
    other = merged(PCB(mode="sequential"), updates[::-1])
    assert (other - expected).norm() > 0.1 * expected.norm()


def test_alone_it_keeps_the_largest_share_and_is_not_the_model():
    """n = 1 is an expert beside one that learned nothing: a row of zeros has no competition."""
    update = draw(0)
    ours = merged(PCB(tail=0.01), [update, torch.zeros(D).double()])
    is_kept = ours != 0
    assert int(is_kept.sum()) == pytest.approx(0.1 * D - 1, abs=1)
    close(ours[is_kept], cut(update, 0.01)[0][is_kept])
    assert update[is_kept].abs().min() >= update[~is_kept].abs().max()


@pytest.mark.parametrize("mode", ["joint", "sequential"])
def test_a_single_expert_is_the_model(mode):
    merger = merger_of(PCB(mode=mode), [draw(0)])
    assert merger.is_expert
    assert torch.equal(flat(merger.merged), draw(0))


@pytest.mark.parametrize("density", [0.05, 0.1, 0.5])
def test_each_expert_keeps_its_share(density):
    updates = [draw(seed) for seed in range(4)]
    _, scores = brute(updates, density, 1e-4)
    assert all(int((s > 0).sum()) == pytest.approx(density * D, abs=2) for s in scores)
    merger = merger_of(PCB(density=density), updates)
    one = Merger(PCB(density=density), [Layer(name="all")])
    one.absorb([{"all": update} for update in updates])
    assert one.notes["kept"] == pytest.approx(density, abs=2 / D)
    close(one.merged["all"], flat(merger.merged))


def test_a_density_of_one_keeps_all_but_the_least():
    updates = [draw(seed) for seed in range(2)]
    one = Merger(PCB(density=1.0), [Layer(name="all")])
    one.absorb([{"all": update} for update in updates])
    assert one.notes["kept"] == pytest.approx(1 - 1 / D)


def test_the_order_of_experts_makes_no_difference():
    updates = [draw(seed) for seed in range(3)]
    expected = merged(PCB(), updates)
    for order in itertools.permutations(updates):
        close(merged(PCB(), order), expected, rtol=1e-7)


def test_where_one_survives_its_parameter_is_taken_whole():
    updates = [draw(seed) for seed in range(3)]
    ours = merged(PCB(tail=0.01), updates)
    _, scores = brute(updates, 0.1, 0.01)
    survivors = torch.stack([s > 0 for s in scores])
    assert not ours[~survivors.any(0)].any()
    for i, update in enumerate(updates):
        is_alone = survivors[i] & (survivors.sum(0) == 1)
        assert is_alone.sum() > 10
        close(ours[is_alone], cut(update, 0.01)[0][is_alone])


def test_it_is_an_average():
    updates = [draw(seed) for seed in range(4)]
    for mode in ("joint", "sequential"):
        largest = torch.stack([update.abs() for update in updates]).max(0).values
        low = min(float(update.abs().sort().values[int(D * 1e-4)]) for update in updates)
        assert (merged(PCB(mode=mode), updates).abs() <= largest.clamp_min(low) * (1 + 1e-9)).all()


@pytest.mark.parametrize("balance", ["product", "sign_product", "pairs"])
def test_a_parameter_against_the_majority_drops(balance):
    one, other = draw(0), draw(1)
    one[:50], other[:50] = -1e-3, 3e-3
    one[50:100], other[50:100] = 1e-3, 3e-3
    scores = brute([one, other], 0.4, 1e-4, balance)[1]
    assert not scores[0][:50].any() and scores[0][50:100].all()
    ours = merged(PCB(density=0.4, balance=balance), [one, other])
    close(ours[:50], other[:50])


def test_in_the_linear_range_it_grows_with_the_updates():
    updates = [draw(seed) for seed in range(3)]
    close(merged(PCB(), [10 * update for update in updates]), 10 * merged(PCB(), updates), rtol=1e-6)


def test_a_coefficient_of_zero_is_the_base():
    merger, base = merger_of(PCB(coefficient=0.0), [draw(0), draw(1)]), torch.ones(40, 50, dtype=torch.float64)
    assert torch.equal(merger.weight("body.0.weight", base), base)


def test_copies_of_one_update_merge_to_it():
    update = draw(0)
    ours = merged(PCB(tail=0.01), [update] * 3)
    is_kept = ours != 0
    assert is_kept.sum() > 0.09 * D
    close(ours[is_kept], cut(update, 0.01)[0][is_kept])


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("constant", [0.0, 1e-3])
def test_constant_updates_are_finite(balance, constant):
    row = torch.full((D,), constant, dtype=torch.float64)
    assert merged(PCB(balance=balance), [row, draw(1)]).isfinite().all()
    assert not merged(PCB(balance=balance), [row, row]).any()


def test_a_hundred_experts_do_not_overflow():
    updates = [draw(seed).float() for seed in range(100)]
    merger = Merger(PCB(), LAYERS)
    merger.absorb([parts(update) for update in updates])
    ours = flat(merger.merged)
    assert ours.isfinite().all()
    expected, _ = brute([update.double() for update in updates], 0.1, 1e-4)
    assert (ours.double() - expected).norm() < 1e-3 * expected.norm()


def test_it_learns_a_stream():
    stream = Toy().open()
    for mode in ("joint", "sequential"):
        record = run_stream(PCB(mode=mode, density=0.5), stream, toy_model(stream), recipe=toy_recipe())
        assert record.accuracy[0, 0] > 0.9


# order statistics

@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_order_statistic_is_what_sorting_finds(dtype):
    draw = torch.Generator().manual_seed(0)
    pieces = [torch.randn(257, generator=draw, dtype=dtype), torch.zeros(3, 4, dtype=dtype),
              1e-30 * torch.randn(20, generator=draw, dtype=dtype), torch.tensor(-7.5, dtype=dtype),
              torch.randn(50, generator=draw, dtype=dtype).round(), torch.empty(0, dtype=dtype),
              torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min, torch.inf, -torch.inf], dtype=dtype)]
    ordered = torch.cat([piece.flatten() for piece in pieces]).sort().values
    for rank, value in enumerate(ordered.tolist()):
        assert order_statistic(lambda: iter(pieces), rank) == value

"""Rotation, shift, rank, masks and overlaps in float64 against closed forms, numpy and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from cl_framework.projection import basis_of, cut_of, projected
from cl_framework.update_geometry import (
    held_fraction,
    n_leading,
    principal_angles,
    retained_fraction,
    rotation,
    singular,
    spectral_shift,
    sum_ratio,
    update_rank,
)
from cl_framework.update_masks import (
    changed,
    changed_in_bfloat16,
    consensus,
    coverage,
    density,
    low_magnitude_mask,
    overlap,
    principal_mask,
    sparsity,
)

SHAPES = [(20, 30), (30, 20), (24, 24)]


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def turn(n, seed=0):
    return torch.linalg.qr(draw(n, n, seed=seed)).Q


def spectrum(shape, values, seed=0):
    """A matrix with these singular values."""
    k = len(values)
    return turn(shape[0], seed)[:, :k] @ torch.diag(torch.tensor(values).double()) @ turn(shape[1], seed + 1)[:, :k].mT


def angles(before, after, k=8):
    return rotation(singular(before), singular(after), k)


# singular values and angles


@pytest.mark.parametrize("shape", SHAPES)
def test_the_decomposition_is_that_of_numpy(shape):
    weight = draw(*shape)
    u, s, _ = np.linalg.svd(weight.numpy(), full_matrices=False)
    ours = singular(weight)
    np.testing.assert_allclose(ours.values, s, rtol=1e-9)
    np.testing.assert_allclose((ours.left * ours.values) @ ours.right.mT, weight, atol=1e-9)
    np.testing.assert_allclose(np.abs((ours.left.numpy() * u).sum(0)), 1, atol=1e-9)


@pytest.mark.parametrize("size", [1e-10, 1e-4, 0.3, 3.0])
def test_principal_angles_are_those_of_scipy(size):
    a = turn(12)[:, :4]
    b = torch.linalg.qr(a + size * draw(12, 4, seed=3)).Q
    ours = principal_angles(a, b)
    np.testing.assert_allclose(ours.flip(0), subspace_angles(a.numpy(), b.numpy()), rtol=1e-5, atol=1e-15)
    assert (ours.diff() >= 0).all()


def test_a_plane_turned_by_a_known_angle():
    a, b = torch.eye(4)[:, :2], torch.eye(4)[:, :2].clone().double()
    b[1, 1], b[2, 1] = math.cos(0.2), math.sin(0.2)
    assert principal_angles(a, b).tolist() == pytest.approx([0.0, 0.2])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_weight_has_not_turned(shape):
    weight = draw(*shape)
    assert max(angles(weight, weight)[:4]) < 1e-12
    assert spectral_shift(singular(weight).values, singular(weight).values) == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_rotated_outputs_turn_the_left_side_alone_and_shift_no_singular_value(shape):
    weight = draw(*shape)
    after = turn(shape[0], 7) @ weight
    ours = angles(weight, after)
    assert ours.left_max > 0.1 and ours.right_max < 1e-6
    assert spectral_shift(singular(weight).values, singular(after).values) < 1e-9
    assert angles(weight.mT, after.mT).right_max == pytest.approx(ours.left_max)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_a_scaled_weight_shifts_and_does_not_turn(scale):
    weight = draw(20, 30)
    assert max(angles(weight, scale * weight)[:4]) < 1e-7
    assert spectral_shift(singular(weight).values, singular(scale * weight).values) == pytest.approx(abs(scale - 1))


@pytest.mark.parametrize("seed", range(5))
def test_weyl_mirsky_and_wedin_bound_them(seed):
    weight = spectrum((20, 30), [10 - 0.4 * i for i in range(8)] + [1.0] * 12, seed)
    update = 0.05 * draw(20, 30, seed=9)
    after = weight + update
    old, new = singular(weight).values, singular(after).values
    largest = float(torch.linalg.matrix_norm(update, 2))
    assert (new - old).abs().max() <= largest
    assert spectral_shift(old, new) * old.norm() <= update.norm()
    ours = angles(weight, after)
    assert math.sin(max(ours.left_max, ours.right_max)) <= largest / float(old[7] - new[8])
    assert ours.gap == pytest.approx(float((old[7] - old[8]) / old[0]))


def test_signs_and_order_of_vectors_do_not_matter():
    weight, after = singular(draw(20, 30)), singular(draw(20, 30, seed=1))
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4, *range(8, 20)])
    signs = torch.where(torch.arange(20) % 3 == 0, -1.0, 1.0).double()
    mixed = after._replace(left=after.left[:, order] * signs, right=after.right[:, order] * signs)
    assert rotation(weight, mixed, 8)[:4] == pytest.approx(rotation(weight, after, 8)[:4])


def test_a_cut_between_equal_values_is_flagged():
    equal = spectrum((20, 30), [5.0] * 10 + [1.0] * 10)
    assert angles(equal, equal + 1e-3 * draw(20, 30)).is_degenerate
    assert angles(torch.zeros(20, 30), draw(20, 30)).is_degenerate
    assert not rotation(singular(equal), singular(equal), 10).is_degenerate


def test_how_many_directions_lead():
    assert [n_leading(torch.zeros(n, 300)) for n in (8, 79, 80, 81, 200)] == [8, 8, 8, 9, 20]


# rank, lambda, what is kept


@pytest.mark.parametrize("rank", [1, 3, 20])
def test_the_rank_of_an_update(rank):
    update = draw(20, rank) @ draw(rank, 30, seed=1)
    assert update_rank(singular(update).values) == rank / 20
    weight = draw(20, 30, seed=2).float()
    after = weight + 0.01 * update.float()
    noise = torch.finfo(torch.float32).eps * float(after.norm())
    stored = singular(after.double() - weight.double()).values
    assert update_rank(stored, noise) == rank / 20
    assert update_rank(stored) > 0.5  # rounding alone has nearly every direction


def test_lambda():
    updates = [torch.zeros(4, 4).index_put((torch.tensor([i]), torch.tensor([0])), torch.tensor(2.0)) for i in range(4)]
    norms = [float(update.norm()) for update in updates]
    assert sum_ratio(float(sum(updates).norm()), norms) == pytest.approx(math.sqrt(4))
    assert sum_ratio(float((4 * updates[0]).norm()), norms) == pytest.approx(4)
    assert sum_ratio(0.0, norms) == 0
    assert math.isnan(sum_ratio(0.0, [0.0, 0.0]))


def test_what_opcm_retains():
    state, update = draw(9, 12), draw(9, 12, seed=1)
    basis = basis_of(state, torch.float64)
    left = projected(update, basis, cut_of(basis.sigma, 0.5))
    assert retained_fraction(update, state) == pytest.approx(float(left.norm() / update.norm()))
    assert 0 < retained_fraction(update, state) < 1
    assert retained_fraction(-3 * state, state) < 1e-9
    assert retained_fraction(update, torch.zeros(9, 12).double()) == 1
    apart = torch.block_diag(draw(4, 5), torch.zeros(5, 7).double())
    assert retained_fraction(torch.block_diag(torch.zeros(4, 5).double(), draw(5, 7)), apart) == pytest.approx(1)
    assert math.isnan(retained_fraction(torch.zeros(9, 12).double(), state))


def test_what_a_state_holds():
    a = torch.block_diag(draw(3, 3), torch.zeros(2, 2).double())
    b = torch.block_diag(torch.zeros(3, 3), torch.ones(2, 2))
    assert held_fraction(a + b, a) == pytest.approx(1)
    assert held_fraction((a + b) / 2, a) == pytest.approx(0.5)
    assert held_fraction(b, a) == 0
    assert held_fraction(-a, a) == pytest.approx(-1)
    assert math.isnan(held_fraction(a, torch.zeros(5, 5)))


# sparsity


def test_sparsity_counts_changed_entries_and_grows_with_the_tolerance():
    weight = draw(20, 30)
    assert sparsity(changed(weight, weight, 1e-4)) == 1
    one = weight.clone()
    one[3, 4] *= 2
    assert sparsity(changed(weight, one, 1e-4)) == 1 - 1 / 600
    after = weight * (1 + 1e-3 * draw(20, 30, seed=1))
    found = [sparsity(changed(weight, after, eta)) for eta in (0.0, 1e-4, 1e-3, 1e-2)]
    assert found == sorted(found) and found[0] < found[1] < found[2] < found[3] == 1


def test_zero_to_zero_is_unchanged_and_zero_to_anything_changed():
    assert changed(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1e-30]), 0.5).tolist() == [False, True]


def test_in_bfloat16_it_is_equality_of_what_would_be_stored():
    weight = draw(400, 500).float()
    steps = torch.tensor([-1, 0, 1])[torch.randint(3, (400, 500), generator=torch.Generator().manual_seed(0))]
    stored = weight.to(torch.bfloat16)
    moved = (stored.view(torch.int16) + steps.to(torch.int16)).view(torch.bfloat16)
    assert torch.equal(changed_in_bfloat16(stored, moved), steps != 0)
    assert torch.equal(changed_in_bfloat16(weight, moved.float()), stored != moved)


def test_changes_below_the_resolution_of_bfloat16_do_not_count():
    weight = draw(20, 30).to(torch.bfloat16).float()
    assert sparsity(changed_in_bfloat16(weight, weight * (1 + 1e-4))) == 1
    assert sparsity(changed(weight, weight * (1 + 1e-3), 1e-4)) == 0


# masks and overlaps


def test_masks_have_the_wanted_size_and_the_extreme_entries():
    weight = draw(20, 30)
    for share in (0.1, 0.333, 0.5):
        low = low_magnitude_mask(weight, share)
        assert int(low.sum()) == math.floor(share * 600)
        assert weight[low].abs().max() < weight[~low].abs().min()
        u, s, vt = np.linalg.svd(weight.numpy())
        rebuilt = torch.from_numpy(np.abs((u[:, :4] * s[:4]) @ vt[:4]))
        principal = principal_mask(singular(weight), 4, share)
        assert int(principal.sum()) == math.floor(share * 600)
        assert rebuilt[principal].min() > rebuilt[~principal].max()


def test_a_random_mask_covers_what_its_density_says():
    generator = torch.Generator().manual_seed(0)
    mask, changes = (torch.rand(300, 300, generator=generator) < share for share in (0.1, 0.3))
    n = int(changes.sum())
    assert abs(coverage(mask, changes) - 0.1) < 3 * math.sqrt(0.1 * 0.9 / n)
    assert coverage(changes, changes) == 1 and coverage(~changes, changes) == 0
    assert math.isnan(coverage(mask, torch.zeros_like(mask)))


def test_overlaps_of_equal_disjoint_and_independent_sets():
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.rand(400, 400, generator=generator) < share for share in (0.2, 0.6))
    same, apart, ours = overlap(first, first), overlap(first, ~first), overlap(first, second)
    assert same[:3] == (1, 1, 1) and apart[:3] == (0, 0, 0)
    p, q = density(first), density(second)
    n = first.numel()
    assert ours[3:] == (q, p, pytest.approx(p * q / (p + q - p * q)))
    assert abs(ours.first - q) < 3 * math.sqrt(q * (1 - q) / (p * n))
    assert abs(ours.second - p) < 3 * math.sqrt(p * (1 - p) / (q * n))
    assert abs(ours.jaccard - ours.independent_jaccard) < 3 * math.sqrt(1 / n)
    swapped = overlap(second, first)
    assert (swapped.first, swapped.second, swapped.jaccard) == (ours.second, ours.first, ours.jaccard)
    assert math.isnan(overlap(torch.zeros_like(first), first).first)


def test_the_consensus_of_runs_counts_entry_by_entry():
    generator = torch.Generator().manual_seed(2)
    masks = [torch.rand(6, 7, generator=generator) < 0.4 for _ in range(5)]
    found = consensus(masks)
    for i in range(6):
        for j in range(7):
            assert found[i, j] == sum(bool(mask[i, j]) for mask in masks) / 5
    assert found.mean() == pytest.approx(sum(density(mask) for mask in masks) / 5)

"""Conflict, barycenter and whitening in float64 against closed forms and against numpy and scipy."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from cl_framework.geometry import (
    alignment,
    conflict,
    conflicts,
    gradient_conflict,
    layer_conflict,
    signals,
    update_norms,
)
from cl_framework.spectra import leading_spectrum, projected_covariance, union_basis
from cl_framework.wasserstein import Metric, barycenter, bures_distance, power

EPS = 1e-6


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rotation(n, seed=0):
    return torch.linalg.qr(draw(n, n, seed=seed)).Q


def covariance(n, seed=0):
    x = draw(n, 2 * n, seed=seed)
    return x @ x.mT / n


def root(matrix):
    return torch.from_numpy(np.real(sqrtm(matrix.numpy())))


def close(a, b, rtol=1e-9, atol=1e-11):
    torch.testing.assert_close(torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64),
                               rtol=rtol, atol=atol)


# spectra


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
def test_the_smaller_gram_side_gives_the_singular_pairs(shape):
    update = draw(3, *shape)
    ours = leading_spectrum(update, rank=4)
    _, values, vectors = torch.linalg.svd(update)
    close(ours.values, values[:, :4])
    theirs = vectors[:, :4].mT
    close((ours.vectors * theirs).sum(-2).abs(), torch.ones(3, 4))
    close(ours.vectors.mT @ ours.vectors, torch.eye(4).expand(3, 4, 4))


@pytest.mark.parametrize(("energy", "kept"), [(0.5, 1), (0.64, 1), (0.65, 2), (0.9, 2), (0.96, 2), (0.97, 3), (1.0, 4)])
def test_the_fewest_that_carry_the_energy_are_kept(energy, kept):
    squares = torch.tensor([0.64, 0.32, 0.03, 0.01], dtype=torch.float64)
    update = rotation(5)[:, :4] @ torch.diag(squares.sqrt()) @ rotation(6, 1)[:, :4].mT
    assert int((leading_spectrum(update, energy=energy - 1e-9).values > 0).sum()) == kept
    assert int((leading_spectrum(update, rank=2, energy=energy - 1e-9).values > 0).sum()) == min(kept, 2)


def test_at_least_one_is_kept():
    assert int((leading_spectrum(draw(5, 6), energy=0.0).values > 0).sum()) == 1


def test_a_rank_above_the_shape_keeps_what_there_is():
    assert leading_spectrum(draw(3, 8), rank=16).vectors.shape == (8, 3)


def test_an_update_of_zeros_spans_nothing():
    spectrum = leading_spectrum(torch.zeros(3, 8), rank=2)
    assert union_basis([spectrum]).shape == (8, 0)
    assert conflict(spectrum.factor, spectrum.factor) == 0
    assert conflict(spectrum.factor, draw(2, 8)) == 1


def test_the_union_basis_spans_every_vector_also_behind_a_dependent_one():
    first = leading_spectrum(draw(5, 12), 3)
    second = leading_spectrum(draw(5, 12, seed=1), 3)
    basis = union_basis([first, first, second])
    assert basis.shape == (12, 6)
    close(basis.mT @ basis, torch.eye(6))
    for spectrum in (first, second):
        close(basis @ (basis.mT @ spectrum.vectors), spectrum.vectors)


# conflict


def test_the_nuclear_form_is_bures_in_the_union_basis():
    spectra = [leading_spectrum(draw(8, 10, seed=i), 3) for i in range(3)]
    basis = union_basis(spectra)
    for a, b in itertools.combinations(spectra, 2):
        p, q = (projected_covariance(s.factor, basis) for s in (a, b))
        brute = p.trace() + q.trace() - 2 * root(root(p) @ q @ root(p)).trace()
        close(conflict(a.factor, b.factor), brute / (p.trace() + q.trace()), rtol=1e-6)
        close(bures_distance(p, q), brute, rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 8), (8, 5)])
def test_it_is_the_orthogonal_procrustes_distance(shape):
    a, b = draw(*shape), draw(*shape, seed=1)
    u, _, v = torch.linalg.svd(a @ b.mT)
    nearest = (a - u @ v @ b).square().sum() / (a.square().sum() + b.square().sum())
    close(conflict(a, b), nearest)
    for seed in range(20):
        assert (a - rotation(shape[0], seed) @ b).square().sum() / (a.square().sum() + b.square().sum()) >= nearest


def test_its_values_in_closed_form():
    a, b = draw(6, 9), draw(7, 9, seed=1)
    close(conflict(a, b), conflict(b, a))
    assert 0 < conflict(a, b) < 1
    close(conflict(a, a), 0)
    disjoint = torch.cat([torch.zeros(6, 9), draw(6, 9)], 1).double()
    close(conflict(torch.cat([a, torch.zeros(6, 9)], 1).double(), disjoint), 1)
    for c in (0.1, 2.0, 9.0):
        close(conflict(a, math.sqrt(c) * a), (1 - math.sqrt(c)) ** 2 / (1 + c))
    x, y = draw(5).abs(), draw(5, seed=1).abs()
    turn = rotation(5)
    close(conflict(torch.diag(x.sqrt()) @ turn, torch.diag(y.sqrt()) @ turn),
          (x.sqrt() - y.sqrt()).square().sum() / (x + y).sum())
    u, v = rotation(6, 2)[0], rotation(6, 3)[0]
    close(conflict(2 * u[None], 5 * v[None]), 1 - 2 * 2 * 5 * (u @ v).abs() / (4 + 25))


def test_it_does_not_see_the_output_side():
    a = draw(6, 9)
    close(conflict(a, -a), 0)
    close(conflict(a, rotation(6) @ a), 0)
    close(conflict(a, a.flip(0)), 0)


def test_it_knows_neither_a_common_rotation_of_the_inputs_nor_a_common_scale():
    a, b, turn = draw(6, 9), draw(6, 9, seed=1), rotation(9)
    close(conflict(a @ turn, b @ turn), conflict(a, b))
    for scale in (1e-8, 1e-3, 1e5):
        close(conflict(scale * a, scale * b), conflict(a, b))


@pytest.mark.parametrize("energy", [1.0, 1e-3, 1e-6, 1e-9, 1e-12])
def test_small_updates_conflict_as_large_ones_do(energy):
    a, b = rotation(8)[:2], rotation(8)[2:4]
    close(conflict(math.sqrt(energy) * a, math.sqrt(energy) * b), 1)


@pytest.mark.parametrize(("energy", "exact", "released"),
                         [(1.0, 0.998, 0.998), (1e-1, 0.994, 0.980), (1e-2, 0.980, 0.80), (1e-3, 0.936, 0.0)])
def test_the_floor_of_the_released_numerics(energy, exact, released):
    """The numbers of the table are those of a re-derivation of the released formulas."""
    a, b = (torch.diag(torch.tensor(d, dtype=torch.float64)) + EPS * torch.eye(2, dtype=torch.float64)
            for d in ([energy, 0.0], [0.0, energy]))
    total = a.trace() + b.trace() + EPS
    assert abs(float(bures_distance(a, b) / total) - exact) < 6e-4
    assert abs(float(bures_distance(a, b, floor=EPS) / total) - released) < 6e-4


@pytest.mark.parametrize(("energy", "exact", "released"), [(1e-1, 0.975, 0.68), (1e-2, 0.920, 0.0)])
def test_the_floor_in_sixteen_dimensions(energy, exact, released):
    one = torch.diag(torch.cat([torch.full((16,), energy / 16), torch.zeros(16)])).double()
    a, b = (m + EPS * torch.eye(32, dtype=torch.float64) for m in (one, one.flip(0, 1)))
    total = a.trace() + b.trace() + EPS
    assert abs(float(bures_distance(a, b) / total) - exact) < 6e-4
    assert abs(float(bures_distance(a, b, floor=EPS) / total) - released) < 6e-3


def test_the_score_of_a_layer_weighs_pairs_by_both_weights():
    factors = [draw(4, 6, seed=i) for i in range(3)]
    table = conflicts(factors)
    w = [1.0, 2.0, 4.0]
    by_hand = (2 * table[0, 1] + 4 * table[0, 2] + 8 * table[1, 2]) / 14
    close(layer_conflict(table, w), by_hand)
    assert layer_conflict(torch.zeros(1, 1), [1.0]) == 0


# barycenter


def objective(b, inputs, weights):
    return sum(w * bures_distance(b, c) for w, c in zip(weights, inputs, strict=True)) / sum(weights)


@pytest.mark.parametrize("n_steps", [2, 50])
def test_the_barycenter_of_commuting_covariances(n_steps):
    turn, w = rotation(6), [0.5, 0.3, 0.2]
    spectra = [draw(6, seed=i).abs() + 0.1 for i in range(3)]
    inputs = [turn @ torch.diag(s) @ turn.mT for s in spectra]
    mean_root = sum(a * s.sqrt() for a, s in zip(w, spectra, strict=True))
    close(barycenter(inputs, w, n_steps=n_steps), turn @ torch.diag(mean_root**2) @ turn.mT)


@pytest.mark.parametrize("w", [0.1, 0.5, 0.8])
def test_of_two_it_is_on_the_geodesic(w):
    a, b = covariance(5), covariance(5, 1)
    half, identity = root(a), torch.eye(5, dtype=torch.float64)
    transport = torch.linalg.inv(half) @ root(half @ b @ half) @ torch.linalg.inv(half)
    step = (1 - w) * identity + w * transport
    ours = barycenter([a, b], [1 - w, w], tolerance=1e-13, n_steps=200)
    close(ours, step @ a @ step, rtol=1e-7, atol=1e-8)
    close(bures_distance(ours, a), w**2 * bures_distance(a, b), rtol=1e-6)
    if w == 0.5:
        close(objective(ours, [a, b], [1, 1]), bures_distance(a, b) / 4, rtol=1e-6)


def test_it_is_a_fixed_point_and_a_minimum():
    inputs, w = [covariance(6, i) for i in range(4)], [1.0, 2.0, 0.5, 1.5]
    ours = barycenter(inputs, w, tolerance=1e-13, n_steps=300)
    half = root(ours)
    mean_root = sum(a * root(half @ c @ half) for a, c in zip(w, inputs, strict=True)) / sum(w)
    close(mean_root, ours, rtol=1e-7, atol=1e-9)
    best = objective(ours, inputs, w)
    mean = sum(a * c for a, c in zip(w, inputs, strict=True)) / sum(w)
    assert all(best < objective(other, inputs, w) for other in [*inputs, mean])
    order = [2, 0, 3, 1]
    close(barycenter([inputs[i] for i in order], [w[i] for i in order], tolerance=1e-13, n_steps=300), ours, rtol=1e-8)


def test_degenerate_barycenters():
    a = covariance(5)
    close(barycenter([a, a, a], [1, 2, 3]), a)
    close(barycenter([a, covariance(5, 1)], [1.0, 0.0], tolerance=1e-13), a)


def test_damping_has_the_same_limit():
    inputs = [covariance(4, i) for i in range(3)]
    whole, half = (barycenter(inputs, [1, 1, 1], tolerance=1e-13, n_steps=400, damping=d) for d in (1.0, 0.5))
    close(whole, half, rtol=1e-7)


def test_nearly_singular_covariances_keep_their_small_eigenvalues():
    turn, w = rotation(8), [0.5, 0.5]
    spectra = [torch.logspace(0, -8, 8, dtype=torch.float64), 4 * torch.logspace(0, -7, 8, dtype=torch.float64)]
    inputs = [turn @ torch.diag(s) @ turn.mT for s in spectra]
    expected = (sum(a * s.sqrt() for a, s in zip(w, spectra, strict=True))) ** 2
    values = torch.linalg.eigvalsh(barycenter(inputs, w)).flip(0)
    close(values, expected, rtol=1e-5, atol=0)


def test_the_released_iteration_against_numpy():
    inputs, w = [1e-3 * covariance(4, i).numpy() for i in range(3)], np.array([0.2, 0.3, 0.5])

    def floored(m, exponent):
        s, u = np.linalg.eigh((m + m.T) / 2)
        return u @ np.diag(np.maximum(s, EPS) ** exponent) @ u.T

    ridged = [c + EPS * np.eye(4) for c in inputs]
    b = sum(a * c for a, c in zip(w, ridged, strict=True)) + EPS * np.eye(4)
    for _ in range(7):
        t = sum(a * floored(floored(b, 0.5) @ c @ floored(b, 0.5), 0.5) for a, c in zip(w, ridged, strict=True))
        b = floored(b, -0.5) @ t @ t @ floored(b, -0.5) + EPS * np.eye(4)
    ours = barycenter([torch.from_numpy(c) for c in inputs], [2, 3, 5], floor=EPS, n_steps=7, tolerance=0.0)
    close(ours, torch.from_numpy(b))


@pytest.mark.parametrize("seed", range(5))
def test_the_spread_about_the_barycenter_is_bounded_by_the_conflict(seed):
    """Lemma 1: sum_i w_i d^2(B_i, B) <= M g with M the largest tr B_i + tr B_j."""
    inputs, w = [covariance(5, 10 * seed + i) for i in range(3)], [0.2, 0.3, 0.5]
    spread = objective(barycenter(inputs, w), inputs, w)
    pairs = list(itertools.combinations(range(3), 2))
    largest = max(inputs[i].trace() + inputs[j].trace() for i, j in pairs)
    table = conflicts([power(c, 0.5) for c in inputs])
    assert spread <= largest * layer_conflict(table, w)


# whitening


def metric(d=9, q=4, outside=1e-4):
    basis = rotation(d)[:, :q]
    return Metric.of(covariance(q), basis, outside), basis


def test_whitening_is_the_dense_inverse_root_and_recolouring_undoes_it():
    ours, basis = metric()
    dense = basis @ covariance(4) @ basis.mT + 1e-4 * (torch.eye(9, dtype=torch.float64) - basis @ basis.mT)
    x = draw(2, 5, 9)
    close(ours.whitened(x), x @ torch.linalg.inv(root(dense)), rtol=1e-7, atol=1e-7)
    close(ours.recoloured(ours.whitened(x)), x)
    close(ours.norm(x[0]), (x[0] @ dense @ x[0].mT).trace().sqrt())
    close(ours.trace, dense.trace())


# the other signals


def test_alignment_is_one_within_a_subspace_and_zero_outside():
    basis = rotation(8)
    a, b = draw(5, 3) @ basis[:3], draw(5, 3, seed=1) @ basis[:3]
    other = draw(5, 2) @ basis[3:5]
    va, vb, vo = (leading_spectrum(x, 3).vectors for x in (a, b, other))
    close(alignment(a, b, va, vb), 1)
    close(alignment(a, other, va, vo), 0)
    wide = a + 2 * draw(5, 2, seed=2) @ basis[5:7]
    by_hand = (wide @ va).norm() / wide.norm()
    vw = leading_spectrum(wide).vectors
    close(alignment(wide, a, vw, va), (by_hand + 1) / 2)


def test_signals_are_means_over_pairs_and_layers():
    layers = [([draw(4, 6, seed=10 * k + i) for i in range(3)], draw(4, 6, seed=99 + k)) for k in range(2)]
    ours = signals(layers, rank=4, energy=1.0)
    active = [float(conflict(a, b)) for updates, _ in layers for a, b in itertools.combinations(updates, 2)]
    state = [float(conflict(a, merged)) for updates, merged in layers for a in updates]
    close(ours.active, np.mean(active))
    close(ours.state, np.mean(state))
    close(ours.overall, np.mean(active + state))
    close(ours.state_gap, np.mean(state) - np.mean(active))
    close(ours.global_gap, np.mean(active + state) - np.mean(active))
    alone = signals([([draw(4, 6)], draw(4, 6))])
    assert math.isnan(alone.active)
    close(alone.state, 0)


def test_gradient_conflict_and_norms():
    gradients = draw(3, 4, 5)
    flat = gradients.flatten(1).numpy()
    cosines = [flat[i] @ flat[j] / np.linalg.norm(flat[i]) / np.linalg.norm(flat[j])
               for i, j in itertools.combinations(range(3), 2)]
    ours = gradient_conflict([gradients])
    close(ours, [np.mean(cosines), min(cosines), np.mean(np.array(cosines) < 0)])
    layers = [draw(3, 4), draw(5)]
    close(update_norms(layers), [math.sqrt(sum(float(x.square().sum()) for x in layers)),
                                 sum(float(x.norm()) for x in layers)])

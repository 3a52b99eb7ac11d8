"""OPCM in float64 against the projection with the full basis and the recursion of the paper."""

import copy
import math

import pytest
import torch

from cl_framework.errors import ConfigError
from cl_framework.merging import Layer, Merger
from cl_framework.projection import basis_of, cut_of, projected
from cl_framework.state_dicts import merge_state_dicts
from cl_framework.strategies.opcm import OPCM

SHAPES = [(12, 8), (8, 12), (9, 9)]
READINGS = ["code", "paper"]
ALPHAS = [0.0, 0.3, 0.5, 0.8, 1.0]
LAYERS = [Layer(name="a.weight", kind="linear"), Layer(name="a.bias"), Layer(name="b.weight", kind="linear")]
SIZES = {"a.weight": (7, 5), "a.bias": (7,), "b.weight": (4, 7)}
every_case = [pytest.mark.parametrize("shape", SHAPES), pytest.mark.parametrize("reading", READINGS),
              pytest.mark.parametrize("alpha", ALPHAS)]


def cases(test):
    for mark in every_case:
        test = mark(test)
    return test


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pair(shape):
    return draw(*shape, seed=1), draw(*shape, seed=2)


def project(update, merged, alpha=0.5, reading="code", keeps=True, scope="numeric_rank"):
    basis = basis_of(merged, torch.float64, scope)
    return projected(update, basis, cut_of(basis.sigma, alpha, reading, keeps), reading)


def with_full_basis(update, merged, r, reading):
    """U (M * U^T T V) V^T, entry by entry of the mask."""
    u, sigma, vh = torch.linalg.svd(merged, full_matrices=True)
    c = u.T @ update @ vh.T
    for i in range(c.shape[0]):
        for j in range(c.shape[1]):
            is_cut = (i < r and j < r) if reading == "code" else (i < r or j < r)
            if is_cut or (i == j and i < len(sigma)):
                c[i, j] = 0
    return u @ c @ vh


def updates(n=4, scale=0.1, seed=0):
    return [{name: scale * draw(*size, seed=seed + 10 * t + i) for i, (name, size) in enumerate(SIZES.items())}
            for t in range(n)]


def merged_after(given, rule=None, layers=LAYERS):
    """The merger after each update."""
    merger, history = Merger(rule or OPCM(), layers), []
    for update in given:
        merger.absorb([update])
        history.append(({name: merger.factor * value for name, value in merger.merged.items()}, merger.totals))
    return history


def norm(update):
    return math.sqrt(sum(float(value.square().sum()) for value in update.values()))


def dot(a, b):
    return float((a * b).sum())


# 1, 2: the first expert, and the norm


def test_the_first_expert_is_the_model_to_the_bit():
    base = {name: draw(*size, seed=90 + i).float() for i, (name, size) in enumerate(SIZES.items())}
    expert = {name: value + 0.1 * draw(*value.shape, seed=3).float() for name, value in base.items()}
    merged = merge_state_dicts(OPCM(), base, [expert])
    assert all(torch.equal(merged[name], expert[name]) for name in base)
    first = updates(1)[0]
    (_, totals), = merged_after([first])
    assert totals.norm == totals.mean_norm == pytest.approx(norm(first), rel=1e-14)


@pytest.mark.parametrize("rule", [OPCM(), OPCM(projection="paper"), OPCM(alpha=0.9, diag_scope="all")])
def test_the_merged_update_has_the_mean_norm(rule):
    given = updates(6)
    for t, (merged, totals) in enumerate(merged_after(given, rule), 1):
        mean = sum(norm(update) for update in given[:t]) / t
        assert norm(merged) == pytest.approx(mean, rel=1e-12) == totals.mean_norm


# 3, 4, 5, 6, 7: the projector


@cases
def test_what_is_left_is_orthogonal_to_what_was_merged(shape, reading, alpha):
    update, merged = pair(shape)
    left = project(update, merged, alpha, reading)
    assert abs(dot(left, merged)) <= 1e-10 * float(update.norm() * merged.norm())


@cases
def test_nothing_is_left_where_the_reading_cuts(shape, reading, alpha):
    update, merged = pair(shape)
    u, sigma, vh = torch.linalg.svd(merged, full_matrices=True)
    r = cut_of(sigma, alpha, reading)
    c = u.T @ project(update, merged, alpha, reading) @ vh.T
    blocks = [c[:r, :r]] if reading == "code" else [c[:r], c[:, :r]]
    assert float(torch.cat([c.diagonal(), *(block.flatten() for block in blocks)]).abs().max()) <= 1e-10


@cases
def test_it_is_an_orthogonal_projector(shape, reading, alpha):
    (update, merged), other = pair(shape), draw(*shape, seed=3)
    once, second = (project(each, merged, alpha, reading) for each in (update, other))
    torch.testing.assert_close(project(once, merged, alpha, reading), once)
    torch.testing.assert_close(project(2 * update - other, merged, alpha, reading), 2 * once - second)
    assert dot(once, other) == pytest.approx(dot(update, second), abs=1e-10)
    assert once.norm() <= update.norm()


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("factor", [1.0, -3.0, 1e-4])
def test_a_multiple_of_what_was_merged_adds_nothing(reading, factor):
    merged = draw(6, 9)
    left = project(factor * merged, merged, 0.5, reading)
    assert float(left.norm()) <= 1e-12 * abs(factor) * float(merged.norm())


def test_linear_layers_alone_merged_twice_are_the_expert():
    first = {name: value for name, value in updates(1)[0].items() if name != "a.bias"}
    layers = [layer for layer in LAYERS if layer.name in first]
    _, (merged, _) = merged_after([first, copy.deepcopy(first)], layers=layers)
    for name, value in first.items():
        torch.testing.assert_close(merged[name], value)


def test_what_is_no_matrix_is_doubled_before_the_common_scale():
    first = updates(1)[0]
    merged, _ = merged_after([first, copy.deepcopy(first)])[-1]
    doubled = {name: 2 * value if name == "a.bias" else value for name, value in first.items()}
    for name, value in doubled.items():
        torch.testing.assert_close(merged[name], value * norm(first) / norm(doubled))


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("scale", [1e-6, 0.3, 1e5])
def test_the_scale_of_what_was_merged_does_not_matter(reading, scale):
    update, merged = pair((8, 12))
    torch.testing.assert_close(project(update, scale * merged, 0.5, reading), project(update, merged, 0.5, reading))


# 8: the recursion of the paper


@pytest.mark.parametrize("reading", READINGS)
def test_the_sum_that_is_kept_is_the_recursion_with_lambda(reading):
    given = updates(5)
    mean, factor, merged = norm(given[0]), 1.0, given[0]
    for t, (ours, totals) in enumerate(merged_after(given, OPCM(projection=reading, svd_dtype="float64")), 1):
        if t > 1:
            update = given[t - 1]
            mean = ((t - 1) * mean + norm(update)) / t
            total = {}
            for layer in LAYERS:
                value, old = update[layer.name], merged[layer.name]
                if layer.kind == "linear":
                    r = cut_of(torch.linalg.svdvals(old), 0.5, reading)
                    value = with_full_basis(value, old, r, reading)
                total[layer.name] = factor * old + value
            factor = norm(total) / mean
            merged = {name: value / factor for name, value in total.items()}
        for name in SIZES:
            torch.testing.assert_close(ours[name], merged[name], rtol=1e-10, atol=1e-12)
        assert totals.norm / totals.mean_norm == pytest.approx(factor, rel=1e-10)


def test_lambda_stays_near_the_root_of_t():
    layers, sizes = [Layer(name="w", kind="linear")], (40, 30)
    given = [{"w": draw(*sizes, seed=t)} for t in range(6)]
    _, totals = merged_after(given, layers=layers)[-1]
    assert totals.norm / totals.mean_norm == pytest.approx(math.sqrt(6), rel=0.1)


# 9, 10: how much is cut, and the thin form


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("keeps", [True, False])
def test_more_is_cut_as_alpha_rises(reading, keeps):
    sigma = torch.linalg.svdvals(draw(12, 8))
    cuts = [cut_of(sigma, alpha / 100, reading, keeps) for alpha in range(101)]
    assert cuts == sorted(cuts) and cuts[0] == 0 and cuts[-1] == 8


def test_the_cut_counts_singular_values():
    sigma = torch.tensor([5.0, 3.0, 2.0])
    shares = {0.0: (0, 0, 0), 0.49: (0, 0, 1), 0.5: (1, 0, 1), 0.51: (1, 1, 2), 0.8: (2, 1, 2), 0.9: (2, 2, 3)}
    for alpha, (code, keeping, removing) in shares.items():
        assert cut_of(sigma, alpha) == code
        assert cut_of(sigma, alpha, "paper") == keeping
        assert cut_of(sigma, alpha, "paper", keeps_r_alpha=False) == removing
    assert cut_of(torch.empty(0), 0.5) == cut_of(torch.empty(0), 0.5, "paper") == 0


@pytest.mark.parametrize("r", range(9))
def test_the_text_cuts_no_less_than_the_release_at_equal_r(r):
    update, merged = pair((12, 8))
    basis = basis_of(merged, torch.float64)
    assert projected(update, basis, r, "paper").norm() <= projected(update, basis, r, "code").norm() + 1e-12


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reading", READINGS)
def test_the_thin_form_is_the_full_one(shape, reading):
    update, merged = pair(shape)
    basis = basis_of(merged, torch.float64)
    for r in range(min(shape) + 1):
        torch.testing.assert_close(projected(update, basis, r, reading), with_full_basis(update, merged, r, reading),
                                   rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(60, 200), (200, 60)])
def test_the_short_way_in_float32_is_the_decomposition(shape):
    update, merged = pair(shape)
    short, exact = basis_of(merged.float()), basis_of(merged, torch.float64)
    torch.testing.assert_close(short.sigma.double(), exact.sigma, rtol=1e-5, atol=0)
    eye = torch.eye(60, dtype=torch.float64)
    for vectors in (short.u.double(), short.v.double()):
        torch.testing.assert_close(vectors.T @ vectors, eye, rtol=0, atol=2e-5)
    for reading in READINGS:
        ours = projected(update.float(), short, 15, reading)
        assert (ours.double() - projected(update, exact, 15, reading)).norm() < 1e-5 * update.norm()


# 11, 12, 15, 16: orthogonal tasks, other parameters, deficient ranks, zeros


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (0.2, 3, 1)])
def test_updates_in_rows_and_columns_of_their_own_are_summed(reading, sizes):
    layers, given = [Layer(name="w", kind="linear")], []
    for t, size in enumerate(sizes):
        value = torch.zeros(9, 12, dtype=torch.float64)
        value[3 * t:3 * t + 3, 4 * t:4 * t + 4] = draw(3, 4, seed=t)
        given.append({"w": size * value / value.norm()})
    merged, totals = merged_after(given, OPCM(projection=reading), layers)[-1]
    factor = math.sqrt(sum(size ** 2 for size in sizes)) / (sum(sizes) / 3)
    assert totals.norm / totals.mean_norm == pytest.approx(factor, rel=1e-6)
    torch.testing.assert_close(merged["w"], sum(each["w"] for each in given) / factor, rtol=1e-6, atol=1e-8)


def test_base_and_experts_stay_as_they_were():
    base = {name: draw(*size, seed=90) for name, size in SIZES.items()}
    experts = [{name: base[name] + value for name, value in update.items()} for update in updates(3)]
    given = copy.deepcopy((base, experts))
    merge_state_dicts(OPCM(), base, experts)
    for old, new in zip((given[0], *given[1]), (base, *experts), strict=True):
        assert all(torch.equal(old[name], new[name]) for name in SIZES)


def test_what_is_no_matrix_is_summed_before_the_common_scale():
    given = updates(4)
    merger = Merger(OPCM(), LAYERS)
    merger.absorb(given)
    torch.testing.assert_close(merger.merged["a.bias"], sum(update["a.bias"] for update in given))
    assert merger.factor == pytest.approx(merger.totals.mean_norm / norm(merger.merged))


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_directions_without_a_singular_value_do_not_matter(reading, alpha):
    update, merged = draw(12, 8), draw(12, 2, seed=1) @ draw(2, 8, seed=2)
    u, sigma, vh = torch.linalg.svd(merged, full_matrices=True)
    r = cut_of(sigma[:2], alpha, reading)
    ours = project(update, merged, alpha, reading)
    for seed in (3, 4):
        turn = torch.linalg.qr(draw(10, 10, seed=seed)).Q
        turned = torch.cat([u[:, :2], u[:, 2:] @ turn], 1)
        c = turned.T @ update @ vh.T
        c.diagonal()[:2] = 0
        if reading == "code":
            c[:r, :r] = 0
        else:
            c[:r], c[:, :r] = 0, 0
        torch.testing.assert_close(ours, turned @ c @ vh, rtol=1e-9, atol=1e-11)
    everything = project(update, merged, alpha, reading, scope="all")
    assert everything.norm() < ours.norm()


@pytest.mark.parametrize("scope", ["numeric_rank", "all"])
@pytest.mark.parametrize("reading", READINGS)
def test_an_update_of_zero_comes_first_or_later(scope, reading):
    zero = {name: torch.zeros_like(value) for name, value in updates(1)[0].items()}
    rule = OPCM(diag_scope=scope, projection=reading)
    (nothing, _), (merged, totals) = merged_after([zero, updates(1)[0]], rule)
    assert norm(nothing) == 0
    assert norm(merged) == pytest.approx(totals.mean_norm) == norm(updates(1)[0]) / 2
    for name, value in updates(1)[0].items():
        torch.testing.assert_close(merged[name], value / 2)
    assert all(bool(value.isfinite().all()) for value in merged_after([updates(1)[0], zero], rule)[-1][0].values())


# 13, 14, 17: state


def test_the_state_is_one_set_of_tensors_and_three_numbers():
    given = updates(5)
    before, merger = copy.deepcopy(given), Merger(OPCM(), LAYERS)
    for update in given:
        merger.absorb([update])
        state = merger.state_dict()
        assert {name: tuple(value.shape) for name, value in state["merged"].items()} == SIZES and state["kept"] == []
        assert state.keys() - {"merged", "kept"} == {"n_experts", "mean_norm", "norm"}
    assert all(torch.equal(old[name], new[name]) for old, new in zip(before, given, strict=True) for name in SIZES)


def test_the_order_changes_the_weights_and_not_the_norm():
    given = updates(4)
    (forwards, _), (backwards, _), (again, _) = (merged_after(each)[-1] for each in (given, given[::-1], given))
    assert norm(forwards) == pytest.approx(norm(backwards), rel=1e-12)
    assert not torch.allclose(forwards["a.weight"], backwards["a.weight"], rtol=1e-2)
    assert all(torch.equal(forwards[name], again[name]) for name in SIZES)


def test_taken_up_again_it_goes_on_with_the_same_bits(tmp_path):
    given, whole, half = updates(4), Merger(OPCM(), LAYERS), Merger(OPCM(), LAYERS)
    whole.absorb(given)
    half.absorb(given[:2])
    torch.save(half.state_dict(), tmp_path / "state")
    rest = Merger(OPCM(), LAYERS)
    rest.load_state_dict(torch.load(tmp_path / "state", weights_only=True), torch.device("cpu"))
    rest.absorb(given[2:])
    assert all(torch.equal(rest.merged[name], whole.merged[name]) for name in SIZES) and rest.totals == whole.totals


# options


def test_kernels_are_projected_as_matrices_when_asked():
    layers, (old, new) = [Layer(name="k.weight", kind="conv")], (draw(6, 4, 3, 3, seed=i) for i in (1, 2))
    given = [{"k.weight": old}, {"k.weight": new}]
    merger = Merger(OPCM(project_conv=True, svd_dtype="float64"), layers)
    merger.absorb(given)
    expected = old.flatten(1) + project(new.flatten(1), old.flatten(1))
    torch.testing.assert_close(merger.merged["k.weight"].flatten(1), expected)
    plain = Merger(OPCM(), layers)
    plain.absorb(given)
    assert torch.equal(plain.merged["k.weight"], old + new)


def test_other_matrices_are_projected_by_name():
    layers = [Layer(name="attention.in_proj_weight")]
    given = [{"attention.in_proj_weight": draw(6, 4, seed=i)} for i in (1, 2)]
    merger = Merger(OPCM(project_params="in_proj", svd_dtype="float64"), layers)
    merger.absorb(given)
    old, new = (each["attention.in_proj_weight"] for each in given)
    torch.testing.assert_close(merger.merged["attention.in_proj_weight"], old + project(new, old))
    with pytest.raises(ConfigError, match=r"OPCM\.project_params must be a regular expression, got '\('"):
        OPCM(project_params="(")


def test_the_release_leaves_parameters_of_inner_modules_with_the_first_expert():
    layers = [*LAYERS, Layer(name="token", is_leaf=False)]
    given = [{**update, "token": draw(5, seed=60 + t)} for t, update in enumerate(updates(3))]
    history = merged_after(given, OPCM(compat_skip_nonleaf=True), layers)
    first = given[0]["token"]
    scale = 1.0
    for merged, totals in history:
        scale *= totals.norm / totals.mean_norm
        torch.testing.assert_close(merged["token"], first / scale)
    assert norm(history[-1][0]) == pytest.approx(history[-1][1].mean_norm)


def test_figures_say_how_much_is_left():
    given = updates(2)
    merger = Merger(OPCM(svd_dtype="float64"), LAYERS)
    merger.absorb(given)
    shares, cosines = [], []
    for name in ("a.weight", "b.weight"):
        old, new = given[0][name], given[1][name]
        shares.append(float(project(new, old).norm() / new.norm()))
        cosines.append(dot(old, new) / float(old.norm() * new.norm()))
    assert merger.notes["retained_fraction"] == pytest.approx(sum(shares) / 2)
    assert merger.notes["cosine"] == pytest.approx(sum(cosines) / 2)


def test_it_beats_the_mean_where_experts_share_their_strongest_direction():
    """Linear regression: tasks share a strong direction, and each has one of its own; errors of the merged update."""
    shared = torch.outer(draw(10, seed=1), draw(10, seed=2))
    tasks = [shared + 0.5 * torch.outer(draw(10, seed=10 + t), draw(10, seed=20 + t)) for t in range(4)]
    merged = merged_after([{"w": task} for task in tasks], layers=[Layer(name="w", kind="linear")])[-1][0]["w"]
    own = [task - shared for task in tasks]
    kept = sum(dot(merged, each) / float(each.square().sum()) for each in own) / 4
    mean = sum(tasks) / 4
    assert kept > sum(dot(mean, each) / float(each.square().sum()) for each in own) / 4

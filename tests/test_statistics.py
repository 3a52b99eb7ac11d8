"""Intervals, paired tests and ranks against published tables, enumeration, closed forms and other packages' numbers."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from cl_framework.errors import ConfigError
from cl_framework.ranks import cliques, critical_difference, friedman, mean_ranks, rank_agreement
from cl_framework.statistics import bootstrap_interval, holm, paired, split_deviation, t_interval

# Demsar (2006), table 6: area under the curve on 14 data sets. The 0.9751 of C4.5+cf on "voting" is printed as 0.975.
AUC = {
    "C4.5": [.763, .599, .954, .628, .882, .936, .661, .583, .775, 1.0, .940, .619, .972, .957],
    "C4.5+m": [.768, .591, .971, .661, .888, .931, .668, .583, .838, 1.0, .962, .666, .981, .978],
    "C4.5+cf": [.771, .590, .968, .654, .886, .916, .609, .563, .866, 1.0, .965, .614, .9751, .946],
    "C4.5+m+cf": [.798, .569, .967, .657, .898, .931, .685, .625, .875, 1.0, .962, .669, .975, .970],
}
DEMSAR = {name: dict(enumerate(values)) for name, values in AUC.items()}


def blocks(values):
    return dict(enumerate(values))


def differences(values):
    """`paired` of these differences to 0."""
    return paired(blocks(values), blocks([0.0] * len(values)))


def share_as_extreme(weights, signs):
    """The share of all sign flips whose |sum| is at least the observed one, in exact integers."""
    observed = abs(sum(weight * sign for weight, sign in zip(weights, signs, strict=True)))
    flips = [abs(sum(weight * sign for weight, sign in zip(weights, flip, strict=True)))
             for flip in itertools.product((-1, 1), repeat=len(weights))]
    return sum(each >= observed for each in flips) / len(flips)


def doubled_ranks(magnitudes):
    """Twice the mean rank of each: integers even for ties."""
    return [2 * sum(other < each for other in magnitudes) + sum(other == each for other in magnitudes) + 1
            for each in magnitudes]


@pytest.mark.parametrize(("n", "level", "t"), [(2, 0.95, 12.706), (5, 0.95, 2.776), (10, 0.95, 2.262),
                                               (31, 0.95, 2.042), (5, 0.90, 2.132), (5, 0.99, 4.604)])
def test_t_interval_is_that_of_the_printed_table(n, level, t):
    values = [0.7 + 0.01 * (i * 7 % 5) + 0.001 * i for i in range(n)]
    mean, std = np.mean(values), np.std(values, ddof=1)
    assert t_interval(values, level) == pytest.approx((mean - t * std / n**0.5, mean + t * std / n**0.5), rel=1e-4)


def test_one_value_has_no_interval_and_equal_values_one_of_no_width():
    assert t_interval([0.3]) is None and bootstrap_interval([0.3]) is None
    assert t_interval([0.3] * 4) == pytest.approx((0.3, 0.3)) == bootstrap_interval([0.3] * 4)


def test_the_bootstrap_interval_of_symmetric_values_is_the_percentile_one_of_a_binomial():
    """Resamples of 20 zeros and 20 ones: their mean is binomial(40, 1/2) / 40, whose quantiles are known."""
    expected = stats.binom.ppf([0.025, 0.975], 40, 0.5) / 40
    assert bootstrap_interval([0.0] * 20 + [1.0] * 20) == pytest.approx(expected, abs=1 / 40)


def test_the_bootstrap_interval_is_efrons_formula_and_not_the_percentiles():
    """BCa by hand, with resamples of its own: acceleration is sum d^3 / (6 (sum d^2)^1.5), d = x - mean."""
    values = np.array([0.0, 0.01, 0.02, 0.02, 0.03, 0.05, 0.08, 0.13, 0.21, 0.9])
    means = np.random.default_rng(11).choice(values, (100_000, 10)).mean(axis=1)
    bias = stats.norm.ppf((means < values.mean()).mean())
    d = values - values.mean()
    acceleration = (d**3).sum() / (6 * (d**2).sum() ** 1.5)
    z = bias + stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    assert bootstrap_interval(values.tolist()) == pytest.approx(expected, rel=0.05)
    assert np.quantile(means, 0.975) < 0.8 * expected[1]


def test_the_bootstrap_interval_follows_the_skew_and_repeats_for_its_seed():
    values = [0.0, 0.01, 0.02, 0.02, 0.03, 0.05, 0.08, 0.13, 0.21, 0.9]
    low, high = bootstrap_interval(values)
    assert high - np.mean(values) > np.mean(values) - low > 0  # a long tail above pulls the interval upwards
    assert bootstrap_interval(values) == (low, high) != bootstrap_interval(values, seed=1)
    inner = bootstrap_interval(values, level=0.8)
    assert low < inner[0] < inner[1] < high


@pytest.mark.parametrize("steps", [[3, 1, -2, 4, 5], [1, 2, -3], [5, 5, 5, 5, -5, 5], [1, 0, 0, -2, 4, 8, 8, 1],
                                   [-7, -6, -5, -9], [1, -1], [4, 3, 2, 1, -1, -2, 7, 8, 9, -3, 5, 6]])
def test_p_values_count_every_flip_of_signs(steps):
    """Differences in hundredths, of accuracies whose floating-point differences are not equal where they should be."""
    first, second = blocks([(50 + step) / 100 for step in steps]), blocks([50 / 100 for _ in steps])
    test = paired(first, second)
    magnitudes, signs = [abs(step) for step in steps], [1 if step > 0 else -1 for step in steps]
    assert test.is_exact and test.n == len(steps)
    assert test.p_permutation == pytest.approx(share_as_extreme(magnitudes, signs))
    nonzero = [(abs(step), sign) for step, sign in zip(steps, signs, strict=True) if step]
    ranks, signs = doubled_ranks([size for size, _ in nonzero]), [sign for _, sign in nonzero]
    assert test.p_wilcoxon == pytest.approx(share_as_extreme(ranks, signs))
    balance = sum(rank * sign for rank, sign in zip(ranks, signs, strict=True)) / sum(ranks)
    assert test.rank_biserial == pytest.approx(balance)
    assert test.mean_difference == pytest.approx(sum(steps) / len(steps) / 100)
    swapped = paired(second, first)
    assert (swapped.p_permutation, swapped.p_wilcoxon) == pytest.approx((test.p_permutation, test.p_wilcoxon))
    assert (swapped.mean_difference, swapped.rank_biserial) == (-test.mean_difference, -test.rank_biserial)


def test_the_rounding_of_sums_hides_no_tie():
    """0.1 + 0.2 - 0.3 is not 0 in floating point, so that equal sums and equal differences are not."""
    test = differences([0.1, 0.2, -0.3, 1e-3])
    assert test.p_permutation == 1.0  # every |sum| is at least 0.001
    assert differences([0.1 + 0.2, 0.3, -0.3]).rank_biserial == pytest.approx(1 / 3)  # three ties of rank 2
    third = paired(blocks([1 / 3 + 0.1, 2 / 3, 0.5]), blocks([0.1, 1 / 3, 0.5 + 1e-17]))  # 1/3, 1/3 and 0
    assert (third.p_permutation, third.p_wilcoxon) == (0.5, 0.5)


@pytest.mark.parametrize("n", [*range(1, 13), 16])
def test_no_p_is_below_the_smallest_possible(n):
    test = differences([0.01 * (i + 1) for i in range(n)])
    assert test.p_permutation == pytest.approx(test.smallest_p) == 0.5 ** (n - 1)
    assert test.p_wilcoxon == (None if n == 1 else pytest.approx(test.smallest_p))
    assert test.rank_biserial == 1.0


def test_one_block_and_equal_differences():
    one = paired({(0, 1): 0.75}, {(0, 1): 0.5})
    assert (one.n, one.mean_difference, one.interval, one.d_z, one.p_permutation) == (1, 0.25, None, None, 1.0)
    same = paired(blocks([0.5, 0.7]), blocks([0.5, 0.7]))
    assert (same.p_permutation, same.p_wilcoxon, same.rank_biserial, same.d_z) == (1.0, None, None, None)
    constant = paired(blocks([0.9, 0.8, 0.7]), blocks([0.8, 0.7, 0.6]))  # 0.1 each, but for the last bits
    assert constant.d_z is None and constant.interval == pytest.approx((0.1, 0.1))


def test_the_effect_size_and_the_interval_are_those_of_the_differences():
    """d = 1, 2, 3, 4, 5: mean 3, deviation sqrt(2.5), t_{0.975, 4} = 2.776445."""
    test = paired(blocks([3, 4, 9, 9, 9]), blocks([2, 2, 6, 5, 4]))
    assert test.d_z == pytest.approx(3 / math.sqrt(2.5))
    assert test.interval == pytest.approx((3 - 2.776445 / math.sqrt(2), 3 + 2.776445 / math.sqrt(2)), rel=1e-6)


def test_blocks_are_matched_by_name_and_not_by_place():
    assert paired({"x": 1.0, "y": 5.0}, {"y": 4.0, "x": 0.0}).mean_difference == 1.0
    with pytest.raises(ConfigError) as caught:
        paired({(0, 0): 0.5, (0, 1): 0.5}, {(0, 0): 0.5, (0, 2): 0.5})
    assert caught.value.faults == [
        "'first' has no value at (0, 2), where others have one; add that run, or leave (0, 2) out for all",
        "'second' has no value at (0, 1), where others have one; add that run, or leave (0, 1) out for all"]


def test_many_blocks_are_flipped_at_random_close_to_the_normal_limit():
    rng = np.random.default_rng(3)
    values = rng.normal(0.25, 1.0, 60)
    test = differences(values.tolist())
    limit = 2 * stats.norm.sf(abs(values.sum()) / math.sqrt((values**2).sum()))
    assert not test.is_exact and test.p_permutation == pytest.approx(limit, abs=0.01)
    assert test == differences(values.tolist())
    assert test.p_permutation != paired(blocks(values), blocks([0.0] * 60), seed=1).p_permutation


def test_c45_with_and_without_tuned_m():
    """Ten of twelve non-zero differences are positive; by hand R- = 1.5 + 5 and R+ = 78 - 6.5."""
    test = paired(DEMSAR["C4.5+m"], DEMSAR["C4.5"])
    assert test.rank_biserial == pytest.approx(65 / 78)
    thousandths = [round(1000 * (m - plain)) for m, plain in zip(AUC["C4.5+m"], AUC["C4.5"], strict=True)]
    nonzero = [each for each in thousandths if each]
    assert test.p_wilcoxon == pytest.approx(
        share_as_extreme(doubled_ranks([abs(each) for each in nonzero]), [math.copysign(1, each) for each in nonzero]))


@pytest.mark.parametrize(("given", "adjusted"), [
    # statsmodels 0.15.0, multipletests(..., method="holm")[1]
    ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
    ([0.2, 0.001, 0.001, 0.5, 0.04], [0.4, 0.005, 0.005, 0.5, 0.12]),
    ([0.9, 0.6, 0.7], [1.0, 1.0, 1.0]),
    ([0.03], [0.03]), ([0.0, 1.0], [0.0, 1.0])])
def test_holm_is_that_of_statsmodels(given, adjusted):
    names = [f"er vs {i}" for i in range(len(given))]
    found = holm(dict(zip(names, given, strict=True)))
    assert list(found) == names and list(found.values()) == pytest.approx(adjusted)


def test_ranks_of_demsars_table_6():
    assert {name: round(rank, 3) for name, rank in mean_ranks(DEMSAR).items()} == {
        "C4.5": 3.143, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}


def test_friedmans_statistic_is_demsars_before_the_correction_for_ties():
    """chi^2 = 9.28 in the paper; ties of 2, 2, 4 and 2 divide it by 1 - (6 + 6 + 60 + 6) / (14 4 (16 - 1))."""
    sums = [44, 28, 40.5, 27.5]
    chi_square = 12 * 14 / (4 * 5) * (sum((each / 14) ** 2 for each in sums) - 4 * 25 / 4)
    assert round(chi_square, 2) == 9.28
    assert friedman(DEMSAR) == pytest.approx(stats.chi2.sf(chi_square / (1 - 78 / 840), 3))
    assert friedman(DEMSAR) == pytest.approx(0.0167215803284414)  # SciPy's own test, checked there with MATLAB and R


def test_friedman_of_ties_alone_and_of_too_few():
    tied = {name: {0: 0.3, 1: 0.1 + 0.2} for name in "abc"}
    assert friedman(tied) == 1.0
    with pytest.raises(ConfigError, match=r"three strategies or more, got 2; use paired\(\)"):
        friedman({"a": {0: 1.0}, "b": {0: 2.0}})


def test_ties_share_ranks_and_lower_may_be_better():
    table = {"a": {0: 0.1 + 0.2, 1: 9.0}, "b": {0: 0.3, 1: 5.0}, "c": {0: 0.2, 1: 7.0}}
    assert mean_ranks(table) == {"a": 1.25, "b": 2.25, "c": 2.5}
    assert mean_ranks(table, higher_is_better=False) == {"a": 2.75, "b": 1.75, "c": 1.5}
    assert mean_ranks({"only": {0: 0.3}}) == {"only": 1.0}


@pytest.mark.parametrize(("alpha", "quantiles"), [
    (0.05, [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]),
    (0.10, [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920])])
def test_quantiles_are_those_of_demsars_table_5a(alpha, quantiles):
    for k, quantile in enumerate(quantiles, start=2):
        found = critical_difference(k, 7, alpha) / math.sqrt(k * (k + 1) / (6 * 7))
        assert found == pytest.approx(quantile, abs=1e-3)  # printed, some of them cut and not rounded


def test_critical_differences_of_the_paper_and_of_nonsense():
    assert round(critical_difference(4, 14, 0.10), 2) == 1.12  # section 3.2.4
    for k, n in ((1, 5), (3, 0)):
        with pytest.raises(ConfigError, match="expected two strategies or more and a block"):
            critical_difference(k, n)
    with pytest.raises(ConfigError, match=r"alpha=1\.5 is not between 0 and 1"):
        critical_difference(3, 5, 1.5)


def brute_force_cliques(ranks, difference):
    names = sorted(ranks)
    fitting = [set(group) for size in range(2, len(names) + 1) for group in itertools.combinations(names, size)
               if max(ranks[name] for name in group) - min(ranks[name] for name in group) < difference]
    return {frozenset(group) for group in fitting if not any(group < other for other in fitting)}


@pytest.mark.parametrize("seed", range(20))
def test_cliques_are_the_maximal_ones_of_all_subsets(seed):
    rng = np.random.default_rng(seed)
    ranks = dict(zip("abcdefgh", (rng.integers(2, 17, 8) / 2).tolist(), strict=True))
    for difference in (0.5, 1.25, 3.0, 9.0):
        found = cliques(ranks, difference)
        assert {frozenset(group) for group in found} == brute_force_cliques(ranks, difference)
        assert len(found) == len({frozenset(group) for group in found})
        assert [ranks[group[0]] for group in found] == sorted(ranks[group[0]] for group in found)


def test_strategies_that_differ_by_just_the_critical_difference_differ():
    assert cliques({"a": 1.0, "b": 2.0}, 1.0) == []
    assert cliques({"b": 2.0, "a": 1.0}, 1.01) == [("a", "b")]


def test_the_phases_of_demsars_methods_agree_by_hand():
    """Two of ten pairs are discordant: tau = 6 / 10; squared rank differences 2: rho = 1 - 6 * 4 / (5 * 24)."""
    tuning = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6, "e": 0.5}
    evaluation = {"b": 0.50, "a": 0.40, "c": 0.30, "e": 0.20, "d": 0.10}
    agreement = rank_agreement(tuning, evaluation)
    assert agreement.kendall_tau == pytest.approx(0.6) and agreement.spearman == pytest.approx(0.8)
    assert agreement.ranks == {"a": (1, 2), "b": (2, 1), "c": (3, 3), "d": (4, 5), "e": (5, 4)}
    costs = rank_agreement(tuning, evaluation, higher_is_better=False)
    assert costs.kendall_tau == pytest.approx(0.6) and costs.ranks["a"] == (5, 4)


def test_tau_b_corrects_for_ties_and_a_constant_phase_has_none():
    """Pairs: 5 concordant, none discordant, one tied in the first phase: tau-b = 5 / sqrt(5 * 6)."""
    agreement = rank_agreement({"a": 3, "b": 2, "c": 2, "d": 1}, {"a": 4, "b": 3, "c": 2, "d": 1})
    assert agreement.kendall_tau == pytest.approx(5 / math.sqrt(30))
    assert agreement.ranks["b"] == (2.5, 2.0)
    flat = rank_agreement({"a": 1, "b": 1}, {"a": 1, "b": 2})
    assert flat.kendall_tau is None and flat.spearman is None
    assert rank_agreement({"a": 1}, {"a": 1}).kendall_tau is None


@pytest.mark.parametrize("call", [
    lambda: t_interval([]), lambda: bootstrap_interval([]), lambda: paired({}, {}), lambda: holm({}),
    lambda: mean_ranks({}), lambda: mean_ranks({"a": {}}), lambda: friedman({}), lambda: cliques({}, 1.0),
    lambda: rank_agreement({}, {})])
def test_nothing_is_refused(call):
    with pytest.raises(ConfigError, match="there are no values to compare; expected one a run"):
        call()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: t_interval([0.1, math.nan]), "'values' is nan at 1; expected a finite number"),
    (lambda: bootstrap_interval([math.inf]), "'values' is inf at 0"),
    (lambda: paired({"order 1": math.nan}, {"order 1": 0.5}), "'first' is nan at 'order 1'"),
    (lambda: holm({"er vs naive": math.nan}), "'p' is nan at 'er vs naive'"),
    (lambda: holm({"er vs naive": -0.1}), "the p-value of 'er vs naive' is -0.1; expected one from 0 to 1"),
    (lambda: friedman({"a": {1: 0.1}, "b": {1: math.nan}, "c": {1: 0.2}}), "'b' is nan at 1"),
    (lambda: mean_ranks({"a": {1: 0.1}, "b": {2: 0.1}}), "'a' has no value at 2"),
    (lambda: rank_agreement({"er": 1.0}, {"si": 1.0}), "'first' has no value at 'si'"),
    (lambda: cliques({"er": math.nan}, 1.0), "'ranks' is nan at 'er'"),
    (lambda: t_interval([0.1, 0.2], level=95), "level=95 is not between 0 and 1"),
    (lambda: bootstrap_interval([0.1, 0.2], level=0), "level=0 is not between 0 and 1")])
def test_what_is_no_number_is_named(call, message):
    with pytest.raises(ConfigError) as caught:
        call()
    assert message in str(caught.value)


ORDERS = {"a": [0.71, 0.74, 0.69], "b": [0.60, 0.66, 0.63], "c": [0.80, 0.78, 0.88], "d": [0.52, 0.49, 0.55]}
UNEVEN = {"a": [0.71, 0.74, 0.69, 0.70], "b": [0.60], "c": [0.80, 0.78]}


def clustered(table):
    return [value for row in table.values() for value in row], [name for name, row in table.items() for _ in row]


def test_the_interval_of_equal_clusters_is_students_of_their_means():
    means = [np.mean(row) for row in ORDERS.values()]
    expected = stats.t.interval(0.95, 3, loc=np.mean(means), scale=stats.sem(means))
    values, clusters = clustered(ORDERS)
    assert t_interval(values, clusters=clusters) == pytest.approx(expected)
    assert t_interval(values)[0] > expected[0]  # twelve independent values would say more
    assert t_interval(values, clusters=range(12)) == pytest.approx(t_interval(values))
    assert t_interval(values, clusters=["a"] * 12) is None


def test_the_interval_of_uneven_clusters_is_the_sandwich_by_hand():
    """Ordinary least squares on a constant: (X'X)^-1 (sum_c X_c' u_c u_c' X_c) (X'X)^-1 with G / (G - 1)."""
    values, clusters = clustered(UNEVEN)
    x, u = np.ones((7, 1)), np.array(values) - np.mean(values)
    meat = sum(np.outer(score, score) for score in (
        x[np.array(clusters) == c].T @ u[np.array(clusters) == c] for c in "abc"))
    bread = np.linalg.inv(x.T @ x)
    error = math.sqrt((3 / 2 * bread @ meat @ bread).item())
    half = stats.t.ppf(0.975, 2) * error
    assert t_interval(values, clusters=clusters) == pytest.approx((np.mean(values) - half, np.mean(values) + half))


def test_the_bootstrap_draws_whole_clusters():
    """Of two clusters: means 0 and 1 with equal chance 1/4, their middle with 1/2, whatever is inside."""
    values, clusters = [0.0] * 30 + [1.0] * 30, ["a"] * 30 + ["b"] * 30
    assert bootstrap_interval(values, clusters=clusters) == (0.0, 1.0)
    low, high = bootstrap_interval(values)
    assert 0.3 < low < high < 0.7
    assert bootstrap_interval(values, clusters=["a"] * 60) is None
    even = bootstrap_interval([np.mean(row) for row in ORDERS.values()])
    assert bootstrap_interval(*clustered(ORDERS)[:1], clusters=clustered(ORDERS)[1]) == pytest.approx(even)


@pytest.mark.parametrize("table", [ORDERS, UNEVEN])
def test_the_sources_of_deviation_follow_from_scipys_f(table):
    """F = MSB / MSW; pooled sample variances are MSW; n_0 = (N - sum n^2 / N) / (a - 1)."""
    rows, n = list(table.values()), sum(map(len, table.values()))
    within = sum((len(row) - 1) * np.var(row, ddof=1) for row in rows if len(row) > 1) / (n - len(rows))
    size = (n - sum(len(row)**2 for row in rows) / n) / (len(rows) - 1)
    found = split_deviation(*clustered(table))
    assert found.within == pytest.approx(math.sqrt(within))
    assert found.between == pytest.approx(math.sqrt(within * (stats.f_oneway(*rows).statistic - 1) / size))


def test_the_sources_of_deviation_are_found_in_simulated_runs():
    rng = np.random.default_rng(4)
    orders = rng.normal(0, 3.0, 2000)
    values = (orders[:, None] + rng.normal(0, 1.0, (2000, 4))).ravel().tolist()
    found = split_deviation(values, [i // 4 for i in range(8000)])
    assert (found.between, found.within) == pytest.approx((3.0, 1.0), rel=0.05)


def test_a_source_that_cannot_be_seen_is_not_reported():
    assert split_deviation([1.0, 2.0, 3.0], ["a", "b", "c"]) is None
    assert split_deviation([1.0, 2.0, 3.0], ["a", "a", "a"]) is None
    assert split_deviation([1.0, 3.0, 1.0, 3.0], ["a", "a", "b", "b"]).between == 0.0  # never negative


def test_neither_torch_nor_scipy_stats_is_imported_before_it_is_needed():
    code = "import sys, cl_framework.ranks; assert not {'torch', 'scipy.stats', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

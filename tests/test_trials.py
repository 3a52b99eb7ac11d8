"""Which trial wins: the mean over seeds, what a failure counts, ties, and trials that are stopped early."""

import math
import random
import statistics

import pytest

from cl_framework.errors import ClfError
from cl_framework.search import Space, draw
from cl_framework.trials import Score, Trial, is_hopeless, leader, ranked, winner

METRIC = "average_incremental_accuracy"
CHANCE = {METRIC: 0.2, "average_accuracy": 0.1}


def trial(number, values, *, average=0.5, n_parameters=10, state="complete"):
    scores = {seed: Score.of({METRIC: value, "average_accuracy": average, "n_parameters": n_parameters}, METRIC, CHANCE)
              for seed, value in enumerate(values)}
    return Trial(number=number, values={}, scores=scores, state=state)


def test_the_winner_has_the_largest_mean_and_not_the_best_seed():
    assert winner([trial(0, [0.9, 0.1, 0.1]), trial(1, [0.4, 0.5, 0.6])]).number == 1


def test_ties_go_to_average_accuracy_then_to_fewer_parameters_then_to_the_first():
    same = [0.5, 0.5]
    assert [each.number for each in ranked([
        trial(0, same, average=0.3), trial(1, same, average=0.4, n_parameters=20),
        trial(2, same, average=0.4, n_parameters=10), trial(3, same, average=0.4, n_parameters=10)])] == [2, 3, 1, 0]


def test_a_number_that_is_not_finite_counts_as_chance_and_is_listed():
    bad = trial(0, [0.9, math.nan])
    assert bad.mean == pytest.approx((0.9 + 0.2) / 2) and list(bad.failures) == [1]
    assert winner([bad, trial(1, [0.6, 0.6])]).number == 1
    assert winner([bad, trial(1, [0.5, 0.5])]).number == 0


def test_a_pruned_trial_does_not_win_and_without_a_finished_run_nobody_does():
    assert winner([trial(0, [0.9], state="pruned"), trial(1, [0.5, 0.5])]).number == 1
    with pytest.raises(ClfError, match=r"no run of the search finished.*not finite"):
        winner([trial(0, [math.nan, math.nan], state="failed")])


def test_a_failed_run_counts_the_chance_level_of_each_metric():
    bad = Score.of({}, METRIC, CHANCE, failure="the loss is not finite")
    assert (bad.value, bad.average_accuracy, bad.n_parameters) == (0.2, 0.1, math.inf)
    assert Score.of({}, METRIC, {METRIC: 0.3}, failure="no").average_accuracy == 0.3
    low = trial(1, [0.2, 0.2], average=0.15)
    assert ranked([trial(0, [0.2, math.nan], average=0.15), low])[0] is low, "the tie goes to the finished seeds"


def test_a_trial_without_a_finished_seed_is_behind_one_that_is_below_chance():
    failed, low, partly = trial(0, [math.nan] * 2, state="failed"), trial(1, [0.05, 0.15]), trial(2, [0.01, math.nan])
    assert failed.mean == pytest.approx(0.2)
    assert [each.number for each in ranked([failed, low, partly])] == [2, 1, 0]
    assert winner([failed, low]) is low and leader([failed]) is None and leader([low, failed]) is low


def test_hopeless_is_below_the_median_at_as_many_seeds():
    others = [trial(0, [0.5, 0.9]), trial(1, [0.6, 0.1]), trial(2, [0.7, 0.5]), trial(9, [0.99], state="running")]
    assert is_hopeless(trial(3, [0.59]), others, 2) and not is_hopeless(trial(3, [0.6]), others, 2)
    assert not is_hopeless(trial(3, [0.1, 0.1]), others, 2), "a whole trial is not stopped"
    assert not is_hopeless(trial(3, [0.1]), [], 2), "there is nothing to compare with"


def test_the_winners_curse_grows_with_the_number_of_trials():
    """What the winner showed while tuning exceeds what it is worth, the more the more were tried."""
    space = Space({f"h{axis}": tuple(range(5)) for axis in range(4)})
    gaps = []
    for n_trials in (1, 4, 16, 64):
        found = []
        for repeat in range(200):
            noise, tried, worth = random.Random(f"{n_trials} {repeat}"), [], {}
            for r in range(n_trials):
                worth[r] = 0.5 + 0.005 * sum(draw(space, f"toy {repeat}", r).values())
                tried.append(trial(r, [worth[r] + noise.gauss(0, 0.05) for _ in range(3)]))
            best = winner(tried)
            found.append(best.mean - worth[best.number])
        gaps.append(statistics.fmean(found))
    assert abs(gaps[0]) < 0.01 and gaps == sorted(gaps) and gaps[-1] > gaps[1] + 0.01 > 0.01

"""The fast half on tables of scores: the frontier, acceptance, budgets (S9), and the package `gepa` beside it."""

import random
from collections import Counter

import pytest
import torch

from cl_framework import pareto
from cl_framework.attempts import Attempts
from cl_framework.problems import Checked, Problem, Verdict
from cl_framework.prompt_evolution import Minibatches, Rules, evolve
from cl_framework.prompt_pool import Pool, Prompt, as_plain, different, diversity, from_plain
from cl_framework.reflectors import Reflection, Trial
from cl_framework.tabular_policy import TabularPolicy

SEED = Prompt(name="p0", text="0")


class Counting:
    """A task in which the prompt is a number, and the reward of problem i is clipped(number - i) / 2."""

    def __init__(self, noise=0.0):
        self.calls, self.draws, self.noise = 0, random.Random(0), noise

    def __call__(self, prompt, rows):
        self.calls += len(rows)
        return [Trial(problem=str(row), reply=prompt.text, reward=self.reward(prompt.text, row), feedback="more")
                for row in rows]

    def reward(self, text, row):
        value = min(max((int(text) - row % 3) / 4, 0.0), 1.0)
        return min(max(value + self.noise * (self.draws.random() - 0.5), 0.0), 1.0)


class Stepping:
    """Proposes the number plus a draw of -1, 0, 1 or 2."""

    def __init__(self):
        self.calls = 0

    def reflect(self, prompt, trials, generator):
        self.calls += 1
        return Reflection(str(int(prompt) + int(torch.randint(-1, 3, (), generator=generator))), "step")


def _evolve(attempt, reflector, *, n=6, seeds=(SEED,), seed=0, **fields):
    rules = Rules(**{"n_kept": 2, "budget": 60, **fields})
    return evolve(seeds, n, attempt, reflector, rules, torch.Generator().manual_seed(seed), n_known=len(seeds))


# the frontier

def test_specialists_stay_and_the_dominated_go():
    scores = [[1, 0, 0, 0.5], [0, 1, 0, 0.5], [0, 0.5, 1, 0], [0.9, 0.9, 0.9, 0.4], [0, 1, 0, 0]]
    assert pareto.fronts(scores) == [{0}, {1, 4}, {2}, {0, 1}]
    assert pareto.frontier(scores) == {0: 2, 1: 2, 2: 1}, "4 is only where 1 is; 3 is never best"


def test_top_ranks_the_frontier_then_the_others_then_repeats():
    scores = [[1, 0, 0, 0], [0, 1, 1, 0], [0.9, 0.9, 0.9, 0], [0, 0, 0, 1]]
    assert pareto.top(scores, 2) == [1, 0], "by mean score, ties by age"
    assert pareto.top(scores, 4) == [1, 0, 3, 2]
    assert pareto.top(scores, 6) == [1, 0, 3, 2, 1, 0]
    assert pareto.best(scores, 2) == [2, 1]


def test_parents_are_drawn_by_the_number_of_their_fronts():
    scores = [[1, 1, 1, 0], [0, 0, 0, 1], [0.5, 0.5, 0.5, 0.5]]
    drawn = Counter(pareto.draw_parent(scores, torch.Generator().manual_seed(seed)) for seed in range(800))
    assert set(drawn) == {0, 1} and 0.70 < drawn[0] / 800 < 0.80


def test_the_frontier_is_that_of_the_package_gepa():
    """On random score tables: the same fronts, the same survivors, the same weights."""
    utils = pytest.importorskip("gepa.gepa_utils", reason="pip install cl-framework[dev] brings gepa")
    draws = random.Random(0)
    for _ in range(200):
        rows, columns = draws.randint(1, 7), draws.randint(1, 9)
        scores = [[draws.choice([0.0, 0.5, 1.0]) + 1e-9 * row for _ in range(columns)] for row in range(rows)]
        scores = [[round(value, 1) for value in row] for row in scores]
        means = [sum(row) / columns + 1e-6 * place for place, row in enumerate(scores)]
        theirs = {column: {row for row in range(rows) if scores[row][column] == max(each[column] for each in scores)}
                  for column in range(columns)}
        assert [theirs[column] for column in range(columns)] == [set(front) for front in pareto.fronts(scores)]
        kept = utils.remove_dominated_programs(theirs, scores=means)
        counts = Counter(row for front in kept.values() for row in front)
        assert dict(pareto.frontier(scores)) == dict(counts)


def test_minibatches_use_every_problem_once_an_epoch_and_pad_with_the_least_used():
    draw = Minibatches(7, 3, torch.Generator().manual_seed(0))
    epoch = [problem for _ in range(3) for problem in draw.next()]
    assert sorted(epoch[:7]) == list(range(7)) and len(epoch) == 9 and max(Counter(epoch).values()) == 2
    again = Minibatches(7, 3, torch.Generator().manual_seed(0))
    assert [problem for _ in range(3) for problem in again.next()] == epoch
    assert sorted(draw.next() + draw.next() + draw.next())[0] == 0


# the loop

def test_a_child_needs_more_and_not_as_much():
    """All children equal their parents on every problem: none is ever accepted."""
    class Same:
        def __init__(self):
            self.n = 0

        def reflect(self, prompt, trials, generator):
            self.n += 1
            return Reflection(f"{self.n}", "same")

    class Flat(Counting):
        def reward(self, text, row):
            return 0.5

    found = _evolve(Flat(), Same())
    assert found.counts.accepted == 0 and found.counts.rejected > 0 and not found.born
    assert [prompt.name for prompt in found.population] == ["p0", "p0"], "K prompts, the same again"


@pytest.mark.parametrize("seed", range(8))
def test_the_budget_counts_every_reply_and_is_passed_by_one_iteration_at_most(seed):
    task, reflector = Counting(), Stepping()
    found = _evolve(task, reflector, seed=seed, budget=50)
    assert found.counts.metric_calls == task.calls
    assert 50 <= found.counts.metric_calls < 50 + 2 * 3 + 6
    assert found.counts.reflector_calls == reflector.calls


@pytest.mark.parametrize("seed", range(8))
def test_the_best_is_never_below_the_seed(seed):
    """Each candidate is tried on all problems, and replies are determined by the prompt."""
    found = _evolve(Counting(), Stepping(), seed=seed)
    means = dict(zip([each.name for each in found.pool.prompts], found.pool.means, strict=True))
    assert max(means[prompt.name] for prompt in found.population) >= means["p0"]
    assert max(means.values()) > means["p0"]
    assert len(found.population) == 2
    for prompt in found.born:
        assert prompt.score == pytest.approx(means[prompt.name]) and prompt.parent is not None


def test_carried_prompts_are_tried_anew_outside_the_budget_or_inside():
    carried = [SEED, Prompt(name="p1", text="2", parent="p0", score=0.9)]
    for is_charged, calls in ((False, 0), (True, 12)):
        task = Counting()
        found = evolve(carried, 6, task, Stepping(),
                       Rules(n_kept=2, budget=calls, is_carried_charged=is_charged), torch.Generator(), n_known=2,
                       is_carried=True)
        assert task.calls == 12 and found.counts.carried_calls == 12 - calls and found.counts.metric_calls == calls
    assert found.pool.means[1] == pytest.approx((2 + 1 + 0) * 2 / 6 / 4), "the old score is forgotten"


def test_carried_prompts_are_replaced_by_better_ones():
    """What was right for the last task and is not for this one leaves the population (S15)."""
    carried = [SEED, Prompt(name="p1", text="1", parent="p0", score=0.9)]
    found = _evolve(Counting(), Stepping(), seeds=carried, budget=200)
    assert not {"p0", "p1"} & {prompt.name for prompt in found.population}
    assert found.population[0].name in {prompt.name for prompt in found.born}
    assert {prompt.name for prompt in found.pool.prompts} >= {"p0", "p1"}, "both were tried"


def test_a_prompt_without_a_fault_has_no_child():
    task, reflector = Counting(), Stepping()
    _evolve(task, reflector, seeds=(Prompt(name="p0", text="9"),), budget=30)
    assert reflector.calls == 0 and task.calls >= 30
    reflector = Stepping()
    _evolve(Counting(), reflector, seeds=(Prompt(name="p0", text="9"),), budget=30, is_skipping_perfect=False)
    assert reflector.calls > 0


def test_prompts_that_are_too_long_known_or_do_not_fit_are_rejected_without_a_reply():
    class Saying:
        def __init__(self, text):
            self.text = text

        def reflect(self, prompt, trials, generator):
            return None if self.text is None else Reflection(self.text, "said")

    for text in ("7" * 50, "0", None):
        task = Counting()
        found = _evolve(task, Saying(text), budget=12, max_length=40)
        assert found.counts.accepted == 0 and found.counts.rejected == 2 and task.calls == 6 + 2 * 3
    task = Counting()
    found = evolve([SEED], 6, task, Saying("9"), Rules(n_kept=1, budget=12), torch.Generator(), n_known=1,
                   fits=lambda text: text != "9")
    assert found.counts.accepted == 0


def test_the_best_alone_is_what_is_left_without_a_frontier():
    found = _evolve(Counting(), Stepping(), selection="best", budget=100)
    ranked = sorted(range(len(found.pool.means)), key=lambda row: (-found.pool.means[row], row))
    assert found.population == [found.pool.prompts[row] for row in ranked[:2]]


def test_the_same_seed_gives_the_same_prompts():
    first, second = (_evolve(Counting(), Stepping(), seed=5) for _ in range(2))
    assert first.population == second.population and first.counts == second.counts


def test_names_go_on_and_prompts_survive_as_plain_data():
    found = evolve([SEED], 6, Counting(), Stepping(), Rules(n_kept=2, budget=60), torch.Generator(), n_known=5, cycle=3,
                   experience=1)
    assert found.born[0].name == "p5" and {prompt.cycle for prompt in found.born} == {3}
    assert from_plain(as_plain(found.born)) == found.born
    assert different([SEED, SEED]) == [SEED] and diversity([SEED]) == 0.0
    pool = Pool()
    pool.add(SEED, [0.0])
    assert pool.top(3, "pareto") == [SEED] * 3


# on a policy

def test_a_rule_that_only_remarks_tell_is_found():
    """The seed prompt never succeeds; its remarks name a rule, and a prompt with it works (S12, with evolution)."""
    from cl_framework.scripted_reflector import ScriptedReflector

    problems = [f"{n}" for n in range(6)]

    def check(problem, reply):
        return Verdict(float(reply == "a"), "Right." if reply == "a" else "Wrong.\nRule: Say a.\nExpected: a")

    class Reading(TabularPolicy):
        def fits(self, contexts):
            return True

        def sample(self, contexts, n, generator, prompt_id):
            known = [self.context("yes" if "Say a." in context else "no", "") for context in contexts]
            return super().sample(known, n, generator, prompt_id)

    policy = Reading({("yes", ""): torch.tensor([0.0, 0.0]), ("no", ""): torch.tensor([-99.0, 0.0])}, "ab")
    judge = Checked([Problem(name, "a", "letter") for name in problems], {"letter": check})
    attempts = Attempts(policy, judge, problems, ["a"] * 6, torch.Generator().manual_seed(1))
    found = evolve([Prompt(name="p0", text="Answer the question.")], 6, attempts, ScriptedReflector(),
                   Rules(n_kept=2, budget=60), torch.Generator().manual_seed(0), n_known=1, fits=attempts.fits)
    assert "Say a." in found.population[0].text and found.pool.means[0] == 0.0 < max(found.pool.means)

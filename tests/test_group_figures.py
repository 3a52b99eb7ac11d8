"""pass@k and different right answers, by brute force over all draws (Chen et al. 2021, equation 1)."""

from itertools import combinations

import pytest
import torch

from cl_framework.group_figures import distinct_right, group_figures, pass_at


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_the_chance_is_that_of_all_draws(k):
    draws = torch.Generator().manual_seed(k)
    rewards = (torch.rand(6, 5, generator=draws) < 0.4).float()
    rewards[0], rewards[1] = 0.0, 1.0
    brute = [[float(any(row[at] == 1 for at in chosen)) for chosen in combinations(range(5), k)]
             for row in rewards.tolist()]
    assert pass_at(rewards, k) == pytest.approx(sum(sum(row) / len(row) for row in brute) / 6, abs=1e-12)


def test_partly_right_is_not_right():
    rewards = torch.tensor([[0.5, 0.9, 1.0, 0.0]])
    assert pass_at(rewards, 1) == 0.25 and distinct_right(rewards, ["a", "b", "c", "d"]) == 1.0


def test_a_group_counts_its_own_answers():
    """The same right answer in two groups is one of each."""
    rewards = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    assert distinct_right(rewards, ["a", " a\n", "b", "c", "a", "d"]) == 1.0


def test_k_is_at_most_the_size_of_a_group():
    names = set(group_figures(torch.zeros(2, 8), ["x"] * 16))
    assert names == {"reward", "zero_variance", "distinct_right", "pass_at_1", "pass_at_4"}
    assert "pass_at_16" in group_figures(torch.ones(1, 16), ["x"] * 16)
    assert group_figures(torch.ones(1, 16), ["x"] * 16)["distinct_right"] == 1.0

"""One step of the slow half on a table of logits: groups, gradients, what is dropped (S1 to S5, S10, S12)."""

import math

import pytest
import torch

from cl_framework.divergences import exact
from cl_framework.errors import ConfigError
from cl_framework.problems import Checked, Problem, Verdict
from cl_framework.prompt_pool import Prompt
from cl_framework.slow_step import Slow, draw, lesson, slow_loss
from cl_framework.tabular_policy import TabularPolicy

PROMPTS = [Prompt(name="p0", text="good"), Prompt(name="p1", text="bad")]
PROBLEMS = ["x", "y"]


def _judge(right="a"):
    def check(problem, reply):
        return Verdict(sum(letter == right for letter in reply) / len(reply), "")
    return Checked([Problem(name, right, "letter") for name in PROBLEMS], {"letter": check})


def _policy(length=1, seed=0, **rows):
    draws = torch.Generator().manual_seed(seed)
    logits = {(prompt.text, problem): torch.randn(3, generator=draws, dtype=torch.float64)
              for prompt in PROMPTS for problem in PROBLEMS}
    logits |= {(prompt.text, problem): torch.tensor(rows[prompt.text], dtype=torch.float64)
               for prompt in PROMPTS for problem in PROBLEMS if prompt.text in rows}
    return TabularPolicy(logits, "abc", length)


def _loss(policy, given, slow, references=()):
    log_probs, mask = policy.log_probs(given.rollouts)
    return slow_loss(log_probs, mask, log_probs.detach(), given, references, slow)


def test_each_prompt_answers_its_share_of_each_problem():
    groups = draw(_policy(), _judge(), PROBLEMS, PROMPTS, 8, torch.Generator().manual_seed(0))
    assert len(groups.rollouts) == 16 and groups.rewards.shape == (2, 8)
    names = [rollout.prompt_id for rollout in groups.rollouts]
    assert names == (["p0"] * 4 + ["p1"] * 4) * 2
    with pytest.raises(ConfigError, match=r"8 answers .* evenly by 3 prompts; set group_size to a multiple"):
        draw(_policy(), _judge(), PROBLEMS, [*PROMPTS, PROMPTS[0]], 8, torch.Generator())


def test_a_prompt_that_is_there_four_times_draws_as_one():
    once = draw(_policy(), _judge(), PROBLEMS, PROMPTS[:1], 8, torch.Generator().manual_seed(3))
    often = draw(_policy(), _judge(), PROBLEMS, PROMPTS[:1] * 4, 8, torch.Generator().manual_seed(3))
    assert [each.text for each in once.rollouts] == [each.text for each in often.rollouts]


def test_answers_of_all_prompts_are_one_group():
    """The good prompt is always right and the bad one never: +1 and -1, and nothing each by itself."""
    policy = _policy(good=[99.0, 0.0, 0.0], bad=[0.0, 0.0, 99.0])
    groups = draw(policy, _judge(), PROBLEMS, PROMPTS, 8, torch.Generator().manual_seed(0))
    given = lesson(groups, Slow(eps=0.0), torch.Generator())
    assert given.advantages.view(2, 8).tolist() == [[1.0] * 4 + [-1.0] * 4] * 2
    alone = draw(policy, _judge(), PROBLEMS, PROMPTS[:1], 8, torch.Generator().manual_seed(0))
    assert lesson(alone, Slow(), torch.Generator()) is None


def test_the_order_inside_a_group_changes_nothing():
    policy = _policy(length=3)
    groups = draw(policy, _judge(), PROBLEMS, PROMPTS, 8, torch.Generator().manual_seed(1))
    order = [7, 2, 5, 0, 1, 6, 3, 4]
    shuffled = groups._replace(rewards=groups.rewards[:, order],
                               rollouts=[groups.rollouts[8 * x + place] for x in range(2) for place in order])
    gradients = []
    for each in (groups, shuffled):
        policy.zero_grad()
        _loss(policy, lesson(each, Slow(), torch.Generator()), Slow()).backward()
        gradients.append(policy.table.grad.clone())
    assert torch.allclose(*gradients, atol=1e-12)


def test_the_gradient_is_reinforce_with_the_baseline_of_the_group():
    """Against finite differences of sum A log pi, one weight a problem, in float64."""
    policy, slow = _policy(length=2), Slow(kl=0.0)
    groups = draw(policy, _judge(), PROBLEMS, PROMPTS, 8, torch.Generator().manual_seed(2))
    _loss(policy, lesson(groups, slow, torch.Generator()), slow).backward()
    rewards = groups.rewards.double()
    values = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, correction=0, keepdim=True) + 1e-6)

    def surrogate(table):
        total = 0.0
        for place, rollout in enumerate(groups.rollouts):
            log_probs = table[int(rollout.context_ids)].log_softmax(0)[rollout.response_ids]
            total += float(values.flatten()[place]) * float(log_probs.sum()) / (8 * 2)
        return -total / 2

    step, table = 1e-6, policy.table.detach()
    for row in range(4):
        for letter in range(3):
            sides = []
            for sign in (1, -1):
                moved = table.clone()
                moved[row, letter] += sign * step
                sides.append(surrogate(moved))
            assert float(policy.table.grad[row, letter]) == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-6)


def test_a_group_of_equal_rewards_is_left_out():
    policy, slow = _policy(good=[0.0, 0.0, 0.0], bad=[0.0, 0.0, 0.0]), Slow(kl=0.0)
    groups = draw(policy, _judge(), PROBLEMS, PROMPTS, 8, torch.Generator().manual_seed(0))
    flat = groups._replace(rewards=torch.stack([groups.rewards[0], torch.ones(8)]))
    given = lesson(flat, slow, torch.Generator())
    assert len(given.rollouts) == 8 and given.n == 1
    assert lesson(flat, Slow(divisor="all"), torch.Generator()).n == 2
    _loss(policy, given, slow).backward()
    touched = {int(rollout.context_ids) for rollout in groups.rollouts[8:]}
    assert not policy.table.grad[sorted(touched)].any() and policy.table.grad.any()


def test_no_reward_no_gradient_under_the_seed_prompt_but_under_one_that_sometimes_works():
    """A task that the seed prompt never solves: alone it learns nothing, beside a prompt that works it does (S12)."""
    policy = _policy(good=[0.0, 0.0, 0.0], bad=[-99.0, 0.0, 0.0])
    for seed in range(5):
        alone = draw(policy, _judge(), PROBLEMS, PROMPTS[1:], 8, torch.Generator().manual_seed(seed))
        assert not alone.rewards.any() and lesson(alone, Slow(), torch.Generator()) is None
    both = draw(policy, _judge(), PROBLEMS, PROMPTS, 8, torch.Generator().manual_seed(0))
    given = lesson(both, Slow(), torch.Generator())
    _loss(policy, given, Slow(kl=0.0)).backward()
    assert policy.table.grad.any()


def test_the_divergence_is_added_with_its_weights():
    policy, other = _policy(length=2), _policy(length=2, seed=9)
    groups = draw(policy, _judge(), PROBLEMS, PROMPTS, 8, torch.Generator().manual_seed(0))
    slow = Slow(kl=0.5)
    given = lesson(groups, slow, torch.Generator())
    base, previous = other.log_probs(given.rollouts)[0].detach(), policy.log_probs(given.rollouts)[0].detach()
    plain = _loss(policy, given, Slow(kl=0.0))
    mixed = _loss(policy, given, slow, [(0.3, base), (0.7, previous)])
    alone = _loss(policy, given, slow, [(1.0, base)])
    at_home = _loss(policy, given, slow, [(1.0, previous)])
    assert float(at_home.detach()) == pytest.approx(float(plain.detach())), "0 at the reference itself"
    assert float((mixed - plain).detach()) == pytest.approx(0.3 * float((alone - plain).detach()))
    d = base - previous
    expected = 0.5 * float((torch.expm1(d) - d).view(given.n, -1).mean(1).mean())
    assert float((alone - plain).detach()) == pytest.approx(expected)


def test_the_divergence_has_no_gradient_at_the_reference():
    policy = _policy()
    groups = draw(policy, _judge(), PROBLEMS, PROMPTS, 8, torch.Generator().manual_seed(0))
    given = lesson(groups, Slow(), torch.Generator())._replace(advantages=torch.zeros(0))
    given = given._replace(advantages=torch.zeros(len(given.rollouts)))
    own = policy.log_probs(given.rollouts)[0].detach()
    _loss(policy, given, Slow(kl=1.0), [(1.0, own)]).backward()
    assert policy.table.grad.abs().max() < 1e-12


def test_the_divergence_in_the_advantage_shifts_it_by_each_token():
    policy, other = _policy(length=2), _policy(length=2, seed=9)
    groups = draw(policy, _judge(), PROBLEMS, PROMPTS, 8, torch.Generator().manual_seed(0))
    slow = Slow(kl=0.5, where="advantage")
    given = lesson(groups, slow, torch.Generator())
    base = other.log_probs(given.rollouts)[0].detach()
    log_probs, mask = policy.log_probs(given.rollouts)
    shifted = given.advantages.unsqueeze(1) - 0.5 * (log_probs.detach() - base)
    expected = slow_loss(log_probs, mask, log_probs.detach(), given._replace(advantages=shifted), (), Slow(kl=0.0))
    assert torch.allclose(_loss(policy, given, slow, [(1.0, base)]), expected)


def test_reinforcement_finds_the_answer_and_the_anchor_holds_it_back():
    """Many steps: without an anchor the policy becomes right; the stronger it is, the nearer to the base it stays."""
    distances, rights = [], []
    for strength in (0.0, 0.5, 2.0):
        policy, base = _policy(good=[-1.0, 0.0, 0.0], bad=[-1.0, 0.0, 0.0]), _policy(good=[-1.0, 0.0, 0.0],
                                                                                     bad=[-1.0, 0.0, 0.0])
        optimizer = torch.optim.AdamW(policy.parameters(), 0.15, weight_decay=0.0)
        draws = torch.Generator().manual_seed(4)
        slow = Slow(kl=strength)
        for _ in range(40):
            given = lesson(draw(policy, _judge(), PROBLEMS, PROMPTS, 8, draws), slow, draws)
            if given is None:
                continue
            optimizer.zero_grad()
            reference = base.log_probs(given.rollouts)[0].detach()
            _loss(policy, given, slow, [(1.0, reference)] if strength else []).backward()
            optimizer.step()
        distances.append(float(exact(policy.table, base.table).mean().detach()))
        rights.append(float(policy.table.softmax(1)[:, 0].mean().detach()))
    assert rights[0] > 0.9 and distances[0] > distances[1] > distances[2] > 0


def test_a_checker_that_fails_is_counted():
    def fails(problem, reply):
        raise ValueError("no")
    judge = Checked([Problem(name, "a", "letter") for name in PROBLEMS], {"letter": fails})
    groups = draw(_policy(), judge, PROBLEMS, PROMPTS, 4, torch.Generator())
    assert groups.n_failures == 8 and not groups.rewards.any() and math.isfinite(float(groups.rewards.sum()))


def test_raft_skips_problems_without_success():
    policy, slow = _policy(good=[0.0, 0.0, 0.0], bad=[0.0, 0.0, 0.0]), Slow(loss="raft", kl=0.0)
    groups = draw(policy, _judge(), PROBLEMS, PROMPTS, 8, torch.Generator().manual_seed(0))
    given = lesson(groups._replace(rewards=torch.stack([groups.rewards[0], torch.zeros(8)])), slow,
                   torch.Generator().manual_seed(0))
    assert given.n == 1 and len(given.rollouts) == 8 and int(given.is_best.sum()) == 1
    best = int(given.is_best.int().argmax())
    assert given.rollouts[best].text == "a"
    expected = -float(policy.log_probs([given.rollouts[best]])[0].detach())
    assert float(_loss(policy, given, slow).detach()) == pytest.approx(expected)
    assert lesson(groups._replace(rewards=torch.zeros(2, 8)), slow, torch.Generator()) is None

"""Losses of the slow half and divergences, against brute force and finite differences in float64 (S3 to S5, S10)."""

import math

import pytest
import torch

from cl_framework.divergences import base_share, entropy, estimate, exact
from cl_framework.functional import distillation
from cl_framework.policy_losses import best_answers, cispo, grpo, problem_mean, raft, truncated_share

N, L = 6, 5
GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])
LENGTHS = [5, 2, 3, 1, 4, 2]


def _case(seed=0):
    draw = torch.Generator().manual_seed(seed)
    log_probs = -torch.rand(N, L, generator=draw, dtype=torch.float64) * 3
    old = log_probs + torch.randn(N, L, generator=draw, dtype=torch.float64)
    mask = torch.arange(L) >= L - torch.tensor(LENGTHS).unsqueeze(1)
    values = torch.randn(N, generator=draw, dtype=torch.float64)
    return log_probs, old, values, mask


def _by_hand(log_probs, mask, weight):
    """-1/n sum_x 1/sum|y| sum_i sum_t weight(i, t) log p, term by term."""
    total = 0.0
    for group in (0, 1):
        rows = [i for i in range(N) if GROUPS[i] == group]
        tokens = sum(int(mask[i].sum()) for i in rows)
        total += sum(weight(i, t) * float(log_probs[i, t]) for i in rows for t in range(L) if mask[i, t]) / tokens
    return -total / 2


def test_cispo_is_its_formula():
    log_probs, old, values, mask = _case()

    def weight(i, t):
        return min(math.exp(float(log_probs[i, t] - old[i, t])), 1.3) * float(values[i])

    found = cispo(log_probs, old, values, mask, GROUPS, 2, truncation=1.3)
    assert float(found) == pytest.approx(_by_hand(log_probs, mask, weight))


def test_cispo_has_the_gradient_of_its_surrogate_with_the_ratio_held_still():
    log_probs, old, values, mask = _case(1)
    log_probs.requires_grad_(True)
    cispo(log_probs, old, values, mask, GROUPS, 2, truncation=1.3).backward()
    held = (log_probs.detach() - old).exp().clamp(max=1.3) * values.unsqueeze(1)
    step = 1e-6
    for i, t in ((0, 4), (1, 3), (2, 2), (4, 1), (5, 4)):
        sides = []
        for sign in (1, -1):
            moved = log_probs.detach().clone()
            moved[i, t] += sign * step
            sides.append(float(-problem_mean(held * moved, mask, GROUPS, 2)))
        assert float(log_probs.grad[i, t]) == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-8)


def test_a_truncated_token_keeps_its_gradient_and_a_clipped_one_has_none():
    log_probs = torch.tensor([[math.log(0.9)]], dtype=torch.float64, requires_grad=True)
    old, ones, mask = torch.tensor([[math.log(0.1)]], dtype=torch.float64), torch.ones(1), torch.ones(1, 1).bool()
    one = torch.zeros(1, dtype=torch.int64)
    cispo(log_probs, old, ones, mask, one, 1, truncation=4.0).backward()
    assert float(log_probs.grad) == pytest.approx(-4.0), "the ratio is 9, its weight is tau"
    log_probs.grad = None
    grpo(log_probs, old, ones, mask, one, 1, low=0.2, high=0.28).backward()
    assert float(log_probs.grad) == 0.0
    assert truncated_share(log_probs, old, mask, 4.0) == 1.0


def test_there_is_no_lower_truncation():
    log_probs = torch.tensor([[math.log(0.01)]], dtype=torch.float64, requires_grad=True)
    cispo(log_probs, torch.tensor([[math.log(0.99)]], dtype=torch.float64), -torch.ones(1), torch.ones(1, 1).bool(),
          torch.zeros(1, dtype=torch.int64), 1, truncation=4.0).backward()
    assert float(log_probs.grad) == pytest.approx(1 / 99)


def test_fresh_replies_give_the_policy_gradient():
    """At ratio 1 CISPO, GRPO and advantage-weighted log-likelihood agree in their gradients."""
    log_probs, _, values, mask = _case(2)
    gradients = []
    for loss in ("cispo", "grpo", "plain"):
        own = log_probs.clone().requires_grad_(True)
        if loss == "cispo":
            cispo(own, own.detach(), values, mask, GROUPS, 2, truncation=4.0).backward()
        elif loss == "grpo":
            grpo(own, own.detach(), values, mask, GROUPS, 2, low=0.2, high=0.28).backward()
        else:
            (-problem_mean(values.unsqueeze(1) * own, mask, GROUPS, 2)).backward()
        gradients.append(own.grad)
    assert torch.allclose(gradients[0], gradients[2]) and torch.allclose(gradients[1], gradients[2])


def test_grpo_is_its_formula():
    log_probs, old, values, mask = _case(3)
    total = 0.0
    for group in (0, 1):
        rows = [i for i in range(N) if GROUPS[i] == group]
        terms = []
        for i in rows:
            for t in range(L):
                if mask[i, t]:
                    ratio, value = math.exp(float(log_probs[i, t] - old[i, t])), float(values[i])
                    terms.append(min(ratio * value, min(max(ratio, 0.8), 1.28) * value))
        total += sum(terms) / len(terms)
    found = grpo(log_probs, old, values, mask, GROUPS, 2, low=0.2, high=0.28)
    assert float(found) == pytest.approx(-total / 2)


def test_doubling_the_tokens_of_a_problem_leaves_its_weight():
    log_probs, old, values, mask = _case(4)
    plain = cispo(log_probs, old, values, mask, GROUPS, 2, truncation=2.0)
    wide = [torch.cat([part, part], 1) for part in (log_probs, old, mask)]
    first = (GROUPS == 0).unsqueeze(1)
    doubled_mask = wide[2] & (first | (torch.arange(2 * L) < L))
    doubled = cispo(wide[0], wide[1], values, doubled_mask, GROUPS, 2, truncation=2.0)
    assert float(doubled) == pytest.approx(float(plain))


def test_long_and_short_problems_weigh_the_same():
    ones = torch.ones(2, 4, dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [False] * 3 + [True]])
    assert float(problem_mean(torch.stack([ones[0], 3 * ones[1]]), mask, torch.tensor([0, 1]), 2)) == 2.0


def test_what_is_masked_never_reaches_the_loss():
    log_probs, old, values, mask = _case(5)
    spoiled = torch.where(mask, log_probs, torch.full_like(log_probs, math.nan))
    found = cispo(spoiled, torch.where(mask, old, spoiled), values, mask, GROUPS, 2, truncation=2.0)
    assert float(found) == pytest.approx(float(cispo(log_probs, old, values, mask, GROUPS, 2, truncation=2.0)))


def test_raft_learns_the_best_answer_of_each_group_and_nothing_without_success():
    rewards = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    chosen = best_answers(rewards, torch.Generator().manual_seed(0))
    assert chosen.sum(1).tolist() == [1, 0, 1] and chosen[0, 2] and not chosen[2, 2]
    picks = {int(best_answers(rewards, torch.Generator().manual_seed(seed))[2].int().argmax()) for seed in range(20)}
    assert picks == {0, 1}, "of equal ones any"


def test_raft_of_one_answer_is_supervised_learning_of_the_right_ones():
    log_probs, _, _, mask = _case(6)
    rewards = torch.tensor([[1.0], [0.0], [1.0], [1.0], [0.0], [0.0]])
    is_best = best_answers(rewards, torch.Generator()).flatten()
    assert is_best.tolist() == rewards.flatten().bool().tolist()
    rows, kept = is_best.nonzero().squeeze(1), int(is_best.sum())
    expected = -sum(float(log_probs[i][mask[i]].mean()) for i in rows) / kept
    found = raft(log_probs[rows], is_best[rows], mask[rows], torch.arange(kept), kept)
    assert float(found) == pytest.approx(expected)


def test_raft_is_the_policy_gradient_of_the_advantage_best_or_not():
    log_probs, _, _, mask = _case(7)
    is_best = torch.tensor([True, False, False, False, True, False])
    own, other = log_probs.clone().requires_grad_(True), log_probs.clone().requires_grad_(True)
    raft(own, is_best, mask, GROUPS, 2).backward()
    rows = is_best.nonzero().squeeze(1)
    cispo(other[rows], other[rows].detach(), torch.ones(2), mask[rows], torch.arange(2), 2, truncation=4.0).backward()
    assert torch.allclose(own.grad, other.grad)


# divergences

def test_estimates_are_0_where_both_agree_and_k3_is_never_negative():
    log_probs = -torch.rand(50, dtype=torch.float64) * 4
    other = -torch.rand(50, dtype=torch.float64) * 4
    for direction in ("reverse", "forward"):
        for name in ("k1", "k2", "k3"):
            assert not estimate(log_probs, log_probs, name, direction).any()
        assert (estimate(log_probs, other, "k3", direction) >= 0).all()


@pytest.mark.parametrize("direction", ["reverse", "forward"])
@pytest.mark.parametrize("name", ["k1", "k3"])
def test_estimates_have_the_exact_divergence_as_their_mean(name, direction):
    """The mean over a small vocabulary, summed and not sampled."""
    draw = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 7, generator=draw, dtype=torch.float64)
    log_p, log_q = logits.log_softmax(0), other.log_softmax(0)
    mean = float((log_p.exp() * estimate(log_p, log_q, name, direction)).sum())
    assert mean == pytest.approx(float(exact(logits, other, direction)))
    first, second = (log_p, log_q) if direction == "reverse" else (log_q, log_p)
    assert mean == pytest.approx(sum(math.exp(a) * (a - b) for a, b in zip(first.tolist(), second.tolist(),
                                                                           strict=True)))


def test_sampled_estimates_meet_the_exact_divergence_within_their_error():
    draw = torch.Generator().manual_seed(1)
    logits, other = torch.randn(2, 9, generator=draw, dtype=torch.float64)
    drawn = torch.multinomial(logits.softmax(0), 20000, True, generator=draw)
    log_p, log_q = logits.log_softmax(0)[drawn], other.log_softmax(0)[drawn]
    for name in ("k1", "k3"):
        values = estimate(log_p, log_q, name)
        error = float(values.std()) / math.sqrt(len(values))
        assert abs(float(values.mean()) - float(exact(logits, other))) < 4 * error


def test_k3_in_the_loss_pulls_towards_the_reference():
    logits = torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)
    reference = torch.zeros(2, dtype=torch.float64).log_softmax(0)
    log_p = logits.log_softmax(0)
    (log_p.detach().exp() * estimate(log_p, reference, "k3")).sum().backward()
    assert logits.grad[1] > 0 > logits.grad[0]


def test_entropy_of_a_uniform_distribution():
    assert float(entropy(torch.zeros(8))) == pytest.approx(math.log(8))


def test_forward_to_the_previous_model_is_what_lwf_distils():
    student, teacher = torch.randn(2, 5, 4, dtype=torch.float64)
    assert float(exact(student, teacher, "forward").mean()) == pytest.approx(float(distillation(student, teacher, 1.0)))


def test_the_share_of_the_base_decays_as_in_remix():
    assert [base_share("mixed", 0.3, "decay", step) for step in (0, 50, 51, 60, 61, 100, 5000)] == [
        1.0, 1.0, 0.9, 0.9, 0.8, 0.5, 0.5]
    assert base_share("mixed", 0.3, "constant", 99) == 0.3
    assert (base_share("base", 0.3, "decay", 99), base_share("previous", 0.3, "decay", 99)) == (1.0, 0.0)

"""What the analogue of FST is made of: contexts, the two searches, and labels as answers, against closed forms."""

import dataclasses
import itertools
import math

import pytest
import torch
from double_contexts import contexts_of, in_double

from cl_framework.models import MLP
from cl_framework.protocol import build_model
from cl_framework.strategies._context_search import Rules, evolved, tuned
from cl_framework.strategies._contexts import Anchors, different, modulated
from cl_framework.strategies._label_rewards import drawn, reinforced
from cl_framework.toys import Toy
from cl_framework.types import Setting

RULES = Rules(n_kept=2, budget=60, minibatch=4, sigma=0.1, crossover=0.25, lr=0.5)


def _ready(setting=Setting.CLASS):
    """A model before its first experience, and its rows."""
    stream = Toy(sizes=(3, 2), setting=setting, n_train=8).open()
    model = build_model(MLP(hidden=[6]), stream.info, 0)
    model.observe(stream[0].classes, stream[0].task)
    return model, stream[0].train


# contexts

def test_a_context_scales_and_shifts_and_the_seed_changes_nothing_to_the_bit():
    features, contexts = torch.randn(5, 3, dtype=torch.float64), contexts_of(2, 3)
    found = modulated(features, contexts)
    for k, b, d in itertools.product(range(2), range(5), range(3)):
        expected = (1 + contexts[k, 0, d]) * features[b, d] + contexts[k, 1, d]
        assert math.isclose(found[k, b, d], expected, rel_tol=1e-15)
    assert torch.equal(modulated(features, torch.zeros(1, 2, 3, dtype=torch.float64))[0], features)
    assert torch.equal(different(contexts[[1, 0, 1]]), contexts[[1, 0]])


@pytest.mark.parametrize("setting", [Setting.CLASS, Setting.TASK])
def test_scores_are_probabilities_of_the_right_class(setting):
    model, rows = _ready(setting)
    in_double(model)
    context = contexts_of(1, 6)[0]
    batch = next(rows.batches(len(rows)))
    with torch.no_grad():
        hidden = model.body(model.eval().preprocess(batch.raw)) * (1 + context[0]) + context[1]
        odds = (hidden @ model.head.weight[:3].T + model.head.bias[:3]).exp()
    expected = (odds / odds.sum(1, keepdim=True))[range(len(rows)), batch.y]
    anchors = Anchors(model, rows)
    assert torch.allclose(torch.tensor(anchors.scores(context), dtype=torch.float64), expected)
    assert anchors.scores(context, [3, 1]) == pytest.approx([float(expected[3]), float(expected[1])])
    other = Anchors(model, rows).log_answers(torch.zeros_like(context)).exp()
    assert anchors.distance(context, torch.zeros_like(context)) == pytest.approx(
        float((odds / odds.sum(1, keepdim=True) - other).clamp(min=0).sum(1).mean().detach()))


# labels as answers

def test_labels_are_drawn_evenly_under_each_context():
    log_probs = torch.full((2, 3, 4), -1e9).scatter(2, torch.tensor([[[0], [1], [2]], [[3], [2], [0]]]), 0.0)
    assert drawn(log_probs, 4, torch.Generator()).tolist() == [[0, 0, 3, 3], [1, 1, 2, 2], [2, 2, 0, 0]]


def test_all_labels_of_a_row_are_one_group():
    """A context that is right and one that is wrong: +1 and -1, where a mean for each context would give 0."""
    logits = torch.tensor([[[30.0, 0.0]], [[0.0, 30.0]]], dtype=torch.float64, requires_grad=True)
    log_probs = logits.log_softmax(2)
    slope, = torch.autograd.grad(reinforced(log_probs, torch.tensor([0]), 8, 4.0, torch.Generator()), log_probs)
    assert torch.allclose(slope, torch.tensor([[[-0.5, 0.0]], [[0.0, 0.5]]], dtype=torch.float64), atol=1e-5)


def test_its_gradient_is_that_of_rewards_over_a_baseline():
    torch.manual_seed(3)
    logits, y = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 0, 1, 2])
    labels = drawn(logits.log_softmax(2), 4, torch.Generator().manual_seed(5))
    expected, n = torch.zeros_like(logits), 0
    for b in range(6):
        rewards = [float(label == y[b]) for label in labels[b]]
        mean = sum(rewards) / 4
        deviation = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / 4)
        if deviation == 0:
            continue
        n += 1
        for place, label in enumerate(labels[b].tolist()):
            own = logits[place // 2, b].detach().softmax(0)
            score = torch.eye(3, dtype=torch.float64)[label] - own
            expected[place // 2, b] -= (rewards[place] - mean) / (deviation + 1e-6) * score / 4
    assert 0 < n < 6
    loss = reinforced(logits.log_softmax(2), y, 4, 4.0, torch.Generator().manual_seed(5))
    slope, = torch.autograd.grad(loss, logits)
    assert torch.allclose(slope, expected.detach() / n, atol=1e-9)


# the fast phase

class _Flat:
    """Anchors on which all contexts are alike."""

    def __len__(self):
        return 10

    def scores(self, context, rows=None):
        return [0.5] * (10 if rows is None else len(rows))


def test_a_child_that_is_only_as_good_is_rejected_and_the_budget_holds():
    pool = evolved(torch.zeros(1, 2, 3), _Flat(), RULES, torch.Generator().manual_seed(0))
    assert len(pool.contexts) == 1 and pool.accepted == 0 and pool.rejected == 8
    assert pool.calls == 64 and pool.carried == 10, "the last one may go beyond, by one iteration"
    assert pool.top(2) == [0, 0]


def test_a_child_is_accepted_where_it_is_better_on_the_minibatch():
    class Shift(_Flat):
        asked = ()

        def scores(self, context, rows=None):
            value = float(context[1].sum())
            self.asked += ((value, rows),)
            return [value] * (10 if rows is None else len(rows))

    anchors = Shift()
    pool = evolved(torch.zeros(1, 2, 3), anchors, dataclasses.replace(RULES, budget=300, crossover=0.0),
                   torch.Generator().manual_seed(0))
    tries = [pair for pair in itertools.pairwise(anchors.asked) if pair[0][1] is not None and pair[1][1] is not None]
    n_better = sum(child > parent for (child, own), (parent, other) in tries if own == other)
    assert pool.accepted == n_better > 3 and pool.rejected > 0 and 300 <= pool.calls < 300 + 8 + 10
    assert pool.calls == 8 * (pool.accepted + pool.rejected) + 10 * pool.accepted
    assert pool.top(1) == [max(range(len(pool.scores)), key=lambda row: pool.scores[row][0])]


def test_a_child_of_two_has_scale_and_shift_of_a_feature_from_one_of_them():
    first, second = torch.zeros(2, 40), torch.ones(2, 40)
    rules = dataclasses.replace(RULES, crossover=1.0, budget=8)

    class Novel(_Flat):
        def scores(self, context, rows=None):
            is_parent = torch.equal(context, first) or torch.equal(context, second)
            return [0.0 if is_parent else 1.0] * (10 if rows is None else len(rows))

    pool = evolved(torch.stack([first, second]), Novel(), rules, torch.Generator().manual_seed(0))
    child = pool.contexts[2]
    assert torch.equal(child[0], child[1]) and {*child[0].tolist()} == {0.0, 1.0}


@pytest.mark.parametrize("search", [evolved, tuned])
def test_the_best_context_is_never_below_the_seed_and_mostly_above(search):
    model, rows = _ready()
    anchors = Anchors(model, rows)
    n_above = 0
    for seed in range(5):
        pool = search(torch.zeros(1, 2, 6), anchors, dataclasses.replace(RULES, budget=8 * len(rows)),
                      torch.Generator().manual_seed(seed))
        means = [sum(row) / len(row) for row in pool.scores]
        best = max(means[row] for row in pool.top(2))
        assert best >= means[0] == sum(anchors.scores(torch.zeros(2, 6))) / len(rows)
        n_above += best > means[0]
    assert n_above >= 4


def test_a_step_on_a_context_is_that_of_the_closed_form():
    model, rows = _ready()
    in_double(model)
    anchors, a = Anchors(model, rows), len(rows)
    rules = dataclasses.replace(RULES, n_kept=1, minibatch=a, budget=a)
    pool = tuned(torch.zeros(1, 2, 6, dtype=torch.float64), anchors, rules, torch.Generator())
    weight, features = model.head.weight[:3].detach(), anchors._features
    error = (features @ weight.T + model.head.bias[:3].detach()).softmax(1) - torch.eye(3).double()[rows.y]
    slope = torch.stack([(features * (error @ weight)).mean(0), (error @ weight).mean(0)])
    assert torch.allclose(pool.contexts[1], -0.5 * slope) and pool.calls == 2 * a

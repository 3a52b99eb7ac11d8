"""Replies of the fast phase that serve in slow steps (S14): claimed once, in their cycle alone, with old ratios."""

import dataclasses
import math

import pytest
import torch

from cl_framework import Recipe, run_stream
from cl_framework.check_runs import Stopped, same
from cl_framework.checkpoint import Vault
from cl_framework.errors import ConfigError
from cl_framework.kept_replies import KeptReplies, Reply
from cl_framework.problems import Checked, Problem, Verdict
from cl_framework.prompt_pool import Prompt
from cl_framework.registry import load
from cl_framework.rollout import old_log_probs
from cl_framework.slow_step import Lesson, Slow, draw, slow_loss
from cl_framework.tabular_policy import TabularPolicy
from cl_framework.token_rows import answer_log_probs

pytest.importorskip("transformers", reason="pip install cl-framework[text] brings language models")

from cl_framework.speaking_toys import SpeakingToy, speaking_model

FST = load("strategy", "fst")
RECIPE = Recipe(optimizer="adamw", lr=0.05, batch_size=4, reset_optimizer=False, checkpoint_every=0.0)
FIELDS = {"steps_per_cycle": 2, "n_probes": 0, "passes": 3.0, "n_prompts": 2, "warmup_steps": 0}
PROMPTS = [Prompt(name="p0", text="good"), Prompt(name="p1", text="bad")]
PROBLEMS = ["x", "y"]


def _policy(seed=0):
    draws = torch.Generator().manual_seed(seed)
    return TabularPolicy({(prompt.text, problem): torch.randn(3, generator=draws, dtype=torch.float64)
                          for prompt in PROMPTS for problem in PROBLEMS}, "abc", 2)


class Counting(Checked):
    """Counts what it is asked."""

    def __init__(self):
        super().__init__([Problem(name, "a", "letter") for name in PROBLEMS],
                         {"letter": lambda problem, reply: Verdict(reply.count("a") / 2, "")})
        self.n_asked = 0

    def judge(self, prompt, reply):
        self.n_asked += 1
        return super().judge(prompt, reply)


def _replies(policy, problem="x", prompt=PROMPTS[0], n=3, version=0, seed=7):
    """Replies of a policy, measured by it."""
    drawn = policy.sample([policy.context(prompt.text, problem)], n, torch.Generator().manual_seed(seed), prompt.name)
    return [Reply(problem, dataclasses.replace(each, version=version, trainer_log_probs=each.sampler_log_probs),
                  Verdict(each.text.count("a") / 2, "")) for each in drawn[0]]


def _texts(replies):
    return [reply.rollout.text for reply in replies]


# the store

def test_a_reply_is_handed_out_once_and_to_its_own_problem_prompt_and_cycle():
    replies = _replies(_policy(), n=3)
    kept = KeptReplies(1, 2, 0, replies)
    for place, other in enumerate(((0, 2, "x", "p0"), (1, 1, "x", "p0"), (1, 2, "y", "p0"), (1, 2, "x", "p1"))):
        assert kept.claim(*other, 9) == [], place
    assert kept.claim(1, 2, "x", "p0", 2) == replies[:2] and len(kept) == 1
    assert kept.claim(1, 2, "x", "p0", 2) == replies[2:] and len(kept) == 0
    assert kept.claim(1, 2, "x", "p0", 2) == []


def test_replies_of_other_weights_or_without_log_probabilities_are_not_taken_in():
    first, second, third = _replies(_policy(), n=3, version=5)
    older = second._replace(rollout=dataclasses.replace(second.rollout, version=4))
    unmeasured = third._replace(rollout=dataclasses.replace(third.rollout, trainer_log_probs=None))
    kept = KeptReplies(0, 0, 5, [older, first, unmeasured])
    assert len(kept) == 1 and kept.claim(0, 0, "x", "p0", 9) == [first]


def test_what_is_left_survives_as_plain_data_in_its_order():
    kept = KeptReplies(1, 2, 3, [*_replies(_policy(), n=3, version=3), *_replies(_policy(), "y", PROMPTS[1], 2, 3)])
    kept.claim(1, 2, "x", "p0", 1)
    again = KeptReplies.from_state_dict(kept.state_dict())
    assert same(again.state_dict(), kept.state_dict()) and again.memory_bytes == kept.memory_bytes > 0
    for key in (("x", "p0"), ("y", "p1")):
        assert _texts(again.claim(1, 2, *key, 9)) == _texts(kept.claim(1, 2, *key, 9)) != []


# a step

def test_groups_have_their_size_whatever_is_claimed_and_only_new_replies_are_judged():
    policy, judge = _policy(), Counting()
    kept = KeptReplies(0, 0, 0, [*_replies(policy, n=3), *_replies(policy, "y", PROMPTS[1], 9)])
    groups = draw(policy, judge, PROBLEMS, PROMPTS, 8, torch.Generator().manual_seed(0),
                  lambda *asked: kept.claim(0, 0, *asked))
    assert [rollout.prompt_id for rollout in groups.rollouts] == (["p0"] * 4 + ["p1"] * 4) * 2
    places = [policy.context(prompt.text, problem) for problem in PROBLEMS for prompt in PROMPTS for _ in range(4)]
    assert [int(rollout.context_ids) for rollout in groups.rollouts] == [policy._rows[place] for place in places]
    assert groups.n_reused == 3 + 4 and judge.n_asked == 16 - 7 and len(kept) == 5
    assert [each.text for each in groups.rollouts[:3]] == _texts(_replies(policy, n=3))
    assert groups.rewards.flatten().tolist() == [each.text.count("a") / 2 for each in groups.rollouts]


def test_where_nothing_is_kept_the_draws_are_those_without_a_store():
    plain, empty = (draw(_policy(), Counting(), PROBLEMS, PROMPTS, 8, torch.Generator().manual_seed(3), claim)
                    for claim in (None, lambda *asked: []))
    assert [each.text for each in plain.rollouts] == [each.text for each in empty.rollouts]
    assert same(plain.rewards, empty.rewards) and plain.n_reused == empty.n_reused == 0


@pytest.mark.parametrize("truncation", [0.8, 4.0, 1e9])
def test_the_gradient_has_the_ratio_to_the_policy_that_replied(truncation):
    """Against finite differences of the surrogate with min(rho, tau) held still, rho by hand from both tables."""
    then, now = _policy(), _policy(seed=5)
    old = [reply.rollout for reply in _replies(then, n=4)]
    new = now.sample([now.context("good", "x")], 2, torch.Generator().manual_seed(1), "p0")[0]
    rollouts = [*old, *new]
    values = torch.tensor([1.0, -0.5, 2.0, 0.25, -1.0, 0.5], dtype=torch.float64)
    given = Lesson(rollouts, values, None, torch.zeros(6, dtype=torch.int64), 1)
    log_probs, mask = now.log_probs(rollouts)
    slow = Slow(kl=0.0, truncation=truncation)
    slow_loss(log_probs, mask, old_log_probs(log_probs, rollouts), given, (), slow).backward()

    def log_p(policy, table, rollout):
        return table[int(rollout.context_ids)].log_softmax(0)[rollout.response_ids]

    ratios = [(log_p(now, now.table.detach(), each) - log_p(then, then.table.detach(), each)).exp() for each in old]
    weights = [*(ratio.clamp(max=truncation) for ratio in ratios), *(torch.full((2,), min(1.0, truncation)),) * 2]
    assert max(map(float, map(torch.max, ratios))) > 1.05 > 0.95 > min(map(float, map(torch.min, ratios)))

    def surrogate(table):
        return -sum(float((weight * value * log_p(now, table, each)).sum())
                    for weight, value, each in zip(weights, values, rollouts, strict=True)) / 12

    step, table = 1e-6, now.table.detach()
    for letter in range(3):
        sides = []
        for sign in (1, -1):
            moved = table.clone()
            moved[0, letter] += sign * step
            sides.append(surrogate(moved))
        assert float(now.table.grad[0, letter]) == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-7)


def test_kept_log_probabilities_stand_in_the_last_columns_and_fresh_rows_are_as_they_are():
    policy = _policy()
    reply = _replies(policy, n=1)[0].rollout
    short = dataclasses.replace(reply, response_ids=reply.response_ids[:1], trainer_log_probs=torch.tensor([-9.0]))
    fresh = dataclasses.replace(reply, trainer_log_probs=None)
    now = torch.tensor([[0.0, -1.0], [-2.0, -3.0]], requires_grad=True)
    assert old_log_probs(now, [short, fresh]).tolist() == [[0.0, -9.0], [-2.0, -3.0]]
    assert old_log_probs(now, [fresh, fresh]).equal(now) and not old_log_probs(now, [short, fresh]).requires_grad


# a run

class Watching(FST):
    """Notes what each step learned from."""

    def setup(self, model, info):
        super().setup(model, info)
        self.ratios, self.served, self.origins = [], [], []

    def _claim(self, problem, prompt_id, n):
        found = super()._claim(problem, prompt_id, n)
        self.served += [(self._experience, self._cycle, id(reply.rollout), reply) for reply in found]
        for reply in found:
            assert (reply.problem, reply.rollout.prompt_id) == (problem, prompt_id)
        self.origins += [(self._experience, self._cycle) == self._kept._origin]
        return found

    def loss(self, model, batch, output):
        if self._given is not None:
            now, mask = answer_log_probs(batch.x, output.logits)
            ratio = (now.detach() - old_log_probs(now, self._given.rollouts)).exp()[mask]
            self.ratios.append((self._n_steps, float((ratio - 1).abs().max())))
        return super().loss(model, batch, output)


def _run(strategy, *, sizes=(1, 1), n_train=16, recipe=RECIPE, vault=None):
    model = speaking_model()
    record = run_stream(strategy, SpeakingToy(sizes=sizes, n_train=n_train).open(), model, recipe=recipe, vault=vault)
    return model, record


def test_replies_of_a_fast_phase_serve_in_its_cycle_and_are_counted():
    strategy = Watching(**FIELDS, is_reusing=True)
    _run(strategy)
    figures = strategy.metrics()
    assert figures["reused_rollouts"] == len(strategy.served) > 0
    assert figures["slow_rollouts"] + figures["reused_rollouts"] == strategy.group_size * figures["samples"]
    assert figures["rollouts"] == figures["slow_rollouts"] + figures["metric_calls"] + figures["carried_calls"]
    assert len({found for _, _, found, _ in strategy.served}) == len(strategy.served), "each once"
    assert all(strategy.origins)
    plain = FST(**FIELDS)
    _run(plain)
    assert plain.metrics()["reused_rollouts"] == 0 and len(plain._kept) == 0
    assert plain.metrics()["slow_rollouts"] == plain.group_size * plain.metrics()["samples"]


def test_the_ratio_is_1_in_the_first_step_of_a_cycle_and_moves_with_the_weights():
    strategy = Watching(**FIELDS, is_reusing=True)
    _run(strategy, sizes=(1,))
    distances = dict(strategy.ratios)
    assert distances[0] < 1e-5 and distances[2] < 1e-5, "the first steps of both cycles"
    assert distances[1] > 1e-3 and distances[3] > 1e-3


@pytest.mark.parametrize("is_reusing", [False, True])
def test_truncation_matters_where_replies_are_old(is_reusing):
    weights = []
    for truncation in (1.0, 4.0):
        strategy = FST(**FIELDS, is_reusing=is_reusing, truncation=truncation)
        model, _ = _run(strategy, sizes=(1,))
        weights.append(dict(model.named_parameters()))
        if truncation == 1.0:
            assert (strategy.metrics()["truncated"] > 0.05) == is_reusing
    assert same(*weights) != is_reusing


def test_replies_of_another_cycle_are_drawn_anew():
    strategy, model = FST(**FIELDS, is_reusing=True), speaking_model()
    stream = SpeakingToy(sizes=(1,), n_train=8).open()
    strategy.setup(model, dataclasses.replace(stream.info, batch_size=4))
    strategy.before_experience(model, stream[0])
    rows = strategy.train_data(stream[0], stream[0].train)

    def found(experience, cycle):
        strategy._experience, strategy._cycle = experience, cycle
        names = {prompt.name for prompt in strategy._population}
        return [reply for name in sorted(names) for reply in strategy._claim("say 0.1", name, 1)]

    strategy._evolve(model, rows, 0, 24)
    assert found(0, 1) == [] == found(1, 0) and found(0, 0) != []
    strategy._n_steps = 2
    strategy._evolve(model, rows, 1, 24)
    assert found(0, 0) == []
    assert {reply.rollout.version for reply in found(0, 1)} == {2}


class Killed(FST):
    """Is killed in a fast phase, or before a step."""

    at: tuple

    def _evolve(self, model, rows, cycle, n_calls):
        super()._evolve(model, rows, cycle, n_calls)
        if self.at == ("cycle", cycle):
            raise Stopped

    def prepare_batch(self, model, batch):
        if self.at == ("step", self._n_steps):
            raise Stopped
        return super().prepare_batch(model, batch)


@pytest.mark.parametrize("at", [("cycle", 1), ("step", 1), ("step", 3)])
def test_a_run_that_is_killed_in_either_phase_ends_with_the_same_bits(at, tmp_path, monkeypatch):
    """A checkpoint after each step; the replies that were left then are claimed after it."""
    monkeypatch.setattr("cl_framework.train_calls.CHUNK", 1)
    whole, first, again = FST(**FIELDS, is_reusing=True), Killed(**FIELDS, is_reusing=True), Watching(
        **FIELDS, is_reusing=True)
    first.at = at
    model, record = _run(whole, sizes=(1,))
    with pytest.raises(Stopped):
        _run(first, sizes=(1,), vault=Vault(tmp_path, "run"))
    resumed, other = _run(again, sizes=(1,), vault=Vault(tmp_path, "run"))
    assert same(model.state_dict(), resumed.state_dict()) and same(record.accuracy, other.accuracy)
    assert whole.documents() == again.documents() and same(whole.metrics(), again.metrics())
    assert same(whole.state_dict(), again.state_dict())
    if at == ("step", 3):
        assert again.served and {cycle for _, cycle, _, _ in again.served} == {1}


def test_replies_of_another_temperature_cannot_serve():
    with pytest.raises(ConfigError, match=r"drawn at temperature 0\.5 cannot .* set fast_temperature to 1\.0"):
        FST(is_reusing=True, fast_temperature=0.5)
    assert FST(fast_temperature=0.5) and math.isclose(FST(is_reusing=True).fast_temperature, 1.0)

"""What FST and its halves report beside rewards: counters, figures of steps and prompts, and remarks."""

import dataclasses
import math

import pytest
import torch

from cl_framework import Recipe, run_stream
from cl_framework.api_reflector import ChatClient, ReflectorError
from cl_framework.check_runs import same
from cl_framework.checkpoint import Vault
from cl_framework.checks import checks_of, outcome_of
from cl_framework.problems import Verdict
from cl_framework.prompt_pool import different, diversity
from cl_framework.registry import load
from cl_framework.scenario import ResidentStream

pytest.importorskip("transformers", reason="pip install cl-framework[text] brings language models")

from cl_framework.speaking_toys import SpeakingToy, speaking_model

FST, RL, GEPA = (load("strategy", name) for name in ("fst", "rl", "gepa"))
RECIPE = Recipe(optimizer="adamw", lr=0.02, batch_size=4, reset_optimizer=False, checkpoint_every=0.0)
FIELDS = {"steps_per_cycle": 2, "n_probes": 0}
EVOLVING = {**FIELDS, "passes": 3.0, "n_prompts": 2}


class Counting:
    """Counts what a judge is asked, and says instead of it what `reward` says."""

    def __init__(self, judge, reward=None):
        self._judge, self._reward, self.asked = judge, reward, []

    def judge(self, prompt, reply):
        self.asked.append((prompt, reply))
        return self._judge.judge(prompt, reply) if self._reward is None else self._reward(prompt, reply)


def _stream(*, sizes=(1,), n_train=16, reward=None):
    stream = SpeakingToy(sizes=sizes, n_train=n_train).open()
    judges = [Counting(part.judge, reward) for part in stream._parts]
    return ResidentStream(stream.info, [dataclasses.replace(part, judge=judge) for part, judge in
                                        zip(stream._parts, judges, strict=True)]), judges


def _run(strategy, *, model=None, recipe=RECIPE, vault=None, **fields):
    model, (stream, judges) = model or speaking_model(), _stream(**fields)
    run_stream(strategy, stream, model, recipe=recipe, vault=vault)
    return model, judges


@pytest.mark.parametrize("fields", [{}, {"carried": "inside"}, {"is_reusing": True}])
def test_every_reply_that_a_judge_reads_is_counted_once(fields):
    strategy = FST(**EVOLVING, **fields)
    _, judges = _run(strategy, sizes=(1, 1))
    figures = strategy.metrics()
    assert figures["rollouts"] == sum(len(judge.asked) for judge in judges)
    assert figures["rollouts"] == figures["slow_rollouts"] + figures["metric_calls"] + figures["carried_calls"]
    assert figures["samples"] == 32 and figures["slow_rollouts"] + figures["reused_rollouts"] == 8 * 32
    assert figures["reflector_calls"] == figures["accepted"] + figures["rejected"] > 0
    assert figures["accepted"] == len(strategy._lineage) - 1


def test_halves_count_what_they_do():
    rl, gepa = RL(**FIELDS), GEPA(steps_per_cycle=2, passes=3.0, n_prompts=2)
    for strategy in (rl, gepa):
        _, judges = _run(strategy)
        assert strategy.metrics()["rollouts"] == len(judges[0].asked)
    assert rl.metrics()["samples"] == 16 and rl.metrics()["slow_rollouts"] == 128 == rl.metrics()["rollouts"]
    assert "reflector_calls" not in rl.metrics() and "samples" not in gepa.metrics()
    assert gepa.metrics()["metric_calls"] >= 3 * 16


def test_figures_of_steps_are_means_over_those_of_the_experience(monkeypatch):
    """Rewards and groups that say nothing, by hand; the gradient of one step as long as its parts are together."""
    from cl_framework.slow_step import draw

    seen, norms = [], []

    def noted(*args):
        seen.append(draw(*args))
        return seen[-1]

    class Noting(RL):
        def after_backward(self, model):
            parts = [float(value.grad.double().square().sum()) for value in model.parameters()]
            if self._given is not None:
                norms.append(math.sqrt(sum(parts)))
            super().after_backward(model)

    monkeypatch.setattr("cl_framework.strategies._slow_half.draw", noted)
    strategy = Noting(**FIELDS, group_size=2)
    _run(strategy, sizes=(1, 1))
    last, figures = [groups.rewards.tolist() for groups in seen[4:]], strategy.metrics()
    flat = [reward for batch in last for row in batch for reward in row]
    silent = [len(set(row)) == 1 for batch in last for row in batch]
    assert figures["reward"] == pytest.approx(sum(flat) / len(flat))
    assert figures["zero_variance"] == pytest.approx(sum(silent) / len(silent)) and 0 < sum(silent) < len(silent)
    assert figures["pass_at_1"] == pytest.approx(sum(reward == 1 for reward in flat) / len(flat))
    assert "pass_at_4" not in figures
    replies = [rollout.text.strip() for groups in seen[4:] for rollout in groups.rollouts]
    n_right = [len({replies[at] for at in (first, first + 1) if flat[at] == 1}) for first in range(0, len(flat), 2)]
    assert figures["distinct_right"] == pytest.approx(sum(n_right) / len(n_right)) and 2 in n_right
    n_second = sum(any(len(set(row)) > 1 for row in batch) for batch in last)
    assert figures["gradient_norm"] == pytest.approx(sum(norms[-n_second:]) / n_second, rel=1e-5)


def test_entropy_of_a_model_that_knows_nothing_is_that_of_its_vocabulary():
    model = speaking_model()
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    strategy = RL(**FIELDS)
    _run(strategy, model=model, recipe=dataclasses.replace(RECIPE, lr=0.0),
         reward=lambda prompt, reply: Verdict(len(reply) / 2, ""))
    assert strategy.metrics()["entropy"] == pytest.approx(math.log(11), abs=1e-5)


def test_prompts_are_told_apart_and_their_rewards_ranked():
    strategy = FST(**EVOLVING)
    _run(strategy)
    figures, kept = strategy.metrics(), different(strategy._population)
    assert figures["prompts"] == len(kept) and figures["prompt_diversity"] == diversity(kept)
    assert figures["any_prompt_reward"] >= figures["best_prompt_reward"] >= figures["mean_prompt_reward"] > 0
    again = FST(**EVOLVING)
    again.setup(speaking_model(), dataclasses.replace(_stream()[0].info, batch_size=4))
    again.load_state_dict(speaking_model(), strategy.state_dict())
    assert again.metrics() == figures


def test_a_silent_batch_between_others_leaves_weights_and_moments():
    """The second batch of four says nothing: weights and the optimizer's moments and steps stand still to the bit."""
    class Watching(RL):
        states = ()

        def optimizer(self, params, recipe):
            self.made = super().optimizer(params, recipe)
            return self.made

        def after_step(self, model, batch, output):
            super().after_step(model, batch, output)
            weights = {name: value.detach().clone() for name, value in model.named_parameters()}
            moments = [{key: value.clone() for key, value in state.items()} for state in self.made.state.values()]
            self.states += ((weights, moments),)

    def reward(prompt, reply):
        return Verdict(float(4 <= int(prompt.split(".")[1]) < 8) or len(reply) / 2, "")

    strategy = Watching(steps_per_cycle=1, n_probes=0, kl=0.1)
    _run(strategy, n_train=16, reward=reward, recipe=dataclasses.replace(RECIPE, weight_decay=0.1))
    first, second, third, _ = strategy.states
    assert same(first, second) and first[1] and not same(second, third)
    assert strategy.metrics()["zero_variance"] == pytest.approx(0.25, abs=0.1)


def test_problems_beyond_a_model_are_said_once_an_experience(caplog):
    def never(prompt, reply):
        return Verdict(0.0, "Wrong.")

    for strategy, names in ((FST(**EVOLVING), ["experience 0:", "experience 1:"]), (RL(**FIELDS), ["experience 0:"])):
        caplog.clear()
        _run(strategy, sizes=(1, 1), reward=never)
        said = [record.message for record in caplog.records if "worth anything" in record.message]
        assert [message[:13] for message in said] == names and " 0 of " in said[0]
        assert "scenario.difficulty" in said[0] and "experiment=fst/tiny" in said[0]
    caplog.clear()
    for strategy in (FST(**EVOLVING), RL(**FIELDS)):
        _run(strategy)
    assert "worth anything" not in caplog.text


def test_a_reflector_that_stops_the_run_leaves_a_state_to_go_on_from(tmp_path, monkeypatch):
    """An endpoint that falls silent in the second cycle: the same command goes on, and ends with the same bits."""
    calls, dies_at = [], [None]

    def answer(self, text, generator):
        calls.append(text)
        if len(calls) == dies_at[0]:
            raise ReflectorError("the reflector gives no answer")
        return f"```\nBegin with {'abc'[len(text) % 3]}. {len(text)}\n```"

    monkeypatch.setattr(ChatClient, "answer", answer)
    fields = {**EVOLVING, "reflector": "api", "reflector_url": "http://localhost:1/v1", "reflector_model": "m",
              "reflector_key": None, "reflector_failure": "stop"}
    whole = FST(**fields)
    model, _ = _run(whole)
    in_all = len(calls)
    calls.clear()
    dies_at[0] = in_all
    with pytest.raises(ReflectorError):
        _run(FST(**fields), vault=Vault(tmp_path, "run"))
    dies_at[0], again = None, FST(**fields)
    resumed, _ = _run(again, vault=Vault(tmp_path, "run"))
    assert same(model.state_dict(), resumed.state_dict()) and whole.documents() == again.documents()
    assert again.metrics() == whole.metrics() and again.documents()["prompts"]["label"] == "FST (reflector m)"


@pytest.mark.parametrize("name", ["resumes_inside_an_experience", "state_is_plain", "declares_its_memory"])
def test_a_strategy_that_reuses_replies_obeys_its_contract(name):
    plugin = FST(is_reusing=True, steps_per_cycle=2, passes=2.0)
    check = next(each for each in checks_of(plugin) if each.__name__ == name)
    outcome = outcome_of(plugin, check)
    assert outcome.is_fine, outcome.reason

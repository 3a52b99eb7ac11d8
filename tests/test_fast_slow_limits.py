"""Where fast and slow weights meet a limit: prompts too long for the next task, empty answers, dropout."""

import dataclasses

import pytest
import torch
from torch import nn

from cl_framework import Recipe, run_stream
from cl_framework.check_runs import same
from cl_framework.errors import ClfError, ConfigError
from cl_framework.prompt_pool import Pool, Prompt
from cl_framework.registry import load
from cl_framework.rollout import measured
from cl_framework.tokens import decoded

pytest.importorskip("transformers", reason="pip install cl-framework[text] brings language models")

from test_reflectors import SECRET, _Server

from cl_framework.speaking_toys import SpeakingToy, speaking_model

FST, RL, GEPA = (load("strategy", name) for name in ("fst", "rl", "gepa"))
RECIPE = Recipe(optimizer="adamw", lr=0.02, batch_size=4, reset_optimizer=False)
SHORT = {"steps_per_cycle": 2, "n_probes": 2}
EVOLVING = {"passes": 2.0, "n_prompts": 2}


def _set_up(strategy, model, n_train=8):
    stream = SpeakingToy(sizes=(1,), n_train=n_train).open()
    strategy.setup(model, dataclasses.replace(stream.info, batch_size=4))
    strategy.before_experience(model, stream[0])
    strategy.train_data(stream[0], stream[0].train)
    return stream


@pytest.mark.parametrize("length", [7, 40])
def test_a_carried_prompt_that_leaves_no_room_is_left_behind(length):
    """A prompt that fitted short problems; in front of longer ones the seed prompt takes its place."""
    strategy, model = FST(**EVOLVING, **SHORT), speaking_model()
    stream = _set_up(strategy, model)
    long = Prompt(name="p1", text="x" * length)
    strategy._lineage, strategy._population = [*strategy._lineage, long], [long, long]
    strategy._best, strategy._n_phases = long, 1
    model.max_tokens = len(model.context("say it", "say 0.10")) + model.sampling.max_new_tokens + 1
    replies = strategy.respond(model, decoded(stream[0].train.raw["prompt"]))
    assert len(replies) == 8
    strategy.after_experience(model, stream[0])
    fits = length < 10
    assert ("kl_best" in strategy.metrics()) == fits
    strategy._evolve(model, stream[0].train, 0, 16)
    assert ("p1" in {prompt.name for prompt in strategy._population}) == fits


def test_held_out_problems_are_answered_under_a_prompt_no_worse_than_the_seed(monkeypatch):
    """Each of three specialists is best somewhere, so that the frontier drops the seed, which is better than any."""
    pool = Pool()
    for name, right in (("p0", (0, 1, 2)), ("p1", (0, 3)), ("p2", (1, 4)), ("p3", (2, 5))):
        pool.add(Prompt(name=name, text=name), [float(k in right) for k in range(6)])
    kept = pool.top(3, "pareto")
    assert "p0" not in {prompt.name for prompt in kept}
    strategy, model = GEPA(**EVOLVING, steps_per_cycle=2), speaking_model()
    stream = _set_up(strategy, model)
    module = __import__("sys").modules[type(strategy).__mro__[1].__module__]
    found = module.evolve(strategy._population, 1, lambda prompt, rows: [], None,
                          dataclasses.replace(strategy._rules(0), budget=-1), torch.Generator(), n_known=1)
    led = dataclasses.replace(found, population=kept, pool=pool)
    monkeypatch.setattr(module, "evolve", lambda *args, **fields: led)
    strategy._evolve(model, stream[0].train, 0, 16)
    assert strategy._best.name == "p0" and strategy._population == kept


def test_what_nobody_has_room_for_is_refused_before_a_run():
    model = speaking_model()
    with pytest.raises(ConfigError, match=r"reflector=self needs room .* raise model.max_tokens"):
        _set_up(GEPA(reflector="self", reflection_tokens=model.max_tokens), model)


def test_a_model_that_reflects_on_itself_is_asked_with_as_many_trials_as_it_takes(caplog):
    from cl_framework.reflectors import LanguageReflector, Trial, request

    trials, asked = [Trial(problem=f"{n}", reply="", reward=0.0, feedback="") for n in range(3)], []
    limit = len(request("seed", trials[:2]))
    reflector = LanguageReflector(lambda text, draws: asked.append(text) or "new", "self",
                                  fits=lambda text: len(text) <= limit)
    assert reflector.reflect("seed", trials, torch.Generator()).text == "new"
    assert asked == [request("seed", trials[:2])]
    assert LanguageReflector(lambda text, draws: "new", "self", fits=lambda text: False).reflect(
        "seed", trials, torch.Generator()) is None
    assert "raise model.max_tokens" in caplog.text


@pytest.mark.parametrize("failure", ["stop", "fallback"])
def test_an_empty_answer_is_a_failure_and_results_say_who_proposed(failure, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    empty = {"choices": [{"message": {"content": " \n"}}], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}
    with _Server((200, {}, empty)) as server:
        strategy = GEPA(**EVOLVING, steps_per_cycle=2, reflector="api", reflector_url=server.url,
                        reflector_model="thinker", reflector_retries=0, reflector_failure=failure)
        model = speaking_model()
        stream = _set_up(strategy, model)
        if failure == "stop":
            with pytest.raises(ClfError, match=r"gives no answer .* may need more reflection_tokens"):
                strategy._evolve(model, stream[0].train, 0, 24)
            return
        strategy._evolve(model, stream[0].train, 0, 24)
    figures, label = strategy.metrics(), strategy.documents()["prompts"]["label"]
    assert figures["reflector_fallbacks"] == figures["reflector_failures"] == figures["reflector_calls"] > 0
    n = int(figures["reflector_calls"])
    assert label == f"GEPA (reflector thinker, scripted edits for {n} of {n} proposals)"
    assert figures["reflector_tokens"] == 12 * n, "what was answered is paid for, also where it is empty"


def test_replies_are_learned_as_they_were_drawn_also_with_dropout():
    """The ratio is 1 at every step, and the divergence 0 at the anchor."""
    ratios = []

    class Watching(RL):
        def loss(self, model, batch, output):
            given, value = self._given, super().loss(model, batch, output)
            if given is not None:
                drawn = torch.cat([each.trainer_log_probs for each in measured(model, given.rollouts)])
                own = torch.cat([each.sampler_log_probs for each in given.rollouts])
                learned = model(batch.x).logits
                ratios.append((drawn - own).abs().max().item())
                assert model.training and torch.equal(learned, model(batch.x).logits), "nothing is dropped"
            return value

    model = speaking_model()
    layer = model.body.model.layers[0]
    layer.self_attn.attention_dropout = 0.3
    layer.mlp.down_proj = nn.Sequential(layer.mlp.down_proj, nn.Dropout(0.5))
    strategy = Watching(steps_per_cycle=2, n_probes=0)
    run_stream(strategy, SpeakingToy(sizes=(1,), n_train=16).open(), model, recipe=RECIPE)
    assert ratios and max(ratios) < 1e-5


def test_steps_that_learn_nothing_do_not_use_the_warm_up_up():
    strategy, model = RL(**SHORT), speaking_model()
    stream = _set_up(strategy, model)
    assert strategy._warmth() == pytest.approx(0.1)
    strategy._given = None
    strategy.after_step(model, stream[0].train, None)
    assert strategy._warmth() == pytest.approx(0.1) and strategy._n_steps == 1
    fresh = RL(**SHORT)
    _set_up(fresh, model)
    fresh.load_state_dict(model, {**strategy.state_dict(), "updates": 4})
    assert fresh._warmth() == pytest.approx(0.5)


def test_replies_carry_the_number_of_the_weights_that_drew_them():
    seen = []

    class Watching(RL):
        def prepare_batch(self, model, batch):
            ready = super().prepare_batch(model, batch)
            seen.append((self._n_steps, {each.version for each in self._given.rollouts} if self._given else set()))
            return ready

    run_stream(Watching(**SHORT), SpeakingToy(sizes=(1,), n_train=16).open(), speaking_model(), recipe=RECIPE)
    assert any(versions for _, versions in seen)
    assert all(versions <= {step} for step, versions in seen)


def test_a_loss_without_advantages_cannot_hold_by_them():
    with pytest.raises(ConfigError, match="set kl_where=loss or kl=0"):
        RL(slow="raft", kl_where="advantage")
    assert RL(slow="raft", kl_where="advantage", kl=0.0).kl == 0


def test_with_one_cycle_the_weights_are_those_of_rl_under_the_prompts_of_gepa():
    """T to infinity: a fast phase on everything, then reinforcement under its population."""
    alone = GEPA(**EVOLVING, steps_per_cycle=99)
    stream = SpeakingToy(sizes=(1,), n_train=16)
    run_stream(alone, stream.open(), speaking_model(), recipe=RECIPE)

    class Under(RL):
        def _prompts(self):
            return alone._population

    both, slow = speaking_model(), speaking_model()
    run_stream(FST(**EVOLVING, steps_per_cycle=99, n_probes=0), stream.open(), both, recipe=RECIPE)
    run_stream(Under(steps_per_cycle=99, n_probes=0), stream.open(), slow, recipe=RECIPE)
    assert same(both.state_dict(), slow.state_dict())
    assert not same(both.state_dict(), speaking_model().state_dict())


def test_a_fast_phase_between_steps_leaves_the_optimizer_alone():
    """Weights and moments after the steps of a run are those of one whose fast phases draw nothing but replies."""
    states = []

    class Watching(FST):
        def optimizer(self, params, recipe):
            made = super().optimizer(params, recipe)
            states.append(made)
            return made

        def _evolve(self, model, rows, cycle, n_calls):
            before = [same({}, {})] if not states else [value.clone() for each in states[-1].state.values()
                                                       for value in each.values()]
            super()._evolve(model, rows, cycle, n_calls)
            if states:
                after = [value for each in states[-1].state.values() for value in each.values()]
                self.compared = getattr(self, "compared", 0) + len(after)
                assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))

    strategy = Watching(**EVOLVING, **SHORT)
    run_stream(strategy, SpeakingToy(sizes=(1,), n_train=24).open(), speaking_model(), recipe=RECIPE)
    assert strategy.compared > 0

"""FST and its halves on a toy that speaks: reductions, isolation, lookahead, carried prompts, resume."""

import dataclasses

import pytest
import torch

from cl_framework import Recipe, run_stream
from cl_framework.adapters import dense_weights
from cl_framework.chain import Chain
from cl_framework.check_runs import Stopped, same
from cl_framework.checkpoint import Vault
from cl_framework.errors import ConfigError
from cl_framework.observer import Observer
from cl_framework.registry import load
from cl_framework.seeding import capture
from cl_framework.token_rows import answer_log_probs
from cl_framework.tokens import decoded
from cl_framework.types import Need

pytest.importorskip("transformers", reason="pip install cl-framework[text] brings language models")

from cl_framework.speaking_toys import SpeakingToy, speaking_model

FST, RL, GEPA = (load("strategy", name) for name in ("fst", "rl", "gepa"))
RLThenGEPA, SkillTransfer = load("strategy", "rl_then_gepa"), load("strategy", "skill_transfer")
RECIPE = Recipe(optimizer="adamw", lr=0.02, batch_size=4, reset_optimizer=False, checkpoint_every=0.0)
SHORT = {"steps_per_cycle": 2, "n_probes": 0}
EVOLVING = {"passes": 2.0, "n_prompts": 2}


def _run(strategy, *, sizes=(1,), n_train=16, recipe=RECIPE, vault=None, observer=None, model=None):
    model = model or speaking_model()
    record = run_stream(strategy, SpeakingToy(sizes=sizes, n_train=n_train).open(), model, recipe=recipe, vault=vault,
                        observer=observer)
    return model, record


def _weights(model):
    return dict(model.named_parameters())


class Noting(FST):
    """Notes what both halves see."""

    def setup(self, model, info):
        super().setup(model, info)
        self.looked_at, self.learned, self.populations, self.seeds = [], [], [], []

    def _evolve(self, model, rows, cycle, n_calls):
        self.looked_at.append(decoded(rows.raw["prompt"]))
        self.seeds.append([prompt.name for prompt in self._population])
        super()._evolve(model, rows, cycle, n_calls)
        self.learned.append([])

    def prepare_batch(self, model, batch):
        self.learned[-1] += decoded(batch.raw["prompt"])
        self.populations.append([prompt.name for prompt in self._population])
        return super().prepare_batch(model, batch)


@pytest.mark.parametrize("n_prompts", [1, 4])
def test_without_a_fast_half_it_is_rl_to_the_bit(n_prompts):
    fast_slow, record = _run(FST(passes=0.0, n_prompts=n_prompts, **SHORT), sizes=(1, 1))
    slow, other = _run(RL(**SHORT), sizes=(1, 1))
    assert same(fast_slow.state_dict(), slow.state_dict()) and same(record.accuracy, other.accuracy)
    assert not same(_weights(slow), _weights(speaking_model())), "something was learned"


def test_without_a_learning_rate_it_is_gepa():
    still = dataclasses.replace(RECIPE, lr=0.0)
    strategy, alone = FST(**EVOLVING, steps_per_cycle=2), GEPA(**EVOLVING, steps_per_cycle=2)
    model, _ = _run(strategy, recipe=still)
    _run(alone, recipe=still)
    assert same(_weights(model), _weights(speaking_model()))
    assert strategy.metrics()["kl_seed"] == strategy.metrics()["kl_best"] == 0.0
    assert strategy.documents()["prompts"]["lineage"] == alone.documents()["prompts"]["lineage"]
    assert strategy.documents()["prompts"]["population"] == alone.documents()["prompts"]["population"]
    assert strategy.metrics()["metric_calls"] == alone.metrics()["metric_calls"] > 0


def test_with_one_cycle_it_is_gepa_and_then_rl():
    """One fast phase on all rows, then every step under its prompts."""
    strategy, alone = Noting(**EVOLVING, steps_per_cycle=99, n_probes=0), GEPA(**EVOLVING, steps_per_cycle=99)
    _run(strategy)
    _run(alone)
    found = alone.documents()["prompts"]
    assert len(strategy.looked_at) == 1 and strategy.populations == [found["population"]] * 4
    assert strategy.documents()["prompts"]["lineage"] == found["lineage"]


def test_rl_then_gepa_has_the_weights_of_rl():
    both, alone = RLThenGEPA(**EVOLVING, **SHORT), RL(**SHORT)
    first, _ = _run(both)
    second, _ = _run(alone)
    assert same(first.state_dict(), second.state_dict())
    figures = both.metrics()
    assert figures["metric_calls"] >= 2 * 16 > 0 and figures["slow_rollouts"] == alone.metrics()["slow_rollouts"]
    assert figures["rollouts"] == figures["slow_rollouts"] + figures["metric_calls"] + figures["carried_calls"]


@pytest.mark.parametrize("at", ["between", "behind"])
def test_a_half_of_rl_then_gepa_that_is_done_is_not_done_again(at, tmp_path):
    """Killed between both halves, or when both are done and the experience is not over."""
    class Killed(RLThenGEPA):
        def _evolve(self, model, rows, cycle, n_calls):
            if at == "between":
                raise Stopped
            super()._evolve(model, rows, cycle, n_calls)

        def after_experience(self, model, experience):
            raise Stopped

    class Counted(RLThenGEPA):
        n_batches = n_phases = 0

        def prepare_batch(self, model, batch):
            self.n_batches += 1
            return super().prepare_batch(model, batch)

        def _evolve(self, model, rows, cycle, n_calls):
            self.n_phases += 1
            super()._evolve(model, rows, cycle, n_calls)

    whole, again = RLThenGEPA(**EVOLVING, **SHORT), Counted(**EVOLVING, **SHORT)
    model, record = _run(whole)
    with pytest.raises(Stopped):
        _run(Killed(**EVOLVING, **SHORT), vault=Vault(tmp_path, "run"))
    resumed, other = _run(again, vault=Vault(tmp_path, "run"))
    assert (again.n_batches, again.n_phases) == (0, 1 if at == "between" else 0)
    assert same(model.state_dict(), resumed.state_dict()) and same(record.accuracy, other.accuracy)
    assert whole.documents() == again.documents() and whole.metrics() == again.metrics()


def test_a_fast_phase_changes_nothing_but_the_prompts():
    strategy, model, stream = FST(**EVOLVING, **SHORT), speaking_model(), SpeakingToy(sizes=(1,), n_train=8).open()
    strategy.setup(model, dataclasses.replace(stream.info, batch_size=4))
    strategy.before_experience(model, stream[0])
    strategy.train_data(stream[0], stream[0].train)
    for mode in (True, False):
        model.train(mode)
        before = [value.clone() for value in model.parameters()], capture(), [m.training for m in model.modules()]
        strategy._evolve(model, stream[0].train, 0, 24)
        assert all(torch.equal(a, b) for a, b in zip(before[0], model.parameters(), strict=True))
        assert same(before[1], capture()) and before[2] == [m.training for m in model.modules()]
        assert all(value.grad is None for value in model.parameters())
    assert len(strategy._lineage) > 1


def test_what_is_looked_at_is_what_is_learned_and_prompts_stand_still_meanwhile():
    strategy = Noting(**EVOLVING, **SHORT)
    _run(strategy, sizes=(1, 1), n_train=20)
    sizes = [len(seen) for seen in strategy.looked_at]
    assert sizes == [8, 8, 4] * 2
    for seen, learned in zip(strategy.looked_at, strategy.learned, strict=True):
        assert sorted(seen) == sorted(learned), "each once"
    rows = [prompt for seen in strategy.looked_at for prompt in seen]
    assert rows == [f"say {index}.{k}" for index in range(2) for k in range(20)], "in the order of the stream"
    names = iter(strategy.populations)
    for size in sizes:
        assert len({tuple(next(names)) for _ in range(size // 4)}) == 1


def test_prompts_are_carried_over_a_task_switch_and_tried_anew():
    strategy = Noting(**EVOLVING, **SHORT)
    _run(strategy, sizes=(1, 1), n_train=8)
    assert strategy.seeds[0] == ["p0"] and set(strategy.seeds[1]) == set(strategy.populations[1])
    carried = len(set(strategy.seeds[1]))
    assert strategy.metrics()["carried_calls"] == carried * 8


def test_the_reference_has_the_context_of_the_reply():
    """Before the first step the base is the policy itself, under every prompt; another prompt has other numbers."""
    class Watching(FST):
        distances = ()

        def loss(self, model, batch, output):
            own, mask = answer_log_probs(batch.x, output.logits)
            (_, base), = self._references
            self.distances += (float((own.detach() - base)[mask].abs().max()),)
            return super().loss(model, batch, output)

    strategy = Watching(**EVOLVING, **SHORT)
    _run(strategy, n_train=8)
    assert strategy.distances[0] < 1e-5 < strategy.distances[1], "then the weights move"
    model = speaking_model()
    policy = strategy._policy(model)
    rollout = policy.sample([policy.context("one", "say 0.1")], 1, torch.Generator().manual_seed(0), "p0")[0][0]
    other = dataclasses.replace(rollout, context_ids=torch.tensor(model.vocabulary.context_ids(
        policy.context("another", "say 0.1"))))
    first, second = (policy.log_probs([each])[0] for each in (rollout, other))
    assert not torch.allclose(first, second)


def test_a_batch_that_says_nothing_leaves_weights_and_optimizer():
    """A letter that never begins a reply: rewards are 0, and nothing moves, decay of weights included."""
    stream = SpeakingToy(sizes=(1,), n_train=8).open()
    experience = stream[0]
    for problem in decoded(experience.train.raw["prompt"]):
        known = experience.judge._problems[problem]
        experience.judge._problems[problem] = known._replace(answer="zz")
    model = speaking_model()
    recipe = dataclasses.replace(RECIPE, weight_decay=0.1)
    strategy = RL(**SHORT)
    run_stream(strategy, stream, model, recipe=recipe)
    assert same(_weights(model), _weights(speaking_model()))
    assert strategy.metrics()["zero_variance"] == 1.0 and strategy.metrics()["reward"] == 0.0


class _Killed(FST):
    """Is killed in the fast phase of its second cycle, after some of it is done."""

    def _evolve(self, model, rows, cycle, n_calls):
        super()._evolve(model, rows, cycle, n_calls)
        if cycle == 1:
            raise Stopped


def test_a_run_that_is_killed_in_a_fast_phase_ends_with_the_same_prompts_and_weights(tmp_path):
    whole = FST(**EVOLVING, **SHORT)
    model, record = _run(whole)
    with pytest.raises(Stopped):
        _run(_Killed(**EVOLVING, **SHORT), vault=Vault(tmp_path, "run"))
    again = FST(**EVOLVING, **SHORT)
    resumed, other = _run(again, vault=Vault(tmp_path, "run"))
    assert same(model.state_dict(), resumed.state_dict()) and same(record.accuracy, other.accuracy)
    assert whole.documents() == again.documents() and whole.metrics() == again.metrics()


def test_prompts_are_written_also_where_a_run_was_killed_just_before(tmp_path):
    class Documents(Observer):
        def __init__(self, killed_at):
            self.seen, self.killed_at = [], killed_at

        def documented(self, documents):
            if len(self.seen) == self.killed_at:
                raise Stopped
            self.seen.append(documents)

    strategy, after = FST(**EVOLVING, **SHORT), Documents(None)
    with pytest.raises(Stopped):
        _run(FST(**EVOLVING, **SHORT), vault=Vault(tmp_path, "run"), observer=Documents(0))
    _run(strategy, vault=Vault(tmp_path, "run"), observer=after)
    assert after.seen == [strategy.documents()], "the last experience was over, but its prompts were not written"


class _KilledAlone(GEPA):
    """Is killed when its third cycle begins."""

    def _evolve(self, model, rows, cycle, n_calls):
        if cycle == 2:
            raise Stopped
        super()._evolve(model, rows, cycle, n_calls)


class _Counted(GEPA):
    """Notes which fast phases are done."""

    def setup(self, model, info):
        super().setup(model, info)
        self.phases = []

    def _evolve(self, model, rows, cycle, n_calls):
        self.phases.append((self._experience, cycle))
        super()._evolve(model, rows, cycle, n_calls)


def test_prompts_alone_go_on_from_the_last_fast_phase(tmp_path):
    fields = {**EVOLVING, "steps_per_cycle": 1}
    whole, again = GEPA(**fields), _Counted(**fields)
    _, record = _run(whole)
    with pytest.raises(Stopped):
        _run(_KilledAlone(**fields), vault=Vault(tmp_path, "run"))
    _, other = _run(again, vault=Vault(tmp_path, "run"))
    assert again.phases[0] == (0, 2), "two phases are not done again"
    assert whole.documents() == again.documents() and whole.metrics() == again.metrics()
    assert same(record.accuracy, other.accuracy)


def test_held_out_problems_are_answered_under_the_best_prompt_or_the_seed():
    strategy = FST(**EVOLVING, **SHORT)
    _run(strategy, n_train=8)
    assert strategy._best in strategy._population
    plain = FST(**EVOLVING, **SHORT, evaluation_prompt="seed")
    _run(plain, n_train=8)
    assert plain._best.name == "p0"


def test_results_say_who_reflected():
    for name, words in (("scripted", "FST (scripted reflector)"), ("random", "FST (random edits)"),
                        ("self", "FST (reflecting itself)")):
        strategy = FST(**{**EVOLVING, "passes": 1.5}, **SHORT, reflector=name)
        _run(strategy, n_train=4)
        assert strategy.documents()["prompts"]["label"] == words


def test_the_population_must_share_a_group():
    with pytest.raises(ConfigError, match="8 answers to a problem cannot be shared evenly by 3 prompts; set group_size "
                                          "to a multiple of n_prompts, such as 9"):
        FST(n_prompts=3)


def test_a_seed_prompt_that_does_not_fit_is_an_error_and_a_child_that_does_not_is_rejected():
    model = speaking_model()
    model.max_tokens = 24
    strategy = FST(**EVOLVING, **SHORT)
    _run(strategy, n_train=4, model=model)
    assert len(strategy._lineage) == 1 and strategy.metrics()["rejected"] > 0
    model = speaking_model()
    model.max_tokens = 12
    with pytest.raises(ConfigError, match="do not fit"):
        _run(FST(**EVOLVING, **SHORT), n_train=4, model=model)


def test_a_strategy_without_rewards_is_refused_where_it_needs_them():
    stream = SpeakingToy(sizes=(1,)).open()
    stream.info = dataclasses.replace(stream.info, offers=frozenset({Need.TEXT}))
    with pytest.raises(ConfigError, match="RL learns from rewards, and nothing checks replies"):
        run_stream(RL(), stream, speaking_model())


@pytest.mark.parametrize("fields", [{"slow": "grpo"}, {"slow": "raft"}, {"advantage": "beta"}, {"advantage": "batch"},
                                    {"advantage": "unlikely"}, {"anchor": "previous"}, {"kl_where": "advantage"},
                                    {"anchor": "mixed", "anchor_schedule": "decay"}])
def test_every_option_learns(fields):
    strategy = RL(**SHORT, kl=0.01, **{name: value for name, value in fields.items() if name != "kl"})
    model, _ = _run(strategy, sizes=(1, 1), n_train=4)
    assert not same(_weights(model), _weights(speaking_model()))
    assert all(value.isfinite().all() for value in model.parameters())


def test_the_warm_up_scales_the_steps_and_leaves_the_rate():
    optimizer = RL(warmup_steps=4)
    optimizer._n_updates = 0
    weight = torch.nn.Parameter(torch.zeros(1))
    made = optimizer.optimizer([weight], Recipe(optimizer="sgd", lr=1.0))
    moved = []
    for step in range(6):
        optimizer._n_updates = step
        weight.grad = -torch.ones(1)
        before = float(weight.detach())
        made.step()
        moved.append(float(weight.detach()) - before)
    assert moved == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0]) and made.param_groups[0]["lr"] == 1.0


# skill transfer

def test_on_the_source_with_strength_1_it_ends_where_the_rewards_led():
    class Watching(SkillTransfer):
        def _put(self, model, *, is_on):
            if is_on:
                self.supervised = {name: value.detach().clone() for name, value in model.named_parameters()}
            super()._put(model, is_on=is_on)

    strategy = Watching(**SHORT)
    model, _ = _run(strategy, n_train=8)
    for name, value in model.named_parameters():
        skill = strategy._skill.get(name, torch.zeros(()))
        assert torch.allclose(value.detach(), strategy.supervised[name] + skill, atol=1e-7)
    assert any(float(value.abs().max()) > 1e-3 for value in strategy._skill.values())


def test_the_skill_is_on_the_weights_once_however_many_experiences_there_were():
    class Watching(SkillTransfer):
        states = ()

        def fit(self, model, data, train):
            super().fit(model, data, lambda rows: None if self._experience else train(rows))

        def after_experience(self, model, experience):
            super().after_experience(model, experience)
            self.states += ({name: value.detach().clone() for name, value in model.named_parameters()},)

    strategy = Watching(**SHORT)
    _run(strategy, sizes=(1, 1, 1), n_train=8)
    for name, value in strategy.states[0].items():
        assert torch.allclose(value, strategy.states[2][name], atol=1e-6)


def test_without_strength_it_is_supervised_learning_later_on():
    transfer = SkillTransfer(strength=0.0, **SHORT)
    recipe = dataclasses.replace(RECIPE, reset_optimizer=True)
    model, _ = _run(transfer, n_train=8, recipe=recipe)
    plain, _ = _run(load("strategy", "naive")(), n_train=8, recipe=recipe)
    for name, value in model.named_parameters():
        assert torch.allclose(value, plain.get_parameter(name), atol=1e-6)


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_source_ends_where_rewards_led_and_the_skill_is_the_last_difference(rounds):
    """theta_sft + v = theta_rl; of one round v is the plain difference, of two the second begins with the first's."""
    class Watching(SkillTransfer):
        def _learn_skill(self, model, rows, train):
            self.states = []

            def noting(data):
                before = {name: value.detach().clone() for name, value in model.named_parameters()}
                train(data)
                self.states.append((before, {name: value.detach().clone() for name, value in model.named_parameters()}))

            previous = dict(self._skill)
            super()._learn_skill(model, rows, noting)
            begun, learned = self.states[1][0], self.states[0][1]
            for name, value in begun.items():
                assert torch.allclose(value, learned[name] + previous.get(name, 0.0), atol=1e-7)

    strategy = Watching(rounds=rounds, **SHORT)
    model, _ = _run(strategy, n_train=8 * rounds)
    supervised, rewarded = strategy.states[0][1], strategy.states[-1][1]
    for name, value in model.named_parameters():
        assert torch.allclose(value.detach(), rewarded[name], atol=1e-6)
        assert torch.allclose(strategy._skill.get(name, torch.zeros(())), rewarded[name] - supervised[name], atol=1e-6)
    assert not same(rewarded, supervised) and -1 <= strategy.metrics()["cosine"] <= 1


def test_with_an_adapter_the_skill_is_its_dense_update_and_survives_a_kill(tmp_path):
    pytest.importorskip("peft", reason="pip install cl-framework[llm] brings adapters")

    class Watching(SkillTransfer):
        def _put(self, model, *, is_on):
            if is_on and not self._experience:
                self.supervised = dict(dense_weights(model))
            super()._put(model, is_on=is_on)
            if is_on and not self._experience:
                self.both = dict(dense_weights(model))

    class KilledAfterOne(Observer):
        def evaluated(self, index, record, own):
            raise Stopped

    whole = Watching(**SHORT)
    model, record = _run(whole, sizes=(1, 1), n_train=8, model=speaking_model(rank=2))
    assert whole._skill and not any("lora" in name for name in whole._skill)
    for name, value in whole.both.items():
        assert torch.allclose(value, whole.supervised[name] + whole._skill.get(name, torch.zeros(())), atol=1e-6)
    with pytest.raises(Stopped):
        _run(SkillTransfer(**SHORT), sizes=(1, 1), n_train=8, model=speaking_model(rank=2),
             vault=Vault(tmp_path, "run"), observer=KilledAfterOne())
    resumed, other = _run(SkillTransfer(**SHORT), sizes=(1, 1), n_train=8, model=speaking_model(rank=2),
                          vault=Vault(tmp_path, "run"))
    assert same(dict(dense_weights(model)), dict(dense_weights(resumed))) and same(record.accuracy, other.accuracy)


def test_with_an_adapter_the_weights_beside_it_stand_still():
    pytest.importorskip("peft", reason="pip install cl-framework[llm] brings adapters")
    strategy = FST(**EVOLVING, steps_per_cycle=2, n_probes=2)
    model, _ = _run(strategy, n_train=8, model=speaking_model(rank=2))
    begun = speaking_model(rank=2)
    assert same(dict(model.adapter.weights), dict(begun.adapter.weights))
    assert not same(model.adapter.dense_delta(), begun.adapter.dense_delta()) and strategy.metrics()["kl_seed"] != 0.0
    assert all("lora" in name for name in strategy._base)


def test_a_skill_is_linear_and_a_common_offset_cancels():
    from cl_framework.strategies.skill_transfer import add, cosine, dense, difference

    model = speaking_model()
    base = dense(model)
    after = {name: value + torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
             for name, value in base.items()}
    skill = difference(after, base)
    shifted = difference({name: value + 1 for name, value in after.items()},
                         {name: value + 1 for name, value in base.items()})
    assert all(torch.allclose(skill[name], shifted[name], atol=1e-5) for name in skill)
    add(model, skill, 0.5)
    add(model, skill, 0.5)
    assert all(torch.allclose(value.detach(), after[name], atol=1e-6) for name, value in model.named_parameters())
    assert cosine(skill, skill) == pytest.approx(1.0)
    first, second = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}
    assert cosine(first, second) == 0.0
    assert cosine({"w": 2 * first["w"]}, {"w": -first["w"]}) == pytest.approx(-1.0)
    with pytest.raises(Exception, match="other names or shapes"):
        difference({"w": torch.zeros(2)}, {"w": torch.zeros(3)})


def test_two_that_draw_replies_cannot_be_chained():
    with pytest.raises(Exception, match="cannot be chained"):
        Chain(FST(), RL())

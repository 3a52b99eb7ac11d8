"""How far the weights are from the base: on problems that are learned, and on others that the scenario names."""

import dataclasses
import itertools

import pytest
import torch

from cl_framework import Phase, Recipe, run_stream
from cl_framework.check_runs import Stopped, same
from cl_framework.checkpoint import Vault
from cl_framework.probed import Probed, probes_of
from cl_framework.problems import DataLeak
from cl_framework.registry import load
from cl_framework.rollout import Rollout, response_log_probs
from cl_framework.scenario import ResidentStream
from cl_framework.scenarios.verifiable import Verifiable
from cl_framework.standing_weights import noted, standing_in
from cl_framework.tokens import decoded

pytest.importorskip("transformers", reason="pip install cl-framework[text] brings language models")

from cl_framework.speaking_toys import SpeakingToy, speaking_model

FST, RL = load("strategy", "fst"), load("strategy", "rl")
PROBES = ("say 7.1", "say 7.2", "say 7.3")
RECIPE = Recipe(optimizer="adamw", lr=0.02, batch_size=4, reset_optimizer=False)
END = 9


def _stream(probes=PROBES):
    """A stream of one experience whose judge names further problems."""
    stream = SpeakingToy(sizes=(1,), n_train=8).open()
    part = dataclasses.replace(stream._parts[0], judge=Probed(stream[0].judge, probes))
    return ResidentStream(stream.info, [part])


def _moved(model, scale=0.4):
    """The model with other weights, and those that it had."""
    before, draws = noted(model), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.parameters():
            value += scale * torch.randn(value.shape, generator=draws)
    return before


def _by_brute_force(model, base, prompt, problem):
    """sum_y pi(y) (log pi(y) - log pi_base(y)), its second moment, and sum_y pi(y) |y| over all replies."""
    context = torch.tensor(model.vocabulary.context_ids(model.context(prompt, problem)))
    ids = [[END]] + [[first, second] for first, second in itertools.product(range(11), range(11)) if first != END]
    replies = [Rollout(context, torch.tensor(each), torch.zeros(len(each)), None, 0, "", "", False) for each in ids]
    with torch.no_grad():
        own = response_log_probs(model, replies)[0].double().sum(1)
        with standing_in(model, base):
            other = response_log_probs(model, replies)[0].double().sum(1)
    assert float(own.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    share, lengths = own.exp(), torch.tensor([len(each) for each in ids])
    return tuple(float((share * value).sum()) for value in (own - other, (own - other).square(), lengths))


def test_drift_is_the_divergence_of_all_replies_over_their_mean_length(monkeypatch):
    monkeypatch.setattr("cl_framework.strategies._slow_half._PROBES", 600)
    strategy, model, stream = RL(), speaking_model(), _stream()
    strategy.setup(model, dataclasses.replace(stream.info, batch_size=4))
    strategy.before_experience(model, stream[0])
    strategy.train_data(stream[0], stream[0].train)
    base = _moved(model)
    sums = [_by_brute_force(model, base, model.seed_prompt, problem) for problem in PROBES]
    total, squares, length = (sum(column) for column in zip(*sums, strict=True))
    found, error = strategy._divergence(model, strategy._lineage[0], PROBES), (squares / 600) ** 0.5 / length
    assert abs(found - total / length) < 4 * error < 0.2 * total / length


def test_drift_is_measured_on_what_is_learned_and_on_what_is_not():
    class Noting(FST):
        def setup(self, model, info):
            super().setup(model, info)
            self.asked = {}

        def _divergence(self, model, prompt, problems):
            found = super()._divergence(model, prompt, problems)
            self.asked[prompt.name, tuple(problems)] = found
            return found

    strategy = Noting(steps_per_cycle=2, n_prompts=2, passes=2.0, n_probes=2)
    stream = _stream()
    run_stream(strategy, stream, speaking_model(), recipe=RECIPE)
    learned, figures = tuple(decoded(stream[0].train.raw["prompt"])[:2]), strategy.metrics()
    best = strategy._best.name
    for name, prompt, problems in (("kl_seed", "p0", learned), ("kl_best", best, learned),
                                   ("kl_seed_held_out", "p0", PROBES[:2]), ("kl_best_held_out", best, PROBES[:2])):
        assert figures[name] == strategy.asked[prompt, problems] != 0.0


@pytest.mark.parametrize(("fields", "probes", "names"), [
    ({}, (), {"kl_seed", "kl_best"}), ({"n_probes": 0}, PROBES, set()),
    ({}, PROBES, {"kl_seed", "kl_best", "kl_seed_held_out", "kl_best_held_out"})])
def test_what_is_not_measured_is_absent_and_weights_that_stand_still_have_not_drifted(fields, probes, names):
    strategy, model = RL(**fields), speaking_model()
    run_stream(strategy, _stream(probes), model, recipe=dataclasses.replace(RECIPE, lr=0.0))
    figures = {name: value for name, value in strategy.metrics().items() if name.startswith("kl_")}
    assert set(figures) == names and not any(figures.values())
    assert same(dict(model.named_parameters()), dict(speaking_model().named_parameters()))


# the anchor

def _learned(sizes, **fields):
    model, strategy = speaking_model(), RL(steps_per_cycle=2, n_probes=0, kl=0.5, **fields)
    run_stream(strategy, SpeakingToy(sizes=sizes, n_train=8).open(), model, recipe=RECIPE)
    return dict(model.named_parameters())


def test_both_anchors_are_one_in_the_first_experience_and_two_later():
    assert same(_learned((1,), anchor="base"), _learned((1,), anchor="previous"))
    base, previous = (_learned((1, 1), anchor=anchor) for anchor in ("base", "previous"))
    assert not same(base, previous)
    assert same(base, _learned((1, 1), anchor="mixed", base_share=1.0))
    assert same(previous, _learned((1, 1), anchor="mixed", base_share=0.0))


def test_anchors_stand_still_and_survive_a_kill(tmp_path):
    class Watching(RL):
        kept = ()

        def before_experience(self, model, experience):
            super().before_experience(model, experience)
            self.kept += (noted(model),)

        def prepare_batch(self, model, batch):
            if self.dies_at == self._n_steps:
                raise Stopped
            assert same(self._base, noted(speaking_model())) and (not self.kept or same(self._previous, self.kept[-1]))
            return super().prepare_batch(model, batch)

    def run(dies_at, vault=None):
        model, strategy = speaking_model(), Watching(steps_per_cycle=1, n_probes=2, kl=0.5, anchor="mixed")
        strategy.dies_at = dies_at
        run_stream(strategy, SpeakingToy(sizes=(1, 1), n_train=16).open(), model, vault=vault,
                   recipe=dataclasses.replace(RECIPE, checkpoint_every=0.0))
        return model.state_dict(), strategy.metrics()

    whole = run(None)
    with pytest.raises(Stopped):
        run(6, Vault(tmp_path, "run"))
    assert same(whole, run(None, Vault(tmp_path, "run")))


# what the scenario names

def _prompts(data):
    return set(decoded(data.raw["prompt"]))


@pytest.mark.parametrize("fields", [{}, {"n_pieces": 2}, {"kinds": ["code", "code", "transform:1"]},
                                    {"kinds": ["arithmetic", "arithmetic:1"], "difficulty": 0, "n_train": 8}])
def test_probes_are_neither_learned_nor_tested_and_in_one_phase(fields):
    """Nowhere learned; not tested in their own kind, as another variant may test the same question."""
    named = {}
    for phase in Phase:
        stream = Verifiable(**{"n_train": 12, "n_test": 4, **fields}).open(phase, None)
        own = [set(probes_of(experience.judge)) for experience in stream]
        tested = [(experience.class_names, _prompts(stream.test(index).data))
                  for index, experience in enumerate(stream)]
        assert all(len(each) == 8 for each in own)
        named[phase] = set().union(*own)
        assert not named[phase] & set[str]().union(*(_prompts(experience.train) for experience in stream))
        for experience, probes in zip(stream, own, strict=True):
            assert not any(probes & rows for kind, rows in tested if kind == experience.class_names)
    assert not named[Phase.TUNING] & named[Phase.EVALUATION]


def test_a_judge_answers_for_no_probe_and_probes_change_no_row():
    stream = Verifiable(kinds=["arithmetic"], n_train=4, n_test=4).open("single", None)
    judge = stream[0].judge
    with pytest.raises(DataLeak):
        judge.judge(probes_of(judge)[0], "1")
    longer = Verifiable(kinds=["arithmetic"], n_train=4, n_test=12).open("single", None)
    tested, more = decoded(stream.test(0).data.raw["prompt"]), decoded(longer.test(0).data.raw["prompt"])
    assert tuple(more) == (*tested, *probes_of(judge))


def test_where_problems_are_used_up_there_are_fewer_probes():
    stream = Verifiable(kinds=["arithmetic"], difficulty=0, n_train=8, n_test=24).open("evaluation", None)
    assert len(stream.test(0).data) == 24 and len(probes_of(stream[0].judge)) < 8

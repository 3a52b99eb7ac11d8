"""Deliberately broken plugins: each check catches the fault it is for.

McCloskey & Cohen 1989 is cited so that `documents_itself` fails only where it should.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from cl_framework import adaptation_checks, metric_checks, scenario_checks, state_checks, strategy_checks
from cl_framework.checks import Outcome, check_metric, check_strategy, outcome_of
from cl_framework.data import Dataset
from cl_framework.errors import PluginError
from cl_framework.metrics import metric
from cl_framework.scenario import ResidentStream, Scenario
from cl_framework.strategy import Strategy
from cl_framework.toys import Toy
from cl_framework.types import Need, Phase, Setting

BROKEN = []


def breaks(check):
    """Mark a plugin as caught by a check."""
    def mark(cls):
        BROKEN.append(pytest.param(cls, check, id=f"{check.__name__}-{cls.__name__}"))
        return dataclass(kw_only=True, eq=False)(cls)
    return mark


@breaks(strategy_checks.constructs_from_defaults)
class ChangesItsFields(Strategy):
    """Normalises a hyperparameter at construction."""

    weight: float = 2.0
    """A weight."""

    def __post_init__(self):
        self.weight = self.weight / 2


@breaks(strategy_checks.constructs_from_defaults)
class LearnsAtConstruction(Strategy):
    """Sets learned state at construction."""

    def __post_init__(self):
        self.seen = []


@breaks(strategy_checks.hooks_match_the_contract)
class MisspeltHook(Strategy):
    """Its hook is never called."""

    def after_experiense(self, model, experience):
        pass


@breaks(strategy_checks.hooks_match_the_contract)
class WrongParameters(Strategy):
    """Takes a trainer."""

    def after_experience(self, trainer, experience):
        pass


@breaks(strategy_checks.fields_are_data)
class FieldIsAnObject(Strategy):
    """A field that YAML cannot carry."""

    device: object = torch.device("cpu")
    """Where."""


@breaks(strategy_checks.documents_itself)
class BareField(Strategy):
    """Its field says nothing."""

    weight: float = 1.0


@breaks(strategy_checks.runs_a_stream)
class AnswersForTheFirstOnly(Strategy):
    """Leaves out the classes of later experiences."""

    def predict(self, model, x, task):
        return model(x).logits[:, :2]


@breaks(strategy_checks.runs_one_experience)
class NeedsTwo(Strategy):
    """Divides by the number of earlier experiences."""

    def after_experience(self, model, experience):
        1 / len(experience.classes[3:] or (1,)) if experience.index else 1 / 0


@breaks(strategy_checks.runs_uneven_classes)
class AssumesPairs(Strategy):
    """Takes two classes in every experience for granted."""

    def before_experience(self, model, experience):
        assert len(experience.classes) == 2, "expected two classes"


@breaks(strategy_checks.runs_a_last_batch_of_one)
class WantsVariance(Strategy):
    """The variance of one row is not defined."""

    def penalty(self, model, batch, output):
        return output.features.std(0).sum() * 0


@breaks(strategy_checks.runs_every_setting)
class IgnoresTaskLabels(Strategy):
    """Fails where rows carry a task label."""

    def loss(self, model, batch, output):
        assert batch.task is None
        return Strategy.loss(self, model, batch, output)


@breaks(strategy_checks.beats_chance)
class LearnsNothing(Strategy):
    """Its loss has no gradient."""

    def loss(self, model, batch, output):
        return output.logits.sum() * 0

    def predict(self, model, x, task):
        return torch.zeros_like(model(x).logits)


@breaks(state_checks.is_deterministic)
class DrawsFromTheClock(Strategy):
    """Its noise is different each time."""

    def after_step(self, model, batch, output):
        import time
        with torch.no_grad():
            model.head.bias += 1e-3 * (time.perf_counter_ns() % 97)


@breaks(state_checks.resumes_between_experiences)
class ForgetsToSave(Strategy):
    """Keeps a counter that decides what is learned, and does not save it."""

    def setup(self, model, info):
        self.n = 0

    def after_experience(self, model, experience):
        self.n += 1

    def loss(self, model, batch, output):
        return Strategy.loss(self, model, batch, output) * (1 + self.n)


@breaks(state_checks.resumes_inside_an_experience)
class SavesBetweenExperiencesOnly(Strategy):
    """A step counter inside an experience is lost."""

    def setup(self, model, info):
        self.n = 0

    def before_experience(self, model, experience):
        self.n = 0

    def after_step(self, model, batch, output):
        self.n += 1

    def loss(self, model, batch, output):
        return Strategy.loss(self, model, batch, output) + self.n * output.features.square().mean()


@breaks(state_checks.state_is_plain)
class SavesAnObject(Strategy):
    """Its state cannot be loaded with weights_only."""

    def state_dict(self):
        return {"setting": Toy()}


@breaks(state_checks.state_is_plain)
class SavesParameters(Strategy):
    """Its state still wants gradients."""

    def setup(self, model, info):
        self.kept = torch.nn.Parameter(torch.ones(1))

    def state_dict(self):
        return {"kept": self.kept}


@breaks(state_checks.predict_is_pure)
class LearnsAtTestTime(Strategy):
    """Changes the model while answering."""

    def predict(self, model, x, task):
        with torch.no_grad():
            model.head.bias += 0.01
        return model(x).logits


@breaks(state_checks.answers_each_row_alone)
class UsesTheWholeBatch(Strategy):
    """Its answer depends on the other rows."""

    def predict(self, model, x, task):
        logits = model(x).logits
        return logits - logits.mean(0)


@breaks(state_checks.mode_is_restored)
class LeavesEvalMode(Strategy):
    """Forgets to switch back."""

    def after_experience(self, model, experience):
        model.eval()


@breaks(state_checks.inputs_are_not_mutated)
class OverwritesItsRows(Strategy):
    """Works in place on the data it was lent."""

    def before_experience(self, model, experience):
        experience.train._raw.zero_()


@breaks(strategy_checks.does_not_reread_the_past)
class KeepsEveryDataset(Strategy):
    """Trains on everything, without declaring it."""

    def setup(self, model, info):
        self.kept = []

    def train_data(self, experience, data):
        self.kept.append(data)
        return Dataset.concat(self.kept)


@breaks(strategy_checks.does_not_reread_the_past)
class AsksForHistory(Strategy):
    """Reads the history without declaring it: DataLeak."""

    def train_data(self, experience, data):
        return Dataset.concat([*experience.history, data])


class _Spy:
    """Where a cheat could leave the stream lying about."""

    rows: ClassVar[list] = []


@breaks(strategy_checks.does_not_see_the_future)
class ReadsTheStore(Strategy):
    """Finds later rows through what it was handed."""

    def before_experience(self, model, experience):
        import gc
        gc.unfreeze()  # what a run has set aside
        stores = [item for item in gc.get_objects() if isinstance(item, ResidentStream)]
        if experience.index == 0 and stores:
            with torch.no_grad():
                model.head.bias += stores[-1][1].train.raw.float().mean()


@breaks(strategy_checks.declares_its_memory)
class KeepsAllRowsSilently(Strategy):
    """A buffer without a bound, and without saying so."""

    def setup(self, model, info):
        self.kept = torch.empty(0, 1, 4, 4)

    def after_step(self, model, batch, output):
        self.kept = torch.cat([self.kept, batch.x])

    def state_dict(self):
        return {"kept": self.kept}

    def load_state_dict(self, model, state):
        self.kept = state["kept"]


@breaks(strategy_checks.chain_with_fine_tuning_is_itself)
class BehavesAloneOnly(Strategy):
    """Looks at how it is called."""

    def setup(self, model, info):
        import inspect
        names = [frame.filename for frame in inspect.stack()]
        self.is_chained = any(name.endswith("chain.py") for name in names)

    def penalty(self, model, batch, output):
        return output.logits.square().mean() * self.is_chained


@breaks(strategy_checks.is_fine_tuning_at_neutral)
class NeverNeutral(Strategy):
    """Its neutral weight still pulls."""

    neutral: ClassVar[dict] = {"weight": 0.0}
    weight: float = 1.0
    """Weight of the penalty."""

    def penalty(self, model, batch, output):
        return (self.weight + 0.1) * output.logits.square().mean()


# strategies of unlabelled streams


@dataclass(kw_only=True, eq=False)
class Adapts(Strategy):
    """A sound one, to be broken below: moves a bias by what it answers."""

    needs = frozenset({Need.UNLABELLED})

    def adapt(self, model, x):
        logits = model(x).logits.detach()
        with torch.no_grad():
            model.head.bias += 0.01 * logits.softmax(1).mean(0)
        return logits


@breaks(adaptation_checks.runs_an_unlabelled_stream)
class AnswersTooFew(Adapts):
    """Forgets a class."""

    def predict(self, model, x, task):
        return model(x).logits[:, 1:]


@breaks(adaptation_checks.runs_a_short_last_batch)
class NeedsTwoRows(Adapts):
    """Cannot do with a lone row."""

    def adapt(self, model, x):
        assert len(x) > 1
        return super().adapt(model, x)


@breaks(adaptation_checks.needs_no_labels)
class FindsTheLabels(Adapts):
    """Asks the experience that it is told of for labels; it carries none."""

    def before_experience(self, model, experience):
        with torch.no_grad():
            model.head.bias += experience.train.y.double().mean().float()


@breaks(adaptation_checks.sees_no_boundary)
class StartsOverAtBoundaries(Adapts):
    """Favours another class when its figures are asked for: that is where an experience ends."""

    def setup(self, model, info):
        self.bias = model.head.bias

    def metrics(self):
        with torch.no_grad():
            self.bias[0] = 1000.0
        return {}


@pytest.mark.parametrize("check", adaptation_checks.ADAPTATION_CHECKS)
def test_a_sound_adaptation_passes(check):
    check(Adapts())


@pytest.mark.parametrize(("cls", "check"), BROKEN)
def test_the_check_catches_its_fault(cls, check):
    outcome = outcome_of(cls(), check)
    assert outcome.status == "FAILS", f"{cls.__name__} passed {check.__name__}"


def test_every_strategy_check_has_a_plugin_that_it_catches():
    caught = {param.values[1].__name__ for param in BROKEN}
    assert caught == {check.__name__ for checks in (strategy_checks.STRATEGY_CHECKS,
                                                    adaptation_checks.ADAPTATION_CHECKS) for check in checks}


def test_a_declared_failure_that_passes_is_an_error():
    @dataclass(kw_only=True, eq=False)
    class Overcautious(Strategy):
        known_failures: ClassVar[dict] = {"runs_a_stream": "thought to fail"}

    outcome = outcome_of(Overcautious(), strategy_checks.runs_a_stream)
    assert outcome == Outcome("runs_a_stream", "STALE", "it passes, though declared as failing: thought to fail")


def test_a_declared_failure_is_no_error():
    @dataclass(kw_only=True, eq=False)
    class Lower(LearnsNothing):
        known_failures: ClassVar[dict] = {"beats_chance": "a lower bound"}

    assert outcome_of(Lower(), strategy_checks.beats_chance).status == "known"


def test_check_strategy_lists_every_failure():
    with pytest.raises(PluginError, match="BareField breaks its contract:\n  documents_itself: no docstring below"):
        check_strategy(BareField())


# scenarios


@dataclass(kw_only=True)
class Sound(Scenario):
    """A scenario without faults, to be broken below."""

    def open(self, phase, order_seed):
        stream = Toy(sizes=(2, 2), seed=1 if phase is Phase.EVALUATION else 0).open()
        names = torch.randperm(4, generator=torch.Generator().manual_seed(order_seed or 0)).tolist()
        parts = [dataclasses.replace(part, class_names=tuple(str(names[label]) for label in part.classes))
                 for part in stream._parts]
        return ResidentStream(stream.info, parts)


def rebuilt(stream, **changes):
    """The stream with parts changed by functions of the part."""
    parts = [dataclasses.replace(part, **{name: change(part) for name, change in changes.items()})
             for part in stream._parts]
    return ResidentStream(stream.info, parts)


def scenario(check, opening):
    """A broken scenario of a function of (phase, order_seed)."""
    @dataclass(kw_only=True)
    class Faulty(Scenario):
        """A faulty scenario."""

        def open(self, phase, order_seed):
            return opening(phase, order_seed)
    return pytest.param(Faulty(), check, id=check.__name__)


def once(_phase, _seed):
    """A stream that can be iterated only once."""
    stream = Toy(sizes=(2, 2)).open()

    class Once(ResidentStream):
        def __iter__(self):
            self.at = -1
            return self

        def __next__(self):
            self.at += 1
            if self.at >= len(self):
                raise StopIteration
            return self[self.at]
    return Once(stream.info, stream._parts)


def holding(_phase, _seed):
    """A stream whose experiences carry it along."""
    stream = Toy(sizes=(2, 2)).open()
    for part in stream._parts:
        part.train.source = stream
    return stream


def without_history(_phase, _seed):
    """A stream that never closes the past."""
    class Open(ResidentStream):
        def __getitem__(self, index):
            return dataclasses.replace(ResidentStream.__getitem__(self, index), past=())
    stream = Toy(sizes=(2, 2)).open()
    return Open(stream.info, stream._parts)


def false_info(_phase, _seed):
    stream = Toy(sizes=(2, 2)).open()
    stream.info = dataclasses.replace(stream.info, n_classes=9)
    return stream


def no_task_labels(_phase, _seed):
    stream = Toy(sizes=(2, 2)).open()
    stream.info = dataclasses.replace(stream.info, setting=Setting.TASK, offers=frozenset({Need.HISTORY}))
    return stream


def renumbered(part):
    data = part.train
    return Dataset(data.raw, data.y + 1)


def random_stream(_phase, _seed):
    return Toy(sizes=(2, 2), seed=int(torch.randint(0, 1000, ()))).open()


@dataclass(kw_only=True)
class Undocumented(Sound):
    """A bare field."""

    bare: int = 1


@dataclass(kw_only=True)
class NoData(Sound):
    """A field that is no data."""

    device: object = torch.device("cpu")
    """Where."""


@dataclass(kw_only=True)
class Demanding(Sound):
    """A field without a default."""

    path: str
    """Which file."""


FAULTY = [
    pytest.param(Demanding(path="x"), scenario_checks.constructs_from_defaults, id="constructs_from_defaults"),
    pytest.param(NoData(), scenario_checks.fields_are_data, id="fields_are_data"),
    pytest.param(Undocumented(), scenario_checks.documents_itself, id="documents_itself"),
    scenario(scenario_checks.tells_the_truth, false_info),
    scenario(scenario_checks.is_re_iterable, once),
    scenario(scenario_checks.same_seed_same_stream, random_stream),
    scenario(scenario_checks.labels_lie_within_classes, lambda p, s: rebuilt(Toy().open(), train=renumbered)),
    scenario(scenario_checks.train_and_test_are_disjoint, lambda p, s: rebuilt(Toy().open(), test=lambda x: x.train)),
    scenario(scenario_checks.phases_are_disjoint, lambda p, s: Toy().open()),
    scenario(scenario_checks.task_labels_follow_the_setting, no_task_labels),
    scenario(scenario_checks.experiences_refer_to_nothing_else, holding),
    scenario(scenario_checks.history_is_guarded, without_history),
]


@pytest.mark.parametrize(("plugin", "check"), FAULTY)
def test_the_scenario_check_catches_its_fault(plugin, check):
    assert outcome_of(plugin, check).status == "FAILS"


def test_a_sound_scenario_breaks_the_phase_rule_alone():
    failed = [check.__name__ for check in scenario_checks.SCENARIO_CHECKS if not outcome_of(Sound(), check).is_fine]
    assert failed == ["phases_are_disjoint"]


def test_every_scenario_check_has_a_scenario_that_it_catches():
    caught = {param.values[1].__name__ for param in FAULTY}
    assert caught == {check.__name__ for check in scenario_checks.SCENARIO_CHECKS}


# metrics


def faulty(check, function, axis="stability", formula="f", doc="A metric."):
    function.__doc__ = doc
    made = metric(name="faulty", axis=axis, higher_is_better=True, formula=formula, source="nobody")(function)
    return pytest.param(made, check, id=check.__name__)


def spoils(record):
    record.accuracy[:] = 0
    return 0.0


METRICS = [
    faulty(metric_checks.declares_itself, lambda r: 0.0, formula=""),
    faulty(metric_checks.returns_a_number, lambda r: float("inf")),
    faulty(metric_checks.is_pure, spoils),
    faulty(metric_checks.takes_one_experience, lambda r: float(r.accuracy[1, 0])),
    faulty(metric_checks.takes_an_unfinished_stream, lambda r: float(r.accuracy.isnan().sum())),
    faulty(metric_checks.weighs_experiences_alike, lambda r: float(r.accuracy[r.n_done - 1, : r.n_done].sum())),
]


@pytest.mark.parametrize(("plugin", "check"), METRICS)
def test_the_metric_check_catches_its_fault(plugin, check):
    assert outcome_of(plugin, check).status == "FAILS"
    with pytest.raises(PluginError, match=check.__name__):
        check_metric(plugin)


def test_every_metric_check_has_a_metric_that_it_catches():
    caught = {param.values[1].__name__ for param in METRICS}
    assert caught == {check.__name__ for check in metric_checks.METRIC_CHECKS}

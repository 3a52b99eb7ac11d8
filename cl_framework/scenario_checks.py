"""What every scenario must obey; each function's docstring is the rule."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import types
from collections.abc import Callable

import torch
import yaml
from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.errors import DataLeak
from cl_framework.experience import Experience
from cl_framework.listing import describe_class
from cl_framework.registry import verify
from cl_framework.scenario import Scenario, Stream
from cl_framework.seeding import capture
from cl_framework.types import Need, Phase, Setting, n_rows

_DUPLICATES = 0.01
"""Share of held-out rows that may equal a training row by accident of the data."""


def _open(scenario: Scenario, phase: Phase = Phase.SINGLE, order_seed: int | None = None) -> Stream:
    return scenario.open(phase, order_seed)


def _digests(data: Dataset) -> set[bytes]:
    """One digest a row, of its content."""
    found: set[bytes] = set()
    for batch in data.batches(4096):
        tensors = [batch.raw] if isinstance(batch.raw, Tensor) else list(batch.raw.values())
        rows = zip(*(tensor.flatten(1).contiguous().numpy() for tensor in tensors), strict=True)
        found |= {hashlib.blake2b(b"".join(piece.tobytes() for piece in row), digest_size=16).digest() for row in rows}
    return found


def _print(stream: Stream) -> list[tuple[object, ...]]:
    """What identifies a stream."""
    return [(e.index, e.classes, e.class_names, e.task, hashlib.sha256(e.train.y.numpy().tobytes()).hexdigest(),
             sorted(_digests(e.train.subset(torch.arange(min(64, len(e.train))))))) for e in stream]


def constructs_from_defaults(scenario: Scenario) -> None:
    """Every field has a default and matches the contract's hooks."""
    type(scenario)()
    verify("scenario", type(scenario).__name__, type(scenario))


def fields_are_data(scenario: Scenario) -> None:
    """Its configuration goes to YAML and comes back equal."""
    values = {spec.name: vars(scenario)[spec.name] for spec in dataclasses.fields(scenario)}
    back = type(scenario)(**yaml.safe_load(yaml.safe_dump(values)))
    assert {name: vars(back)[name] for name in values} == values, "a field changes on its way through YAML"


def documents_itself(scenario: Scenario) -> None:
    """The class and each of its fields have a docstring."""
    card = describe_class(type(scenario))
    assert card.text, "the class has no docstring"
    bare = [field.name for field in card.fields if not field.text]
    assert not bare, f"no docstring below {', '.join(bare)}"


def tells_the_truth(scenario: Scenario) -> None:
    """`info` gives the number of experiences and classes, and the shape of a row, as they are."""
    stream = _open(scenario)
    classes = {label for experience in stream for label in experience.classes}
    assert stream.info.n_experiences == len(stream), "n_experiences is not the length of the stream"
    assert classes == set(range(stream.info.n_classes)), "the labels are not 0 ... n_classes - 1"
    assert stream.info.offers <= scenario.offers | {Need.TASK_LABELS}, "the stream offers more than the scenario says"
    raw = stream[0].train.take(torch.arange(1)).raw
    if isinstance(raw, Tensor):
        assert tuple(raw.shape[1:]) == stream.info.input_shape, "input_shape is not the shape of a row"


def is_re_iterable(scenario: Scenario) -> None:
    """Iterating twice, also inside an iteration, gives the same experiences."""
    stream = _open(scenario)
    pairs = [(outer.index, inner.index) for outer in stream for inner in stream]
    n = len(stream)
    assert pairs == [(i, j) for i in range(n) for j in range(n)], "nested iteration loses or repeats experiences"


def same_seed_same_stream(scenario: Scenario) -> None:
    """The order seed, and nothing else, decides the order; opening leaves the global generators alone."""
    before = capture()
    first, second = _print(_open(scenario, order_seed=3)), _print(_open(scenario, order_seed=3))
    after = capture()
    assert first == second, "the same order_seed gives another stream"
    assert torch.equal(before["torch"], after["torch"]), "opening the stream draws from torch's global generator"
    orders = {str(_print(_open(scenario, order_seed=seed))) for seed in range(6)}
    info = _open(scenario).info
    assert len(orders) > 1 or max(info.n_classes, info.n_experiences) < 4, "six order seeds give one and the same order"


def labels_lie_within_classes(scenario: Scenario) -> None:
    """Training and held-out labels of an experience are its classes, numbered in order of appearance."""
    stream, seen = _open(scenario), -1
    for experience in stream:
        test = stream.test(experience.index)
        assert set(test.classes) <= set(experience.classes), f"{test.classes} are tested, {experience.classes} trained"
        for name, data, classes in (("training", experience.train, experience.classes),
                                    ("held-out", test.data, test.classes)):
            labels = set(data.y.unique().tolist())
            assert labels <= set(classes), f"{name} labels {labels} are not among {classes}"
        assert set(experience.train.y.unique().tolist()) == set(experience.classes), "a class has no training row"
        new = {label for label in experience.classes if label > seen}
        assert new == set(range(seen + 1, seen + 1 + len(new))), "labels are not numbered in order of appearance"
        seen = max(seen, *experience.classes)


def train_and_test_are_disjoint(scenario: Scenario) -> None:
    """No held-out row is a training row, but for accidental duplicates in the data (at most 1 %)."""
    stream = _open(scenario)
    train = set[bytes]().union(*(_digests(experience.train) for experience in stream))
    test = set[bytes]().union(*(_digests(stream.test(index).data) for index in range(len(stream))))
    shared = len(train & test) / max(len(test), 1)
    assert shared <= _DUPLICATES, f"{shared:.1%} of the held-out rows are training rows"


def phases_are_disjoint(scenario: Scenario) -> None:
    """Tuning and evaluation share no class and no image, and are of one shape."""
    tuning, evaluation = _open(scenario, Phase.TUNING), _open(scenario, Phase.EVALUATION)
    names = [{name for experience in stream for name in experience.class_names} for stream in (tuning, evaluation)]
    assert not names[0] & names[1], f"both phases have the classes {sorted(names[0] & names[1])}"
    rows = [set[bytes]().union(*(_digests(experience.train) | _digests(stream.test(experience.index).data)
                                 for experience in stream)) for stream in (tuning, evaluation)]
    shared = len(rows[0] & rows[1]) / max(len(rows[1]), 1)
    assert shared <= _DUPLICATES, f"{shared:.1%} of the evaluation rows are tuning rows"
    shapes = [[len(experience.classes) for experience in stream] for stream in (tuning, evaluation)]
    assert shapes[0] == shapes[1], f"classes an experience: {shapes[0]} in tuning, {shapes[1]} in evaluation"


def task_labels_follow_the_setting(scenario: Scenario) -> None:
    """Task labels are given in the task-incremental setting, on every row, and nowhere else."""
    stream = _open(scenario)
    is_aware = stream.info.setting is Setting.TASK
    for experience in stream:
        assert (experience.task is not None) == is_aware, "the experience's task label does not fit the setting"
        for data in (experience.train, stream.test(experience.index).data):
            assert (data.task is not None) == is_aware, "the rows' task labels do not fit the setting"


def experiences_refer_to_nothing_else(scenario: Scenario) -> None:
    """From an experience no path leads to the stream, the scenario, or a held-out row."""
    stream = _open(scenario)
    experience = dataclasses.replace(stream[0], past=None)
    todo: list[object] = [experience]
    seen: set[int] = set()
    held_out = _digests(stream.test(0).data)
    while todo and len(seen) < 100_000:
        item = todo.pop()
        if id(item) in seen or isinstance(item, type | types.ModuleType | types.FunctionType):
            continue
        seen.add(id(item))
        assert not isinstance(item, Stream | Scenario), f"an experience leads to a {type(item).__name__}"
        if isinstance(item, Dataset):
            whole = Dataset(item._raw, torch.zeros(n_rows(item._raw), dtype=torch.int64))
            shared = len(_digests(whole) & held_out) / max(len(held_out), 1)
            assert shared <= _DUPLICATES, f"{shared:.1%} of the held-out rows lie in a store of training rows"
        todo += gc.get_referents(item)


def history_is_guarded(scenario: Scenario) -> None:
    """Without `Need.HISTORY` the past is closed; with it, it holds the earlier experiences alone."""
    experience: Experience = list(_open(scenario))[-1]
    assert len(experience.history) == experience.index, "history is not the list of earlier experiences"
    try:
        dataclasses.replace(experience, past=None).history  # noqa: B018
    except DataLeak:
        return
    raise AssertionError("history can be read without being declared")


SCENARIO_CHECKS: tuple[Callable[[Scenario], None], ...] = (
    constructs_from_defaults, fields_are_data, documents_itself, tells_the_truth, is_re_iterable,
    same_seed_same_stream, labels_lie_within_classes, train_and_test_are_disjoint, phases_are_disjoint,
    task_labels_follow_the_setting, experiences_refer_to_nothing_else, history_is_guarded,
)

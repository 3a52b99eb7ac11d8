"""Experience replay: which rows are appended, which are stored, and what a step minimises."""

import io

import pytest
import torch

from cl_framework.errors import ConfigError
from cl_framework.strategies.er import ER
from cl_framework.toys import Toy, toy_model
from cl_framework.types import Setting


def begin(strategy, stream, index=0, model=None):
    if model is None:
        model = toy_model(stream)
        strategy.setup(model, stream.info)
    experience = stream[index]
    model.observe(experience.classes, experience.task)
    strategy.before_experience(model, experience)
    return model, experience


def step(strategy, model, batch, optimizer):
    optimizer.zero_grad()
    batch = strategy.prepare_batch(model, batch)
    batch = batch._replace(x=model.preprocess(batch.raw))
    output = model(batch.x)
    loss = strategy.loss(model, batch, output) + strategy.penalty(model, batch, output)
    loss.backward()
    strategy.after_backward(model)
    optimizer.step()
    strategy.after_step(model, batch, output)
    return batch, loss.detach()


def run(strategy, stream, indices, model=None, size=8):
    for index in indices:
        model, experience = begin(strategy, stream, index, model)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for batch in experience.train.batches(size):
            step(strategy, model, batch, optimizer)
        strategy.after_experience(model, experience)
    return model


def rows_of(data):
    return {tuple(row.flatten().tolist()) for row in data.raw}


def stored(strategy):
    columns = strategy.state_dict()["buffer"]["columns"]
    return [tuple(row.flatten().tolist()) for row in columns["raw"]]


def test_offline_rows_enter_once_at_the_end_of_their_experience():
    stream, strategy = Toy().open(), ER(memory_size=1000)
    model, experience = begin(strategy, stream)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        for batch in experience.train.batches(8):
            assert len(step(strategy, model, batch, optimizer)[0].y) == len(batch.y)
    assert strategy.state_dict()["buffer"]["n_seen"] == 0
    strategy.after_experience(model, experience)
    assert strategy.state_dict()["buffer"]["n_seen"] == len(experience.train)
    assert stored(strategy) == [tuple(row.flatten().tolist()) for row in experience.train.raw]


@pytest.mark.parametrize("fill", ["auto", "step"])
def test_online_rows_enter_after_their_step_and_replayed_ones_never(fill):
    stream, strategy = Toy(is_online=True).open(), ER(memory_size=1000, fill=fill)
    run(strategy, stream, [0, 1])
    n = len(stream[0].train) + len(stream[1].train)
    assert strategy.state_dict()["buffer"]["n_seen"] == n
    rows = stored(strategy)
    assert len(rows) == n and set(rows) == rows_of(stream[0].train) | rows_of(stream[1].train)


@pytest.mark.parametrize(("replay_batch_size", "expected"), [(0, 8), (3, 3), (100, 20)])
def test_replayed_rows_are_appended_raw(replay_batch_size, expected):
    stream, strategy = Toy().open(), ER(memory_size=20, replay_batch_size=replay_batch_size)
    model = run(strategy, stream, [0])
    model, experience = begin(strategy, stream, 1, model)
    batch = experience.train.take(torch.arange(8))
    joined = strategy.prepare_batch(model, batch)
    assert joined.raw.dtype == torch.uint8 and len(joined.y) == 8 + expected
    assert torch.equal(joined.raw[:8], batch.raw) and torch.equal(joined.y[:8], batch.y)
    old = {tuple(row.flatten().tolist()) for row in joined.raw[8:]}
    assert old <= rows_of(stream[0].train) and len(old) == expected
    labels = {tuple(row.flatten().tolist()): int(y)
              for row, y in zip(stream[0].train.raw, stream[0].train.y, strict=True)}
    assert [labels[tuple(row.flatten().tolist())] for row in joined.raw[8:]] == joined.y[8:].tolist()


def test_the_loss_is_the_mean_over_incoming_and_replayed_rows():
    stream, strategy = Toy().open(), ER(memory_size=20, replay_batch_size=5)
    model = run(strategy, stream, [0])
    model, experience = begin(strategy, stream, 1, model)
    batch, loss = step(strategy, model, experience.train.take(torch.arange(8)), torch.optim.SGD(model.parameters(), 0))
    with torch.no_grad():
        logp = model(model.preprocess(batch.raw)).logits.log_softmax(1)
    assert len(batch.y) == 13
    assert float(loss) == pytest.approx(float(-sum(logp[i, batch.y[i]] for i in range(13)) / 13), rel=1e-5)


def test_task_labels_come_back_with_their_rows():
    stream, strategy = Toy(setting=Setting.TASK).open(), ER(memory_size=20)
    model = run(strategy, stream, [0, 1])
    model, experience = begin(strategy, stream, 2, model)
    joined = strategy.prepare_batch(model, experience.train.take(torch.arange(8)))
    assert torch.equal(joined.task, joined.y // 2)


def test_memory_is_bounded_and_declared():
    stream, strategy = Toy().open(), ER(memory_size=6, policy="class_balanced")
    run(strategy, stream, [0, 1, 2])
    columns = strategy.state_dict()["buffer"]["columns"]
    assert sorted(columns["y"].tolist()) == [0, 1, 2, 3, 4, 5]
    assert strategy.metrics() == {"memory_bytes": 6 * (16 + 8 + 8)}


def test_without_memory_nothing_is_drawn_and_the_batch_is_the_same_object():
    stream, strategy = Toy().open(), ER(memory_size=0)
    model = run(strategy, stream, [0])
    before = torch.get_rng_state()
    model, experience = begin(strategy, stream, 1, model)
    batch = experience.train.take(torch.arange(4))
    assert strategy.prepare_batch(model, batch) is batch
    assert torch.equal(torch.get_rng_state(), before)


def test_replay_leaves_the_global_generator_alone():
    stream, strategy = Toy().open(), ER(memory_size=9)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    run(strategy, stream, [0, 1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("fill", ["step", "experience"])
def test_a_run_taken_up_inside_an_experience_goes_on_bit_for_bit(fill):
    stream, n_before = Toy().open(), 3

    def make():
        return ER(memory_size=12, fill=fill)

    strategy = make()
    model, experience = begin(strategy, stream, 1, run(strategy, stream, [0]))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    batches = list(experience.train.batches(8))
    for batch in batches[:n_before]:
        step(strategy, model, batch, optimizer)
    file = io.BytesIO()
    torch.save([model.state_dict(), strategy.state_dict()], file)
    weights, state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    again, resumed = toy_model(stream, seed=7), make()
    resumed.setup(again, stream.info)
    again.load_state_dict(weights)
    resumed.load_state_dict(again, state)
    for some, other in ((strategy, model), (resumed, again)):
        rate = torch.optim.SGD(other.parameters(), 0.1)
        for batch in batches[n_before:]:
            step(some, other, batch, rate)
        some.after_experience(other, experience)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert stored(strategy) == stored(resumed)


def test_a_mixed_memory_is_in_the_data_as_often_as_it_takes():
    """44 new rows and a memory of 10: it is there four times, and nothing is appended to a batch."""
    stream = Toy(sizes=(2, 2)).open()
    strategy = ER(memory_size=10, mix="dataset")
    model, first = begin(strategy, stream)
    assert strategy.train_data(first, first.train) is first.train
    strategy.after_experience(model, first)
    _, second = begin(strategy, stream, 1, model)
    mixed = strategy.train_data(second, second.train)
    assert len(mixed) == 44 + 4 * 10 and len(second.train) == 44
    old = [row.tobytes() for row in mixed.raw[44:].numpy()]
    assert len(set(old)) == 10 and all(old.count(row) == 4 for row in set(old))
    assert set(old) <= {row.tobytes() for row in first.train.raw.numpy()}
    again = strategy.train_data(second, second.train)
    assert torch.equal(again.raw, mixed.raw)  # asked again after a resume, it draws nothing
    batch = next(mixed.batches(8))
    assert strategy.prepare_batch(model, batch) is batch


@pytest.mark.parametrize(("fill", "is_online"), [("step", False), ("auto", True)])
def test_a_mixed_memory_cannot_be_stored_by_steps(fill, is_online):
    stream = Toy(is_online=is_online).open()
    with pytest.raises(ConfigError, match=r"ER\.mix=dataset"):
        ER(mix="dataset", fill=fill).setup(toy_model(stream), stream.info)

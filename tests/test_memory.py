"""The buffer against the distribution that it promises: fixed seeds, chi-square bounds, brute force."""

import io
from collections import Counter

import pytest
import torch

from cl_framework.errors import ConfigError
from cl_framework.memory import Buffer


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def filled(capacity, policy, y, *, seed=0, batch=7, **columns):
    buffer = Buffer(capacity, policy, generator(seed))
    for start in range(0, len(y), batch):
        stop = min(start + batch, len(y))
        extra = {name: value[start:stop] for name, value in columns.items()}
        buffer.add(torch.arange(start, stop), y[start:stop], extra=extra)
    return buffer


def kept_rows(buffer):
    return sorted(buffer.draw(len(buffer)).raw.tolist())


def chi_square(counts, expected):
    return float(((counts - expected) ** 2 / expected).sum())


def test_reservoir_keeps_each_row_equally_often():
    n, capacity, runs = 40, 10, 4000
    y = torch.zeros(n, dtype=torch.int64)
    counts = torch.zeros(n)
    for seed in range(runs):
        counts[kept_rows(filled(capacity, "reservoir", y, seed=seed))] += 1
    # Without replacement the counts are tied: the variance of one is p(1-p) runs, and sum (c-e)^2 / (e(1-p)) * (n-1)/n
    # is about chi-square with n-1 = 39 degrees; its 99.9 % point is 72.1.
    statistic = chi_square(counts, runs * capacity / n) / (1 - capacity / n) * (n - 1) / n
    assert statistic < 72.1


def test_reservoir_keeps_pairs_like_a_sample_without_replacement():
    n, capacity, runs = 6, 2, 6000
    y = torch.zeros(n, dtype=torch.int64)
    pairs = Counter(tuple(kept_rows(filled(capacity, "reservoir", y, seed=s, batch=4))) for s in range(runs))
    assert len(pairs) == 15
    counts = torch.tensor(list(pairs.values()), dtype=torch.float64)
    assert chi_square(counts, runs / 15) < 36.1  # 99.9 % point of chi-square with 14 degrees


def test_class_balanced_is_uniform_within_a_class():
    runs, y = 4000, torch.tensor([0] * 30 + [1] * 6)
    counts = torch.zeros(36)
    for seed in range(runs):
        counts[kept_rows(filled(8, "class_balanced", y, seed=seed, batch=5))] += 1
    big, small = counts[:30], counts[30:]
    assert big.sum() == small.sum() == 4 * runs
    assert chi_square(big, runs * 4 / 30) / (1 - 4 / 30) * 29 / 30 < 58.3  # 29 degrees
    assert chi_square(small, runs * 4 / 6) / (1 - 4 / 6) * 5 / 6 < 20.5  # 5 degrees


def water_filling(counts, capacity):
    """Hand out places one by one, each to a class with the fewest of those that still have rows."""
    quota = [0] * len(counts)
    for _ in range(min(capacity, sum(counts))):
        least = min((quota[c], c) for c in range(len(counts)) if quota[c] < counts[c])[1]
        quota[least] += 1
    return quota


@pytest.mark.parametrize("counts", [[20, 20, 20], [2, 50, 9], [1, 1, 100], [30, 0, 5, 7], [4, 4, 4]])
@pytest.mark.parametrize("capacity", [1, 2, 5, 12, 13, 31])
@pytest.mark.parametrize("batch", [1, 6, 1000])
def test_class_balanced_quotas_are_water_filling(counts, capacity, batch):
    y = torch.cat([torch.full((n,), label) for label, n in enumerate(counts)])
    buffer = filled(capacity, "class_balanced", y, batch=batch)
    got = [int((buffer.draw(capacity).y == label).sum()) for label in range(len(counts))]
    # Which classes get the places that do not divide is up to the keys, so compare the sorted quotas.
    assert sorted(got) == sorted(water_filling(counts, capacity))


@pytest.mark.parametrize("policy", ["reservoir", "class_balanced"])
def test_what_is_kept_does_not_depend_on_the_batches(policy):
    y = torch.arange(100) % 7
    assert len({tuple(kept_rows(filled(12, policy, y, batch=b))) for b in (1, 3, 50, 100)}) == 1


@pytest.mark.parametrize("capacity", [1, 2, 30])
def test_a_full_reservoir_is_the_smallest_of_all_keys(capacity):
    buffer, keys = Buffer(capacity, "reservoir", torch.Generator().manual_seed(3)), []
    twin = torch.Generator().manual_seed(3)
    for n in (capacity, 1, 10, 100, 3, 500):
        offered = torch.rand(n, dtype=torch.float64, generator=twin)
        buffer.add(offered, torch.zeros(n, dtype=torch.int64))  # each row is its own key
        keys += offered.tolist()
        assert sorted(buffer.rows().raw.tolist()) == sorted(keys)[:capacity]
        if n == 100:
            state = buffer.state_dict()
            buffer = Buffer(capacity, "reservoir", torch.Generator())
            buffer.load_state_dict(state)


def test_below_one_row_a_class_no_class_has_two():
    y = torch.arange(60) % 10
    rows = filled(4, "class_balanced", y).draw(4)
    assert len(rows.y.unique()) == 4


def test_columns_of_a_row_stay_together():
    y = torch.arange(50) % 3
    buffer = Buffer(9, "class_balanced", generator())
    for part in torch.arange(50).split(8):
        raw = {"ids": part.view(-1, 1).to(torch.uint8), "mask": part.view(-1, 1) + 1}
        buffer.add(raw, y[part], task=part + 2, extra={"logits": part.view(-1, 1) * 0.5})
    rows = buffer.draw(9)
    index = rows.raw["ids"].squeeze(1).long()
    assert rows.raw["ids"].dtype == torch.uint8
    torch.testing.assert_close(rows.raw["mask"].squeeze(1), index + 1)
    torch.testing.assert_close(rows.y, index % 3)
    torch.testing.assert_close(rows.task, index + 2)
    torch.testing.assert_close(rows.extra["logits"].squeeze(1), index * 0.5)


def test_draws_are_without_replacement_and_uniform():
    buffer = filled(6, "reservoir", torch.zeros(6, dtype=torch.int64))
    counts = torch.zeros(6)
    for _ in range(3000):
        drawn = buffer.draw(2).raw
        assert len(drawn.unique()) == 2
        counts[drawn] += 1
    assert chi_square(counts, 1000) / (1 - 2 / 6) * 5 / 6 < 20.5
    assert len(buffer.draw(99).y) == 6


@pytest.mark.parametrize("policy", ["reservoir", "class_balanced"])
def test_a_restored_buffer_goes_on_bit_for_bit(policy):
    y = torch.arange(200) % 5
    never_stopped = filled(16, policy, y[:90])
    file = io.BytesIO()
    torch.save(never_stopped.state_dict(), file)
    restored = Buffer(16, policy, generator(99))
    restored.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for buffer in (never_stopped, restored):
        buffer.add(torch.arange(90, 200), y[90:])
    assert restored.n_seen == never_stopped.n_seen == 200
    for a, b in zip(never_stopped.draw(9)[:2], restored.draw(9)[:2], strict=True):
        assert torch.equal(a, b)


def test_a_state_is_a_copy():
    buffer = filled(4, "reservoir", torch.zeros(10, dtype=torch.int64))
    state = buffer.state_dict()
    before = state["columns"]["raw"].clone()
    buffer.add(torch.arange(1000, 2000), torch.zeros(1000, dtype=torch.int64))
    assert torch.equal(state["columns"]["raw"], before)


def test_an_unfilled_buffer_can_be_saved_and_restored():
    full, restored = filled(50, "reservoir", torch.arange(20)), Buffer(50, "reservoir", generator(1))
    restored.load_state_dict(full.state_dict())
    restored.add(torch.arange(20, 70), torch.arange(50))
    assert len(restored) == 50
    empty = Buffer(5, "reservoir", generator())
    empty.load_state_dict(Buffer(5, "reservoir", generator()).state_dict())
    assert len(empty) == 0 and empty.n_bytes == 5 * 8  # the keys


def test_it_never_holds_more_than_its_capacity():
    buffer = Buffer(10, "reservoir", generator())
    buffer.add(torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    expected = 10 * (4 + 8 + 8)  # a row, its label, its key
    assert buffer.n_bytes == expected
    store = buffer._columns["raw"].data_ptr()
    for _ in range(20):
        buffer.add(torch.zeros(9, 2, 2, dtype=torch.uint8), torch.zeros(9, dtype=torch.int64))
        assert len(buffer) <= 10 and buffer.n_bytes == expected
    assert buffer._columns["raw"].data_ptr() == store
    assert buffer.n_seen == 183


def test_capacity_zero_does_nothing():
    buffer = filled(0, "reservoir", torch.zeros(10, dtype=torch.int64))
    assert len(buffer) == buffer.n_bytes == 0
    assert buffer.n_seen == 10


@pytest.mark.parametrize(("raw", "message"), [
    (torch.zeros(2, 3, dtype=torch.uint8), "keeps rows of shape (2,) and torch.uint8, got (3,)"),
    (torch.zeros(2, 2), "got (2,) and torch.float32"),
    ({"ids": torch.zeros(2, 2)}, "keeps columns ['raw', 'y'], got ['raw/ids', 'y']"),
    (torch.zeros(3, 2, dtype=torch.uint8), "has 3 rows, expected one for each of 2 labels"),
])
def test_rows_of_another_kind_are_refused(raw, message):
    buffer = Buffer(4, "reservoir", generator())
    buffer.add(torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ConfigError) as error:
        buffer.add(raw, torch.zeros(2, dtype=torch.int64))
    assert message in str(error.value)
    assert buffer.n_seen == 2


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match="at least 0, got -1"):
        Buffer(-1, "reservoir", generator())
    with pytest.raises(ConfigError, match="unknown buffer policy 'ring'"):
        Buffer(1, "ring", generator())
    with pytest.raises(ConfigError, match="never stored a row"):
        Buffer(1, "reservoir", generator()).draw(1)
    big, small = filled(5, "reservoir", torch.arange(9)), Buffer(2, "reservoir", generator())
    with pytest.raises(ConfigError, match="holds 5 rows, but this one has a capacity of 2"):
        small.load_state_dict(big.state_dict())

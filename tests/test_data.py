"""Resident data: views of stored rows, and what shares a store."""

import pytest
import torch

from cl_framework.data import Dataset


def shifted(raw, view):
    """The view k adds k to each value."""
    return raw + view.view(-1, *[1] * (raw.dim() - 1))


def make(view):
    store = torch.arange(12).view(6, 2)
    return Dataset(store, torch.tensor([0, 1, 0]), torch.tensor([5, 0, 2]), None, shifted, torch.tensor(view))


def test_rows_are_seen_through_their_view():
    data = make([0, 10, 20])
    assert data.raw.tolist() == [[10, 11], [10, 11], [24, 25]]
    assert data.take(torch.tensor([2, 0])).raw.tolist() == [[24, 25], [10, 11]]
    assert [batch.raw.tolist() for batch in data.batches(2)] == [[[10, 11], [10, 11]], [[24, 25]]]
    assert data.subset(torch.tensor([1])).raw.tolist() == [[10, 11]]
    assert data.to(torch.device("cpu")) is data


def test_data_sets_of_one_store_and_views_share_them():
    first = make([1, 1, 1])
    second = Dataset(first._raw, first.y, first._rows, None, shifted, torch.tensor([2, 2, 2]))
    both = Dataset.concat([first, second])
    assert both.store_id() == first.store_id()
    assert torch.equal(both.raw, torch.cat([first.raw, second.raw]))


def test_data_sets_of_other_views_are_copied_as_they_are_seen():
    first, plain = make([1, 1, 1]), Dataset(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([0]))
    both = Dataset.concat([first, plain])
    assert torch.equal(both.raw, torch.cat([first.raw, plain.raw]))


def test_views_without_their_numbers_are_refused():
    with pytest.raises(ValueError, match="views and the view of each row"):
        Dataset(torch.zeros(2, 2), torch.tensor([0, 1]), None, None, shifted)


def test_rows_without_an_index_live_where_the_data_is():
    """On a device that is not the CPU, no index on the CPU is left behind."""
    data = Dataset(torch.empty(3, 2, device="meta"), torch.empty(3, dtype=torch.int64, device="meta"))
    more = Dataset(torch.empty(2, 2, device="meta"), torch.empty(2, dtype=torch.int64, device="meta"))
    both = Dataset.concat([data, more])
    for each in (data, both, both.subset(torch.zeros(4, dtype=torch.int64, device="meta"))):
        taken = each.take(torch.zeros(2, dtype=torch.int64, device="meta"))
        assert taken.raw.device.type == "meta" and taken.y.device.type == "meta" and each.raw.device.type == "meta"


def test_all_rows_need_no_index():
    store = torch.arange(6).view(3, 2)
    data = Dataset(store, torch.tensor([0, 1, 2]))
    assert torch.equal(data.raw, store) and data.raw.data_ptr() != store.data_ptr()
    assert data.take(torch.tensor([2])).raw.tolist() == [[4, 5]]
    assert data.subset(torch.tensor([1, 2])).raw.tolist() == [[2, 3], [4, 5]]
    assert Dataset.concat([data, data]).raw.tolist() == store.tolist() * 2

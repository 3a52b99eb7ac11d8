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

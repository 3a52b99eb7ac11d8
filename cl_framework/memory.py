"""The replay buffer: preallocated tensors that never hold more rows than their capacity.

Every arriving row gets a uniform random key of its own, and the buffer keeps the rows that come first in an order of
keys. What is kept is then a function of all rows ever seen, however they were cut into batches:

- *reservoir* keeps the smallest keys: a uniform sample without replacement of all rows seen, which is the distribution
  of reservoir sampling (Vitter, ACM TOMS 1985, algorithm R; the key form is Efraimidis & Spirakis, IPL 2006, with
  equal weights). Once it is full a heap holds the largest key on top, so that an offer of n rows takes n log(capacity).
- *class_balanced* ranks the keys within each class and keeps rows by (rank, key). Classes get equal quotas as far as
  they have rows, the rest goes to those that have more (water filling), and the rows of each class are a uniform
  sample of what was seen of it. With a capacity below the number of classes, a class has at most one row; which
  classes go without is decided by the keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from cl_framework.errors import ConfigError
from cl_framework.types import Inputs, n_bytes

Policy = Literal["reservoir", "class_balanced"]


class Exemplars(NamedTuple):
    """Rows out of a buffer: what was stored of them, [n, ...] each."""

    raw: Inputs
    y: Tensor
    task: Tensor | None
    extra: dict[str, Tensor]


class Buffer:
    """A bounded sample of all rows ever added.

    The tensors are allocated by the first `add`, on the device, with the shapes and dtypes of its rows.

    Args:
        capacity: the most rows that are held; 0 holds none.
        policy: what is kept, see the module.
        generator: a CPU generator that belongs to this buffer; it makes the keys and the draws.

    >>> buffer = Buffer(2, "reservoir", torch.Generator().manual_seed(0))
    >>> buffer.add(torch.arange(10), torch.zeros(10, dtype=torch.int64))
    >>> len(buffer), buffer.n_seen, len(buffer.draw(5).y)
    (2, 10, 2)
    """

    def __init__(self, capacity: int, policy: Policy, generator: torch.Generator) -> None:
        if capacity < 0:
            raise ConfigError(f"the capacity of a buffer must be at least 0, got {capacity}")
        if policy not in ("reservoir", "class_balanced"):
            raise ConfigError(f"unknown buffer policy '{policy}'; expected reservoir or class_balanced")
        self.capacity = capacity
        self.policy = policy
        self.n_seen = 0
        self._generator = generator
        self._size = 0
        self._keys = _allocated((capacity,), torch.float64, torch.device("cpu"))
        self._columns: dict[str, Tensor] = {}
        self._largest: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return self._size

    @property
    def n_bytes(self) -> int:
        """Bytes that are allocated for rows and their keys; those of the keys alone before the first row. A full
        reservoir has its keys in a heap besides, some 110 bytes of Python's for each row, which do not count."""
        return n_bytes({**self._columns, "": self._keys})

    def add(self, raw: Inputs, y: Tensor, task: Tensor | None = None,
            extra: Mapping[str, Tensor] | None = None) -> None:
        """Offer n rows, each a candidate for keeping.

        Args:
            raw: as stored, [n, ...]; a tensor or a mapping of tensors.
            y: labels, int64 [n].
            task: task labels, int64 [n]; always or never.
            extra: more columns by name, [n, ...] each; the same names in every call.

        Raises:
            ConfigError: the rows differ from the first ones in columns, shape or dtype.
        """
        n = len(y)
        columns = _flatten(raw, y, task, extra)
        self._check(columns, n)
        self.n_seen += n
        if self.capacity == 0 or n == 0:
            return
        keys = torch.rand(n, dtype=torch.float64, generator=self._generator)
        if not self._columns:
            self._allocate(columns)
        if self.policy == "reservoir" and self._size == self.capacity:
            accepted, slots = self._exchanged(keys)
        else:
            accepted, slots = self._sorted_out(keys, y)
        if len(accepted) == 0:
            return
        self._keys.index_copy_(0, slots, keys.index_select(0, accepted))
        for name, store in self._columns.items():
            rows = columns[name].detach().index_select(0, accepted.to(columns[name].device))
            store.index_copy_(0, slots.to(store.device), rows.to(store.device))

    def draw(self, n: int) -> Exemplars:
        """A uniform choice of n rows without replacement; all of them, shuffled, where there are fewer.

        Raises:
            ConfigError: nothing was ever stored, so that the shape of a row is not known.
        """
        return self._taken(torch.randperm(self._size, generator=self._generator)[:n])

    def rows(self) -> Exemplars:
        """All rows in the order of their places; draws nothing.

        Raises:
            ConfigError: nothing was ever stored, so that the shape of a row is not known.
        """
        return self._taken(torch.arange(self._size))

    def _taken(self, chosen: Tensor) -> Exemplars:
        if not self._columns:
            raise ConfigError("cannot draw from a buffer that never stored a row; look at len(buffer) first")
        rows = {name: store.index_select(0, chosen.to(store.device)) for name, store in self._columns.items()}
        raw: Inputs = rows["raw"] if "raw" in rows else _prefixed(rows, "raw/")
        return Exemplars(raw, rows["y"], rows.get("task"), _prefixed(rows, "extra/"))

    def state_dict(self) -> dict[str, Any]:
        """A copy of the rows, their keys, how many were seen, and the generator's state."""
        return {
            "columns": {name: store[:self._size].clone() for name, store in self._columns.items()},
            "keys": self._keys[:self._size].clone(), "n_seen": self.n_seen, "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device | None = None) -> None:
        """Put back what `state_dict` returned; keys and draws go on bit for bit.

        Args:
            device: where the rows shall be; as they come when None.

        Raises:
            ConfigError: the state holds more rows than the capacity.
        """
        size = len(state["keys"])
        if size > self.capacity:
            raise ConfigError(f"the saved buffer holds {size} rows, but this one has a capacity of {self.capacity}")
        self._size, self.n_seen, self._columns, self._largest = size, state["n_seen"], {}, []
        self._generator.set_state(state["generator"].cpu())
        self._keys[:size] = state["keys"].cpu()
        self._allocate({name: rows.to(device or rows.device) for name, rows in state["columns"].items()})
        for name, store in self._columns.items():
            store[:size] = state["columns"][name]

    def _exchanged(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Which arriving rows enter a full reservoir, and their places: the smallest takes that of the largest key, and
        so on, as long as it is smaller."""
        if not self._largest:
            self._largest = [(-key, place) for place, key in enumerate(self._keys.tolist())]
            heapify(self._largest)
        arriving, entering, freed = keys.tolist(), list[int](), list[int]()
        top = -self._largest[0][0]
        for key, row in sorted((key, row) for row, key in enumerate(arriving) if key < top):
            if not self._largest or key >= -self._largest[0][0]:
                break
            entering.append(row)
            freed.append(heappop(self._largest)[1])
        entering.sort()
        freed.sort()
        for row, place in zip(entering, freed, strict=True):
            heappush(self._largest, (-arriving[row], place))
        return torch.tensor(entering, dtype=torch.int64), torch.tensor(freed, dtype=torch.int64)

    def _sorted_out(self, keys: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Which arriving rows enter, and their places, by the order of all keys."""
        size = self._size
        kept = self._kept(torch.cat([self._keys[:size], keys]), y)
        accepted = kept[size:].nonzero().squeeze(1)
        self._size = min(size + len(keys), self.capacity)
        freed = (~kept[:size]).nonzero().squeeze(1)
        return accepted, torch.cat([freed, torch.arange(size, self._size)])

    def _kept(self, keys: Tensor, y: Tensor) -> Tensor:
        """Which of the stored and the arriving rows stay, bool [size + n]."""
        kept = torch.zeros(len(keys), dtype=torch.bool)
        if len(keys) <= self.capacity:
            return ~kept
        if self.policy == "reservoir":
            kept[keys.topk(self.capacity, largest=False, sorted=False).indices] = True
            return kept
        labels = torch.cat([self._columns["y"][:self._size].cpu(), y.cpu()])
        by_key = keys.argsort()
        by_class = by_key[labels[by_key].argsort(stable=True)]
        counts = labels[by_class].unique_consecutive(return_counts=True)[1]
        starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
        rank = torch.empty_like(labels)
        rank[by_class] = torch.arange(len(keys)) - starts
        kept[by_key[rank[by_key].argsort(stable=True)][:self.capacity]] = True
        return kept

    def _allocate(self, columns: Mapping[str, Tensor]) -> None:
        for name, rows in columns.items():
            self._columns[name] = _allocated((self.capacity, *rows.shape[1:]), rows.dtype, rows.device)

    def _check(self, columns: Mapping[str, Tensor], n: int) -> None:
        stores = self._columns or columns
        if stores.keys() == columns.keys() and all(
                len(rows) == n and rows.shape[1:] == stores[name].shape[1:] and rows.dtype == stores[name].dtype
                for name, rows in columns.items()):
            return
        faults = [f"buffer column '{name}' has {len(rows)} rows, expected one for each of {n} labels"
                  for name, rows in columns.items() if len(rows) != n]
        if stores.keys() != columns.keys():
            faults.append(f"the buffer keeps columns {sorted(stores)}, got {sorted(columns)}")
        for name in stores.keys() & columns.keys():
            store, rows = stores[name], columns[name]
            if (store.shape[1:], store.dtype) != (rows.shape[1:], rows.dtype):
                faults.append(f"buffer column '{name}' keeps rows of shape {tuple(store.shape[1:])} and {store.dtype}, "
                              f"got {tuple(rows.shape[1:])} and {rows.dtype}; pad or convert them first")
        raise ConfigError(faults)


def _allocated(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    try:
        return torch.empty(shape, dtype=dtype, device=device)
    except (RuntimeError, MemoryError):
        raise ConfigError(f"a buffer of {shape[0]:,} rows does not fit into memory (a column of shape {shape} and "
                          f"{dtype}); lower memory_size") from None


def _flatten(raw: Inputs, y: Tensor, task: Tensor | None, extra: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    columns = {"raw": raw} if isinstance(raw, Tensor) else {f"raw/{name}": rows for name, rows in raw.items()}
    columns["y"] = y
    if task is not None:
        columns["task"] = task
    return columns | {f"extra/{name}": rows for name, rows in (extra or {}).items()}


def _prefixed(rows: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in rows.items() if name.startswith(prefix)}

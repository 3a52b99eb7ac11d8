"""Exemplar sets: a fixed number of rows, shared out equally among the classes met, each set in herding order."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.errors import ConfigError
from cl_framework.experience import Experience
from cl_framework.models import Model
from cl_framework.types import StreamInfo

from ._features import features_of
from ._rows import joined, kept, restored_rows, rows_bytes, rows_state


def herding(features: Tensor, m: int) -> Tensor:
    """The rows whose running mean follows the mean of all most closely.

    p_k = argmin_x || mu - 1/k (phi(x) + sum_{j<k} phi(p_j)) ||, k = 1, ..., m, each row at most once (Rebuffi et al.,
    CVPR 2017, equation 4). The norm times k is ||(k mu - sum) - phi(x)||, whose square is compared without its
    constant.

    Args:
        features: phi(x) of n rows, [n, D].

    Returns:
        Positions in the order of choice, int64 [min(m, n)].

    >>> herding(torch.tensor([[0.0], [1.0], [5.0]]), 2)
    tensor([1, 2])
    """
    features = features.double()
    mean, squares = features.mean(0), features.square().sum(1)
    target, chosen = torch.zeros_like(mean), []
    for _ in range(min(m, len(features))):
        target = target + mean
        best = (squares - 2 * (features @ target)).argmin()
        chosen.append(best)
        target = target - features[best]
        squares[best] = torch.inf
    return torch.stack(chosen)


class ExemplarSets:
    """The exemplars of every class met; a member of strategies that rehearse them.

    After an experience there are m = memory_size // (classes met) for each class. The sets of classes that did not
    occur in it are cut to their first m rows. A class that occurred is herded by the normalised features of the model
    as it is now, from the experience's rows and, if it was met before, the exemplars that it has.

    Args:
        owner: whose memory it is, for messages.
        memory_size: the most rows in all.
        least: the fewest rows that a class must get once all classes have been met.

    Raises:
        ConfigError: the memory is too small for that.
    """

    def __init__(self, owner: str, memory_size: int, info: StreamInfo, least: int = 1) -> None:
        if memory_size < least * info.n_classes:
            raise ConfigError(
                f"{owner}.memory_size={memory_size} leaves fewer than {least} exemplar{'s' * (least > 1)} for each of "
                f"{info.n_classes} classes; set it to at least {least * info.n_classes}")
        self.rows: Dataset | None = None
        self._memory_size = memory_size

    @property
    def classes(self) -> list[int]:
        """Every class met, ascending."""
        return [] if self.rows is None else self.rows.y.unique().tolist()

    def of(self, label: int) -> Dataset | None:
        """The exemplars of a class in herding order."""
        return None if self.rows is None else _of(self.rows, label)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Herd the classes that occurred, cut the others."""
        arrived = set(experience.train.y.unique().tolist())
        classes = sorted(arrived.union(self.classes))
        m = self._memory_size // len(classes)
        self.rows = Dataset.concat([self._chosen(model, experience.train, label, m) if label in arrived
                                    else self._cut(model, label, m) for label in classes])

    def _chosen(self, model: Model, data: Dataset, label: int, m: int) -> Dataset:
        pool = joined(_of(data, label), self.of(label))
        chosen = herding(F.normalize(features_of(model, pool)), m)
        return kept(pool.subset(chosen.to(pool.device)), model.device)

    def _cut(self, model: Model, label: int, m: int) -> Dataset:
        assert self.rows is not None
        places = (self.rows.y == label).nonzero().squeeze(1)
        return kept(self.rows.subset(places[:m]), model.device)

    @property
    def n_bytes(self) -> int:
        """Bytes of the rows and their labels."""
        return rows_bytes(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """The rows, as plain data."""
        return {"rows": rows_state(self.rows)}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.rows = restored_rows(state["rows"], model.device)


def _of(data: Dataset, label: int) -> Dataset:
    return data.subset((data.y == label).nonzero().squeeze(1))

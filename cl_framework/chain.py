"""Strategies in a row: `strategy=er+lwf`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from cl_framework.data import Dataset
from cl_framework.errors import CheckpointError, PluginError
from cl_framework.experience import Experience
from cl_framework.models import Model
from cl_framework.recipe import Recipe
from cl_framework.strategy import EXCLUSIVE, Strategy
from cl_framework.types import Batch, Inputs, Output, StreamInfo


def defines(part: Strategy, hook: str) -> bool:
    """Whether the class of a strategy has a hook of its own.

    >>> defines(Strategy(), "predict")
    False
    """
    owner = next(cls for cls in type(part).__mro__ if hook in vars(cls))
    return owner is not Strategy


class Chain(Strategy):
    """Several strategies as one.

    Additive hooks run in the order of the parts: batches and training data are handed from part to part, penalties are
    summed. An exclusive hook belongs to the one part that defines it. `memory_bytes` of the parts are summed; another
    figure that two parts share carries the part's name. A chain within a chain dissolves into its parts.

    Args:
        parts: strategies, first to last.

    Raises:
        PluginError: two parts define one exclusive hook.

    >>> Chain(Strategy(), Chain(Strategy())).parts()
    (Strategy(), Strategy())
    """

    def __init__(self, *parts: Strategy) -> None:
        super().__init__()
        self._parts = tuple(leaf for part in parts for leaf in part.parts())
        self._labels = _labels(self._parts)
        self._owners = self._find_owners()
        self._penalties = [part for part in self._parts if defines(part, "penalty")]
        self.needs = frozenset(need for part in self._parts for need in part.needs)  # type: ignore[misc]
        self.makes_experts = any(part.makes_experts for part in self._parts)  # type: ignore[misc]
        self.speaks = all(part.speaks for part in self._parts)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self._parts))})"

    def _find_owners(self) -> dict[str, Strategy]:
        owners, faults = {}, []
        for hook in EXCLUSIVE:
            found = [i for i, part in enumerate(self._parts) if defines(part, hook)]
            if len(found) > 1:
                names = " and ".join(f"'{self._labels[i]}'" for i in found)
                faults.append(f"{names} cannot be chained: each defines `{hook}`, which only one part may; "
                              "use one of them")
            elif found:
                owners[hook] = self._parts[found[0]]
        if faults:
            raise PluginError("\n".join(faults))
        return owners

    def parts(self) -> tuple[Strategy, ...]:
        """The strategies this one is made of, none of them a chain."""
        return self._parts

    # the stream

    def setup(self, model: Model, info: StreamInfo) -> None:
        """Set up every part."""
        for part in self._parts:
            part.setup(model, info)

    def before_experience(self, model: Model, experience: Experience) -> None:
        """Tell every part."""
        for part in self._parts:
            part.before_experience(model, experience)

    def train_data(self, experience: Experience, data: Dataset) -> Dataset:
        """Each part gets what the one before it returned."""
        for part in self._parts:
            data = part.train_data(experience, data)
        return data

    def fit(self, model: Model, data: Dataset, train: Callable[[Dataset], None]) -> None:
        """The owner's, else `train(data)`."""
        owner = self._owners.get("fit")
        if owner is None:
            super().fit(model, data, train)
        else:
            owner.fit(model, data, train)

    def after_experience(self, model: Model, experience: Experience) -> None:
        """Tell every part."""
        for part in self._parts:
            part.after_experience(model, experience)

    # one step

    def prepare_batch(self, model: Model, batch: Batch) -> Batch:
        """Each part gets what the one before it returned."""
        for part in self._parts:
            batch = part.prepare_batch(model, batch)
        return batch

    def loss(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """The owner's, else cross-entropy."""
        owner = self._owners.get("loss")
        return super().loss(model, batch, output) if owner is None else owner.loss(model, batch, output)

    def penalty(self, model: Model, batch: Batch, output: Output) -> Tensor:
        """The sum over the parts."""
        if not self._penalties:
            return super().penalty(model, batch, output)
        total = self._penalties[0].penalty(model, batch, output)
        for part in self._penalties[1:]:
            total = total + part.penalty(model, batch, output)
        return total

    def after_backward(self, model: Model) -> None:
        """Each part edits the gradients that the one before it left."""
        for part in self._parts:
            part.after_backward(model)

    def after_step(self, model: Model, batch: Batch, output: Output) -> None:
        """Tell every part."""
        for part in self._parts:
            part.after_step(model, batch, output)

    def optimizer(self, params: Iterable[nn.Parameter], recipe: Recipe) -> Optimizer:
        """The owner's, else what `train.*` says."""
        owner = self._owners.get("optimizer")
        return super().optimizer(params, recipe) if owner is None else owner.optimizer(params, recipe)

    # inference

    def predict(self, model: Model, x: Inputs, task: Tensor | None) -> Tensor:
        """The owner's, else the model's logits."""
        owner = self._owners.get("predict")
        return super().predict(model, x, task) if owner is None else owner.predict(model, x, task)

    def respond(self, model: Model, prompts: Sequence[str]) -> list[str]:
        """The owner's."""
        owner = self._owners.get("respond")
        return super().respond(model, prompts) if owner is None else owner.respond(model, prompts)

    def adapt(self, model: Model, x: Inputs) -> Tensor:
        """The owner's, else `predict` alone."""
        owner = self._owners.get("adapt")
        return super().adapt(model, x) if owner is None else owner.adapt(model, x)

    # persistence

    def metrics(self) -> Mapping[str, float]:
        """The figures of all parts."""
        figures = [dict(part.metrics()) for part in self._parts]
        counts = Counter(name for own in figures for name in own)
        merged: dict[str, float] = {}
        for label, own in zip(self._labels, figures, strict=True):
            for name, value in own.items():
                if name == "memory_bytes":
                    merged[name] = merged.get(name, 0) + value
                else:
                    merged[name if counts[name] == 1 else f"{label}/{name}"] = value
        return merged

    def documents(self) -> Mapping[str, Any]:
        """The documents of all parts; one of a name that two have is the later part's."""
        return {name: document for part in self._parts for name, document in part.documents().items()}

    def state_dict(self) -> dict[str, Any]:
        """The state of each part, under its position and name."""
        return {key: part.state_dict() for key, part in zip(self._keys(), self._parts, strict=True)}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned.

        Raises:
            CheckpointError: it was written by other parts.
        """
        if list(state) != self._keys():
            raise CheckpointError(f"the checkpoint was written by the chain {', '.join(state) or 'of no part'}, "
                                  f"but this one is {', '.join(self._keys())}")
        for key, part in zip(self._keys(), self._parts, strict=True):
            part.load_state_dict(model, state[key])

    def _keys(self) -> list[str]:
        return [f"{i}.{type(part).__name__}" for i, part in enumerate(self._parts)]


def _labels(parts: Sequence[Strategy]) -> list[str]:
    """The name of each part in lower case, with its position where two are of one class."""
    names = [type(part).__name__.lower() for part in parts]
    return [name if names.count(name) == 1 else f"{name}{i}" for i, name in enumerate(names)]

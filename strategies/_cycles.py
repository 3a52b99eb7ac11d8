"""The frame of the strategies that learn from rewards: an experience is met in cycles of T batches.

The rows of an experience come in their order, T x B of them a cycle (and inside a cycle in a random one), so that
whoever looks ahead sees exactly the rows that the T steps after it learn from. Replies to held-out problems are given
under one prompt, the best of the last fast phase. Everything random comes from the seed, the experience, and the number
of the cycle or step.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.errors import ConfigError
from cl_framework.experience import Experience
from cl_framework.fields import bounded
from cl_framework.language import LanguageModel
from cl_framework.models import Model
from cl_framework.policy import ModelPolicy
from cl_framework.problems import Judge
from cl_framework.prompt_pool import Prompt, as_plain, from_plain
from cl_framework.strategy import Strategy
from cl_framework.tokens import decoded
from cl_framework.types import Inputs, Need, StreamInfo


@dataclass(kw_only=True, eq=False)
class Cycles(Strategy):
    """Meets an experience in cycles."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.VERIFIER})
    speaks: ClassVar[bool] = True

    steps_per_cycle: int = bounded(6, low=1)
    """T: batches of a cycle. Each is of `train.batch_size` problems, B."""
    temperature: float = bounded(1.0, low=0.0)
    """Of the replies that are learned from. The paper's is not known; 1 is an assumption. Held-out problems are
    answered with `model.temperature`."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """The population is the model's seed prompt."""
        self._seed, self._batch_size = info.seed, max(info.batch_size, 1)
        self._lineage = [Prompt(name="p0", text=speaking(model).seed_prompt)]
        self._population = list(self._lineage)
        self._best = self._lineage[0]
        self._experience, self._cycle = 0, -1
        self._judge: Judge | None = None

    def before_experience(self, model: Model, experience: Experience) -> None:
        """No cycle of it has begun."""
        self._experience, self._cycle = experience.index, -1

    def train_data(self, experience: Experience, data: Dataset) -> Dataset:
        """All rows; their judge is kept for this experience."""
        self._judge = experience.judge
        return data

    def fit(self, model: Model, data: Dataset, train: Callable[[Dataset], None]) -> None:
        """Cycle after cycle."""
        for cycle, rows in enumerate(self._cut(data)):
            self._meet(model, cycle, rows, train)

    def _cut(self, data: Dataset) -> list[Dataset]:
        """The rows of each cycle; the last may have fewer."""
        size = self.steps_per_cycle * self._batch_size
        return [data.subset(rows) for rows in torch.arange(len(data), device=data.device).split(size)]

    @abstractmethod
    def _meet(self, model: Model, cycle: int, rows: Dataset, train: Callable[[Dataset], None]) -> None:
        """Learn from the rows of one cycle. A run that resumes comes by again; see `fit`."""

    def respond(self, model: Model, prompts: Sequence[str]) -> list[str]:
        """One reply to each under the best prompt; the same prompt given again is answered anew."""
        language, times = speaking(model), Counter(prompts)
        policy = ModelPolicy(language, language.sampling)
        contexts = [self._context(policy, prompt) for prompt in times]
        drawn = policy.sample(contexts, max(times.values(), default=0), torch.default_generator, self._best.name)
        replies = {prompt: iter(own) for prompt, own in zip(times, drawn, strict=True)}
        return [next(replies[prompt]).text for prompt in prompts]

    def _context(self, policy: ModelPolicy, problem: str) -> str:
        """A problem under the best prompt; under the seed prompt where the best leaves no room for an answer."""
        context = policy.context(self._best.text, problem)
        return context if policy.fits([context]) else policy.context(self._lineage[0].text, problem)

    @property
    def _version(self) -> int:
        """Number of the weights as they are; here they never move."""
        return 0

    def _policy(self, model: Model) -> ModelPolicy:
        """The model as it draws what is learned from."""
        language = speaking(model)
        return ModelPolicy(language, replace(language.sampling, temperature=self.temperature), self._version)

    def _verdicts(self) -> Judge:
        """The judge of the experience."""
        assert self._judge is not None, "a scenario that offers Need.VERIFIER gives each experience a judge"
        return self._judge

    def metrics(self) -> Mapping[str, float]:
        """None of its own."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, and the prompts."""
        return {"experience": self._experience, "cycle": self._cycle, "lineage": as_plain(self._lineage),
                "population": [prompt.name for prompt in self._population], "best": self._best.name}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._experience, self._cycle = state["experience"], state["cycle"]
        self._lineage = from_plain(state["lineage"])
        named = {prompt.name: prompt for prompt in self._lineage}
        self._population = [named[name] for name in state["population"]]
        self._best = named[state["best"]]


def speaking(model: Model) -> LanguageModel:
    """The model, which answers texts.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(model, LanguageModel):
        raise ConfigError("a strategy that learns from replies needs a model that gives some; set model=smollm2, "
                          "model=tiny_lm or model=causal_lm")
    return model


def texts(raw: Inputs, column: str) -> list[str]:
    """The texts of one column of language rows."""
    assert not isinstance(raw, Tensor), "rows of a verifiable stream have a prompt and an answer"
    return decoded(raw[column])

"""The fast half: a population of prompts evolves on the rows that come next, while the weights stand still.

See `cl_framework.prompt_evolution`. Nothing of the model, of its mode or of the global generators is changed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import torch

from cl_framework.api_reflector import ChatClient, Endpoint
from cl_framework.attempts import Attempts
from cl_framework.data import Dataset
from cl_framework.errors import ConfigError
from cl_framework.fields import bounded, tunable
from cl_framework.kept_replies import Reply
from cl_framework.models import Model
from cl_framework.policy import ModelPolicy
from cl_framework.prompt_evolution import Counts, Rules, evolve
from cl_framework.prompt_pool import as_plain, different, diversity, population_rewards
from cl_framework.reflectors import LanguageReflector, Reflector, WithFallback
from cl_framework.sampling import Sampling
from cl_framework.scripted_reflector import OPERATORS, RANDOM, ScriptedReflector
from cl_framework.seeding import generator
from cl_framework.types import StreamInfo

from ._cycles import Cycles, speaking, texts
from ._reach import remark

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class FastHalf(Cycles):
    """Evolves prompts. A strategy says in `_meet` when."""

    title: ClassVar[str]
    """What results are called, before who proposed the prompts."""

    n_prompts: int = bounded(4, low=1)
    """K: prompts that are kept. The paper takes 4 or 8."""
    passes: float = tunable(5.0, 2.0, 5.0, 10.0, low=0.0)
    """Replies that a fast phase may draw, as passes over its problems: N = passes x T x B. The paper's 960 over 192 are
    5. 0 is no fast phase."""
    minibatch: int = bounded(3, low=1)
    """Problems that a prompt and its child are compared on. GEPA's default; the paper's value is not known."""
    selection: Literal["pareto", "best"] = "pareto"
    """Which prompts are kept and have children: the frontier over single problems by mean reward, or the best mean
    reward alone. How the paper ranks inside the frontier is not known; by mean reward, ties by age, is an
    assumption."""
    carried: Literal["outside", "inside"] = "outside"
    """Whether trying carried prompts anew, as the weights have moved, is part of N. Not stated by the paper; outside is
    an assumption, and is counted as carried_calls."""
    is_skipping_perfect: bool = True
    """A prompt without a fault on its minibatch has no child then."""
    fast_temperature: float = bounded(1.0, low=0.0)
    """Of the replies that prompts are judged by. The paper's is not known; 1, as the slow half draws, is an
    assumption."""
    max_prompt_length: int = bounded(2000, low=1)
    """Characters of the longest prompt; a longer one is rejected."""
    evaluation_prompt: Literal["best", "seed"] = "best"
    """What held-out problems are answered under: the prompt with the highest mean reward on the last cycle's rows (also
    where the frontier, which looks at single problems, does not keep it), or the seed prompt. Which of its prompts the
    paper takes is not known; the best is an assumption. A problem that leaves no room for an answer under that prompt
    is answered under the seed prompt."""
    reflector: Literal["scripted", "random", "self", "api"] = "scripted"
    """Who proposes prompts: scripted edits that read the checker's remarks, random edits, the model itself, or a model
    behind an address. The paper has GPT-5.2; scripted edits stand in for it, and results say so."""
    is_incremental: bool = True
    """A reflecting model is asked for small edits, as in the paper's light recipe, or may write a prompt anew."""
    reflection_tokens: int = bounded(256, low=1)
    """The longest proposal of a reflecting model, in tokens."""
    reflector_url: str = "https://api.openai.com/v1"
    """Of reflector=api: the address before /chat/completions; https, or http on this machine."""
    reflector_model: str = ""
    """Of reflector=api: the model's name there."""
    reflector_key: str | None = "OPENAI_API_KEY"
    """Of reflector=api: the environment variable that holds the key; null where none is needed. The key itself is
    never written."""
    reflector_timeout: float = bounded(60.0, low=0.1)
    """Of reflector=api: seconds until a request counts as failed."""
    reflector_retries: int = bounded(4, low=0)
    """Of reflector=api: further requests after a failed one, with growing pauses."""
    reflector_limit: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """Of reflector=api: the name under which reflection_tokens is sent. OpenAI's newer models take the former alone,
    and count their reasoning in it, so that they need thousands; some other servers know the latter alone."""
    reflector_failure: Literal["fallback", "stop"] = "fallback"
    """Of reflector=api: whether scripted edits take over where it gives no answer, or the run stops; it can be taken up
    again at its last checkpoint."""
    price_in: float = bounded(0.0, low=0.0)
    """Of reflector=api: of a million tokens asked, for the figure reflector_cost."""
    price_out: float = bounded(0.0, low=0.0)
    """Of reflector=api: of a million tokens answered."""

    def setup(self, model: Model, info: StreamInfo) -> None:
        """No phase has begun.

        Raises:
            ConfigError: the reflector cannot be asked.
        """
        super().setup(model, info)
        self._counts = Counts()
        self._n_phases = self._n_fallbacks = self._n_failed_trials = 0
        self._remarked_of = -1
        self._tried: dict[str, float] = {}
        self._client: ChatClient | None = None
        if self.reflector == "api":
            endpoint = Endpoint(url=self.reflector_url, model=self.reflector_model, key=self.reflector_key,
                                timeout=self.reflector_timeout, retries=self.reflector_retries,
                                max_tokens=self.reflection_tokens, limit=self.reflector_limit,
                                price=(self.price_in, self.price_out))
            endpoint.check()
            self._client = ChatClient(endpoint, is_stopping=self.reflector_failure == "stop")
        if self.reflector == "self" and self.reflection_tokens >= speaking(model).max_tokens:
            raise ConfigError(f"reflector=self needs room for what it is asked and for {self.reflection_tokens} tokens "
                              f"of an answer, and model.max_tokens={speaking(model).max_tokens}; raise "
                              f"model.max_tokens (this network takes {speaking(model).n_context}) or lower "
                              "reflection_tokens")

    def _evolve(self, model: Model, rows: Dataset, cycle: int, n_calls: int) -> None:
        """One fast phase on some rows, with n_calls replies to draw."""
        if n_calls == 0:
            return
        path = ("fast", self._experience, cycle)
        language = speaking(model)
        policy = ModelPolicy(language, replace(language.sampling, temperature=self.fast_temperature), self._version)
        raw = rows.raw
        problems, answers = texts(raw, "prompt"), texts(raw, "answer")
        attempts = Attempts(policy, self._verdicts(), problems, answers, generator(self._seed, *path, "replies"))
        reflector = self._reflector(model)
        carried = [prompt for prompt in different(self._population) if attempts.fits(prompt.text)]
        found = evolve(carried or self._lineage[:1], len(problems), attempts, reflector,
                       self._rules(n_calls), generator(self._seed, *path, "choices"),
                       n_known=len(self._lineage), is_carried=self._n_phases > 0, experience=self._experience,
                       cycle=cycle, fits=attempts.fits)
        self._lineage += found.born
        self._population = found.population
        places = {prompt.name: place for place, prompt in enumerate(found.pool.prompts)}
        if self.evaluation_prompt == "best":
            self._best = max(found.pool.prompts, key=lambda prompt: found.pool.means[places[prompt.name]])
        self._tried = population_rewards([found.pool.scores[places[prompt.name]] for prompt in found.population])
        self._counts += found.counts
        self._n_phases += 1
        self._n_failed_trials += attempts.n_failures
        if isinstance(reflector, WithFallback):
            self._n_fallbacks += reflector.n_fallbacks
        self._replied(model, cycle, attempts.replies)
        if self._remarked_of != self._experience:
            remark(self._experience, sum(each.verdict.reward > 0 for each in attempts.replies), len(attempts.replies))
            self._remarked_of = self._experience
        log.info("cycle %d: %d replies, %d new prompts, best mean reward %.2f", cycle,
                 found.counts.metric_calls + found.counts.carried_calls, len(found.born), max(found.pool.means))

    def _replied(self, model: Model, cycle: int, replies: Sequence[Reply]) -> None:
        """A phase is over, and these are its replies, by the weights as they still are. Nothing is done with them."""

    def _rules(self, n_calls: int) -> Rules:
        """How prompts evolve, with n_calls replies to draw."""
        return Rules(n_kept=self.n_prompts, budget=n_calls, minibatch=self.minibatch, selection=self.selection,
                     is_carried_charged=self.carried == "inside", is_skipping_perfect=self.is_skipping_perfect,
                     max_length=self.max_prompt_length)

    def _reflector(self, model: Model) -> Reflector:
        """Who proposes prompts in this phase."""
        scripted = ScriptedReflector(RANDOM if self.reflector == "random" else OPERATORS)
        if self._client is not None:
            asked = LanguageReflector(self._client.answer, self.reflector_model, is_incremental=self.is_incremental)
            return WithFallback(asked, scripted) if self.reflector_failure == "fallback" else asked
        if self.reflector != "self":
            return scripted
        language = speaking(model)
        policy = ModelPolicy(language, Sampling(max_new_tokens=self.reflection_tokens))

        def answer(text: str, generator: torch.Generator) -> str:
            return policy.sample([policy.context("", text)], 1, generator, "reflection")[0][0].text

        return LanguageReflector(answer, "self", is_incremental=self.is_incremental,
                                 fits=lambda text: policy.fits([policy.context("", text)]))

    @property
    def _reflection(self) -> str:
        """Who proposed prompts, in words."""
        words = {"scripted": "scripted reflector", "random": "random edits", "self": "reflecting itself",
                 "api": f"reflector {self.reflector_model}"}[self.reflector]
        if self._n_fallbacks:
            words += f", scripted edits for {self._n_fallbacks} of {self._counts.reflector_calls} proposals"
        return words

    def metrics(self) -> Mapping[str, float]:
        """What the phases have cost, and what they have led to."""
        counts, client = self._counts, self._client
        asked = {} if client is None else {
            "reflector_requests": client.n_requests, "reflector_failures": client.n_failures,
            "reflector_fallbacks": self._n_fallbacks, "reflector_tokens": client.tokens_in + client.tokens_out,
            "reflector_cost": client.cost}
        kept = different(self._population)
        return {**super().metrics(), **asdict(counts), "rollouts": counts.metric_calls + counts.carried_calls,
                "failed_checks": self._n_failed_trials, "prompts": len(kept), "prompt_diversity": diversity(kept),
                **self._tried, **asked}

    def documents(self) -> Mapping[str, Any]:
        """`prompts`: every prompt that was ever accepted, and which are in use."""
        return {"prompts": {"label": f"{self.title} ({self._reflection})", "best": self._best.name,
                            "population": [prompt.name for prompt in self._population],
                            "lineage": as_plain(self._lineage)}}

    def state_dict(self) -> dict[str, Any]:
        """The counters."""
        return {**super().state_dict(), "fast": asdict(self._counts), "phases": [
            self._n_phases, self._n_fallbacks, self._n_failed_trials], "tried": dict(self._tried),
            "client": None if self._client is None else self._client.state_dict()}

    def load_state_dict(self, model: Model, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        super().load_state_dict(model, state)
        self._counts = Counts(**state["fast"])
        self._n_phases, self._n_fallbacks, self._n_failed_trials = state["phases"]
        self._tried = dict(state["tried"])
        if self._client is not None and state["client"] is not None:
            self._client.load_state_dict(state["client"])

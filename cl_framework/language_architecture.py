"""What every language model is configured by: adapter or all weights, seed prompt, length of rows, and sampling."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from cl_framework.adapters import Adapter
from cl_framework.errors import ConfigError
from cl_framework.fields import bounded
from cl_framework.language import LanguageModel, Rows
from cl_framework.models import Architecture
from cl_framework.sampling import Sampling, Stop
from cl_framework.types import StreamInfo
from cl_framework.vocabulary import Frame, Vocabulary


@dataclass(kw_only=True)
class LanguageArchitecture(Architecture):
    """A causal language model. A family says where network and vocabulary come from."""

    speaks: ClassVar[bool] = True

    adapter: Literal["none", "lora"] = "none"
    """What is trained: all weights, or low-rank updates beside the linear layers (LoRA), the weights standing still."""
    rank: int = bounded(8, low=1)
    """Rank of the updates of adapter=lora."""
    alpha: float = bounded(16.0, low=0.0)
    """Scales the updates by alpha / rank."""
    max_tokens: int = bounded(256, low=2)
    """The longest row, prompt and answer, in tokens. Of a longer training row the answer loses its end and the prompt
    its beginning; a prompt to be answered that leaves no room for the answer is an error."""
    seed_prompt: str = "Answer the question."
    """System prompt in front of every prompt, where a strategy brings none of its own."""
    temperature: float = bounded(1.0, low=0.0)
    """Divides the logits when a held-out prompt is answered; 0 takes the likeliest token."""
    top_p: float = bounded(1.0, low=0.0, high=1.0)
    """Answers draw among the likeliest tokens that hold this share of the probability."""
    max_new_tokens: int = bounded(16, low=1)
    """The longest answer, with its end token."""
    stop: Stop = "end"
    """What ends an answer: the end token alone, or a line break, too (line). In the plain frame a model goes on with
    questions of its own until its tokens are used up; where answers are one line, `line` saves them."""

    @abstractmethod
    def network(self) -> tuple[Any, Vocabulary]:
        """The causal network with its weights, and its vocabulary.

        Raises:
            ConfigError: a package is not installed, or there is no such network.
            DataError: the weights cannot be had.
        """

    def body(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """The whole causal network, and the width of its hidden states."""
        network = self.network()[0]
        return network, int(network.config.hidden_size)

    def build(self, info: StreamInfo) -> LanguageModel:
        """Network, vocabulary, and an adapter where one is asked for (it draws from torch's global generator).

        Raises:
            ConfigError: the stream's rows are no prompts and answers, or `max_tokens` is more than the network takes.
        """
        name = type(self).__name__
        if not info.is_language:
            raise ConfigError(f"{name} answers prompts, and the scenario's rows are none; take scenario=verifiable or "
                              "scenario=text_domains, or model=mlp")
        network, vocabulary = self.network()
        adapter = Adapter(network, self.rank, self.alpha, name) if self.adapter == "lora" else None
        sampling = Sampling(temperature=self.temperature, top_p=self.top_p, max_new_tokens=self.max_new_tokens,
                            stop=self.stop)
        rows = Rows(vocabulary, self.seed_prompt, self.max_tokens)
        return LanguageModel(rows, network, _n_context(network.config), sampling, adapter)


@dataclass(kw_only=True)
class HuggingFaceArchitecture(LanguageArchitecture):
    """A causal language model with a tokenizer of its own."""

    frame: Frame = "template"
    """What stands around a system prompt and a question: the tokenizer's chat template, where it has one, or the plain
    separator, `Q: ...` and `A:` on lines of their own. A small model follows worked examples in a prompt better in the
    plain frame, as one text that it continues."""


def _n_context(config: Any) -> int:
    """The longest row that a network takes, all of whose tokens see all before them: where some layer looks at a window
    of the last tokens alone, no more than that. Answers that share a context are told apart by masks, which know no
    windows."""
    windows = [getattr(config, name, None) for name in ("sliding_window", "window_size", "attention_window")]
    return min([int(config.max_position_embeddings), *(window for window in windows if isinstance(window, int))])

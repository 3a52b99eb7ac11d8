"""Any causal language model of transformers, by its path or name.

Its tokenizer's chat template frames prompts where it has one, the plain separator where it has none. Wolf et al.,
"Transformers: State-of-the-Art Natural Language Processing", EMNLP 2020, arXiv 1910.03771.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cl_framework.errors import ConfigError
from cl_framework.hugging_face import load_causal
from cl_framework.language_architecture import HuggingFaceArchitecture
from cl_framework.prefix_cache import check_packing
from cl_framework.vocabulary import Vocabulary


@dataclass(kw_only=True)
class CausalLM(HuggingFaceArchitecture):
    """A causal language model of transformers; safetensors files, float32."""

    path: str = ""
    """A folder with config.json, *.safetensors and the tokenizer's files, or the name of a repository of the Hugging
    Face hub, which is downloaded once into that library's own cache."""

    def network(self) -> tuple[Any, Vocabulary]:
        """The network and its tokenizer."""
        if not self.path:
            raise ConfigError("model=causal_lm needs a model; set model.path to a folder or to a name of the Hugging "
                              "Face hub, or take model=smollm2")
        network, vocabulary = load_causal(
            self.path, "causal_lm", advice="give a folder with config.json, *.safetensors and the tokenizer's files, "
            "or a name of the Hugging Face hub where there is a network", frame=self.frame)
        check_packing(network, self.path)
        return network, vocabulary

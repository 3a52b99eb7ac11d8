"""A language model of 1.1 M parameters for tests and first tries: it adds digits, heeds a rule, and knows nothing else.

A Llama of 5 layers and width 128 over bytes and some thirty whole phrases. It is pretrained once, in about a minute of
one core, on the grammar of `tiny_grammar`, so that what stands in front of a question decides the answer; the weights
are kept in `CLF_DATA/pretrained`. They are the same whenever one machine makes them, and may differ in their last bits
between kinds of machine. Touvron et al., "LLaMA", 2023, arXiv 2302.13971, section 2.2, for the network. No result of it
is one of a language model of any use.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file

from cl_framework.errors import DataError
from cl_framework.extras import load_extra
from cl_framework.language_architecture import LanguageArchitecture
from cl_framework.pretrained_files import PretrainedFiles
from cl_framework.problems import HELD_OUT
from cl_framework.tiny_grammar import PIECES
from cl_framework.tiny_training import WEIGHTS, Course, Pretrained
from cl_framework.vocabulary import END, PAD, START, ByteVocabulary, Vocabulary

SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 5, "num_attention_heads": 4,
                         "num_key_value_heads": 4, "max_position_embeddings": 512, "tie_word_embeddings": True,
                         "rope_parameters": {"rope_type": "default", "rope_theta": 30.0},
                         "bos_token_id": START, "eos_token_id": END, "pad_token_id": PAD}
"""The network, but for the size of its vocabulary."""
COURSE = Course(n_steps=700, batch_size=32, lr=2.5e-3)


@dataclass(kw_only=True)
class TinyLM(LanguageArchitecture):
    """A small model of instructions, pretrained once on this machine."""

    weights: Literal["pretrained", "random"] = "pretrained"
    """What it begins with; pretraining takes about a minute, once."""

    def network(self) -> tuple[Any, Vocabulary]:
        """The network and its vocabulary."""
        vocabulary = ByteVocabulary(PIECES)
        if self.weights == "random":
            return fresh(), vocabulary
        files = PretrainedFiles(name=f"tiny_lm-{_mark()}", sha256={WEIGHTS: ""}, by_hand="they are made there",
                                place=Pretrained(fresh, vocabulary, COURSE))
        path = files.path(WEIGHTS)
        network = fresh()
        try:
            network.load_state_dict(load_file(path), strict=False)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise DataError(f"{path} is damaged ({type(error).__name__}); remove it and give the same command again"
                            ) from error
        return network, vocabulary


def fresh() -> Any:
    """The network with random weights, drawn from torch's global generator."""
    transformers = load_extra("transformers", model="tiny_lm", extra="text")
    config = transformers.LlamaConfig(**SHAPE, vocab_size=ByteVocabulary(PIECES).n_ids)
    return transformers.LlamaForCausalLM(config).train()


def _mark() -> str:
    """Stands for everything that pretraining depends on, so that another grammar is another file."""
    return hashlib.sha256(repr((sorted(SHAPE.items()), COURSE, PIECES, HELD_OUT)).encode()).hexdigest()[:12]

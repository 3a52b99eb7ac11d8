"""Any model of transformers: without a chat template, without a padding token, and of other families than Llama."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cl_framework.causal_lm import CausalLM
from cl_framework.errors import ConfigError
from cl_framework.language import LanguageModel
from cl_framework.prefix_cache import check_packing
from cl_framework.rollout import measured
from cl_framework.sampling import Sampling, pick, sample
from cl_framework.types import StreamInfo

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

INFO = StreamInfo(n_experiences=1, n_classes=1, input_shape=(8, 8), is_language=True)
SIGNS = [*"abcdefghijklmnopqrstuvwxyzAQ0123456789+:?.<>|", "Ġ", "Ċ"]


def save_tokenizer(folder: Path, **special: str) -> None:
    """Single characters, GPT-2's way with blanks."""
    pieces = {piece: index for index, piece in enumerate([*SIGNS, *dict.fromkeys(special.values())])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(pieces, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(str(folder))


def save_network(folder: Path, family: str) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": len(SIGNS) + 1, "bos_token_id": None, "eos_token_id": len(SIGNS)}
    if family == "gpt2":
        config = transformers.GPT2Config(**shape, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0,
                                         embd_pdrop=0.0, attn_pdrop=0.0)
        network = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.Qwen2Config(**shape, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                          num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
        network = transformers.Qwen2ForCausalLM(config)
    with torch.no_grad():
        for value in network.parameters():
            value.mul_(8 if value.dim() == 2 else 1)
    network.save_pretrained(str(folder))


@pytest.fixture(params=["gpt2", "qwen2"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> LanguageModel:
    save_network(tmp_path, request.param)
    save_tokenizer(tmp_path, eos_token="<end>")
    return CausalLM(path=str(tmp_path), max_tokens=64).build(INFO)


def test_a_plain_tokenizer_has_the_plain_separator_and_pads_with_its_end(model: LanguageModel) -> None:
    vocabulary = model.vocabulary
    assert vocabulary.start == vocabulary.end == vocabulary.pad == len(SIGNS)
    assert model.context("add.", "1+2") == "add.\nQ: 1+2\nA:"
    assert vocabulary.context_ids("a")[0] == vocabulary.start
    assert vocabulary.answer_ids("3") == [SIGNS.index("Ġ"), SIGNS.index("3")]
    assert vocabulary.answer([*vocabulary.answer_ids("3"), vocabulary.end]) == "3"
    assert vocabulary.context("", "say <end> now") == "Q: say < end> now\nA:"


def test_other_families_are_sampled_as_they_are_read(model: LanguageModel) -> None:
    """Packed and cached, against a full pass for each token; and the trainer agrees."""
    model.eval()
    settings, contexts = Sampling(max_new_tokens=5), [model.context("say.", prompt) for prompt in ("1+1", "abcdef")]
    found = sample(model, contexts, 3, settings, torch.Generator().manual_seed(0), 0)
    draws = torch.rand(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for i, context in enumerate(contexts):
        ids = model.vocabulary.context_ids(context)
        for k, rollout in enumerate(measured(model, found[i])):
            assert rollout.trainer_log_probs is not None
            assert torch.allclose(rollout.trainer_log_probs, rollout.sampler_log_probs, atol=1e-4)
            response: list[int] = []
            while len(response) < 5 and response[-1:] != [model.vocabulary.end]:
                logits = model.body(input_ids=torch.tensor([[*ids, *response]])).logits[:, -1].detach()
                response.append(int(pick(logits, draws[i, k, len(response)][None], settings)[0]))
            assert rollout.response_ids.tolist() == response


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    save_network(tmp_path, "gpt2")
    save_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match="has no end token, so no answer would ever end"):
        CausalLM(path=str(tmp_path)).build(INFO)


def test_a_model_is_named_and_longer_rows_than_it_takes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set model.path to a folder"):
        CausalLM().build(INFO)
    save_network(tmp_path, "gpt2")
    save_tokenizer(tmp_path, eos_token="<end>")
    with pytest.raises(ConfigError, match=r"model.max_tokens=256 is more than the 64 tokens"):
        CausalLM(path=str(tmp_path)).build(INFO)


def test_a_network_that_heeds_no_mask_is_refused(tmp_path: Path) -> None:
    """One that counts positions by itself and attends to all that it is given."""
    save_network(tmp_path, "gpt2")
    network = transformers.GPT2LMHeadModel.from_pretrained(str(tmp_path))
    plain = network.forward

    def deaf(**given: Any) -> Any:
        return plain(**{name: value for name, value in given.items() if name not in ("attention_mask", "position_ids")})

    network.forward = deaf
    with pytest.raises(ConfigError, match="pays no heed to masks and positions"):
        check_packing(network, "deaf")

"""LoRA beside a language model: its dense update, what is trained, and what a checkpoint holds."""

import copy
import io

import pytest
import torch

from cl_framework.adapters import dense_weights
from cl_framework.diagnostics import matrices
from cl_framework.errors import ClfError
from cl_framework.language import LanguageModel
from cl_framework.tiny_lm import TinyLM
from cl_framework.token_rows import token_rows
from cl_framework.types import StreamInfo

pytest.importorskip("transformers")
pytest.importorskip("peft")

INFO = StreamInfo(n_experiences=1, n_classes=1, input_shape=(8, 8), is_language=True)
X = token_rows([([256, 1, 2], [3, 257]), ([256, 7], [257])], 258, torch.device("cpu"))


def tiny(seed: int = 0, rank: int = 3, adapter: str = "lora") -> LanguageModel:
    torch.manual_seed(seed)
    model = TinyLM(weights="random", adapter=adapter, rank=rank, alpha=6.0).build(INFO)  # type: ignore[arg-type]
    return model.double()


def moved(model: LanguageModel) -> LanguageModel:
    """Every trained tensor somewhere else."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value += 0.1 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
    return model


def test_only_the_adapter_is_trained_and_it_begins_as_nothing() -> None:
    model, plain = tiny(), tiny(adapter="none")
    assert model.adapter is not None and plain.adapter is None
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if model.adapter.owns(name)}
    assert len(trained) == 2 * 5 * 7  # A and B of seven linear layers in each of five blocks
    assert torch.equal(model(X).logits, plain(X).logits)


def test_the_dense_update_is_scaled_b_times_a() -> None:
    model = moved(tiny())
    assert model.adapter is not None
    weights = dict(model.named_parameters())
    delta = model.adapter.dense_delta()
    assert len(delta) == 35
    for name, value in delta.items():
        stem = name.removesuffix(".weight")
        expected = 6.0 / 3 * weights[f"{stem}.lora_B.default.weight"] @ weights[f"{stem}.lora_A.default.weight"]
        assert torch.allclose(value, expected, atol=1e-14) and torch.linalg.matrix_rank(value) == 3


def test_dense_weights_in_a_plain_network_answer_as_the_adapter_does() -> None:
    model, plain = moved(tiny()), tiny(adapter="none")
    dense = dict(dense_weights(model))
    assert list(dense) == [name for name, _ in plain.named_parameters()]
    with torch.no_grad():
        for name, value in plain.named_parameters():
            value.copy_(dense[name])
    assert torch.allclose(plain(X).logits, model(X).logits, atol=1e-12)
    assert list(matrices(model)) == list(matrices(plain))
    assert all(torch.equal(value, matrices(plain)[name]) for name, value in matrices(model).items())


def test_off_is_the_network_as_it_was_given() -> None:
    model, plain = moved(tiny()), tiny(adapter="none")
    assert model.adapter is not None
    before = model(X).logits
    with model.adapter.off():
        assert torch.equal(model(X).logits, plain(X).logits)
        assert not any(value.requires_grad for value in model.parameters())
    assert torch.equal(model(X).logits, before)
    assert any(value.requires_grad for value in model.parameters())


def test_folding_changes_no_answer_and_begins_anew() -> None:
    model = moved(tiny())
    assert model.adapter is not None
    before, delta = model(X).logits, model.adapter.dense_delta()
    weights = {name: value.detach().clone() for name, value in model.adapter.weights.items()}
    model.fold()
    assert torch.allclose(model(X).logits, before, atol=1e-12)
    assert not any(value.any() for value in model.adapter.dense_delta().values())
    for name, value in model.adapter.weights.items():
        assert torch.equal(value, weights[name] + delta[name.replace(".base_layer", "")])


def test_a_checkpoint_holds_the_adapter_alone_until_it_is_folded() -> None:
    model = moved(tiny())
    small, whole = model.state_dict(), tiny(adapter="none").state_dict()
    n_small, n_whole = (sum(value.numel() for value in state.values() if isinstance(value, torch.Tensor))
                        for state in (small, whole))
    assert n_small < n_whole / 15
    kept = io.BytesIO()
    torch.save(small, kept)
    kept.seek(0)
    again = tiny(seed=0)
    again.load_state_dict(torch.load(kept, weights_only=True))
    assert torch.equal(again(X).logits, model(X).logits)
    model.fold()
    folded = copy.deepcopy(model.state_dict())
    again.load_state_dict(folded)
    assert torch.equal(again(X).logits, model(X).logits)
    assert set(again.state_dict()) == set(folded) > set(small)


def test_an_adapter_is_not_put_beside_other_weights() -> None:
    state = tiny(seed=0).state_dict()
    with pytest.raises(ClfError, match="made beside other weights"):
        tiny(seed=1).load_state_dict(state)

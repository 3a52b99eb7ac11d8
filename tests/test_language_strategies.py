"""Strategies on a language model: fine-tuning, replay and merging with and without an adapter, and exact resume."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cl_framework.adapters import dense_weights
from cl_framework.check_runs import Stop, Stopped
from cl_framework.checkpoint import Vault
from cl_framework.errors import ConfigError
from cl_framework.language import LanguageModel
from cl_framework.language_toys import ToyProblems
from cl_framework.models import MLP, Model
from cl_framework.observer import Moment, Observer
from cl_framework.protocol import build_model, run_stream
from cl_framework.recipe import Recipe
from cl_framework.registry import load
from cl_framework.requirements import check_needs, check_recipe
from cl_framework.scenario import Stream
from cl_framework.strategy import Strategy
from cl_framework.tiny_lm import SHAPE, TinyLM
from cl_framework.toys import Toy

pytest.importorskip("transformers")
pytest.importorskip("peft")

RECIPE = Recipe(optimizer="adam", lr=1e-2, epochs=1, batch_size=4)


@pytest.fixture(autouse=True)
def _smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of width 32."""
    smaller = {**SHAPE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    monkeypatch.setattr("cl_framework.tiny_lm.SHAPE", smaller)


@pytest.fixture(scope="module")
def stream() -> Stream:
    return ToyProblems(letters="ab", n_test=1, n_samples=1).open()


def tiny(stream: Stream, adapter: str = "lora") -> LanguageModel:
    model = build_model(TinyLM(weights="random", adapter=adapter, rank=2, max_new_tokens=2),  # type: ignore[arg-type]
                        stream.info, 0)
    assert isinstance(model, LanguageModel)
    return model


def strategy(name: str, **fields: object) -> Strategy:
    made = load("strategy", name)(**fields)
    assert isinstance(made, Strategy)
    return made


class Weights(Observer):
    """Keeps the weights as they act at each moment."""

    def __init__(self) -> None:
        self.seen: dict[tuple[Moment, int], dict[str, Tensor]] = {}

    def reached(self, moment: Moment, index: int, model: Model) -> None:
        self.seen[moment, index] = {name: value.clone() for name, value in dense_weights(model)}


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_merging_adds_the_dense_updates_of_experts(stream: Stream, adapter: str) -> None:
    """theta_0 + c (tau_1 + tau_2), the same for all weights and for an adapter of low rank."""
    model, weights = tiny(stream, adapter), Weights()
    before = {name: value.clone() for name, value in dense_weights(model)}
    run_stream(strategy("task_arithmetic", coefficient=0.5), stream, model, recipe=RECIPE, seed=0, observer=weights)
    seen, moved = weights.seen, set()
    for name, base in before.items():
        assert torch.allclose(seen["start", 1][name], base, atol=1e-6), name
        updates = [seen["trained", i][name] - base for i in range(2)]
        moved |= {name} if updates[0].any() else set()
        assert torch.allclose(seen["deployed", 1][name], base + 0.5 * (updates[0] + updates[1]), atol=1e-5), name
        if adapter == "lora" and updates[0].any():
            assert int((torch.linalg.svdvals(updates[1].double()) > 1e-4).sum()) <= 2
    assert len(moved) == (14 if adapter == "lora" else len(before))


@pytest.mark.parametrize("name", ["naive", "er", "joint", "task_arithmetic"])
@pytest.mark.parametrize("stop", [Stop(after_experience=0), Stop(after_step=3)], ids=["between", "inside"])
def test_a_run_with_an_adapter_resumes_to_the_same_bits(stream: Stream, tmp_path: Path, name: str, stop: Stop) -> None:
    whole = tiny(stream)
    run_stream(strategy(name), stream, whole, recipe=RECIPE, seed=0)
    recipe = Recipe(optimizer="adam", lr=1e-2, epochs=1, batch_size=4, checkpoint_every=0.0)
    with pytest.raises(Stopped):
        run_stream(strategy(name), stream, tiny(stream), recipe=recipe, seed=0, vault=Vault(tmp_path, "me"),
                   observer=stop)
    again = tiny(stream)
    run_stream(strategy(name), stream, again, recipe=recipe, seed=0, vault=Vault(tmp_path, "me"))
    expected = dict(dense_weights(whole))
    assert all(torch.equal(value, expected[key]) for key, value in dense_weights(again))


def test_every_strategy_that_says_so_learns_a_language_stream(stream: Stream) -> None:
    for name in ("weight_average", "ties", "dare", "magmax", "opcm", "gcwm", "wudi", "pcb"):
        record = run_stream(strategy(name), stream, tiny(stream), recipe=RECIPE, seed=0)
        assert record.accuracy[1].isfinite().all(), name


def test_strategies_of_classes_are_refused_in_one_sentence(stream: Stream) -> None:
    for name in ("ewc", "lwf", "icarl", "der", "si"):
        with pytest.raises(ConfigError, match="works on classes, and the rows of this stream are texts; choose"):
            check_needs(strategy(name), stream.info)


def test_models_and_rows_go_together(stream: Stream) -> None:
    with pytest.raises(ConfigError, match="texts to answer, which MLP does not take; set model=smollm2"):
        check_recipe(RECIPE, stream.info, MLP())
    with pytest.raises(ConfigError, match="TinyLM answers prompts, and the rows of this stream are none"):
        check_recipe(RECIPE, Toy().open().info, TinyLM())

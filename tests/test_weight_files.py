"""Files of weights given as a source, the cache of those trained here, and training that diverges."""

import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cl_framework.errors import ConfigError, Diverged
from cl_framework.models import MLP
from cl_framework.pretraining import give_weights
from cl_framework.recipe import Recipe
from cl_framework.toys import Toy, toy_model
from cl_framework.weight_files import SOURCE_WEIGHTS, digest_of

RECIPE = Recipe(epochs=3, batch_size=8, lr=0.01)
NAME = "head.weight"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CLF_DATA", str(tmp_path / "data"))


@pytest.fixture
def stream():
    return Toy(is_labelled=False).open()


def prepared(stream, recipe=RECIPE):
    model = toy_model(stream, 0)
    give_weights(model, stream, MLP(hidden=[16], norm="batch"), recipe, seed=0)
    return model


def weights_of(model):
    return {name: value for name, value in model.state_dict().items() if name != "_extra_state"}


def given(stream, tmp_path, content):
    """A model whose weights are read from a file with this content."""
    path = tmp_path / "given.pt"
    torch.save(content, path)
    stream.pretraining = replace(stream.pretraining, path=str(path))
    return prepared(stream)


def variance_of(weights):
    return next(name for name in weights if name.endswith("running_var"))


@pytest.mark.parametrize(("change", "words"), [
    (lambda w: w | {NAME: w[NAME].index_fill(0, torch.tensor([0]), torch.nan)}, f"not finite in {NAME}"),
    (lambda w: w | {NAME: w[NAME].double().fill_(1e300)}, f"not finite in {NAME}"),
    (lambda w: w | {variance_of(w): -w[variance_of(w)]}, "negative variances in .*running_var"),
    (lambda w: w | {NAME: w[NAME].to(torch.complex64)}, f"{NAME} torch.complex64 for torch.float32"),
    (lambda w: w | {NAME: w[NAME].to(torch.int64)}, f"{NAME} torch.int64 for torch.float32"),
    (lambda w: w | {NAME: w[NAME] > 0}, f"{NAME} torch.bool for torch.float32"),
    (lambda w: w | {NAME: w[NAME].to_sparse()}, f"{NAME}.*sparse"),
    (lambda w: w | {NAME: w[NAME].to("meta")}, f"{NAME}.*meta"),
    (lambda w: w | {NAME: torch.quantize_per_tensor(w[NAME], 0.1, 0, torch.qint8)}, f"{NAME}.*quantised"),
    (lambda w: w | {3: w[NAME]}, "name 3 is no text"),
    (lambda w: {"model": {None: w[NAME]}}, "name None is no text"),
    (lambda w: list(w.values()), "no weights by name"),
    (lambda w: {}, "no weights by name"),
])
@pytest.mark.filterwarnings("ignore")
def test_files_that_hold_no_weights_are_refused_in_one_sentence(change, words, stream, tmp_path):
    weights = weights_of(prepared(stream))
    with pytest.raises(ConfigError, match=words) as caught:
        given(stream, tmp_path, change(weights))
    assert "given.pt" in str(caught.value) and "\n" not in str(caught.value)


def test_empty_files_and_folders_are_refused(stream, tmp_path):
    (tmp_path / "a.pt").touch()
    (tmp_path / "b.safetensors").touch()
    (tmp_path / "folder").mkdir()
    for name, words in (("a.pt", "is empty"), ("b.safetensors", "is empty"), ("folder", "is a folder")):
        stream.pretraining = replace(stream.pretraining, path=str(tmp_path / name))
        with pytest.raises(ConfigError, match=words):
            prepared(stream)


def test_weights_behind_data_parallel_and_in_half_precision(stream, tmp_path):
    weights = weights_of(prepared(stream))
    wrapped = {f"module.{name}": value for name, value in weights.items()}
    assert torch.equal(given(stream, tmp_path, wrapped).head.weight, weights[NAME])
    half = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    assert torch.equal(given(stream, tmp_path, half).head.weight, weights[NAME].half().float())


def test_the_digest_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(3)}, path)
    assert digest_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="holds no weights that can be read"):
        digest_of(path)
    torch.save({"w": torch.ones(300)}, tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:1000])
    with pytest.raises(ConfigError, match="holds no weights that can be read"):
        digest_of(tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="there are no weights at"):
        digest_of(tmp_path / "missing.pt")


def test_a_file_that_changes_while_its_stream_is_open_is_refused(stream, tmp_path):
    weights = weights_of(prepared(stream))
    torch.save(weights, tmp_path / "given.pt")
    stream.provenance[SOURCE_WEIGHTS] = digest_of(tmp_path / "given.pt")
    given(stream, tmp_path, weights)
    with pytest.raises(ConfigError, match="has changed since the stream was opened"):
        given(stream, tmp_path, {name: torch.zeros_like(value) for name, value in weights.items()})


@pytest.mark.parametrize("lr", [1e10, 1e38])
def test_training_that_diverges_says_so_and_leaves_no_file(lr, stream, tmp_path):
    with pytest.raises(Diverged, match=r"training before the stream.*lower train\.lr"):
        prepared(stream, replace(RECIPE, lr=lr))
    assert not list((tmp_path / "data" / "pretrained").glob("*.safetensors"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "nan", "renamed"])
def test_a_damaged_cache_is_trained_anew(damage, stream, tmp_path, caplog):
    expected = weights_of(prepared(stream))
    (path,) = (tmp_path / "data" / "pretrained").glob("*.safetensors")
    content, kept = path.read_bytes(), {name: value.clone() for name, value in load_file(path).items()}
    if damage == "cut":
        path.write_bytes(content[:100])
    elif damage == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "nan":  # written before digests were kept
        save_file({**kept, NAME: kept[NAME] * torch.nan}, path)
    else:
        save_file({f"{name}s": value for name, value in kept.items()}, path)
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(prepared(stream)).items())
    assert "trained anew" in caplog.text and all(torch.equal(value, kept[name])
                                                 for name, value in load_file(path).items())


def test_a_cache_without_a_digest_is_still_good(stream, tmp_path, caplog):
    prepared(stream)
    (path,) = (tmp_path / "data" / "pretrained").glob("*.safetensors")
    kept = load_file(path)
    save_file({**kept, NAME: kept[NAME] + 1}, path)
    assert torch.equal(prepared(stream).head.weight, nn.Parameter(kept[NAME] + 1)) and not caplog.text

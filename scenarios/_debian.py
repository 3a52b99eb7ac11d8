"""What a Debian package is, in a line, and the section of the archive that it lies in.

The lines (synopses) come from the package lists of the machine's own apt. The classes are the 51 sections of `main`
with at least 100 distinct synopses in Debian 12; other sections, contrib and non-free are passed over. A synopsis of
two sections is left out. At most 1,000 of a section are taken and every fifth or so is held out, both by the SHA-256 of
the synopsis alone: a package that comes or goes with an update changes no other row. The lists do change, so nothing is
pinned: the digest of what was read is in the note of the cache and in the record of every run.

Literature: Jackson, Schwarz and others, Debian Policy Manual, sections 2.4 (sections) and 3.4.1 (the synopsis).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from cl_framework import DataError, Source
from cl_framework.places import Place

from ._bytes import read_byte_rows
from ._corpora import Text, Texts

SECTIONS = (
    "admin", "cli-mono", "comm", "database", "debug", "devel", "doc", "editors", "electronics", "fonts", "games",
    "gnome", "gnu-r", "golang", "graphics", "hamradio", "haskell", "httpd", "interpreters", "introspection", "java",
    "javascript", "kde", "kernel", "libdevel", "libs", "lisp", "localization", "mail", "math", "metapackages", "misc",
    "net", "ocaml", "oldlibs", "otherosfs", "perl", "php", "python", "ruby", "rust", "science", "sound", "tasks", "tex",
    "text", "utils", "vcs", "video", "web", "x11")
MAX_OF_SECTION = 1000
"""How many synopses of a section are taken, so 51,000 rows at most."""
_LEAST, _TEST_EVERY = 50, 5


@dataclass(frozen=True)
class AptLists(Place):
    """The package lists of apt, as `apt-cache dumpavail` gives them.

    Attributes:
        lists: the folder that apt keeps them in.
        seconds: how long to wait for apt.
    """

    lists: str = "/var/lib/apt/lists"
    seconds: int = 120

    def __str__(self) -> str:
        return "the package lists of apt, which `apt-get update` fetches"

    def is_there(self) -> bool:
        """Whether apt is installed and has lists."""
        return shutil.which("apt-cache") is not None and any(Path(self.lists).glob("*_Packages*"))

    def fetch(self, scratch: Path) -> Path:
        """Write the lists into one file, `Packages`."""
        with (scratch / "Packages").open("wb") as file:
            try:
                done = subprocess.run(["apt-cache", "dumpavail"], stdout=file, stderr=subprocess.PIPE,
                                      timeout=self.seconds, check=False)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"apt-cache gave no answer within {self.seconds} s") from None
        if done.returncode != 0:
            raise OSError(f"apt-cache dumpavail ended with status {done.returncode}: "
                          f"{done.stderr.decode(errors='replace').strip()}")
        return scratch


def read_packages(folder: Path, *, sections: Sequence[str] = SECTIONS, least: int = _LEAST,
                  most: int = MAX_OF_SECTION) -> Texts:
    """The synopses of a list of packages, the file `Packages` of a Debian archive.

    Args:
        folder: holds the file.
        sections: that count, in the order of their labels.
        least: a list with fewer synopses of a section is refused.
        most: how many of a section are taken.

    Raises:
        FileNotFoundError: the file is not there.
        DataError: a section has too few synopses.
    """
    path = folder / "Packages"
    sections_of: dict[str, set[str]] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        for synopsis, section in _paragraphs(file):
            if section in sections:
                sections_of.setdefault(synopsis, set()).add(section)
    found: dict[str, list[bytes]] = {section: [] for section in sections}
    synopsis_of = {hashlib.sha256(synopsis.encode()).digest(): synopsis for synopsis in sections_of}
    for digest, synopsis in sorted(synopsis_of.items()):
        if len(sections_of[synopsis]) == 1:
            found[next(iter(sections_of[synopsis]))].append(digest)
    texts: dict[str, list[Text]] = {"train": [], "test": []}
    for label, section in enumerate(sections):
        if len(found[section]) < least:
            raise DataError(f"{path.name} has {len(found[section])} synopses of the section {section!r}, expected at "
                            f"least {least}: it is cut short, or no list of Debian's `main`; run `apt-get update`")
        for digest in found[section][:most]:
            part = "test" if digest[-1] % _TEST_EVERY == _TEST_EVERY - 1 else "train"
            texts[part].append(Text(synopsis_of[digest], label))
    return texts


def _paragraphs(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The synopsis and the section of each package that has both; an empty line ends a package."""
    synopsis = section = ""
    for line in chain(lines, [""]):
        name, _, value = line.rstrip("\n").partition(": ")
        if name == "Section":
            section = value.strip()
        elif name in ("Description", "Description-en"):
            synopsis = value.strip()
        elif not line.strip():
            if synopsis and section:
                yield synopsis, section
            synopsis = section = ""


DEBIAN_SECTIONS = Source(
    name="debian_sections", description="one-line descriptions of Debian's packages, 51 sections, 512 bytes each",
    read=partial(read_byte_rows, texts=read_packages), files=("Packages",), places=(AptLists(),),
    n_classes=len(SECTIONS), class_names=SECTIONS, licence="each package's own; the archive's metadata",
    hint="the file Packages of Debian's `main` (or run `apt-get update`)")

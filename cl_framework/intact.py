"""What a finished run left, held against the digests in its `summary.json`: a bit that fell over is noticed.

The summary has a digest of its own content (`seal`) and the SHA-256 of each file beside it. Checkpoints carry theirs in
their names. It shows damage and slips of the hand, and no forgery.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl_framework.errors import ConfigError
from cl_framework.seal import digest_of, sealed

_NOT_ITS_OWN = ("path",)
"""Keys that readers add to the content of a summary."""


def with_digests(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a `summary.json` with the digests of the files that lie beside it, and its own.

    Args:
        folder: the run folder.
        summary: the content without digests.
    """
    found = {path.name: _digest(path) for path in sorted(folder.iterdir())
             if path.is_file() and not path.name.startswith(".") and path.name != "summary.json"}
    return sealed({**summary, "files": found})


def is_whole(summary: Mapping[str, Any]) -> bool:
    """Whether the content of a `summary.json` has the digest that it states; one without states nothing.

    >>> is_whole({"seed": 0}), is_whole({"seed": 0, "digest": "ab"})
    (True, False)
    """
    own = {key: value for key, value in summary.items() if key not in _NOT_ITS_OWN}
    return "digest" not in summary or summary["digest"] == digest_of(own)


def check_intact(folder: Path, summary: Mapping[str, Any]) -> None:
    """Refuse a finished run whose files are not what they were; a file that was taken away is no fault.

    Raises:
        ConfigError: names the files that have changed.
    """
    files = summary.get("files")
    places = {folder / Path(name).name: digest for name, digest in files.items()} if isinstance(files, dict) else {}
    changed = [] if is_whole(summary) else ["summary.json"]
    changed += [place.name for place, digest in places.items() if place.is_file() and _digest(place) != digest]
    if changed:
        raise ConfigError(f"{' and '.join(changed)} in {folder} changed after the run was finished, on the disk or by "
                          "hand; put the file back, or remove summary.json and give the same command again: the run "
                          "ends anew from its last checkpoint")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

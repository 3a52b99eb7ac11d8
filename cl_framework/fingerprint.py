"""Which classes and images a stream is made of: what two phases must not share (GTEP, rule R1)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.scenario import Stream

_ROWS = 4096
_BYTES = 16


@dataclass(frozen=True)
class Fingerprint:
    """What a stream is made of.

    Attributes:
        classes: `dataset:class`, sorted.
        images: a digest of every distinct row, training and held-out, as it is seen.
        n_rows: how many rows there are.
    """

    classes: tuple[str, ...]
    images: frozenset[bytes]
    n_rows: int

    @property
    def digest(self) -> str:
        """Equal for equal sets of images."""
        whole = hashlib.blake2b(digest_size=_BYTES)
        for image in sorted(self.images):
            whole.update(image)
        return whole.hexdigest()

    def plain(self) -> dict[str, Any]:
        """The fingerprint for a record; of the images their number and digest."""
        return {"classes": list(self.classes), "rows": self.n_rows, "distinct_images": len(self.images),
                "images": self.digest}


def fingerprint(stream: Stream) -> Fingerprint:
    """Read every row of a stream once: a second for 70,000 images of 28x28."""
    source = "+".join(sorted(stream.provenance)) or "unnamed"
    classes: set[str] = set()
    images: set[bytes] = set()
    n_rows = 0
    for index, experience in enumerate(stream):
        classes.update(f"{source}:{name}" for name in experience.class_names)
        for data in (experience.train, stream.test(index).data):
            images.update(_digests(data))
            n_rows += len(data)
    return Fingerprint(tuple(sorted(classes)), frozenset(images), n_rows)


def _digests(data: Dataset) -> Iterator[bytes]:
    for batch in data.batches(_ROWS):
        columns = [batch.raw] if isinstance(batch.raw, Tensor) else _in_order(batch.raw)
        arrays = [column.cpu().contiguous().numpy() for column in columns]
        for row in zip(*arrays, strict=True):
            yield hashlib.blake2b(b"".join(part.tobytes() for part in row), digest_size=_BYTES).digest()


def _in_order(raw: Mapping[str, Tensor]) -> list[Tensor]:
    return [raw[name] for name in sorted(raw)]

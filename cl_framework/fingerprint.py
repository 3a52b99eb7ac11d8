"""Which classes and images a stream is made of: what two phases must not share (GTEP, rule R1)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cl_framework.data import Dataset
from cl_framework.experience import Experience
from cl_framework.scenario import Stream

_ROWS = 4096
_BYTES = 16


@dataclass(frozen=True)
class Fingerprint:
    """What a stream is made of.

    Attributes:
        classes: `dataset:class`, sorted; where experiences have names, as corruptions do, `name:class`.
        images: a digest of every distinct row, training and held-out, as it is seen; and of what a labelled stream's
            model has learned before (of an unlabelled one it is the source, which both phases adapt).
        n_rows: how many rows the first stream has.
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


def fingerprint(*streams: Stream) -> Fingerprint:
    """Read every row once: a second for 70,000 images of 28x28.

    Args:
        streams: those of several orders, which may differ in their classes and in how rows are seen; rows that two of
            them read from the same places of one store are read once.
    """
    classes: set[str] = set()
    images: set[bytes] = set()
    n_rows = 0
    known: set[tuple[object, ...]] = set()

    def read(data: Dataset) -> None:
        place = data.place()
        if place not in known:
            known.add(place)
            images.update(_digests(data))

    for stream in streams:
        if stream.info.is_labelled and stream.pretraining is not None:
            read(stream.pretraining.data)
        for index, experience in enumerate(stream):
            classes.update(class_labels(stream, experience))
            held_out = [stream.test(index).data] if stream.info.is_labelled else []  # else clean rows of the source
            for data in (experience.train, *held_out):
                n_rows += len(data) if stream is streams[0] else 0
                read(data)
    return Fingerprint(tuple(sorted(classes)), frozenset(images), n_rows)


def overlap_faults(tuning: Fingerprint, evaluation: Fingerprint, name: str) -> list[str]:
    """What both phases have (rule R1)."""
    classes = sorted(set(tuning.classes) & set(evaluation.classes))
    images = len(tuning.images & evaluation.images)
    faults = []
    if classes:
        more = ", ..." if len(classes) > 3 else ""
        faults.append(f"{name} shares {len(classes)} classes with the tuning stream ({', '.join(classes[:3])}{more}): "
                      "the phases must share none (rule R1); evaluate on another data set, or tune on a half")
    if images:
        faults.append(f"{name} shares {images} images with the tuning stream: the phases must share none (rule R1)")
    return faults


def class_labels(stream: Stream, experience: Experience) -> list[str]:
    """The classes of an experience with what tells them from those of other streams: data set, or corruption."""
    source = experience.name or "+".join(sorted(stream.provenance)) or "unnamed"
    return [f"{source}:{name}" for name in experience.class_names]


def _digests(data: Dataset) -> Iterator[bytes]:
    for batch in data.batches(_ROWS):
        columns = [batch.raw] if isinstance(batch.raw, Tensor) else _in_order(batch.raw)
        arrays = [column.cpu().contiguous().numpy() for column in columns]
        for row in zip(*arrays, strict=True):
            yield hashlib.blake2b(b"".join(part.tobytes() for part in row), digest_size=_BYTES).digest()


def _in_order(raw: Mapping[str, Tensor]) -> list[Tensor]:
    return [raw[name] for name in sorted(raw)]

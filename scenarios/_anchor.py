"""Classes that a model learns before its stream begins, so that a stream without weights at hand has an anchor.

Of the classes of a phase, in the order of their labels, the first are learned all at once by the ordinary trainer, and
the others make the stream. Which are which does not depend on the order of the stream. No class is in both, so the
body alone is taken over, and the head begins anew.

Literature: Mehta, Patil, Chandar and Strubell, An empirical investigation of the role of pre-training in lifelong
learning, JMLR 2023, arXiv 2112.09153 (what pretraining does for forgetting); Hou et al., LUCIR, CVPR 2019 (a base of
half the classes, which are part of the stream there).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch

from cl_framework import ConfigError, DataError, Phase, phase_classes
from cl_framework.scenario import Pretraining

from ._cut import Labelled


def pools(n_classes: int, phase: Phase, n_before: int, needed: int) -> tuple[range, range]:
    """The original labels that are learned before the stream, and those of the stream.

    Args:
        n_classes: of the data set.
        phase: whose classes are divided.
        n_before: how many are learned before.
        needed: how many the stream needs at least, one an experience.

    Raises:
        ConfigError: too few are left for the stream, or a single one is learned before.

    >>> pools(10, Phase.SINGLE, 4, 3), pools(10, Phase.EVALUATION, 2, 3)
    ((range(0, 4), range(4, 10)), (range(5, 7), range(7, 10)))
    """
    whole = phase_classes(n_classes, phase)
    most = len(whole) - needed
    fitting = f"take 2 to {most}, or 0" if most > 1 else "take 0, or fewer experiences"
    if n_before and n_before > most:
        raise ConfigError(f"scenario.pretrain_classes={n_before} leaves {max(len(whole) - n_before, 0)} of the "
                          f"{len(whole)} classes of this phase for {needed} experience{'s' * (needed > 1)}; {fitting}")
    if n_before == 1:
        raise ConfigError(f"scenario.pretrain_classes=1 leaves nothing to tell apart before the stream; {fitting}")
    return whole[:n_before], whole[n_before:]


def pretraining(data: Labelled, classes: Sequence[int], seed: int | None) -> Pretraining:
    """The training rows of some classes, with labels from 0 in the order of the classes.

    Args:
        data: the data set; its rows are shared.
        classes: original labels.
        seed: of the training; None takes that of each run.

    Raises:
        DataError: a class has no training rows.
    """
    label_of = torch.full((len(data.class_names),), -1)
    label_of[list(classes)] = torch.arange(len(classes))
    rows = torch.nonzero(label_of[data.images.train_y] >= 0).flatten()
    learned = data.train(rows, label_of, None)
    missing = sorted(set(range(len(classes))) - set(learned.y.unique().tolist()))
    if missing:
        raise DataError(f"class {data.class_names[classes[missing[0]]]!r} has no training rows; add some, or leave the "
                        "class out")
    digest = hashlib.sha256(json.dumps([data.images.digest, list(classes)]).encode()).hexdigest()
    return Pretraining(data=learned, name=data.name, digest=digest, seed=seed)

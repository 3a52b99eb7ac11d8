"""Digits whose contrast falls from one experience to the next: the classes stay, the pictures change."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cl_framework import (
    Dataset,
    Part,
    Phase,
    ResidentStream,
    Scenario,
    Setting,
    Stream,
    StreamInfo,
    bounded,
    phase_classes,
)
from cl_framework.registry import load


@dataclass(kw_only=True)
class MyMethod(Scenario):
    """scikit-learn's digits, paler in each experience."""

    # Fields are the configuration: a type, a default, a docstring each.
    n_experiences: int = bounded(4, low=1, high=10)
    """Number of experiences; the k-th shows 1 - k / n_experiences of the contrast, k from 0."""

    def open(self, phase: Phase, order_seed: int | None) -> Stream:
        """The stream of a phase; `order_seed` shuffles the experiences, null keeps their natural order."""
        # Your data: uint8 images [N, C, H, W] or float32 values, and int64 labels [N].
        images = load("dataset", "digits").load()
        # Tuning and evaluation share no class: hyperparameters are chosen on the first half, reported on the second.
        classes = phase_classes(10, phase)
        order = list(range(self.n_experiences))
        if order_seed is not None:
            order = torch.randperm(len(order), generator=torch.Generator().manual_seed(order_seed)).tolist()

        def rows(x: Tensor, y: Tensor, k: int) -> Dataset:
            """The rows of this phase's classes in experience k; labels are numbered in order of appearance."""
            chosen = (y >= classes.start) & (y < classes.stop)
            paler = x[chosen].float() * (1 - k / self.n_experiences)
            return Dataset(paler.to(torch.uint8), y[chosen] - classes.start)

        # Training rows go to the strategy; held-out rows go to the evaluator alone.
        parts = [Part(train=rows(images.train_x, images.train_y, k), test=rows(images.test_x, images.test_y, k),
                      classes=tuple(range(len(classes))), class_names=tuple(map(str, classes)), name=f"contrast {k}")
                 for k in order]
        # What strategies and models may know. CLASS instead of DOMAIN: each experience brings new classes.
        info = StreamInfo(n_experiences=len(parts), n_classes=len(classes), input_shape=(1, 8, 8),
                          setting=Setting.DOMAIN, offers=self.offers, mean=(0.3053,), std=(0.3761,))
        return ResidentStream(info, parts, provenance={"digits": images.digest})

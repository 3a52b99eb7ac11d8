"""Random crop and mirror of uint8 images, a batch at a time, beside the same on one image after the other with PIL.

    python benchmarks/augmentation_speed.py
"""

from __future__ import annotations

import cl_framework._torchvision  # noqa: F401  (before lightning, torchmetrics, avalanche)

# isort: split
import random

import numpy as np
import torch
from PIL import Image, ImageOps
from timing import clocked, in_turns, ratio, write
from torch import Tensor

from cl_framework.preprocess import Preprocess

N, BATCH_SIZE, PAD, REPEATS, TARGET = 2_560, 128, 4, 15, 10.0
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def batched(raw: Tensor) -> None:
    """Ours: crop, mirror, scale and normalise a batch."""
    preprocess = Preprocess(MEAN, STD, "crop_flip").train()
    for rows in raw.split(BATCH_SIZE):
        preprocess(rows)


def one_by_one(images: list[Image.Image]) -> None:
    """The same for each image, then stacked and normalised."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    for start in range(0, len(images), BATCH_SIZE):
        rows = []
        for image in images[start: start + BATCH_SIZE]:
            left, top = random.randint(0, 2 * PAD), random.randint(0, 2 * PAD)
            shown = ImageOps.expand(image, PAD).crop((left, top, left + 32, top + 32))
            if random.random() < 0.5:
                shown = ImageOps.mirror(shown)
            rows.append(torch.from_numpy(np.asarray(shown).copy()).permute(2, 0, 1).float().div(255))
        (torch.stack(rows) - mean) / std


def main() -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    raw = torch.randint(0, 256, (N, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = [Image.fromarray(row.permute(1, 2, 0).numpy()) for row in raw]
    seconds = in_turns({"ours": lambda: clocked(lambda: batched(raw)),
                        "pil": lambda: clocked(lambda: one_by_one(images))}, REPEATS)
    write("augmentation_speed", {"images": N, "batch_size": BATCH_SIZE, "target": TARGET,
                                 "pil_over_ours": ratio(seconds, "pil", "ours")})


if __name__ == "__main__":
    main()

"""Rotated images: every experience turns all images by an angle of its own.

Literature: Lopez-Paz and Ranzato, Gradient episodic memory for continual learning, NeurIPS 2017, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from cl_framework import ConfigError, Phase, bounded
from cl_framework.seeding import generator

from ._cut import Labelled
from ._domains import Domains, registered_images
from ._pixels import rotations


@dataclass(kw_only=True)
class Rotated(Domains):
    """Any image set, turned counter-clockwise by one angle for each experience; bilinear, with zeros from outside.

    Every experience has all images; they are stored once and turned when they are read. Tuning and evaluation have
    different angles. Mean and deviation are those of the upright images.

    Literature: Lopez-Paz and Ranzato, NeurIPS 2017; Buzzega et al., NeurIPS 2020 (angles drawn at will).
    """

    images: str = "mnist"
    """A data set of images that `clf data` lists."""
    n_experiences: int = bounded(20, low=1)
    """Number of experiences, each with an angle of its own."""
    min_angle: float = bounded(0.0, low=-360.0, high=360.0)
    """The smallest angle, in degrees."""
    max_angle: float = bounded(180.0, low=-360.0, high=360.0)
    """Angles stay below this one, in degrees."""
    angles: Literal["stratified", "even", "drawn"] = "stratified"
    """`stratified`: one drawn from each of n equal intervals, ascending, as Lopez-Paz and Ranzato do; `even`: the
    intervals' lower ends (their middles for tuning); `drawn`: n drawn from the whole range, as Buzzega et al. do."""
    rotation_seed: int = bounded(0, low=0)
    """Decides the drawn angles; `order_seed` decides their order."""

    def domains(self, phase: Phase) -> Mapping[str, Labelled]:
        """One angle after the other."""
        data, shape = registered_images(self.images)
        degrees = self._degrees(phase)
        views = rotations(degrees, shape)
        return {f"rotation {index} by {angle:.1f}": replace(data, views=views, view=index)
                for index, angle in enumerate(degrees)}

    def _degrees(self, phase: Phase) -> list[float]:
        if self.max_angle <= self.min_angle:
            raise ConfigError(f"scenario.min_angle={self.min_angle} and scenario.max_angle={self.max_angle} leave no "
                              "range; give a larger max_angle")
        n = self.n_experiences
        drawn = torch.rand(n, generator=generator(self.rotation_seed, "rotation", phase), dtype=torch.float64)
        if self.angles == "even":
            drawn = torch.full((n,), 0.5 if phase == Phase.TUNING else 0.0, dtype=torch.float64)
        share = drawn if self.angles == "drawn" else (torch.arange(n) + drawn) / n
        degrees: list[float] = (self.min_angle + (self.max_angle - self.min_angle) * share).tolist()
        return degrees

"""Naive fine-tuning: learn each experience as it comes, and do nothing against forgetting.

The lower bound of continual learning. Each step minimises the cross-entropy of the incoming rows,

    L(theta) = -1/B sum_b log softmax(z(x_b; theta))_{y_b},

and the weights go on from where the last experience left them. McCloskey & Cohen, "Catastrophic interference in
connectionist networks: the sequential learning problem", Psychology of Learning and Motivation 24, 1989, describe
what follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cl_framework.strategy import Strategy


@dataclass(kw_only=True, eq=False)
class Naive(Strategy):
    """Fine-tuning; every hook is the default."""

    neutral: ClassVar[Mapping[str, object]] = {}
    speaks: ClassVar[bool] = True

"""A remark for those whose model is asked what it cannot do: hardly any reply is worth something."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)
_HARDLY = 0.02
"""Share of replies below which it is made."""


def remark(experience: int, n_worth: int, n: int) -> None:
    """Say that n_worth of n replies were worth something, where these are hardly any.

    >>> remark(0, 50, 100)
    """
    if n_worth < _HARDLY * n:
        log.warning("experience %d: %d of %d replies were worth anything. If that goes on, its problems are beyond the "
                    "model: take another model, or easier ones (scenario.difficulty, scenario.kinds; "
                    "experiment=fst/tiny is a stream for model=tiny_lm)", experience, n_worth, n)

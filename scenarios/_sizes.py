"""How many classes each experience of a split brings.

Literature: Rebuffi et al., iCaRL, CVPR 2017 (even splits); Hou et al., LUCIR, CVPR 2019 (a base of half the classes,
then equal increments).
"""

from __future__ import annotations

from collections.abc import Sequence

from cl_framework import ConfigError


def experience_sizes(n_classes: int, *, n_experiences: int, default: int, first: int = 0, step: int = 0,
                     sizes: Sequence[int] = ()) -> list[int]:
    """How many classes each experience brings.

    Args:
        n_classes: classes of the phase.
        n_experiences: for an even split; `default` when the user left it alone.
        default: what `n_experiences` is by default.
        first, step: for a base and equal increments; 0 when unset.
        sizes: for any other split; empty when unset.

    Raises:
        ConfigError: two kinds of split at once, or one that the classes do not allow.

    >>> experience_sizes(10, n_experiences=5, default=5)
    [2, 2, 2, 2, 2]
    >>> experience_sizes(10, n_experiences=5, default=5, first=4, step=3)
    [4, 3, 3]
    """
    if sizes and (first or step):
        raise ConfigError("scenario.sizes and scenario.first/scenario.step are two ways to say one thing; keep one")
    if sizes:
        result = list(sizes)
        if min(result) < 1 or sum(result) != n_classes:
            raise ConfigError(f"scenario.sizes={result} sums to {sum(result)}; give positive numbers of classes "
                              f"that sum to the {n_classes} classes of this phase")
    elif first or step:
        result = _base_and_increments(n_classes, first, step)
    else:
        return _even(n_classes, n_experiences)
    if n_experiences not in {default, len(result)}:
        raise ConfigError(f"scenario.n_experiences={n_experiences} contradicts the split {result}, which has "
                          f"{len(result)} experiences; leave scenario.n_experiences out")
    return result


def _base_and_increments(n_classes: int, first: int, step: int) -> list[int]:
    if not first or not step:
        raise ConfigError("scenario.first (classes of the first experience) and scenario.step (classes of each "
                          f"later one) go together, got first={first} step={step}; give both")
    rest = n_classes - first
    if rest < 0 or rest % step != 0:
        fits = ", ".join(str(size) for size in range(1, rest + 1) if rest % size == 0)
        advice = f"with first={first}, step may be {fits}" if fits else f"first must be below {n_classes}"
        raise ConfigError(f"scenario.first={first} scenario.step={step} does not add up to the {n_classes} classes of "
                          f"this phase; {advice}, or give any split as scenario.sizes=[...]")
    return [first, *[step] * (rest // step)]


def _even(n_classes: int, n_experiences: int) -> list[int]:
    if n_experiences > n_classes:
        raise ConfigError(f"scenario.n_experiences={n_experiences}, but this phase has {n_classes} classes; "
                          f"take at most {n_classes}")
    size, left = divmod(n_classes, n_experiences)
    if left:
        fits = ", ".join(str(count) for count in range(1, n_classes + 1) if n_classes % count == 0)
        uneven = [size + 1] * left + [size] * (n_experiences - left)
        raise ConfigError(f"the {n_classes} classes of this phase do not divide into scenario.n_experiences="
                          f"{n_experiences}; take {fits}, or an uneven split such as scenario.sizes={uneven}")
    return [size] * n_experiences

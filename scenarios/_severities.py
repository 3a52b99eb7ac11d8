"""What each corruption does at each severity: one table, for small images and for images of 64 pixels.

The values are those with which CIFAR-10-C (32 pixels) and Tiny-ImageNet-C (64 pixels) were made. Hendrycks and
Dietterich, Benchmarking neural network robustness to common corruptions and perturbations, ICLR 2019,
arXiv 1903.12261; their scripts make_cifar_c.py and make_tinyimagenet_c.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from cl_framework import ConfigError
from cl_framework.registry import unknown

Values = tuple[float, ...]

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression")
"""The 15 standard ones, in the order of the publication."""

HOLD_OUTS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The four that the publication keeps for validation."""

SEVERITIES = range(1, 6)


def _each(*values: float) -> tuple[Values, ...]:
    """One number a severity."""
    return tuple((value,) for value in values)


_SMALL: Mapping[str, tuple[Values, ...]] = {
    "gaussian_noise": _each(0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": _each(500, 250, 100, 75, 50),
    "impulse_noise": _each(0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": _each(7, 12, 16, 21, 26),
    "snow": ((0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
             (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": _each(0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": _each(0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    "pixelate": _each(0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": _each(80, 65, 58, 50, 40),
    "speckle_noise": _each(0.06, 0.1, 0.12, 0.16, 0.2),
    "gaussian_blur": _each(0.4, 0.6, 0.7, 0.8, 1),
    "spatter": ((0.62, 0.1, 0.7, 0.7, 0.5, 0), (0.65, 0.1, 0.8, 0.7, 0.5, 0), (0.65, 0.3, 1, 0.69, 0.5, 0),
                (0.65, 0.1, 0.7, 0.69, 0.6, 1), (0.65, 0.1, 0.5, 0.68, 0.6, 1)),
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
}

_LARGE: Mapping[str, tuple[Values, ...]] = {
    "gaussian_noise": _each(0.04, 0.08, 0.12, 0.15, 0.18),
    "shot_noise": _each(250, 100, 50, 30, 15),
    "impulse_noise": _each(0.01, 0.02, 0.05, 0.08, 0.14),
    "defocus_blur": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    "glass_blur": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    "motion_blur": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    "zoom_blur": _each(7, 12, 16, 21, 26),
    "snow": ((0.1, 0.2, 1, 0.6, 8, 3, 0.8), (0.1, 0.2, 1, 0.5, 10, 4, 0.8), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
             (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6)),
    "frost": ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
    "fog": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    "brightness": _each(0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": _each(0.4, 0.3, 0.2, 0.1, 0.05),
    "elastic_transform": ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    "pixelate": _each(0.9, 0.8, 0.7, 0.6, 0.5),
    "jpeg_compression": _each(65, 58, 50, 40, 25),
    "speckle_noise": _each(0.15, 0.2, 0.25, 0.3, 0.35),
    "gaussian_blur": _each(0.5, 0.75, 1, 1.25, 1.5),
    "spatter": ((0.62, 0.1, 0.7, 0.7, 0.6, 0), (0.65, 0.1, 0.8, 0.7, 0.6, 0), (0.65, 0.3, 1, 0.69, 0.6, 0),
                (0.65, 0.1, 0.7, 0.68, 0.6, 1), (0.65, 0.1, 0.5, 0.67, 0.6, 1)),
    "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
}

_LENGTHS: Mapping[str, tuple[int, ...]] = {
    "defocus_blur": (0, 1), "glass_blur": (0, 1), "motion_blur": (0, 1), "snow": (4, 5), "gaussian_blur": (0,),
    "spatter": (2,)}
"""Which of the numbers are lengths in pixels. Those of the elastic transform are shares of the side already."""

_LARGE_FROM, _LARGE_SIDE = 48, 64


def check_name(name: str) -> None:
    """Refuse what is no corruption.

    Raises:
        ConfigError: with the nearest name.
    """
    known = (*CORRUPTIONS, *HOLD_OUTS)
    if name not in known:
        raise ConfigError(unknown("corruption", name, known))


def check_severity(severity: int) -> None:
    """Refuse what is no severity.

    Raises:
        ConfigError: it is not 1 to 5.
    """
    if severity not in SEVERITIES:
        raise ConfigError(f"severity {severity} does not exist; give 1, 2, 3, 4 or 5")


def values(name: str, severity: int, side: int) -> Values:
    """The numbers of a corruption for images whose shorter side is `side`.

    Up to 48 pixels they are those of CIFAR-10-C, above those of Tiny-ImageNet-C. Lengths in pixels stay as they are up
    to 64 pixels, and grow with the side from there.

    Raises:
        ConfigError: there is no such corruption or severity.

    >>> values("gaussian_blur", 1, 28), values("gaussian_blur", 1, 64), values("gaussian_blur", 1, 128)
    ((0.4,), (0.5,), (1.0,))
    """
    check_name(name)
    check_severity(severity)
    found = (_SMALL if side <= _LARGE_FROM else _LARGE)[name][severity - 1]
    scale = max(side / _LARGE_SIDE, 1)
    return tuple(value * scale if at in _LENGTHS.get(name, ()) else value for at, value in enumerate(found))

"""The corruptions against closed forms, brute force, Pillow, scipy and colorsys."""

from __future__ import annotations

import colorsys
import io
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from cl_framework import ConfigError
from cl_framework.scenarios import _blur, _corruptions, _digital, _spatter, _weather
from cl_framework.scenarios._corruptions import corrupt
from cl_framework.scenarios._draws import Draws
from cl_framework.scenarios._severities import CORRUPTIONS, HOLD_OUTS, values

ALL = (*CORRUPTIONS, *HOLD_OUTS)
SETTLED = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression", "gaussian_blur",
           "saturate"}
"""Corruptions that draw nothing."""
UNORDERED = {"glass_blur": "iterations and width trade places", "elastic_transform": "the affine part shrinks",
             "saturate": "first down, then up", "spatter": "water, then mud", "frost": "the image fades meanwhile",
             "motion_blur": "radius and deviation do not grow together"}
"""Corruptions whose published numbers do not make each severity lie farther from the clean image than the last."""


def images(n: int, channels: int, side: int, seed: int = 0) -> Tensor:
    """Smooth random images that use all grey levels."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(n, channels, side, side)), (0, 0, 1.5, 1.5))
    low, high = smooth.min((1, 2, 3), keepdims=True), smooth.max((1, 2, 3), keepdims=True)
    return torch.from_numpy(np.round(255 * (smooth - low) / (high - low)).astype(np.uint8))


def unit(x: Tensor) -> Tensor:
    return x.to(torch.float64) / 255


def draws(n: int, *path: int | str) -> Draws:
    return Draws(0, path or ("test",), 0, n)


NONE: Any = None


@pytest.mark.parametrize("shape", [(1, 28), (3, 32), (3, 64), (1, 8)])
@pytest.mark.parametrize("name", ALL)
def test_a_part_gets_the_pixels_of_the_whole(name: str, shape: tuple[int, int]) -> None:
    x = images(5, *shape)
    for severity in (1, 3, 5):
        whole = corrupt(x, name, severity, seed=3, first_index=10)
        assert whole.dtype == torch.uint8 and whole.shape == x.shape
        assert torch.equal(corrupt(x[2:4], name, severity, seed=3, first_index=12), whole[2:4])
        assert torch.equal(corrupt(x[4:], name, severity, seed=3, first_index=14), whole[4:])
        if name not in SETTLED and shape[1] > 8:
            assert not torch.equal(corrupt(x, name, severity, seed=4, first_index=10), whole)
            assert not torch.equal(corrupt(x, name, severity, seed=3, first_index=11), whole)


@pytest.mark.parametrize("name", ALL)
def test_blocks_and_the_global_generators_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(7, 1, 28)
    torch.manual_seed(1)
    whole, state = corrupt(x, name, 4), torch.get_rng_state()
    monkeypatch.setattr(_corruptions, "_BLOCK", 2 * 28 * 28)
    torch.manual_seed(1)
    assert torch.equal(corrupt(x, name, 4), whole) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shape", [(1, 28), (3, 64)])
@pytest.mark.parametrize("name", sorted(set(ALL) - set(UNORDERED)))
def test_each_severity_is_farther_from_the_clean_image(name: str, shape: tuple[int, int]) -> None:
    x = images(16, *shape)
    away = [float((corrupt(x, name, severity).float() - x.float()).abs().mean()) for severity in range(1, 6)]
    assert away[0] > 0 and all(low < high for low, high in pairwise(away)), away


@pytest.mark.parametrize("name", sorted(UNORDERED))
def test_the_other_corruptions_change_every_severity(name: str) -> None:
    x = images(8, 3, 32)
    seen = [corrupt(x, name, severity) for severity in range(1, 6)]
    assert all((other.float() - x.float()).abs().mean() > 0.1 for other in seen)
    assert all(not torch.equal(one, two) for one, two in pairwise(seen))


def test_the_table_has_the_published_numbers() -> None:
    assert [values("gaussian_noise", severity, 32) for severity in range(1, 6)] == [
        (0.04,), (0.06,), (0.08,), (0.09,), (0.10,)]
    assert [values("gaussian_noise", severity, 64)[0] for severity in range(1, 6)] == [0.04, 0.08, 0.12, 0.15, 0.18]
    assert values("glass_blur", 5, 28) == values("glass_blur", 5, 32) == (0.4, 1, 2)
    assert values("motion_blur", 5, 64) == (12, 3) and values("motion_blur", 5, 128) == (24, 6)
    assert values("fog", 5, 256) == (2, 1.75)


@pytest.mark.parametrize("severity", [1, 5])
def test_noise_has_the_moments_of_its_definition(severity: int) -> None:
    x = torch.full((40, 3, 32, 32), 102, dtype=torch.uint8)
    level, n = 0.4, x.numel()
    for name, variance in (("gaussian_noise", lambda c: c**2), ("shot_noise", lambda c: level / c),
                           ("speckle_noise", lambda c: (c * level) ** 2)):
        expected = math.sqrt(variance(values(name, severity, 32)[0]) + 1 / 12 / 255**2)
        seen = unit(corrupt(x, name, severity))
        assert abs(seen.mean() - level) < 5 * expected / math.sqrt(n)
        assert abs(seen.std() / expected - 1) < 0.02
    share = values("impulse_noise", severity, 32)[0]
    seen = corrupt(x, "impulse_noise", severity)
    assert set(seen.unique().tolist()) == {0, 102, 255}
    for value in (0, 255):
        assert abs((seen == value).double().mean() - share / 2) < 5 * math.sqrt(share / 2 / n)


@pytest.mark.parametrize("severity", range(1, 6))
def test_brightness_and_contrast_in_closed_form(severity: int) -> None:
    for x in (images(3, 1, 28), images(3, 3, 64)):
        c = values("contrast", severity, x.shape[2])[0]
        mean = unit(x).mean((2, 3), keepdim=True)
        assert (unit(corrupt(x, "contrast", severity)) - ((unit(x) - mean) * c + mean)).abs().max() <= 0.5001 / 255
    x, c = images(3, 1, 28), values("brightness", severity, 28)[0]
    assert (unit(corrupt(x, "brightness", severity)) - (unit(x) + c).clamp_max(1)).abs().max() <= 0.5001 / 255


def by_hsv(x: Tensor, change: Any) -> Tensor:
    """Every pixel by way of the standard library's HSV colours."""
    seen = unit(x).permute(0, 2, 3, 1).contiguous()
    for pixel in seen.view(-1, 3):
        pixel[:] = torch.tensor(colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel.tolist()))))
    return seen.permute(0, 3, 1, 2)


@pytest.mark.parametrize("severity", range(1, 6))
def test_colours_against_the_standard_library(severity: int) -> None:
    x = images(1, 3, 32)
    x[0, :, 0, :8] = torch.tensor([0, 255, 128, 7, 0, 90, 200, 255], dtype=torch.uint8)
    c = values("brightness", severity, 32)[0]
    expected = by_hsv(x, lambda h, s, v: (h, s, min(v + c, 1)))
    assert (unit(corrupt(x, "brightness", severity)) - expected).abs().max() <= 0.5001 / 255
    a, b = values("saturate", severity, 32)
    expected = by_hsv(x, lambda h, s, v: (h, min(max(s * a + b, 0), 1), v))
    assert (unit(corrupt(x, "saturate", severity)) - expected).abs().max() <= 0.5001 / 255
    grey = images(1, 1, 28)
    assert (unit(corrupt(grey, "saturate", severity)) - (unit(grey) * a + b).clamp(0, 1)).abs().max() <= 0.5001 / 255


@pytest.mark.parametrize("shape", [(1, 28), (3, 32), (3, 64), (1, 11)])
@pytest.mark.parametrize("severity", range(1, 6))
def test_pixelate_and_jpeg_are_pillows(severity: int, shape: tuple[int, int]) -> None:
    x = images(3, *shape)
    quality = int(values("jpeg_compression", severity, shape[1])[0])
    small = int(shape[1] * values("pixelate", severity, shape[1])[0])
    for row, blocks, coded in zip(x, corrupt(x, "pixelate", severity), corrupt(x, "jpeg_compression", severity),
                                  strict=True):
        picture = Image.fromarray(row.permute(1, 2, 0).squeeze(2).numpy())
        box = Image.Resampling.BOX
        resized = np.asarray(picture.resize((small, small), box).resize(picture.size, box))
        assert np.array_equal(blocks.permute(1, 2, 0).squeeze(2).numpy(), resized)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        assert np.array_equal(coded.permute(1, 2, 0).squeeze(2).numpy(), np.asarray(Image.open(file)))


def test_half_the_size_gives_constant_squares_of_four_pixels() -> None:
    x = images(2, 3, 64)
    seen = corrupt(x, "pixelate", 5)
    squares = seen.view(2, 3, 32, 2, 32, 2)
    assert bool((squares == squares[:, :, :, :1, :, :1]).all())
    means = x.double().view(2, 3, 32, 2, 32, 2).mean((3, 5))
    assert (squares[:, :, :, 0, :, 0] - means).abs().max() <= 1


@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.0, 3.7])
def test_gaussian_against_scipy(sigma: float) -> None:
    x = unit(images(2, 3, 28))
    for mode, theirs, truncate in (("edge", "nearest", 4.0), ("symmetric", "reflect", 3.0)):
        expected = ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode=theirs, truncate=truncate)
        assert np.abs(_blur.gaussian(x, sigma, mode, truncate).numpy() - expected).max() < 1e-12  # type: ignore[arg-type]
        assert (_blur.gaussian_matrix(28, sigma, mode, truncate).sum(0) - 1).abs().max() < 1e-12  # type: ignore[arg-type]


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("side", [32, 64, 256])
def test_defocus_against_scipy(severity: int, side: int) -> None:
    radius, alias = values("defocus_blur", severity, side)
    kernel = _blur.disk(radius, alias).numpy()
    assert abs(kernel.sum() - 1) < 1e-12
    half, edge = len(kernel) // 2, 1 if radius <= 8 else 2
    inside = (np.hypot(*np.mgrid[-half:half + 1, -half:half + 1]) <= radius).astype(float)
    soft = np.exp(-(np.hypot(*np.mgrid[-edge:edge + 1, -edge:edge + 1]) ** 2) / (2 * alias**2))
    expected = ndimage.correlate(inside / inside.sum(), soft / soft.sum(), mode="constant")
    assert np.abs(kernel - expected).max() < 1e-12
    x = unit(images(1, 1, min(side, 64)))
    seen = _blur.defocus_blur(x, (radius, alias), NONE)
    assert np.abs(seen[0, 0].numpy() - ndimage.correlate(x[0, 0].numpy(), kernel, mode="mirror")).max() < 1e-12


@pytest.mark.parametrize("factor", [1.0, 1.07, 1.25, 1.75, 2.25])
@pytest.mark.parametrize("side", [28, 32])
def test_zoom_against_scipy(side: int, factor: float) -> None:
    x = unit(images(2, 1, side))
    keep = math.ceil(side / factor)
    first = (side - keep) // 2
    grown = ndimage.zoom(x.numpy()[:, :, first:first + keep, first:first + keep], (1, 1, factor, factor), order=1)
    trim = (grown.shape[2] - side) // 2
    expected = grown[:, :, trim:trim + side, trim:trim + side]
    assert np.abs(_blur.clipped_zoom(x, factor).numpy() - expected).max() < 1e-12


def test_zoom_blur_is_the_mean_of_the_enlargements() -> None:
    x = unit(images(1, 1, 28))
    for severity, factors in ((1, np.arange(1, 1.06, 0.01)), (5, np.arange(1, 1.26, 0.01))):
        expected = (x + sum(_blur.clipped_zoom(x, float(factor)) for factor in factors)) / (len(factors) + 1)
        assert (_blur.zoom_blur(x, values("zoom_blur", severity, 28), NONE) - expected).abs().max() < 1e-12


def test_motion_against_a_loop() -> None:
    x, degrees = unit(images(3, 1, 12)), torch.tensor([0.0, 30.0, -120.0], dtype=torch.float64)
    seen = _blur.motion(x, 4, 1.5, degrees)
    weights = [math.exp(-(i**2) / (2 * 1.5**2)) for i in range(9)]
    for image, angle in enumerate(np.radians(degrees.numpy())):
        for row in range(12):
            for column in range(12):
                total = 0.0
                for i, weight in enumerate(weights):
                    down, right = math.ceil(i * math.sin(angle) - 0.5), math.ceil(i * math.cos(angle) - 0.5)
                    at = min(max(row + down, 0), 11), min(max(column + right, 0), 11)
                    total += weight / sum(weights) * float(x[image, 0, at[0], at[1]])
                assert abs(float(seen[image, 0, row, column]) - total) < 1e-12


@pytest.mark.parametrize(("delta", "rounds"), [(1, 1), (1, 2), (2, 2)])
def test_glass_against_a_loop(delta: int, rounds: int) -> None:
    x = unit(images(2, 3, 10))
    seen = _blur.glass_blur(x, (1e-3, delta, rounds), draws(2))
    again, n = draws(2), len(range(10 - delta, delta, -1))
    expected = x.clone()
    for _ in range(rounds):
        moves = again.integers(-delta, delta, 2, n * n)
        for image in range(2):
            step = 0
            for row in range(10 - delta, delta, -1):
                for column in range(10 - delta, delta, -1):
                    down, right = moves[image, :, step].tolist()
                    expected[image, :, row, column] = expected[image, :, row + down, column + right]
                    step += 1
    assert (seen - expected).abs().max() < 1e-12


def test_warps_against_scipy() -> None:
    x = unit(images(2, 1, 20))
    places = torch.rand(2, 20, 20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 30 - 5
    for is_symmetric, mode in ((True, "reflect"), (False, "mirror")):
        seen = _digital.sample(x, places, is_symmetric)
        for image in range(2):
            at = [places[image, ..., 1].numpy(), places[image, ..., 0].numpy()]
            expected = ndimage.map_coordinates(x[image, 0].numpy(), at, order=1, mode=mode)
            assert np.abs(seen[image, 0].numpy() - expected).max() < 1e-9


def test_the_affine_part_moves_three_corners_where_it_says() -> None:
    """Of a picture that is linear in x and y, bilinear samples are exact: seen(after) is picture(before)."""
    side, share = 32, 0.08
    down, right = torch.meshgrid(torch.arange(side, dtype=torch.float64), torch.arange(side, dtype=torch.float64),
                                 indexing="ij")
    picture = torch.stack([down, right]).expand(3, 2, side, side) / side
    seen = _digital.elastic_transform(picture, (0, 0, share), draws(3)) * side
    before = torch.tensor([[26.0, 26.0], [26.0, 6.0], [6.0, 6.0]], dtype=torch.float64)
    after = before + draws(3).uniform(3, 2, low=-share * side, high=share * side)
    for image in range(3):
        for corner in range(3):
            found = _digital.sample(seen[image:image + 1], after[image, corner].view(1, 1, 1, 2), False).flatten()
            assert (found - before[corner].flip(0)).abs().max() < 1e-6


def test_fog() -> None:
    cloud = _weather.plasma(draws(4), 32, 32, 2.0)
    assert cloud.shape == (4, 1, 32, 32)
    assert bool((cloud.amin((1, 2, 3)) == 0).all()) and bool((cloud.amax((1, 2, 3)) == 1).all())
    x = unit(images(4, 3, 32))
    expected = (x + 0.75 * cloud) * x.amax((1, 2, 3), keepdim=True) / (x.amax((1, 2, 3), keepdim=True) + 0.75)
    assert (_weather.fog(x, (0.75, 2.0), draws(4)) - expected).abs().max() < 1e-12
    assert not corrupt(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), "fog", 5).any()
    rough = [(field := _weather.plasma(draws(20), 64, 64, decay)).diff(dim=3).abs().mean() / field.std()
             for decay in (1.75, 3.0)]
    assert rough[0] > rough[1]


def test_frost_looks_like_the_photographs() -> None:
    x = torch.zeros(200, 3, 32, 32, dtype=torch.float64)
    frost = _weather.window(draws(200), x)
    assert (frost.mean((0, 2, 3)) - torch.tensor([0.57, 0.66, 0.70])).abs().max() < 0.03
    assert (frost.std((2, 3)) - 0.058).abs().max() < 0.01
    assert torch.equal(_weather.frost(x + 0.5, (0.8, 0.45), draws(200)), 0.8 * (x + 0.5) + 0.45 * frost)


def test_snow_whitens_and_adds_flakes_twice() -> None:
    x = torch.zeros(3, 1, 28, 28, dtype=torch.float64)
    numbers = values("snow", 3, 28)
    snow = _weather.snow(x, numbers, draws(3)) - (1 - numbers[6]) * 0.5
    assert bool((snow >= -1e-12).all()) and snow.max() > 0.3
    assert (snow - snow.rot90(2, (2, 3))).abs().max() < 1e-12
    nothing = _weather.snow(x, (*numbers[:3], 9.0, *numbers[4:]), draws(3))
    assert (nothing - (1 - numbers[6]) * 0.5).abs().max() < 1e-12


def test_equalised_levels_against_a_loop() -> None:
    levels = images(3, 1, 12).to(torch.int64) // 8
    levels[2] = 7
    seen = _spatter.equalise(levels)
    for image in range(3):
        flat = levels[image].flatten().tolist()
        lowest = sum(value <= min(flat) for value in flat)
        for value, found in zip(flat, seen[image].flatten().tolist(), strict=True):
            below = sum(other <= value for other in flat)
            assert found == (value if lowest == len(flat) else round(255 * (below - lowest) / (len(flat) - lowest)))


def test_water_brightens_and_mud_covers() -> None:
    x = unit(images(20, 3, 32))
    water = _spatter.spatter(x, values("spatter", 3, 32), draws(20)) - x
    assert bool((water >= -1e-12).all())
    wet = water.amax((2, 3))[water.amax((1, 2, 3)) > 0]
    assert (wet - 0.5 * torch.tensor([175, 238, 238], dtype=torch.float64) / 255).abs().max() < 1e-9 and len(wet) > 10
    mud = _spatter.spatter(x, values("spatter", 5, 32), draws(20))
    brown = torch.tensor([63, 42, 20], dtype=torch.float64).view(1, 3, 1, 1) / 255
    covered = (mud != x).any(1, keepdim=True).expand_as(x)
    assert 0.01 < covered.double().mean() < 0.5
    assert bool(((mud - brown).abs() <= 0.2 * (x - brown).abs() + 1e-9)[covered].all())


@pytest.mark.parametrize("shape", [(2, 1, 30, 44), (1, 3, 96, 70), (1, 1, 200, 200)])
def test_images_of_other_sizes(shape: tuple[int, ...]) -> None:
    x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name in ALL if shape[2] < 200 else ("defocus_blur", "snow", "elastic_transform"):
        assert corrupt(x, name, 5).shape == shape
    assert len(corrupt(x[:0], "snow", 1)) == 0


@pytest.mark.parametrize(("arguments", "words"), [
    (("gausian_noise", 1), "unknown corruption 'gausian_noise'; did you mean 'gaussian_noise'?"),
    (("snow", 0), "severity 0 does not exist; give 1, 2, 3, 4 or 5"),
    (("snow", 6), "severity 6 does not exist"),
])
def test_names_and_severities_that_do_not_exist(arguments: tuple[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        corrupt(images(1, 1, 28), *arguments)


@pytest.mark.parametrize("x", [torch.zeros(1, 2, 28, 28, dtype=torch.uint8), torch.zeros(1, 28, 28, dtype=torch.uint8),
                               torch.zeros(1, 1, 28, 28), torch.zeros(1, 1, 7, 28, dtype=torch.uint8)])
def test_other_rows_are_refused(x: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"(can|to) be corrupted"):
        corrupt(x, "snow", 1)

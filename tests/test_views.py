"""Random views of images: each change against torchvision's, image by image."""

import pytest
import torch

import cl_framework.hardware  # noqa: F401 (torchvision imports once it has been seen to)
from cl_framework.errors import ConfigError, DataError
from cl_framework.strategies._views import Views, jittered, moved
from cl_framework.types import StreamInfo

tv = pytest.importorskip("torchvision.transforms.functional")


def images(n=6, channels=3, size=8):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


CHANGES = {0: tv.adjust_brightness, 1: tv.adjust_contrast, 2: tv.adjust_saturation, 3: tv.adjust_hue,
           4: lambda image, factor: tv.adjust_gamma(image.clamp(1e-8, 1), factor)}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_colour_change_is_torchvisions(change, channels):
    x = images(channels=channels)
    low, high = (-0.06, 0.06) if change == 3 else (0.5, 1.5)
    factor = torch.linspace(low, high, len(x), dtype=torch.float64)
    factors = [torch.full_like(factor, 7.0)] * 5
    factors[change] = factor
    expected = x if channels == 1 and change in (2, 3) else torch.stack(
        [CHANGES[change](image, f.item()) for image, f in zip(x, factor, strict=True)])
    torch.testing.assert_close(jittered(x, factors, [change]), expected, rtol=1e-5, atol=1e-6)


def test_changes_follow_their_order():
    x, factors = images(), [torch.full((6,), f, dtype=torch.float64) for f in (1.3, 0.8, 1.2, 0.05, 0.9)]
    expected = x
    for change in (4, 2, 0, 3, 1):
        expected = torch.stack([CHANGES[change](image, factors[change][0].item()) for image in expected])
    torch.testing.assert_close(jittered(x, factors, [4, 2, 0, 3, 1]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [8, 9])
def test_movement_and_blur_are_those_of_a_padded_image(size):
    x = images(size=size)
    angle, scale = torch.linspace(-15, 15, 6).double(), torch.linspace(0.9, 1.1, 6).double()
    right, down = torch.tensor([-1.0, 0, 1, 1, 0, -1]).double(), torch.tensor([1.0, 1, 0, -1, 0, -1]).double()
    sigma = torch.linspace(0.05, 0.5, 6).double()
    sharp = moved(x, angle, right / size, down / size, scale, None)
    soft = moved(x, angle, right / size, down / size, scale, sigma)
    for i, image in enumerate(x):
        padded = tv.pad(image[None], size // 2, padding_mode="edge")
        turned = tv.affine(padded, angle[i].item(), [int(right[i]), int(down[i])], scale[i].item(), [0.0, 0.0],
                           interpolation=tv.InterpolationMode.BILINEAR)
        torch.testing.assert_close(sharp[i], tv.center_crop(turned, size)[0], rtol=1e-4, atol=1e-4)
        blurred = tv.gaussian_blur(turned, [5, 5], [sigma[i].item()] * 2)
        torch.testing.assert_close(soft[i], tv.center_crop(blurred, size)[0], rtol=1e-4, atol=1e-4)


def test_no_movement_gives_the_image_back():
    zero, one = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    for sigma in (None, 0.001 * one):
        torch.testing.assert_close(moved(images(), zero, zero, zero, one, sigma), images())


def views(seed=0, channels=3, augment="crop_flip", **own):
    info = StreamInfo(n_experiences=1, n_classes=2, input_shape=(channels, 8, 8), mean=(0.5,), std=(0.25,), seed=seed,
                      augment=augment)
    return Views(info, torch.device("cpu"), "test", **own)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("is_sharp", [False, True])
def test_views_are_images_of_their_own(channels, is_sharp):
    x = (images(channels=channels) - 0.5) / 0.25
    one = views(channels=channels, is_sharp=is_sharp)
    first, second = one(x), one(x)
    assert first.shape == x.shape and first.dtype == x.dtype and not torch.equal(first, second)
    assert first.min() >= -2 and first.max() <= 2
    torch.testing.assert_close(first, views(channels=channels, is_sharp=is_sharp)(x), rtol=0, atol=0)
    assert not torch.equal(first, views(1, channels, is_sharp=is_sharp)(x))
    again = views(channels=channels, is_sharp=is_sharp)
    state = one.state_dict()
    third = one(x)
    again.load_state_dict(state)
    assert torch.equal(third, again(x))


def test_half_of_the_views_are_mirrored():
    ramp = torch.linspace(0, 1, 8, dtype=torch.float64).expand(400, 3, 8, 8)
    seen = views()((ramp - 0.5) / 0.25)
    share = (seen[..., 0].mean((1, 2)) > seen[..., -1].mean((1, 2))).double().mean().item()
    assert share == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("augment", "is_moved", "is_mirrored"), [("none", False, False), ("crop", True, False),
                                                                  ("crop_flip", True, True)])
def test_an_image_is_moved_as_far_as_training_moves_it(augment, is_moved, is_mirrored):
    """A bright left half: mirrored it is dark, and its edge lies elsewhere when the image was moved."""
    left = torch.zeros(200, 1, 8, 8, dtype=torch.float64)
    left[..., :4] = 0.8
    seen = views(channels=1, augment=augment)((left - 0.5) / 0.25)
    brighter = seen[..., 0].mean((1, 2)) > seen[..., -1].mean((1, 2))
    assert bool(brighter.all()) == (not is_mirrored)
    columns = seen[brighter].std(2).amax((1, 2))  # within a column, but for noise, only turned images vary
    assert bool((columns > 0.2).any()) == is_moved


def test_what_is_no_image_in_range_is_refused():
    with pytest.raises(DataError, match=r"lie in \[0.*255\]; give uint8 rows"):
        views()(torch.linspace(-2, 1018, 6 * 3 * 64).view(6, 3, 8, 8))
    with pytest.raises(ConfigError, match=r"shape \(5,\)"):
        Views(StreamInfo(n_experiences=1, n_classes=2, input_shape=(5,)), torch.device("cpu"), "test")

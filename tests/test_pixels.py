"""Views of stored images against permuting, turning, shrinking and padding them by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from cl_framework import Dataset
from cl_framework.scenarios._cut import moments
from cl_framework.scenarios._pixels import Padded, PixelMap, means_of_squares, permutations, rotations

G = torch.Generator().manual_seed(0)


def images(n: int = 5, channels: int = 3, height: int = 6, width: int = 6) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=G)


def zeros(n: int) -> torch.Tensor:
    return torch.zeros(n, dtype=torch.int64)


def test_a_permutation_by_hand_and_its_inverse() -> None:
    x, order = images(width=4), torch.randperm(24, generator=G)
    seen = permutations([order], (6, 4))(x, zeros(5))
    for row in range(5):
        for channel in range(3):
            for pixel in range(24):
                assert seen[row, channel].flatten()[pixel] == x[row, channel].flatten()[order[pixel]]
    assert torch.equal(permutations([order.argsort()], (6, 4))(seen, zeros(5)), x)


@pytest.mark.parametrize("degrees", [0.0, 90.0, 180.0, 270.0, 360.0, -90.0])
@pytest.mark.parametrize("side", [5, 6, 28])
def test_quarter_turns_are_exact(degrees: float, side: int) -> None:
    x = images(height=side, width=side)
    assert torch.equal(rotations([degrees], (side, side))(x, zeros(5)), torch.rot90(x, round(degrees / 90), (2, 3)))


@pytest.mark.parametrize("degrees", [7.0, 45.0, 123.4, -30.0])
@pytest.mark.parametrize("shape", [(28, 28), (9, 14)])
def test_a_turn_against_scipy_and_grid_sample(degrees: float, shape: tuple[int, int]) -> None:
    x = images(height=shape[0], width=shape[1])
    seen = rotations([degrees], shape)(x, zeros(5)).to(torch.float64)
    expected = ndimage.rotate(x.numpy().astype(float), degrees, (3, 2), reshape=False, order=1, mode="grid-constant")
    assert np.abs(seen.numpy() - expected).max() <= 0.51
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    height, width = shape
    theta = torch.tensor([[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]])
    grid = F.affine_grid(theta.expand(5, 2, 3), list(x.shape), align_corners=False)
    sampled = F.grid_sample(x.to(torch.float64), grid, align_corners=False)
    assert (seen - sampled).abs().max() <= 0.51


def test_mixed_views_are_those_of_each_row() -> None:
    x = images(n=2100)
    view = torch.randint(0, 4, (2100,), generator=G)
    for views in (permutations([torch.randperm(36, generator=G) for _ in range(4)], (6, 6)),
                  rotations([0, 30, 77, 110], (6, 6))):
        seen = views(x, view)
        for number in range(4):
            rows = view == number
            assert torch.equal(seen[rows], views(x[rows], torch.full((int(rows.sum()),), number)))
        assert views(x[:0], view[:0]).shape == (0, 3, 6, 6)


def test_float_images_are_not_rounded() -> None:
    x = images().to(torch.float32) / 7
    seen = means_of_squares(2, (6, 6))(x, zeros(5))
    assert torch.allclose(seen, F.avg_pool2d(x, 2), atol=1e-5) and seen.dtype == torch.float32


def test_shrunk_images_are_means_of_squares() -> None:
    x = images(height=8, width=4)
    seen = means_of_squares(4, (8, 4))(x, zeros(5))
    assert torch.equal(seen, F.avg_pool2d(x.to(torch.float64), 4).round().to(torch.uint8))


def test_tables_follow_the_rows_to_their_device() -> None:
    views = rotations([30.0], (6, 6))
    assert views(images().to("meta"), zeros(5).to("meta")).device.type == "meta"
    assert views(images(), zeros(5)).device.type == "cpu"


def test_padded_moments_in_closed_form() -> None:
    x = images(n=50, height=6, width=5)
    data = Dataset(x, zeros(50))
    padded = Padded(2)
    brute = moments(Dataset(F.pad(x, (2, 2, 2, 2)), zeros(50)))
    closed = padded.moments(*moments(data), (6, 5))
    assert closed[0] == pytest.approx(brute[0]) and closed[1] == pytest.approx(brute[1])
    seen = Dataset(x, zeros(50), views=padded, view=zeros(50))
    assert torch.equal(seen.take(torch.tensor([3])).raw, F.pad(x[3:4], (2, 2, 2, 2)))  # type: ignore[arg-type]


def test_data_sets_of_many_views_share_one_store() -> None:
    """A map holds tables of V x K x P, and nothing holds rows times views."""
    n_views, side = 50, 28
    views: PixelMap = permutations([torch.randperm(side * side, generator=G) for _ in range(n_views)], (side, side))
    store = images(n=2000, channels=1, height=side, width=side)
    parts = [Dataset(store, zeros(2000), views=views, view=torch.tensor(v).expand(2000)) for v in range(n_views)]
    joint = Dataset.concat(parts)
    assert len(joint) == 100_000 and joint.store_bytes == store.numel()
    assert {joint.store_id()} == {part.store_id() for part in parts}
    assert torch.equal(joint.take(torch.tensor([2000 * 7 + 5])).raw, parts[7].take(torch.tensor([5])).raw)  # type: ignore[arg-type]

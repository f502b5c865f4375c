"""Heat-maps of spatial kernels: where they peak, and what is written below."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from relation_heads.layers.sgrn.spatial_graph_conv import GaussianKernels
from relation_heads.visualization import draw_kernels, kernels
from relation_heads.visualization.kernels import DIAMETER, MARGIN, SIDE, STRIP, kernel_maps

RIGHT, BELOW, LEFT, ABOVE = 0.0, math.pi / 2, math.pi, -math.pi / 2


def gaussians(*means: tuple[float, float], width: float = 0.2, angle="atan2") -> GaussianKernels:
    module = GaussianKernels(len(means), angle=angle)
    with torch.no_grad():
        module.mean.copy_(torch.tensor(means))
        module.width.fill_(width)
    return module


def heat(picture: np.ndarray, column: int, row: int, x: float, y: float) -> int:
    """Brightness of a disc at an offset from its query, in image sizes."""
    middle = np.array([row * (SIDE + STRIP), column * SIDE]) + SIDE / 2
    py, px = (middle + np.array([y, x]) * DIAMETER / 2).astype(int)
    return int(picture[py, px].astype(int).sum())


@pytest.fixture
def captions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is drawn."""
    seen: list[str] = []
    original = kernels.text_patch

    def spy(text: str, *args: object) -> np.ndarray:
        seen.append(text)
        return original(text, *args)

    monkeypatch.setattr(kernels, "text_patch", spy)
    return seen


@pytest.mark.parametrize(
    ("theta", "x", "y"),
    [(RIGHT, 0.5, 0), (BELOW, 0, 0.5), (LEFT, -0.5, 0), (ABOVE, 0, -0.5), (0.6435, 0.4, 0.3)],
)
def test_a_map_peaks_at_the_mean(theta: float, x: float, y: float):
    (values,) = kernel_maps(gaussians((0.5, theta)), 101)
    assert values.shape == (101, 101) and values.dtype == np.float32
    row, column = np.unravel_index(values.argmax(), values.shape)
    assert (column, row) == pytest.approx((50 + x * 50.5, 50 + y * 50.5), abs=1)
    assert 0.98 < values.max() <= 1 and values.min() >= 0


def test_a_map_has_the_values_of_the_formula():
    (values,) = kernel_maps(gaussians((0.5, RIGHT), width=0.25), 101, reach=2)
    offset = 25 * 4 / 101  # pixels are 4 / 101 wide: the one 25 to the right, or below
    assert values[50, 75] == pytest.approx(math.exp(-8 * (offset - 0.5) ** 2), rel=1e-4)
    below = -8 * ((offset - 0.5) ** 2 + (math.pi / 2) ** 2)
    assert values[75, 50] == pytest.approx(math.exp(below), rel=1e-3)


def test_arctan_cannot_tell_left_from_right():
    paper = gaussians((0.5, 0.3), angle="arctan")
    (values,) = kernel_maps(paper, 100)
    np.testing.assert_allclose(values, values[::-1, ::-1], rtol=1e-3, atol=1e-6)
    assert values.max() > 0.98
    assert np.isfinite(kernel_maps(paper, 101)).all()  # a pixel is on the query itself
    (values,) = kernel_maps(gaussians((0.5, 0.3)), 100)
    assert values[:, 50:].max() > 0.98 and values[:, :50].max() < 0.1


def test_discs_are_bright_where_the_kernel_looks():
    means = [(0.7, RIGHT), (0.7, BELOW), (0.7, LEFT), (0.7, ABOVE), (0.7, RIGHT)]
    picture = draw_kernels(gaussians(*means))
    assert picture.dtype == np.uint8
    assert picture.shape == (2 * (SIDE + STRIP) + MARGIN, 4 * SIDE, 3)
    places = [(0.7, 0), (0, 0.7), (-0.7, 0), (0, -0.7)]
    for k in range(5):
        column, row = k % 4, k // 4
        seen = [heat(picture, column, row, x, y) for x, y in places]
        assert seen[column] > 400 and sorted(seen)[-2] < 60
    assert (picture[SIDE + STRIP :, SIDE:] == 255).all()  # there is no sixth


def test_a_disc_ends_at_one_image_size_and_has_circles():
    picture = draw_kernels(gaussians((3.0, RIGHT)))  # dark but for circles and query
    assert picture.shape[1] == SIDE
    assert heat(picture, 0, 0, -0.95, 0) < 60 and heat(picture, 0, 0, 0, 0.75) < 60
    assert heat(picture, 0, 0, -1.04, 0) == heat(picture, 0, 0, 0.8, 0.8) == 3 * 255
    for radius in (0.5, 1.0):
        around = [heat(picture, 0, 0, radius + d, 0) for d in (-0.01, 0.0)]
        assert max(around) > 150


def test_captions_count_the_kernels_and_say_their_means(captions: list[str]):
    draw_kernels(
        gaussians((0.25, RIGHT), (-0.001, -0.001), (1.5, 1.5 * math.pi), (0.5, 0.5), (0.27, 2.3))
    )
    assert captions == [
        "1: right, 25% of the image away",
        "2: here",
        "3: above, 150% of the image away",
        "4: below right, 50% of the image away",
        "5: below left, 27% of the image away",
    ]
    captions.clear()
    draw_kernels(gaussians((0.5, BELOW), (0.5, ABOVE), (0.5, 0.7), angle="arctan"))
    assert captions == [
        "1: above and below, 50% of the image away",
        "2: above and below, 50% of the image away",
        "3: above left, below right, 50% of the image away",
    ]


@pytest.mark.parametrize("angle", ["atan2", "arctan"])
@pytest.mark.parametrize("degrees", range(-180, 181, 20))
def test_the_words_are_where_the_map_is_bright(degrees: int, angle: str):
    """Words are read as a direction here, and the brightest pixel is looked up."""
    turned = math.remainder(degrees, 360 if angle == "atan2" else 180)
    module = gaussians((0.6, math.radians(turned)), angle=angle)
    said = kernels.words(module, 0)
    (values,) = kernel_maps(module, 101)
    y, x = np.array(np.unravel_index(values.argmax(), values.shape)) - 50
    parts = [("right" in said, x > 11), ("left" in said, x < -11)]
    parts += [("below" in said, y > 11), ("above" in said, y < -11)]
    if angle == "atan2":
        assert all(word == seen for word, seen in parts), said
    else:
        assert all(word for word, seen in parts if seen), said

"""Where on the image the spatial kernels of an SGRN layer look: one polar heat-map per kernel.

The query is the middle of a disc, directions are those of the image (y downwards), radius 1 is one
image size (x in widths and y in heights, as in `layers.sgrn.polar_coordinates`). The colour is
w_k(u) = exp(-1/2 (u - mu_k)^T Sigma_k^-1 (u - mu_k)), black for 0 and light yellow for 1, before
any normalisation. Thin circles are at 0.5 and 1.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch

from ..layers.geometry import polar
from ..layers.sgrn.spatial_graph_conv import GaussianKernels
from .canvas import text_patch
from .relations import QUERY_COLOR

COLUMNS = 4
DIAMETER, MARGIN, STRIP = 220, 8, 24  # pixels: of radius 1, around a disc, of a caption
SIDE = DIAMETER + 2 * MARGIN
# Every 45 degrees from 0, which is to the right; 90 degrees are below.
WAYS = ("right", "below right", "below", "below left",
        "left", "above left", "above", "above right")  # fmt: skip
BOTH_WAYS = ("left and right", "above left, below right",
             "above and below", "above right, below left")  # fmt: skip
_WHITE, _CIRCLE = (255, 255, 255), (170, 170, 170)


@torch.no_grad()
def kernel_maps(kernels: GaussianKernels, side: int, reach: float = 1.0) -> np.ndarray:
    """The values of the kernels on a square grid of pixels around the query.

    Args:
        kernels: K of them.
        side: pixels.
        reach: what the square holds to each side, in image sizes.

    Returns:
        (K, side, side) float32 in 0..1; rows downwards, columns to the right.
    """
    steps = ((torch.arange(side) + 0.5) / side * 2 - 1) * reach  # centres of the pixels
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    offsets = torch.stack([x, y], dim=-1).to(kernels.mean.device)  # (side, side, 2)
    return kernels(polar(offsets, kernels.angle)).exp().permute(2, 0, 1).cpu().numpy()


def draw_kernels(kernels: GaussianKernels) -> np.ndarray:
    """Discs in rows of four on white, each over its kernel's number and its mean in words.

    Args:
        kernels: K of them.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    maps = kernel_maps(kernels, 2 * SIDE, reach=SIDE / DIAMETER)
    rows, columns = math.ceil(len(maps) / COLUMNS), min(COLUMNS, len(maps))
    sheet = np.full((rows * (SIDE + STRIP) + MARGIN, columns * SIDE, 3), 255, dtype=np.uint8)
    for k, values in enumerate(maps):
        top, left = k // COLUMNS * (SIDE + STRIP), k % COLUMNS * SIDE
        sheet[top : top + SIDE, left : left + SIDE] = _disc(values)
        text = text_patch(f"{k + 1}: {words(kernels, k)}", STRIP * 0.45, _WHITE, (STRIP, SIDE))
        left += (SIDE - text.shape[1]) // 2
        sheet[top + SIDE : top + SIDE + len(text), left : left + text.shape[1]] = text
    return sheet


def _disc(values: np.ndarray) -> np.ndarray:
    """A map of twice the size as a disc on white, with circles and query: (SIDE, SIDE, 3)."""
    values = cv2.resize(values, (SIDE, SIDE), interpolation=cv2.INTER_AREA)  # anti-aliased
    colors = cv2.applyColorMap(np.round(values * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    steps = np.arange(SIDE) - (SIDE - 1) / 2
    inside = np.clip(DIAMETER / 2 - np.hypot(steps, steps[:, None]) + 0.5, 0, 1)[..., None]
    disc = np.round(colors * inside + 255 * (1 - inside)).astype(np.uint8)
    middle = (SIDE - 1, SIDE - 1)  # in half pixels (shift=1), as the radii are
    for radius in (DIAMETER // 2, DIAMETER):
        cv2.circle(disc, middle, radius, _CIRCLE, 1, cv2.LINE_AA, shift=1)
    for radius, color in ((9, _WHITE), (6, QUERY_COLOR)):
        cv2.circle(disc, middle, radius, color, -1, cv2.LINE_AA, shift=1)
    return disc


def words(kernels: GaussianKernels, k: int) -> str:
    """Where a kernel looks: "below left, 27% of the image away"; "here" is the region itself.

    Directions are to 45 degrees. "arctan" tells no direction from its opposite: it names both.
    """
    distance, theta = kernels.mean[k].tolist()
    if distance < 0.05:
        return "here"
    ways = WAYS if kernels.angle == "atan2" else BOTH_WAYS
    way = ways[round(math.degrees(theta) / 45) % len(ways)]
    return f"{way}, {distance:.0%} of the image away"

"""Classes of Relational Scenes and their looks: shapes, background and anti-aliased drawing.

Every shape is a list of closed polygons (even-odd filled) stretched to touch all four sides of the
box it is drawn in, so an object fills its box exactly and never leaves it. Colours are BGR; boxes
are whole xyxy pixels whose right and bottom edges are exclusive. numpy and OpenCV only.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

GROUPS = ("plain", "partner", "co-occurrence", "direction", "size", "crowd", "rare")

# class: (group, shape, colour). Equal shape and colour means equal looks.
CLASS_TABLE = {
    "disc": ("plain", "disc", "red"),
    "triangle": ("plain", "triangle", "green"),
    "cross": ("plain", "cross", "cyan"),
    "ring": ("plain", "ring", "magenta"),
    "sun": ("partner", "star", "yellow"),
    "moon": ("partner", "crescent", "ice"),
    "heart": ("partner", "heart", "pink"),
    "leaf": ("partner", "leaf", "lime"),
    "pole": ("partner", "bar", "black"),
    "castle": ("partner", "battlements", "cream"),
    "flag": ("partner", "flag", "white"),
    "square_with_sun": ("co-occurrence", "square", "blue"),
    "square_with_moon": ("co-occurrence", "square", "blue"),
    "square_with_heart": ("co-occurrence", "square", "blue"),
    "square_with_leaf": ("co-occurrence", "square", "blue"),
    "left_of_pole": ("direction", "diamond", "orange"),
    "right_of_pole": ("direction", "diamond", "orange"),
    "smaller_than_castle": ("size", "pentagon", "grey"),
    "larger_than_castle": ("size", "pentagon", "grey"),
    "oval": ("crowd", "oval", "brown"),
    "hexagon": ("rare", "hexagon", "purple"),
    "hexagon_with_flag": ("rare", "hexagon", "purple"),
}
CLASSES: tuple[str, ...] = tuple(CLASS_TABLE)
CLASS_GROUPS: dict[str, str] = {name: row[0] for name, row in CLASS_TABLE.items()}
LOOK_ALIKES: tuple[tuple[str, ...], ...] = tuple(
    names
    for look in dict.fromkeys(row[1:] for row in CLASS_TABLE.values())
    if len(names := tuple(n for n, row in CLASS_TABLE.items() if row[1:] == look)) > 1
)
"""Sets of classes with the same looks; guessing among them is right once in `len(set)`."""
HFLIP_PAIRS: tuple[tuple[str, str], ...] = (("left_of_pole", "right_of_pole"),)
"""Classes that trade places when the image is flipped horizontally."""

DEPENDENCIES: dict[str, tuple[str, str]] = {
    "square_with_sun": ("present", "sun"),
    "square_with_moon": ("present", "moon"),
    "square_with_heart": ("present", "heart"),
    "square_with_leaf": ("present", "leaf"),
    "left_of_pole": ("left_of", "pole"),
    "right_of_pole": ("right_of", "pole"),
    "smaller_than_castle": ("smaller_than", "castle"),
    "larger_than_castle": ("larger_than", "castle"),
    "hexagon": ("absent", "flag"),
    "hexagon_with_flag": ("present", "flag"),
}
"""Class: (relation to its partner, the partner)."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (25, 25, 25),
    "blue": (200, 90, 40),
    "brown": (40, 75, 120),
    "cream": (170, 220, 245),
    "cyan": (200, 190, 50),
    "green": (55, 130, 40),
    "grey": (105, 105, 105),
    "ice": (255, 235, 205),
    "lime": (60, 235, 150),
    "magenta": (190, 60, 190),
    "orange": (30, 130, 245),
    "pink": (170, 130, 255),
    "purple": (150, 50, 90),
    "red": (45, 45, 205),
    "white": (245, 245, 245),
    "yellow": (40, 215, 240),
}
_JITTER = 12.0  # standard deviation of an object's colour, per channel
_OUTLINE = 0.45  # outline colour = this times the fill colour
_OPACITY = {"oval": 0.45}  # ovals overlap, and the lower one must stay visible
_SUPERSAMPLING = 4
_BACKGROUND_RANGE = (70, 190)
_CLOUD_NOISE, _CLOUD_CELLS = 14.0, 6
_PIXEL_NOISE = 6.0


def _arc(start: float, stop: float, count: int, radius: float = 1.0) -> np.ndarray:
    """``(count, 2)`` points on a circle; angles in turns, clockwise from the right."""
    angle = 2 * np.pi * np.linspace(start, stop, count)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _regular(corners: int, start: float = -0.25) -> np.ndarray:
    return _arc(start, start + 1, corners + 1)[:-1]


def _star(rays: int, inner: float) -> np.ndarray:
    points = _regular(2 * rays)
    points[1::2] *= inner
    return points


def _heart() -> np.ndarray:
    t = 2 * np.pi * np.arange(48) / 48
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


def _crescent() -> np.ndarray:
    outer = _arc(0.13, 0.87, 40)
    inner = _arc(0.80, 0.20, 30, radius=0.75) + (0.42, 0)
    return np.concatenate([outer, inner])


def _leaf() -> np.ndarray:
    """A blade of two arcs that points to the upper right, with a short stem."""
    upper = _arc(0.53, 0.75, 20, radius=1.6) + (1.0, 0.6)
    lower = _arc(0.0, 0.22, 20, radius=1.6) + (-0.6, -1.0)
    return np.concatenate([upper, lower, [(-0.85, 1.0), (-1.0, 0.85)]])


def _battlements(teeth: int, depth: float) -> np.ndarray:
    """A square whose upper edge has battlements."""
    x = np.repeat(np.linspace(-1, 1, 2 * teeth), 2)[1:-1]
    y = np.repeat(np.tile([-1, -1 + depth], teeth)[: 2 * teeth - 1], 2)
    return np.concatenate([np.stack([x, y], axis=1), [(1, 1), (-1, 1)]])


def _cross(arm: float) -> np.ndarray:
    a = arm
    corners = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a)]
    return np.array([*corners, *((-x, -y) for x, y in corners)])


_SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
_FLAG = np.array([(-1, -1), (1, -0.8), (0.4, -0.35), (1, 0.15), (-0.7, 0.15), (-0.7, 1), (-1, 1)])
_POLYGONS: dict[str, list[np.ndarray]] = {
    "bar": [_SQUARE],
    "battlements": [_battlements(4, 0.4)],
    "crescent": [_crescent()],
    "cross": [_cross(0.36)],
    "diamond": [_regular(4)],
    "disc": [_regular(48)],
    "flag": [_FLAG],
    "heart": [_heart()],
    "hexagon": [_regular(6, start=0)],
    "leaf": [_leaf()],
    "oval": [_regular(48)],
    "pentagon": [_regular(5)],
    "ring": [_regular(48), 0.5 * _regular(48)],
    "square": [_SQUARE],
    "star": [_star(8, 0.6)],
    "triangle": [np.array([(0, -1), (1, 1), (-1, 1)])],
}


def _to_unit_square(contours: Sequence[np.ndarray]) -> list[np.ndarray]:
    points = np.concatenate(contours)
    low, high = points.min(axis=0), points.max(axis=0)
    return [(contour - low) / (high - low) for contour in contours]


SHAPES: dict[str, list[np.ndarray]] = {name: _to_unit_square(p) for name, p in _POLYGONS.items()}


def coverage(shape: str, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Anti-aliased masks of a shape that fills a box.

    Args:
        shape: a key of ``SHAPES``.
        width: box width in pixels.
        height: box height in pixels.

    Returns:
        ``(height, width, 1)`` float32 in [0, 1]: the share of each pixel covered by the whole
        shape, and the share covered by its outline (one pixel wide, inside the shape).
    """
    fine = np.array([width, height]) * _SUPERSAMPLING
    contours = [np.rint(points * (fine - 1)).astype(np.int32) for points in SHAPES[shape]]
    whole = np.zeros(fine[::-1], np.uint8)
    cv2.fillPoly(whole, contours, 255)
    outline = np.zeros_like(whole)
    cv2.polylines(outline, contours, True, 255, thickness=2 * _SUPERSAMPLING - 1)
    outline &= whole
    whole, outline = (
        cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)[..., None]
        for mask in (whole, outline)
    )
    return whole.astype(np.float32) / 255, outline.astype(np.float32) / 255


def draw_background(size: int, rng: np.random.Generator) -> np.ndarray:
    """One random colour with soft clouds and pixel noise.

    Returns:
        ``(size, size, 3)`` float32 BGR, not yet clipped to [0, 255].
    """
    colour = rng.uniform(*_BACKGROUND_RANGE, 3).astype(np.float32)
    cells = rng.standard_normal((_CLOUD_CELLS, _CLOUD_CELLS, 3), dtype=np.float32) * _CLOUD_NOISE
    clouds = cv2.resize(cells, (size, size), interpolation=cv2.INTER_CUBIC)
    return colour + clouds + _PIXEL_NOISE * rng.standard_normal((size, size, 3), dtype=np.float32)


def draw_object(
    image: np.ndarray, box: np.ndarray, shape: str, colour: str, rng: np.random.Generator
) -> None:
    """Draws one object into ``image`` (``(H, W, 3)`` float32 BGR) and touches only its box.

    Args:
        image: changed in place.
        box: ``(4,)`` xyxy, whole pixels inside the image.
        shape: a key of ``SHAPES``.
        colour: a key of ``COLOURS``.
        rng: generator of this object's colour jitter.
    """
    x0, y0, x1, y1 = (int(v) for v in box)
    jitter = rng.normal(0, _JITTER, 3)
    fill_colour = np.clip(COLOURS[colour] + jitter, 0, 255).astype(np.float32)
    whole, outline = coverage(shape, x1 - x0, y1 - y0)
    fill = (whole - outline) * np.float32(_OPACITY.get(shape, 1.0))
    patch = image[y0:y1, x0:x1]
    patch *= 1 - fill - outline
    patch += (fill + _OUTLINE * outline) * fill_colour

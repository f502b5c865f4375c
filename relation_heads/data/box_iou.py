"""How much boxes overlap, in numpy. Boxes are (..., 4) corners x1, y1, x2, y2."""

from __future__ import annotations

import numpy as np


def intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(...) areas that boxes share; the shapes are broadcast."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.maximum(sides, 0).prod(axis=-1)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(...) intersection over union; 0 for two boxes without an area."""
    both = intersection(a, b)
    area_a, area_b = ((boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) for boxes in (a, b))
    union = area_a + area_b - both
    return np.divide(both, union, out=np.zeros(both.shape), where=union > 0)

"""The cells of a map that a region looks at: Omega_b of Gu et al. (ECCV 2018).

The paper takes some 200 cells: inside the box and around it apart, each on a strided grid with a
cap. How, it does not say. Here a grid is a fixed number of points, evenly spaced, and each point
takes the cell that holds it. A cell that holds two points of an axis counts once, so a box that is
smaller than its grid gives every cell once.

Boxes are x1, y1, x2, y2 in cells: cell i is [i, i + 1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """Cells of N regions: rows (N, r), columns (N, c), and which of them count (N, r, c) bool."""

    rows: Tensor
    columns: Tensor
    counts: Tensor


def grid_in(boxes: Tensor, sizes: Tensor, points: int) -> Grid:
    """At most `points` x `points` cells in each box, at least one.

    Args:
        boxes: (N, 4) in cells.
        sizes: (N, 2) height and width of the image of each box in cells; what is outside takes the
            cell at the border.
        points: on each axis.
    """
    steps = (torch.arange(points, device=boxes.device, dtype=boxes.dtype) + 0.5) / points
    axes = []
    for axis in (1, 0):  # y, x
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        at = low + (high - low).clamp(min=0) * steps  # (N, points)
        cells = at.floor().long().clamp(min=0).minimum(sizes[:, 1 - axis, None] - 1)
        is_new = torch.ones_like(cells, dtype=torch.bool)
        is_new[:, 1:] = cells[:, 1:] > cells[:, :-1]
        axes.append((cells, is_new))
    (rows, new_rows), (columns, new_columns) = axes
    return Grid(rows, columns, new_rows[:, :, None] & new_columns[:, None])


def grid_around(boxes: Tensor, sizes: Tensor, points: int, factor: float) -> Grid:
    """At most `points` x `points` cells around each box, none that the box touches.

    Args:
        boxes, sizes, points: as of `grid_in`.
        factor: how many times as wide and high as the box the range is; infinity: the whole image.
    """
    if factor == float("inf"):
        wide = torch.cat([torch.zeros_like(boxes[:, :2]), sizes.flip(1).to(boxes)], dim=1)
    else:
        centers, halves = (boxes[:, 2:] + boxes[:, :2]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        wide = torch.cat([centers - factor * halves, centers + factor * halves], dim=1)
    grid = grid_in(wide, sizes, points)
    touches = [
        (cells < boxes[:, axis + 2, None]) & (cells + 1 > boxes[:, axis, None])
        for cells, axis in ((grid.rows, 1), (grid.columns, 0))
    ]
    return grid._replace(counts=grid.counts & ~(touches[0][:, :, None] & touches[1][:, None]))

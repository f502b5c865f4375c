"""COCO's matching of detections with objects, in the cells of the image x class table that need it.

A cell is one class in one image. With 3,000 classes nearly all cells are empty, and most others
hold detections only; nothing but the cells with both is visited here. COCO's rule (`evaluateImg` of
pycocotools), for a cell, an area range and an IoU threshold t: go through the detections from high
to low score, equal ones in the order given. Each takes, among the objects that are free and have
IoU >= min(t, 1 - 1e-10), the one of largest IoU, of equal ones the last. Objects that count are
tried first; ignored ones (crowds, and those outside the area range) only if none of these is left.
A crowd stays free. A detection that takes an ignored object, or takes none and is outside the area
range itself, is ignored.

Many cells go through this at once: round r treats the detections of rank r of all of them, for all
A area ranges and T thresholds. IoUs come from pycocotools, so they are the same to the last bit.
They are those of boxes (`iou_type` "bbox") or of masks ("segm"). A mask is pycocotools' run lengths
{"size": [height, width], "counts"}, or None where there is none, which "bbox" does not look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

Shapes = np.ndarray | list[Any]  # (N, 4) boxes or N masks, as pycocotools takes them

_BLOCK = 16384  # objects, with padding, of the cells that are matched together


class Objects(NamedTuple):
    """The ground truth: G boxes (x, y, width, height) in pixels.

    `images` and `classes` are indices in 0..I-1 and 0..K-1. `zero_ids` marks those whose annotation
    id is 0, which COCO's evaluation reads as "not matched".
    """

    images: np.ndarray  # (G,) int64
    classes: np.ndarray  # (G,) int64
    boxes: np.ndarray  # (G, 4) float64
    areas: np.ndarray  # (G,) float64, the "area" of the annotation
    crowds: np.ndarray  # (G,) bool
    zero_ids: np.ndarray  # (G,) bool
    masks: np.ndarray  # (G,) object


class Detections(NamedTuple):
    """N detected boxes (x, y, width, height) in pixels; images and classes as in `Objects`."""

    images: np.ndarray  # (N,) int64
    classes: np.ndarray  # (N,) int64
    boxes: np.ndarray  # (N, 4) float64
    scores: np.ndarray  # (N,) float64
    masks: np.ndarray  # (N,) object


class Matches(NamedTuple):
    """What became of the N' detections within the limit, by class, then image, then rank."""

    classes: np.ndarray  # (N',) int64
    ranks: np.ndarray  # (N',) int64, from 0 in each cell
    scores: np.ndarray  # (N',) float64
    true: np.ndarray  # (N', A, T) bool, found an object that counts
    false: np.ndarray  # (N', A, T) bool; neither is for an ignored detection


@dataclass(frozen=True)
class _Cells:
    """Runs of equal (class, image) in a sorted table."""

    keys: np.ndarray  # (C,) class * I + image, increasing
    starts: np.ndarray  # (C,) first row
    sizes: np.ndarray  # (C,) number of rows


def out_of_range(areas: np.ndarray, area_ranges: np.ndarray) -> np.ndarray:
    """(N, A) bool: which of the (N,) areas are outside which of the (A, 2) ranges, ends inside."""
    areas = areas[:, None]
    return (areas < area_ranges[:, 0]) | (areas > area_ranges[:, 1])


def match(
    objects: Objects,
    detections: Detections,
    num_images: int,
    thresholds: np.ndarray,
    area_ranges: np.ndarray,
    max_dets: int,
    iou_type: str = "bbox",
) -> Matches:
    """Matches the detections of every cell.

    Args:
        objects: the ground truth.
        detections: in the order that decides between equal scores.
        num_images: I.
        thresholds: (T,) IoUs, increasing.
        area_ranges: (A, 2) in square pixels.
        max_dets: how many detections of a cell are looked at, those of highest score.
        iou_type: "bbox" or "segm", which needs a mask of every object and detection.

    Returns:
        see `Matches`.
    """
    dt_keys = detections.classes * num_images + detections.images
    order = np.lexsort((-detections.scores, dt_keys))  # stable
    ranks = _ranks(dt_keys[order])
    order, ranks = order[ranks < max_dets], ranks[ranks < max_dets]
    dt_cells = _cells(dt_keys[order])
    dt_shapes = _shapes(Detections(*(field[order] for field in detections)), iou_type)

    gt_keys = objects.classes * num_images + objects.images
    gt_order = np.argsort(gt_keys, kind="stable")
    gt_cells = _cells(gt_keys[gt_order])
    objects = Objects(*(field[gt_order] for field in objects))
    gt_shapes = _shapes(objects, iou_type)
    gt_ignored = objects.crowds[:, None] | out_of_range(objects.areas, area_ranges)  # (G, A)

    shape = (len(order), len(area_ranges), len(thresholds))
    matched, ignored = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    limits = np.minimum(thresholds, 1 - 1e-10)
    for width, dt_rows, gt_rows in _blocks(dt_cells, gt_cells):
        block = _Block(width, dt_cells, dt_rows, gt_cells, gt_rows)
        ious = block.ious(dt_shapes, gt_shapes, objects.crowds)
        block.match(ious, objects, gt_ignored, limits, matched, ignored)
    outside = out_of_range(_areas(dt_shapes), area_ranges)[:, :, None]
    np.logical_or(ignored, ~matched & outside, out=ignored)
    false = ~(matched | ignored)
    matched &= ~ignored
    return Matches(detections.classes[order], ranks, detections.scores[order], matched, false)


def _shapes(table: Objects | Detections, iou_type: str) -> Shapes:
    return table.boxes if iou_type == "bbox" else table.masks.tolist()


def _areas(shapes: Shapes) -> np.ndarray:
    """(N,) areas in square pixels."""
    if isinstance(shapes, np.ndarray):
        return shapes[:, 2] * shapes[:, 3]
    # One by one: `area` of pycocotools fails for a list of more than 255.
    return np.array([mask_util.area(mask) for mask in shapes], dtype=np.float64)


def _ranks(keys: np.ndarray) -> np.ndarray:
    """(N,) position of every row in its run of equal keys."""
    cells = _cells(keys)
    return np.arange(len(keys)) - np.repeat(cells.starts, cells.sizes)


def _cells(keys: np.ndarray) -> _Cells:
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    return _Cells(keys[starts], starts, np.diff(starts, append=len(keys)))


def _blocks(dt_cells: _Cells, gt_cells: _Cells) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The cells with detections and objects, in blocks of at most `width` objects a cell.

    Yields:
        the width, a power of 2, and the (n,) rows of the cells in both tables, those with most
        detections first.
    """
    _, dt_rows, gt_rows = np.intersect1d(
        dt_cells.keys, gt_cells.keys, assume_unique=True, return_indices=True
    )
    _, exponents = np.frexp(gt_cells.sizes[gt_rows] - 0.5)  # 2^(e-1) < size <= 2^e
    order = np.lexsort((-dt_cells.sizes[dt_rows], exponents))
    for run in np.split(order, np.flatnonzero(np.diff(exponents[order])) + 1):
        width = 1 << int(exponents[run[0]]) if len(run) else 1
        step = max(1, _BLOCK // width)
        for start in range(0, len(run), step):
            part = run[start : start + step]
            yield width, dt_rows[part], gt_rows[part]


class _Block:
    """n cells whose objects are padded to the same number W."""

    def __init__(
        self,
        width: int,
        dt_cells: _Cells,
        dt_rows: np.ndarray,
        gt_cells: _Cells,
        gt_rows: np.ndarray,
    ) -> None:
        self._dt_starts, self._dt_sizes = dt_cells.starts[dt_rows], dt_cells.sizes[dt_rows]
        self._gt_starts, self._gt_sizes = gt_cells.starts[gt_rows], gt_cells.sizes[gt_rows]
        # The padding repeats the cell's last object; its IoU of -1 keeps it from being taken.
        columns = np.minimum(np.arange(width), self._gt_sizes[:, None] - 1)
        self._gt = self._gt_starts[:, None] + columns  # (n, W)

    def match(
        self,
        ious: np.ndarray,
        objects: Objects,
        gt_ignored: np.ndarray,
        limits: np.ndarray,
        matched: np.ndarray,
        ignored: np.ndarray,
    ) -> None:
        """Sets the rows of this block in `matched` and `ignored`, both (N', A, T)."""
        gt_ignored = gt_ignored[self._gt].transpose(0, 2, 1)[:, :, None]  # (n, A, 1, W)
        crowds, zero_ids = objects.crowds[self._gt], objects.zero_ids[self._gt]  # (n, W)
        free = np.ones((len(self._gt), gt_ignored.shape[1], len(limits), self._gt.shape[1]), bool)
        for rank in range(int(self._dt_sizes[0])):
            n = int(np.searchsorted(-self._dt_sizes, -rank))  # cells with a detection of this rank
            iou = ious[:n, rank, None, None]  # (n, 1, 1, W)
            possible = free[:n] & (iou >= limits[:, None])
            counting = possible & ~gt_ignored[:n]
            choice = np.where(counting.any(axis=-1, keepdims=True), counting, possible)
            chosen = _last_argmax(np.where(choice, iou, -1))  # (n, A, T)
            cell, area, threshold = np.nonzero(possible.any(axis=-1))
            taken = chosen[cell, area, threshold]
            row = self._dt_starts[cell] + rank
            free[cell, area, threshold, taken] = crowds[cell, taken]
            matched[row, area, threshold] = ~zero_ids[cell, taken]
            ignored[row, area, threshold] = gt_ignored[cell, area, 0, taken]

    def ious(self, dt_shapes: Shapes, gt_shapes: Shapes, crowds: np.ndarray) -> np.ndarray:
        """(n, D, W), D the largest number of detections in a cell; -1 in the padding."""
        ious = np.full((len(self._gt), int(self._dt_sizes[0]), self._gt.shape[1]), -1.0)
        crowds = crowds.astype(np.uint8)
        sizes = (self._dt_starts, self._dt_sizes, self._gt_starts, self._gt_sizes)
        for cell, (dt, num_dt, gt, num_gt) in enumerate(np.stack(sizes, axis=1).tolist()):
            ious[cell, :num_dt, :num_gt] = mask_util.iou(
                dt_shapes[dt : dt + num_dt],
                gt_shapes[gt : gt + num_gt],
                crowds[gt : gt + num_gt],
            )
        return ious


def _last_argmax(values: np.ndarray) -> np.ndarray:
    """Where the last axis is largest, the last position of equal ones."""
    return values.shape[-1] - 1 - np.argmax(values[..., ::-1], axis=-1)

"""What is wrong or odd in the boxes of a data set in COCO format, and objects given twice.

Boxes are [x, y, width, height] in pixels. Detectron2 clips them to the image in training, while the
evaluation compares detections, which end at the image's edges, with the boxes as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..box_iou import box_iou
from .annotations import Table
from .findings import Finding, found

NEAR_IOU = 0.95  # two boxes of a class from it on are most likely one object
_SLACK = 1.0  # pixels: rounding
_FEWEST_BOXES = 10  # from which on it is no accident that all of them could be corners


def box_findings(
    table: Table, sizes: np.ndarray, label: Callable[[int], str], names: Sequence[str]
) -> list[Finding]:
    """What is wrong or odd in boxes and areas, and objects given twice.

    Args:
        table: the annotations.
        sizes: (M, 2) width and height of the images.
        label: how a row of the table is called.
        names: of the classes.
    """
    if not len(table.boxes):
        return []
    if table.boxes.max() <= 1:
        return [
            Finding(
                "problem",
                "no coordinate of any box is above 1",
                (label(0),),
                "these are fractions of the image: multiply them by its width and height",
            )
        ]
    return [
        *_outside(table, sizes, label),
        *_thin(table, label),
        *_area(table, label),
        *_given_twice(table, label),
        *_other_classes(table, label, names),
    ]


def near_duplicates(group: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Boxes that overlap another one of their group with an IoU of at least `NEAR_IOU`.

    Two boxes that do are shifted by at most (1 - IoU) times the width of the left one. In the order
    of x, the partners of a box therefore follow it closely.

    Args:
        group: (N,) int64.
        boxes: (N, 4) float64, x, y, width, height.

    Returns:
        (P,) places of the right ones of all pairs, ascending.
    """
    order = np.lexsort((boxes[:, 0], group))
    group, boxes = group[order], boxes[order]
    reach = boxes[:, 0] + (1 - NEAR_IOU) * boxes[:, 2]
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    left, step, near = np.arange(len(order)), 0, []
    while len(left):
        step += 1
        left = left[left + step < len(order)]
        right = left + step
        close = (group[left] == group[right]) & (boxes[right, 0] <= reach[left])
        left, right = left[close], right[close]
        near.append(right[box_iou(corners[left], corners[right]) >= NEAR_IOU])
    return np.sort(order[np.unique(np.concatenate([np.empty(0, np.int64), *near]))])


def _outside(table: Table, sizes: np.ndarray, label: Callable[[int], str]) -> Iterator[Finding]:
    start, size = table.boxes[:, :2], table.boxes[:, 2:]
    extent = sizes[table.image]
    full = (size > 0).all(axis=1)
    gone = full & ((start >= extent) | (start + size <= 0)).any(axis=1)
    beyond = np.maximum(-start, start + size - extent).max(axis=1)
    beyond[~full | gone | np.isnan(beyond)] = 0
    out = beyond > _SLACK
    bad = np.flatnonzero(gone | out)
    if len(size) >= _FEWEST_BOXES and len(bad) and (size > start).all():
        yield Finding(
            "problem",
            f"all {len(size)} boxes have width > x and height > y, and {len(bad)} of them are not "
            "inside the image",
            tuple(label(row) for row in bad[:3]),
            "these look like corners [x1, y1, x2, y2]: 'bbox' is [x, y, width, height]",
        )
        return
    yield from found(
        "warning",
        np.flatnonzero(gone),
        "box{s} entirely outside the image",
        "training leaves them out, and in the evaluation they are objects that cannot be found: "
        "correct them or take them out",
        label,
    )
    furthest = f"{beyond.max():.4g}"
    yield from found(
        "warning",
        np.flatnonzero(out),
        f"box{{s}} beyond the edges of the image, by up to {furthest} pixels",
        "training clips them, the evaluation does not, so that they cannot be found exactly: clip "
        "them",
        lambda row: f"{label(row)}, by {beyond[row]:.4g}",
    )
    yield from found(
        "fact",
        np.flatnonzero((beyond > 1e-6) & (beyond <= _SLACK)),
        "box{s} beyond the edges of the image by at most 1 pixel",
        "rounding",
        label,
    )


def _thin(table: Table, label: Callable[[int], str]) -> list[Finding]:
    side = table.boxes[:, 2:].min(axis=1)
    return found(
        "warning",
        np.flatnonzero((side > 0) & (side < 1)),
        "box{s} less than 1 pixel wide or high",
        "too small to be seen: most often a slip",
        label,
    )


def _area(table: Table, label: Callable[[int], str]) -> Iterator[Finding]:
    of_box = table.boxes[:, 2] * table.boxes[:, 3]
    margin = np.maximum(0.1 * of_box, 2.0)  # 2 square pixels: rounding of small boxes
    difference = table.area - of_box  # NaN is neither above nor below
    bad = np.where(table.masked, difference > margin, np.abs(difference) > margin)
    yield from found(
        "warning",
        np.flatnonzero(bad & (of_box > 0)),  # empty boxes are said once
        "annotation{s} with an 'area' that does not fit the box: not width * height without a "
        "mask, or more than that with one",
        "the evaluation tells small, medium and large objects by 'area' (limits 32 * 32 and "
        "96 * 96)",
        lambda row: f"{label(row)}: {table.area[row]:g} instead of {of_box[row]:g}",
    )


def _given_twice(table: Table, label: Callable[[int], str]) -> Iterator[Finding]:
    rows = np.flatnonzero(~table.crowd)
    group = (table.image * (table.category.max() + 1) + table.category)[rows]
    boxes = table.boxes[rows]
    # A stable order: of equal rows, the first one in the file comes first.
    order = np.lexsort((*boxes.T, group))
    equal = (np.diff(group[order]) == 0) & (np.diff(boxes[order], axis=0) == 0).all(axis=1)
    again = order[1:][equal]
    yield from found(
        "warning",
        np.sort(rows[again]),
        "annotation{s} given again: same image, class and box",
        "a detection can match one of them, the other counts as missed: take the copies out",
        label,
    )
    single = np.setdiff1d(np.arange(len(rows)), again)
    yield from found(
        "warning",
        rows[single[near_duplicates(group[single], boxes[single])]],
        f"annotation{{s}} nearly given again: same image and class, IoU >= {NEAR_IOU}",
        "most often one object annotated twice",
        label,
    )


def _other_classes(
    table: Table, label: Callable[[int], str], names: Sequence[str]
) -> list[Finding]:
    rows = np.flatnonzero(~table.crowd)
    order = rows[np.lexsort((table.category[rows], *table.boxes[rows].T, table.image[rows]))]
    first, second = order[:-1], order[1:]
    same = (table.image[first] == table.image[second]) & (
        table.boxes[first] == table.boxes[second]
    ).all(axis=1)
    both = same & (table.category[first] != table.category[second])
    before = dict(zip(second[both].tolist(), first[both].tolist(), strict=True))

    def with_classes(row: int) -> str:
        classes = (names[table.category[k]] for k in (before[row], row))
        return f"{label(row)} is {' and '.join(map(repr, classes))}"

    return found(
        "warning",
        sorted(before),
        "box{es} given again with another class",
        "training asks for one class and for the other, and a detection has one: decide, or leave "
        "the less exact class out",
        with_classes,
    )

"""COCO's average precision and recall of boxes or masks for thousands of classes.

The arrays are those of pycocotools' `COCOeval` with iouType "bbox" or "segm", to the last bit:

    precision  (T, R, K, A, M)  envelope of the precision at R = 101 recalls; -1 without an object
    recall     (T, K, A, M)     share of the objects that are found; -1 without an object

for T = 10 IoU thresholds 0.5:0.05:0.95, K classes, A = 4 area ranges and M = 3 limits on detections
per image and class. COCOeval makes a record for every pair of an image and a class, which takes
tens of gigabytes for 5,000 images and 3,000 classes. This one visits the pairs with a detection and
an object (`sparse_matching`), then goes class by class through one list of detections, so that
`precision` is all that is large: 290 MB for 3,000 classes. COCOeval's `scores`, which no result
needs, would be as much again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .sparse_matching import Detections, Matches, Objects, match, out_of_range

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREA_RANGES = np.array(  # all, small, medium, large
    [[0**2, 1e5**2], [0**2, 32**2], [32**2, 96**2], [96**2, 1e5**2]], dtype=np.float64
)
MAX_DETS = (1, 10, 100)


class CocoArrays(NamedTuple):
    """See the module."""

    precision: np.ndarray  # (T, R, K, A, M) float64
    recall: np.ndarray  # (T, K, A, M) float64


def evaluate_detections(
    objects: Objects,
    detections: Detections,
    num_images: int,
    num_classes: int,
    max_dets: Sequence[int] = MAX_DETS,
    iou_type: str = "bbox",
) -> CocoArrays:
    """The arrays of COCOeval for all images and all classes.

    Args:
        objects: the ground truth; images and classes are indices, in the order of their ids.
        detections: in the order of the results file, which decides between equal scores.
        num_images: I; images without objects or detections need nothing else.
        num_classes: K.
        max_dets: M limits on detections per image and class, increasing.
        iou_type: "bbox" or "segm", see `sparse_matching`.

    Returns:
        see the module.

    Raises:
        ValueError: `max_dets` does not increase, or an index or a number is out of range.
    """
    if any(b <= a for a, b in zip((0, *max_dets), max_dets, strict=False)) or not max_dets:
        raise ValueError(
            f"The limits on detections must be positive and increase, not {list(max_dets)}."
        )
    if iou_type == "segm":
        for what, masks in (("object", objects.masks), ("detection", detections.masks)):
            missing = [number for number, mask in enumerate(masks) if mask is None]
            if missing:
                raise ValueError(f"{what.capitalize()} {missing[0]} has no mask.")
    _check("object", objects.images, objects.classes, objects.boxes, num_images, num_classes)
    _check(
        "detection",
        detections.images,
        detections.classes,
        np.column_stack([detections.boxes, detections.scores]),
        num_images,
        num_classes,
    )
    limits = IOU_THRESHOLDS, AREA_RANGES, int(max_dets[-1])
    matches = match(objects, detections, num_images, *limits, iou_type)
    return _accumulate(matches, object_counts(objects, num_classes), max_dets)


def object_counts(objects: Objects, num_classes: int) -> np.ndarray:
    """(K, A) int64, how many objects of every class are to be found in every area range."""
    counting = ~(objects.crowds[:, None] | out_of_range(objects.areas, AREA_RANGES))
    return np.stack(
        [np.bincount(objects.classes[c], minlength=num_classes) for c in counting.T], axis=1
    )


def class_scores(arrays: CocoArrays) -> np.ndarray:
    """AP, AP50 and AR of every class.

    Args:
        arrays: of `evaluate_detections`, or those of any `COCOeval` at its own thresholds.

    Returns:
        `(K, 3)` fractions at all areas and the largest limit on detections; NaN for a class
        without an object.
    """
    precision, recall = arrays.precision[:, :, :, 0, -1], arrays.recall[:, :, 0, -1]
    ap = precision.mean(axis=(0, 1))
    scores = np.stack([ap, precision[0].mean(axis=0), recall.mean(axis=0)], axis=1)
    scores[recall[0] < 0] = np.nan
    return scores


def summarize(arrays: CocoArrays) -> np.ndarray:
    """The 12 numbers of COCOeval's `stats`, for M = 3 limits on detections.

    They are AP, AP50, AP75, AP small, medium, large, AR at the three limits, AR small, medium,
    large. All but the first two ARs are at the largest limit. COCOeval's first number is instead
    at 100 detections; for other largest limits Detectron2 computes what is said here.

    Returns:
        (12,) fractions; -1 where there is no object.
    """
    p, r = arrays.precision, arrays.recall
    t50, t75 = 0, 5
    last = p.shape[-1] - 1
    return np.array(
        [
            _mean(p[:, :, :, 0, last]),
            _mean(p[t50, :, :, 0, last]),
            _mean(p[t75, :, :, 0, last]),
            *(_mean(p[:, :, :, a, last]) for a in (1, 2, 3)),
            *(_mean(r[:, :, 0, m]) for m in (0, 1, last)),
            *(_mean(r[:, :, a, last]) for a in (1, 2, 3)),
        ]
    )


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if len(defined) else -1.0


def _check(
    what: str,
    images: np.ndarray,
    classes: np.ndarray,
    numbers: np.ndarray,
    num_images: int,
    num_classes: int,
) -> None:
    for kind, index, size in (("image", images, num_images), ("class", classes, num_classes)):
        wrong = (index < 0) | (index >= size)
        if wrong.any():
            first = int(np.argmax(wrong))
            raise ValueError(
                f"The {kind} of {what} {first} is {index[first]}, but must be in 0..{size - 1}."
            )
    wrong = ~np.isfinite(numbers).all(axis=1)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(f"A number of {what} {first} is not finite: {numbers[first].tolist()}.")


def _accumulate(matches: Matches, counts: np.ndarray, max_dets: Sequence[int]) -> CocoArrays:
    """Goes class by class through the detections of all images."""
    num_classes, num_areas = counts.shape
    shape = (len(IOU_THRESHOLDS), len(RECALLS), num_classes, num_areas, len(max_dets))
    precision, recall = np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0)
    ends = np.searchsorted(matches.classes, np.arange(num_classes + 1))
    for k in np.flatnonzero(counts.any(axis=1)):
        of_class = Matches(*(x[ends[k] : ends[k + 1]] for x in matches))
        areas = np.flatnonzero(counts[k])
        precision[:, :, k, areas], recall[:, k, areas] = _class_curves(
            of_class, counts[k], max_dets
        )
    return CocoArrays(precision, recall)


def _class_curves(
    matches: Matches, counts: np.ndarray, max_dets: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The curves of one class at each limit on detections.

    Args:
        matches: of the class, by image, then rank.
        counts: (A,) objects in every area range.
        max_dets: the M limits.

    Returns:
        precision (T, R, A', M) and recall (T, A', M) in those of the area ranges with an object.
    """
    areas = np.flatnonzero(counts)
    order = np.argsort(-matches.scores, kind="stable")
    ranks = matches.ranks[order]
    columns = (len(order), len(areas) * len(IOU_THRESHOLDS))
    true = matches.true[order][:, areas].reshape(columns)
    false = matches.false[order][:, areas].reshape(columns)
    needed = np.repeat(_needed(counts[areas]), len(IOU_THRESHOLDS), axis=0)  # (A'T, R)
    per_column = np.repeat(counts[areas], len(IOU_THRESHOLDS))  # (A'T,)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for i, limit in enumerate(max_dets):
        kept = ranks < limit
        if i and (ranks < max_dets[i - 1]).all():  # nothing is new
            parts.append(parts[-1])
        else:
            parts.append(_curves(true[kept], false[kept], needed, per_column))
    at = (len(areas), len(IOU_THRESHOLDS))
    precision, recall = (np.stack(x, axis=-1) for x in zip(*parts, strict=True))
    return (
        precision.reshape(*at, *precision.shape[1:]).transpose(1, 2, 0, 3),
        recall.reshape(*at, -1).transpose(1, 0, 2),
    )


def _needed(counts: np.ndarray) -> np.ndarray:
    """(A', R) how many of the (A',) objects must be found to reach each of the recalls."""
    return np.stack([np.searchsorted(np.arange(n + 1) / n, RECALLS) for n in counts])


def _curves(
    true: np.ndarray, false: np.ndarray, needed: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Precision at all recalls, and recall, for C settings at once.

    Args:
        true: (n, C) detections that found an object, from high to low score.
        false: (n, C) those that are wrong.
        needed: (C, R), see `_needed`.
        counts: (C,) objects to be found.

    Returns:
        (C, R) and (C,); 0 where a recall is not reached.
    """
    if len(true) == 0:
        return np.zeros(needed.shape), np.zeros(len(counts))
    tp = np.cumsum(true, axis=0, dtype=np.float64)
    fp = np.cumsum(false, axis=0, dtype=np.float64)
    precision = tp / (fp + tp + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    # The recall is reached at the detection that finds the last object needed for it, recall 0 at
    # the first detection. `rows` has the detections that find one, setting after setting.
    found = tp[-1].astype(np.int64)
    rows = np.append(np.nonzero(true.T)[1], 0)
    position = (np.cumsum(found) - found)[:, None] + needed - 1
    reached = needed <= found[:, None]
    row = np.where(reached & (needed > 0), rows[np.where(reached, position, 0)], 0)
    at_recall = np.where(reached, precision[row, np.arange(len(counts))[:, None]], 0.0)
    return at_recall, tp[-1] / counts

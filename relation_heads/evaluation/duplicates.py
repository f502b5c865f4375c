"""What is left of duplicates in saved detections, and what other ways to remove them would leave.

AP hardly punishes a duplicate of low score, so it says little about how many boxes a user sees. A
detector is used at one score, its operating point; here it is the score of largest F1,

    F1 = 2 TP / (detections + objects),

with COCO's matching at IoU 0.5. A false detection that overlaps an object of its class by 0.5 or
more is a duplicate: the object has a better box already.

NMS, Soft-NMS and the oracle take detections with all their duplicates (an evaluation with
MODEL.ROI_HEADS.NMS_THRESH_TEST 1.0 and TEST.DETECTIONS_PER_IMAGE -1). The oracle knows the objects:
it keeps, of the boxes that overlap one object most, and by more than 0.5, the one of highest score,
which is what learned duplicate removal is taught, and drops all others.

Shapes: N detections of I images and K classes, see `sparse_matching`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from pycocotools import mask as mask_util
from torchvision.ops import batched_nms

from ..layers import soft_nms
from .sparse_coco import AREA_RANGES, class_scores, evaluate_detections
from .sparse_matching import Detections, Objects, match

IOU = 0.5  # of a detection with its object, and of duplicates
LIMIT = 100  # detections of an image
SCORE_THRESHOLD = 0.001  # of Soft-NMS


class OperatingPoint(NamedTuple):
    """At the score of largest F1; NaN where there is no object."""

    score: float
    f1: float
    false_positives: float  # per image with an object
    duplicates: float  # of these


class Row(NamedTuple):
    """The results of a group of classes: fractions, except for the counts of `point`."""

    ap: float
    ap50: float
    ar: float
    point: OperatingPoint


def take(detections: Detections, rows: np.ndarray) -> Detections:
    """Some of the detections, in this order."""
    return Detections(*(field[rows] for field in detections))


def limited(detections: Detections) -> Detections:
    """The `LIMIT` detections of highest score of each image, by image, then score."""
    order = np.lexsort((-detections.scores, detections.images))
    images = detections.images[order]
    rank = np.arange(len(order)) - np.searchsorted(images, images)
    return take(detections, order[rank < LIMIT])


def nms(detections: Detections, threshold: float) -> Detections:
    """NMS per class."""
    keep = batched_nms(*_tensors(detections), threshold)
    return limited(take(detections, keep.numpy()))


def decayed(detections: Detections, sigma: float) -> Detections:
    """Gaussian Soft-NMS per class (Bodla et al. 2017)."""
    keep, scores = soft_nms(*_tensors(detections), sigma=sigma, score_threshold=SCORE_THRESHOLD)
    return limited(take(detections, keep.numpy())._replace(scores=scores.numpy()))


def oracle(detections: Detections, objects: Objects) -> Detections:
    """The detections of `duplicate_targets` at a threshold of `IOU`."""
    best, owner = _overlaps(detections, objects)
    rows = np.flatnonzero(best > IOU)
    rows = rows[np.lexsort((-detections.scores[rows], owner[rows]))]
    _, first = np.unique(owner[rows], return_index=True)
    return limited(take(detections, rows[first]))


def operating_point(
    detections: Detections, objects: Objects, num_images: int, classes: Sequence[int]
) -> OperatingPoint:
    """Of the detections of some classes, which share one score.

    Args:
        detections: without duplicates, as far as they could be removed.
        objects: the ground truth; crowds and their matches do not count.
        num_images: I.
        classes: which classes.
    """
    detections = take(detections, np.isin(detections.classes, classes))
    objects = Objects(*(field[np.isin(objects.classes, classes)] for field in objects))
    count = int((~objects.crowds).sum())
    if count == 0:
        return OperatingPoint(*[float("nan")] * 4)
    found = match(
        objects, detections, num_images, np.array([IOU]), AREA_RANGES[:1], len(detections.scores)
    )
    true, false = found.true[:, 0, 0], found.false[:, 0, 0]
    # `match` sorts by class, image and score.
    order = np.lexsort((-detections.scores, detections.images, detections.classes))
    is_copy = false & (_overlaps(take(detections, order), objects)[0] >= IOU)
    by_score = np.argsort(-found.scores, kind="stable")
    scores = found.scores[by_score]
    tp, fp, copies = (np.cumsum(x[by_score]) for x in (true, false, is_copy))
    if len(scores) == 0 or tp[-1] == 0:
        return OperatingPoint(float("nan"), 0.0, 0.0, 0.0)
    last = np.append(scores[1:] != scores[:-1], True)  # equal scores are shown together
    f1 = np.where(last, 2 * tp / (tp + fp + count), -1)
    k = int(f1.argmax())
    images = len(np.unique(objects.images))
    return OperatingPoint(
        float(scores[k]), float(f1[k]), float(fp[k] / images), float(copies[k] / images)
    )


def compare(
    removals: dict[str, Callable[[], Detections]],
    objects: Objects,
    num_images: int,
    groups: dict[str, list[int]],
    num_classes: int,
) -> dict[str, dict[str, Row]]:
    """Name of a way to remove duplicates, group of classes -> results.

    Args:
        removals: what each way leaves.
        objects: the ground truth.
        num_images: I.
        groups: classes by name; groups without an object are left out.
        num_classes: K.
    """
    tested = {g: c for g, c in groups.items() if np.isin(objects.classes, c).any()}
    table: dict[str, dict[str, Row]] = {}
    for name, remove in removals.items():
        left = remove()
        scores = class_scores(evaluate_detections(objects, left, num_images, num_classes))
        table[name] = {
            group: Row(
                *np.nanmean(scores[classes], axis=0).tolist(),
                operating_point(left, objects, num_images, classes),
            )
            for group, classes in tested.items()
        }
    return table


def _tensors(detections: Detections) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Corners (N, 4) and scores (N,) in float64, and one number per image and class (N,)."""
    x, y, width, height = torch.from_numpy(detections.boxes).unbind(1)
    corners = torch.stack([x, y, x + width, y + height], dim=1)
    cells = np.stack([detections.images, detections.classes], axis=1)
    groups = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
    return corners, torch.from_numpy(detections.scores), torch.from_numpy(groups)


def _overlaps(detections: Detections, objects: Objects) -> tuple[np.ndarray, np.ndarray]:
    """Largest IoU of every detection with an object of its image and class, crowds left out, and
    which object that is: (N,) and (N,); -1 where there is none."""
    best = np.full(len(detections.scores), -1.0)
    owner = np.full(len(detections.scores), -1)
    cells: dict[tuple[int, int], list[int]] = {}
    for g in np.flatnonzero(~objects.crowds).tolist():
        cells.setdefault((int(objects.images[g]), int(objects.classes[g])), []).append(g)
    rows: dict[tuple[int, int], list[int]] = {}
    for n, cell in enumerate(
        zip(detections.images.tolist(), detections.classes.tolist(), strict=True)
    ):
        if cell in cells:
            rows.setdefault(cell, []).append(n)
    for cell, members in rows.items():
        things = cells[cell]
        iou = mask_util.iou(
            detections.boxes[members], objects.boxes[things], np.zeros(len(things), np.uint8)
        )  # (n, g)
        best[members] = iou.max(axis=1)
        owner[members] = np.array(things)[iou.argmax(axis=1)]
    return best, owner

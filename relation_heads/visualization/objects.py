"""Which regions show the same object, so that what a detection heard can be told by object.

A detector proposes many regions for an object, and most of them become no detection. Every region
belongs to one object here, and an object is one of

- a detection: the region that it came from, and all regions that overlap its box,
- what no detection shows: regions that overlap one another; "background" more often than not.

The weight of an object is the sum over its regions, so that the weights of all objects still sum
to 1.

Shapes: D detections, R regions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..data.box_iou import box_iou

SAME_OBJECT = 0.3  # IoU above which two regions, or a region and a detection, are one object
SAME_DETECTION = 0.5  # IoU above which two detections are one object, with two names


class HeardObject(NamedTuple):
    """An object that a detection listened to.

    Attributes:
        region: the one of largest weight among its regions.
        detection: which detection it is, None if no detection shows it.
        weight: the sum over its regions.
    """

    region: int
    detection: int | None
    weight: float


class Objects:
    """The objects of one image.

    Attributes:
        of_detection: (D,) the detection that stands for the object of each detection: the surest of
            those that came from one region or lie on each other; -1 for those that do not count.
        of_region: (R,) the detection whose object each region shows, -1 where none does.
    """

    def __init__(
        self, regions: np.ndarray, origin: np.ndarray, boxes: np.ndarray, counted: np.ndarray
    ) -> None:
        """
        Args:
            regions: (R, 4) boxes.
            origin: (D,) the region that each detection came from.
            boxes: (D, 4) of the detections, the surest first.
            counted: numbers of the detections that are objects, ascending.
        """
        self.regions = regions
        self.of_detection = np.full(len(boxes), -1)
        first: list[int] = []
        for d in counted:
            same = [
                a
                for a in first
                if origin[a] == origin[d] or box_iou(boxes[a], boxes[d]) > SAME_DETECTION
            ]
            self.of_detection[d] = same[0] if same else d
            first += [] if same else [int(d)]
        self.of_region = np.full(len(regions), -1)
        if first and len(regions):
            overlap = box_iou(regions[:, None], boxes[first])
            near = overlap.max(1) > SAME_OBJECT
            self.of_region[near] = np.array(first)[overlap[near].argmax(1)]
            self.of_region[origin[counted]] = self.of_detection[counted]
        self._alone = np.flatnonzero(self.of_region < 0)
        self._same = overlapping(regions[self._alone], SAME_OBJECT)

    def heard(self, weights: np.ndarray, detection: int) -> tuple[float, list[HeardObject]]:
        """How much a detection listened to its own object, and to each of the others.

        Args:
            weights: (R,) not negative, such as a row of relation weights.
            detection: which of those that count.

        Returns:
            the weight of its own object, and the objects of positive weight, the largest first; the
            sum of all is that of `weights`.
        """
        left = np.asarray(weights, dtype=np.float64)
        own = self.of_detection[detection]
        found = []
        for d in np.unique(self.of_region[self.of_region >= 0]):
            mine = np.flatnonzero(self.of_region == d)
            if d != own:
                found.append(HeardObject(int(mine[left[mine].argmax()]), int(d), left[mine].sum()))
        for k, weight in merged(self._same, left[self._alone]):
            found.append(HeardObject(int(self._alone[k]), None, weight))
        found = [one for one in found if one.weight > 0]
        return float(left[self.of_region == own].sum()), sorted(found, key=lambda one: -one.weight)


def overlapping(boxes: np.ndarray, iou: float) -> np.ndarray:
    """(N, N) whether two boxes overlap by more; each does itself, even without area."""
    same = box_iou(boxes[:, None], boxes) > iou
    np.fill_diagonal(same, True)
    return same


def merged(same: np.ndarray, weights: np.ndarray) -> list[tuple[int, float]]:
    """The one of largest weight takes all that are the same, then the next free one does.

    Args:
        same: (N, N) of `overlapping`.
        weights: (N,) not negative.

    Returns:
        (the strongest, sum of weights) of each group, in the order of the strongest.
    """
    order, groups = np.argsort(-weights, kind="stable"), []
    while len(order) > 0:
        mine = same[order[0], order]
        groups.append((int(order[0]), float(weights[order[mine]].sum())))
        order = order[~mine]
    return groups

"""Which regions show the same object, so that what a detection heard can be told by object.

A detector proposes many regions for an object, and most of them become no detection. Every region
belongs to one object here, and an object is one of

- a detection: the region that it came from, and all regions that overlap its box,
- what no detection shows: regions that overlap one another, "background" more often than not.

The weight of an object is the sum over its regions, so that the weights of all objects still sum
to 1. Objects are the same whoever asks and in every head.

Shapes: D detections, R regions, K objects.
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
        detected: whether it is a detection.
        number: of the detection, or else of the first of its regions, which is the surest proposal.
        weight: the sum over its regions.
    """

    detected: bool
    number: int
    weight: float


class Objects:
    """The objects of one image.

    Attributes:
        first: (K,) the surest detection of each object, and after these the first region of each
            object that no detection shows.
        num_detected: how many objects have a detection.
        of_detection: (D,) the object of each detection, -1 of those that do not count.
        of_region: (R,) the object of each region.
    """

    def __init__(
        self, regions: np.ndarray, origin: np.ndarray, boxes: np.ndarray, counted: np.ndarray
    ) -> None:
        """
        Args:
            regions: (R, 4) boxes, the surest proposal first.
            origin: (D,) the region that each detection came from.
            boxes: (D, 4) of the detections, the surest first.
            counted: numbers of the detections that are objects, ascending. Those that came from one
                region, or lie on each other, are one object.
        """
        first: list[int] = []
        self.of_detection = np.full(len(boxes), -1)
        for d in counted.tolist():
            same = [
                k
                for k, a in enumerate(first)
                if origin[a] == origin[d] or box_iou(boxes[a], boxes[d]) > SAME_DETECTION
            ]
            self.of_detection[d] = same[0] if same else len(first)
            first += [] if same else [d]
        self.num_detected = len(first)
        self.of_region = np.full(len(regions), -1)
        if first and len(regions):
            overlap = box_iou(regions[:, None], boxes[first])
            near = overlap.max(1) > SAME_OBJECT
            self.of_region[near] = overlap[near].argmax(1)
            self.of_region[origin[counted]] = self.of_detection[counted]
        for r in range(len(regions)):
            if self.of_region[r] < 0:
                same_place = box_iou(regions[r], regions) > SAME_OBJECT
                same_place[r] = True  # a box without area overlaps not even itself
                self.of_region[same_place & (self.of_region < 0)] = len(first)
                first.append(r)
        self.first = np.array(first, dtype=np.int64)

    def heard(self, weights: np.ndarray, detection: int) -> tuple[float, list[HeardObject]]:
        """How much a detection listened to its own object, and to each of the others.

        Args:
            weights: (R,) not negative, such as a row of relation weights.
            detection: which of those that count.

        Returns:
            the weight of its own object, and the objects of positive weight, the largest first; the
            sum of all is that of `weights`.
        """
        sums = np.bincount(self.of_region, weights, len(self.first))
        own = self.of_detection[detection]
        others = [k for k in np.argsort(-sums, kind="stable") if sums[k] > 0 and k != own]
        heard = [
            HeardObject(bool(k < self.num_detected), int(self.first[k]), float(sums[k]))
            for k in others
        ]
        return float(sums[own]), heard

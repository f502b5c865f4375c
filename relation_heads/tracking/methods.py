"""Trackers by name, all of one form: our association before training, SORT and ByteTrack."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..layers.association import Association
from ..layers.association.module import START
from . import library
from .tracker import Tracker

LEAST_IOU = 0.3  # of a match whose looks are equal, as in the library's SORT
# sigmoid(s) of it before training, when s = g (cosine + IoU - 1).
THRESHOLD = 1 / (1 + math.exp(-START * LEAST_IOU))


class Online(Protocol):
    """What follows the objects of one video, see `Tracker.update`."""

    def update(self, boxes: Tensor, features: Tensor, scores: Tensor) -> Tensor:
        """Identities (N,) of the detections of the next frame, from 1 on, or -1."""


class LibraryTracker:
    """A tracker of the library in this form. It does not look at the features."""

    def __init__(self, tracker: Any) -> None:
        """
        Args:
            tracker: such as `library.SORTTracker()`, which has seen nothing yet.
        """
        self.tracker = tracker

    def update(self, boxes: Tensor, features: Tensor, scores: Tensor) -> Tensor:
        """See `Online.update`."""
        numbers: dict[str, Any] = {"number": np.arange(len(boxes))}  # ByteTrack changes the order
        found = self.tracker.update(
            library.supervision.Detections(
                xyxy=boxes.cpu().numpy(), confidence=scores.cpu().numpy(), data=numbers
            )
        )
        ids = np.full(len(boxes), -1)
        if len(found):
            ids[found.data["number"]] = found.tracker_id
        return torch.from_numpy(np.where(ids < 0, -1, ids + 1))


def untrained(dim: int, image_size: tuple[int, int]) -> Tracker:
    """A tracker whose association is as at the start: cosine of looks and IoU with the predicted
    box. Of constant features that is motion alone."""
    association = Association(dim, cosine_channels=dim).eval()
    return Tracker(association, image_size=image_size, threshold=THRESHOLD)


# From D and (H, W) to a tracker of one video.
METHODS: dict[str, Callable[[int, tuple[int, int]], Online]] = {
    "association": untrained,
    "sort": lambda dim, image_size: LibraryTracker(library.SORTTracker()),
    "bytetrack": lambda dim, image_size: LibraryTracker(library.ByteTrackTracker()),
}

"""An online tracker whose similarity is an `Association`.

    tracker = Tracker(association, image_size=(480, 640))
    for boxes, features, scores in frames:
        ids = tracker.update(boxes, features, scores)

Births, deaths and the assignment are those of `SORTTracker` of `trackers`: the assignment with the
largest sum of similarities, of which those below a threshold are no match; a sure detection without
a match begins a track; a track without a match ends, at once while it is new, and later once it was
confirmed. SORT takes the IoU of a detection and a predicted box, here sigmoid(s) takes its place.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..layers import Regions
from ..layers.arguments import Wrong, at_least, require
from ..layers.association import Association, Tracklets
from . import library

Matches = tuple[list[tuple[int, int]], list[int], list[int]]


class Given(library.BaseIoU):
    """A similarity that was computed elsewhere: (tracks, detections)."""

    matrix: NDArray[np.float32]

    def _compute(self, boxes_1: NDArray[Any], boxes_2: NDArray[Any]) -> NDArray[np.float32]:
        return self.matrix


class Lifetimes(library.SORTTracker):
    """SORT that says which track took which detection: what it returns tells of confirmed tracks
    alone."""

    tracker_id: ClassVar[Any] = None  # the library's registry would call this class "sort"
    matches: Matches = ([], [], [])

    def _get_associated_indices(self, *arguments: Any) -> Matches:
        self.matches = super()._get_associated_indices(*arguments)
        return self.matches


class Tracker:
    """Identities of detections, frame by frame, of one video."""

    def __init__(
        self,
        association: Association,
        *,
        image_size: tuple[int, int],
        threshold: float = 0.5,
        birth_score: float = 0.25,
        confirm: int = 3,
        patience: int = 30,
        memory: int = 10,
    ) -> None:
        """Defaults other than `threshold` and `memory` are those of the library's SORT.

        Args:
            association: in evaluation mode.
            image_size: (H, W) in pixels.
            threshold: least sigmoid(s) of a match.
            birth_score: least score of a detection that begins a track.
            confirm: detections that a track needs before it has an identity.
            patience: frames that a confirmed track lives without a detection.
            memory: L, frames that a track remembers; the paper's are 10.

        Raises:
            ArgumentError: an argument outside these.
        """
        inside = 0 <= threshold <= 1
        require(
            None if inside else Wrong("threshold", "in [0, 1]", threshold),
            at_least("confirm", confirm, 1),
            at_least("patience", patience, 0),
            at_least("memory", memory, 1),
        )
        self.association = association
        self.image_size = image_size
        self._similarity = Given()
        self._lifetimes = Lifetimes(
            lost_track_buffer=patience,
            frame_rate=30.0,  # so that the buffer is in frames
            track_activation_threshold=birth_score,
            minimum_consecutive_frames=confirm,
            minimum_iou_threshold=threshold,
            iou=self._similarity,
        )
        weight = association.temporal.weight
        self._dtype = weight.dtype
        self._tracklets = Tracklets.empty(
            association.dim, memory, dtype=weight.dtype, device=weight.device
        )
        self._frame = 0

    def __len__(self) -> int:
        """Tracks that live, those without an identity too."""
        return len(self._tracklets)

    @torch.no_grad()
    def update(self, boxes: Tensor, features: Tensor, scores: Tensor) -> Tensor:
        """Takes the next frame; one without detections too.

        Args:
            boxes: (N, 4) x1, y1, x2, y2 in pixels, floating point.
            features: (N, D) phi_a.
            scores: (N,).

        Returns:
            (N,) int64 on the CPU: identities from 1 on, -1 for detections of no confirmed track.

        Raises:
            ValueError: shapes that do not fit, or a box that is not finite.
        """
        n, device = len(boxes), self._tracklets.features.device
        if boxes.shape != (n, 4) or scores.shape != (n,) or not boxes.isfinite().all():
            raise ValueError(
                "Detections must have finite boxes (N, 4) and scores (N,), got "
                f"{tuple(boxes.shape)} and {tuple(scores.shape)}, finite: "
                f"{bool(boxes.isfinite().all())}."
            )
        self._frame += 1
        boxes, features = boxes.to(device, torch.float32), features.to(device, self._dtype)
        regions = Regions(boxes, (n,), (self.image_size,))
        phi_s = self.association.relate(features, regions)
        score = self.association(
            self._tracklets, phi_s, boxes, frame=self._frame, image_size=self.image_size
        )
        self._similarity.matrix = score.sigmoid().cpu().numpy()
        ids = self._assign(boxes.cpu().numpy(), scores.cpu().numpy(), phi_s, boxes)
        return torch.from_numpy(np.where(ids < 0, -1, ids + 1))

    def _assign(
        self, xyxy: NDArray[Any], scores: NDArray[Any], phi_s: Tensor, boxes: Tensor
    ) -> NDArray[np.int64]:
        """The library's identities, from 0 on; the memory follows its tracks."""
        lifetimes, device = self._lifetimes, boxes.device
        lifetimes.matches, before = ([], [], list(range(len(xyxy)))), list(lifetimes.tracks)
        found = lifetimes.update(library.supervision.Detections(xyxy=xyxy, confidence=scores))
        matched, _, unmatched = lifetimes.matches
        rows, seen = torch.tensor(matched, dtype=torch.int64, device=device).reshape(-1, 2).T
        alive = {id(track) for track in lifetimes.tracks}
        kept = [row for row, track in enumerate(before) if id(track) in alive]
        born = [n for n in unmatched if scores[n] >= lifetimes.track_activation_threshold]
        tracklets = self._tracklets.extended(rows, phi_s[seen], boxes[seen], self._frame)
        tracklets = tracklets.keep(torch.tensor(kept, dtype=torch.int64, device=device))
        self._tracklets = tracklets.born(phi_s[born], boxes[born], self._frame)
        assert len(self._tracklets) == len(lifetimes.tracks), "The library's rule is another one."
        return np.asarray(found.tracker_id, dtype=np.int64)

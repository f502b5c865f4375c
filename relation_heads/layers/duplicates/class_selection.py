"""The detections of one image among thousands of classes, without looking at all candidates.

Detectors keep what scores above a threshold, suppress duplicates class by class (NMS) and return
the K best that are left. With thousands of classes almost all of the R C candidates (a region and a
class) are far below the K best. Here the best M candidates are taken, boxes are computed for these
only, NMS runs on them, and if fewer than K survive M grows. The result is the same: the greedy NMS
keeps or drops a box because of boxes of its class that rank before it, so NMS of the best M is what
NMS of all candidates says about these M, and K survivors among them are the K best survivors.

Candidates rank by score; of equal scores the lower region comes first, then the lower class.

Shapes: R regions, C classes, M candidates; boxes are x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor

from ..arguments import at_least, require, within

FIRST, GROWTH = 10, 4  # candidates for each wanted detection, and their factor where these are few
BLOCK = 64


class Selection(NamedTuple):
    """D detections, by descending rank.

    Attributes:
        region: (D,) int64 in [0, R).
        label: (D,) int64 in [0, C).
        scores: (D,).
        boxes: (D, 4).
    """

    region: Tensor
    label: Tensor
    scores: Tensor
    boxes: Tensor


def _best_rows(scores: Tensor, score_threshold: float, number: int | None) -> tuple[Tensor, bool]:
    """The rows of the `number` highest of (N,) scores above the threshold, or of all of these, by
    descending rank; and whether they are all."""
    above = scores > score_threshold
    if number is not None:
        best_of_blocks = scores[: len(scores) // BLOCK * BLOCK].view(-1, BLOCK).amax(dim=1)
        if number < len(best_of_blocks):
            # A score that number + 1 blocks reach: what is below is not among the best, and need
            # not be sorted.
            above &= scores >= best_of_blocks.topk(number + 1).values[-1]
    rows = above.nonzero()[:, 0]
    order = scores[rows].argsort(descending=True, stable=True)
    return rows[order[:number]], number is None or len(rows) <= number


def nms_per_class(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Greedy NMS inside every class: rows of what is kept, by descending score, of equal scores the
    lower row first.

    Every class is moved to a place of its own. torchvision's `batched_nms` does so in float32 by
    class numbers, where boxes of class 3000 are rounded to 0.25 pixels and more; here classes are
    numbered anew and coordinates are float64.

    Args:
        boxes: (M, 4), finite.
        scores: (M,).
        labels: (M,) int64.
        iou_threshold: a box goes whose IoU with a kept one is above it.
    """
    place = labels.unique(return_inverse=True)[1]
    corners = boxes.double()
    ends = torch.cat([corners.flatten(), corners.new_zeros(1)])  # of no boxes, too
    pitch = ends.max() - ends.min() + 1
    return torchvision.ops.nms(corners + (place * pitch)[:, None], scores.double(), iou_threshold)


@torch.no_grad()
def select_by_class(
    scores: Tensor,
    boxes_of: Callable[[Tensor, Tensor], Tensor],
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int | None,
) -> Selection:
    """The detections of one image: scores above the threshold, NMS by class, the best of these.

    Args:
        scores: (R, C) without nan; -inf for what must not be chosen.
        boxes_of: computes the finite boxes (M, 4) of M regions and classes, both (M,) int64. It is
            called once, or a few times with more and more of them.
        score_threshold: lowest score, exclusive.
        iou_threshold: of the NMS.
        max_detections: K, or None for all, which computes the boxes of all candidates.

    A trace, which cannot take candidates until there are enough, takes all of them.

    Raises:
        ArgumentError: a threshold that is no number, or K is below 0.
        ValueError: the scores are not (R, C).
    """
    require(
        within("score_threshold", score_threshold, "[-inf, inf]"),
        within("iou_threshold", iou_threshold, "[-inf, inf]"),
        None if max_detections is None else at_least("max_detections", max_detections, 0),
    )
    if scores.dim() != 2:
        raise ValueError(f"scores must be (R, C), got {tuple(scores.shape)}.")
    flat = scores.flatten()  # (R C,)
    number = None
    if max_detections is not None and not torch.jit.is_tracing():
        number = FIRST * max(max_detections, 1)
    while True:
        rows, are_all = _best_rows(flat, score_threshold, number)
        region, label = rows // scores.shape[1], rows % scores.shape[1]
        boxes = boxes_of(region, label)
        keep = nms_per_class(boxes, flat[rows], label, iou_threshold)
        if number is None or are_all or len(keep) >= (max_detections or 0):
            break
        number *= GROWTH
    keep = keep[:max_detections]
    return Selection(region[keep], label[keep], flat[rows[keep]], boxes[keep])

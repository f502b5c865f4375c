"""Soft-NMS: overlapping detections lose score instead of being deleted.

Source: Bodla et al., "Soft-NMS - Improving Object Detection With One Line of Code", ICCV 2017,
figure 2. Per class, with the scores s of the boxes b:

    repeat: take M, the box of highest current score; for every other box
        Gaussian  s_i <- s_i exp(-IoU(M, b_i)^2 / sigma)
        linear    s_i <- s_i (1 - IoU(M, b_i))   if IoU(M, b_i) > N_t
    then drop the boxes with s_i < score threshold

A score is thus decayed by every box that was taken before it, and the next box is chosen by decayed
scores. Only the boxes of one class depend on each other, so all classes take their boxes together:
step k takes the k-th box of every class. The Python loop is as long as the largest number of boxes
that one class keeps, the tensors hold what is left of all classes without padding.

Dropping never changes the rest. A box decays only boxes of lower score (weights are at most 1), so
whatever is below a threshold can only act on what is below it as well. The same argument makes a
limit of detections fast: once K boxes are taken, the K-th best of them is such a threshold.

Boxes are x1, y1, x2, y2 in pixels, width x2 - x1, as in Detectron2 and torchvision. For the
"+1" widths of older code (x2 - x1 + 1), add 1 to x2 and y2.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from .geometry import widen

Method = Literal["gaussian", "linear"]


def _check_options(
    method: str,
    sigma: float,
    iou_threshold: float,
    score_threshold: float,
    max_detections: int | None,
) -> None:
    if method not in get_args(Method):
        raise ValueError(f"Soft-NMS: method must be 'gaussian' or 'linear', got {method!r}.")
    if not sigma > 0:
        raise ValueError(f"Soft-NMS: sigma must be above 0, got {sigma}.")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"Soft-NMS: iou_threshold must be in [0, 1], got {iou_threshold}.")
    if not score_threshold >= 0:
        raise ValueError(f"Soft-NMS: score_threshold must be at least 0, got {score_threshold}.")
    if max_detections is not None and max_detections < 1:
        raise ValueError(
            "Soft-NMS: max_detections must be at least 1, or None for all of them, "
            f"got {max_detections}."
        )


def _check_finite(boxes: Tensor, scores: Tensor) -> None:
    for name, values in (("boxes", boxes), ("scores", scores)):
        # nan and inf reach the extremes, which need no temporary of the size of the input.
        if values.numel() > 0 and not torch.stack(values.aminmax()).isfinite().all():
            raise ValueError(f"Soft-NMS: {name} must be finite, got inf or nan.")


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of box m with other m: two (4, M) to (M,); 0 where both are without area."""
    x1, y1, x2, y2 = boxes
    u1, v1, u2, v2 = others
    width = torch.minimum(x2, u2).sub_(torch.maximum(x1, u1)).clamp_(min=0)
    height = torch.minimum(y2, v2).sub_(torch.maximum(y1, v1)).clamp_(min=0)
    intersection = width.mul_(height)
    area = (x2 - x1).clamp_(min=0).mul_((y2 - y1).clamp_(min=0))
    other_area = (u2 - u1).clamp_(min=0).mul_((v2 - v1).clamp_(min=0))
    union = area.add_(other_area).sub_(intersection)
    return intersection.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def _first_of_highest(scores: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Positions of the highest score of every group that has members; the first one of equals.

    Args:
        scores: (M,), at least 0.
        group: (M,) int64 below `num_groups`, ascending.
    """
    highest = scores.new_zeros(num_groups).scatter_reduce_(0, group, scores, "amax")
    candidates = (scores == highest.index_select(0, group)).nonzero()[:, 0]
    owner = group.index_select(0, candidates)
    is_first = torch.ones_like(owner, dtype=torch.bool)
    is_first[1:] = owner[1:] != owner[:-1]
    return candidates[is_first]


@torch.no_grad()
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    *,
    method: Method = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float = 0.001,
    max_detections: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS inside every group of boxes, without gradient.

    Args:
        boxes: (N, 4) x1, y1, x2, y2 in pixels. Boxes without area overlap nothing.
        scores: (N,) floating point.
        groups: (N,) int64. Boxes of different groups ignore each other: classes of one image, or
            one number per image and class to treat a batch at once.
        method: "gaussian" or "linear" decay.
        sigma: of the Gaussian, in units of IoU^2. A larger one is softer.
        iou_threshold: N_t of the linear form.
        score_threshold: boxes whose score is or falls below it are dropped.
        max_detections: how many to return at most, all groups together; None: all of them. A
            limit saves most of the work.

    Returns:
        (M,) int64 rows of the boxes that are left, by descending new score, of equal scores the
        lower row first; and their (M,) new scores, float32 or wider. Which box of a group is taken
        first among equal scores follows the same rule.

    Raises:
        ValueError: an option is out of range, a shape or dtype is wrong, a value is not finite.
    """
    _check_options(method, sigma, iou_threshold, score_threshold, max_detections)
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(
            "Soft-NMS: boxes must be floating point of shape (N, 4), "
            f"got {boxes.dtype} of shape {tuple(boxes.shape)}."
        )
    if scores.shape != boxes.shape[:1] or not scores.is_floating_point():
        raise ValueError(
            f"Soft-NMS: scores must be floating point of shape ({len(boxes)},), one per box, "
            f"got {scores.dtype} of shape {tuple(scores.shape)}."
        )
    if groups.shape != boxes.shape[:1] or groups.dtype != torch.int64:
        raise ValueError(
            f"Soft-NMS: groups must be int64 of shape ({len(boxes)},), one per box, "
            f"got {groups.dtype} of shape {tuple(groups.shape)}."
        )
    _check_finite(boxes, scores)

    # What is left of all groups, sorted by group, then by row.
    scores = widen(scores)
    floor = scores.new_tensor(score_threshold)
    row = (scores >= floor).nonzero()[:, 0]
    group, order = groups[row].sort(stable=True)
    names, group = torch.unique_consecutive(group, return_inverse=True)
    row = row[order]
    corners, score = widen(boxes)[row].T.contiguous(), scores[row]

    taken_rows, taken_scores, best = [row[:0]], [score[:0]], score[:0]
    # Nothing that a group takes after its K-th box can be among the K best of all.
    steps = len(row) if max_detections is None else max_detections
    for _ in range(steps):
        if len(row) == 0:
            break
        leader = _first_of_highest(score, group, len(names))
        taken_rows.append(row[leader])
        taken_scores.append(score[leader])
        if max_detections is not None:
            best = torch.cat([best, score[leader]])
            if len(best) >= max_detections:
                best = best.topk(max_detections).values
                floor = torch.maximum(floor, best[-1])

        # A group without members has no leader, and nobody looks its leader up.
        leader_corners = corners.new_empty(4, len(names))
        leader_corners[:, group[leader]] = corners[:, leader]
        iou = _iou(corners, leader_corners.index_select(1, group))
        if method == "gaussian":
            score = score * iou.square_().div_(-sigma).exp_()
        else:
            score = torch.where(iou > iou_threshold, score * (1 - iou), score)
        score[leader] = -1  # taken

        left = (score >= floor).nonzero()[:, 0]
        row, group, score = (x.index_select(0, left) for x in (row, group, score))
        corners = corners.index_select(1, left)

    # By row first, so that the stable sort puts the lower row of equal scores first.
    rows, order = torch.cat(taken_rows).sort()
    new_scores, by_score = torch.cat(taken_scores)[order].sort(descending=True, stable=True)
    return rows[by_score][:max_detections], new_scores[:max_detections]


@torch.no_grad()
def soft_nms_per_class(
    boxes: Tensor,
    scores: Tensor,
    *,
    method: Method = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float = 0.001,
    max_detections: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Soft-NMS inside every class, for the regions of one image with scores for all classes.

    Args:
        boxes: (R, 4), shared by all classes, or (R, C, 4), one per class; as in `soft_nms`.
        scores: (R, C) of the foreground classes.
        method: the options are those of `soft_nms`.
        sigma: see there.
        iou_threshold: see there.
        score_threshold: see there.
        max_detections: see there.

    Returns:
        (M,) int64 regions, (M,) int64 classes and (M,) new scores, by descending new score, of
        equal scores the lower region, then the lower class first.

    Raises:
        ValueError: as in `soft_nms`.
    """
    _check_options(method, sigma, iou_threshold, score_threshold, max_detections)
    if scores.dim() != 2 or boxes.shape not in {
        (scores.shape[0], 4),
        (*scores.shape, 4),
    }:
        raise ValueError(
            "Soft-NMS: boxes must be (R, 4) or (R, C, 4) and scores (R, C), "
            f"got {tuple(boxes.shape)} and {tuple(scores.shape)}."
        )
    _check_finite(boxes, scores)
    candidates = widen(scores) >= score_threshold
    if max_detections is not None and len(scores) > 0 and scores.shape[1] >= max_detections:
        # The best box of a class keeps its score, so K classes already name K detections.
        candidates &= scores >= scores.amax(dim=0).topk(max_detections).values[-1]
    region, category = candidates.nonzero(as_tuple=True)
    keep, new_scores = soft_nms(
        boxes[region] if boxes.dim() == 2 else boxes[region, category],
        scores[region, category],
        category,
        method=method,
        sigma=sigma,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        max_detections=max_detections,
    )
    return region[keep], category[keep], new_scores

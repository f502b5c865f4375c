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

from ..arguments import above, at_least, one_of, require, within
from ..boxes import box_iou
from ..precision import widen

Method = Literal["gaussian", "linear"]


def _check_options(
    method: str,
    sigma: float,
    iou_threshold: float,
    score_threshold: float,
    max_detections: int | None,
) -> None:
    require(
        one_of("method", method, get_args(Method)),
        above("sigma", sigma, 0),
        within("iou_threshold", iou_threshold, "[0, 1]"),
        at_least("score_threshold", score_threshold, 0),
        None if max_detections is None else at_least("max_detections", max_detections, 1),
    )


def _check_finite(boxes: Tensor, scores: Tensor) -> None:
    for name, values in (("boxes", boxes), ("scores", scores)):
        # nan and inf reach the extremes, which need no temporary of the size of the input.
        if values.numel() > 0 and not torch.stack(values.aminmax()).isfinite().all():
            raise ValueError(f"Soft-NMS: {name} must be finite, got inf or nan.")


@torch.jit.script_if_tracing  # a trace would keep the number of steps
def _take_all(
    row: Tensor,
    group: Tensor,
    corners: Tensor,
    score: Tensor,
    floor: Tensor,
    gaussian: bool,
    sigma: float,
    iou_threshold: float,
    max_detections: int,
) -> tuple[Tensor, Tensor]:
    """Rows and new scores of the boxes that all groups take, a box of every group after the other.

    Args:
        row: (M,) number of each box.
        group: (M,) int64, ascending.
        corners: (4, M).
        score: (M,), at least `floor`.
        floor: (), boxes below it are dropped.
        gaussian: else linear.
        sigma, iou_threshold: see `soft_nms`.
        max_detections: as there; -1 for all.
    """
    names, group = torch.unique_consecutive(group, return_inverse=True)
    taken_rows, taken_scores, best = [row[:0]], [score[:0]], score[:0]
    # Nothing that a group takes after its K-th box can be among the K best of all.
    steps = len(row) if max_detections < 0 else max_detections
    for _ in range(steps):
        if len(row) == 0:
            break
        # The leader of every group that has members: its highest score, the first one of equals.
        highest = score.new_zeros(len(names)).scatter_reduce_(0, group, score, "amax")
        leader = (score == highest.index_select(0, group)).nonzero()[:, 0]
        owner = group.index_select(0, leader)
        is_first = torch.ones_like(owner, dtype=torch.bool)
        is_first[1:] = owner[1:] != owner[:-1]
        leader = leader[is_first]
        taken_rows.append(row[leader])
        taken_scores.append(score[leader])
        if max_detections >= 0:
            best = torch.cat([best, score[leader]])
            if len(best) >= max_detections:
                best = best.topk(max_detections)[0]
                floor = torch.maximum(floor, best[-1])

        # A group without members has no leader, and nobody looks its leader up.
        leader_corners = corners.new_empty(4, len(names))
        leader_corners[:, group[leader]] = corners[:, leader]
        iou = box_iou(corners.T, leader_corners.index_select(1, group).T)
        if gaussian:
            score = score * iou.square().div(-sigma).exp()
        else:
            score = torch.where(iou > iou_threshold, score * (1 - iou), score)
        score[leader] = -1.0  # taken

        left = (score >= floor).nonzero()[:, 0]
        row, group = row.index_select(0, left), group.index_select(0, left)
        score, corners = score.index_select(0, left), corners.index_select(1, left)
    return torch.cat(taken_rows), torch.cat(taken_scores)


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
        ArgumentError: an option is out of range.
        ValueError: a shape or dtype is wrong, a value is not finite.
    """
    _check_options(method, sigma, iou_threshold, score_threshold, max_detections)
    if not torch.jit.is_tracing():
        _check_boxes(boxes, scores, groups)

    # What is left of all groups, sorted by group, then by row.
    scores = widen(scores)
    floor = scores.new_tensor(score_threshold)
    row = (scores >= floor).nonzero()[:, 0]
    group, order = groups[row].sort(stable=True)
    row = row[order]
    corners = widen(boxes)[row].T.contiguous()
    limit = -1 if max_detections is None else max_detections
    rows, new_scores = _take_all(
        row, group, corners, scores[row], floor, method == "gaussian", sigma, iou_threshold, limit
    )

    # By row first, so that the stable sort puts the lower row of equal scores first.
    rows, order = rows.sort()
    new_scores, by_score = new_scores[order].sort(descending=True, stable=True)
    return rows[by_score][:max_detections], new_scores[:max_detections]


def _check_boxes(boxes: Tensor, scores: Tensor, groups: Tensor) -> None:
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
        ArgumentError, ValueError: as in `soft_nms`.
    """
    _check_options(method, sigma, iou_threshold, score_threshold, max_detections)
    candidates = widen(scores) >= score_threshold
    if not torch.jit.is_tracing():
        if scores.dim() != 2 or boxes.shape not in {(scores.shape[0], 4), (*scores.shape, 4)}:
            raise ValueError(
                "Soft-NMS: boxes must be (R, 4) or (R, C, 4) and scores (R, C), "
                f"got {tuple(boxes.shape)} and {tuple(scores.shape)}."
            )
        _check_finite(boxes, scores)
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

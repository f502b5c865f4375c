"""Targets, loss and final scores of learned duplicate removal.

Source: Hu et al., "Relation Networks for Object Detection", CVPR 2018, section 4.3; released code
msracver/Relation-Networks-for-Object-Detection (MIT), `nms_multi_target`.

    y   = 1 for the box of highest s0 among those of IoU > eta with an object that they overlap most
    L   = -4 y log(s0 s1) - (1 - y) log(1 - s0 s1)
    s   = s0 mean_eta s1

Shapes: B images, M candidates, T thresholds eta.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..arguments import Wrong, at_least, require, within
from ..boxes import box_iou
from ..precision import widen
from .candidates import Candidates

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)  # eta


def threshold_problem(thresholds: Sequence[float]) -> Wrong | None:
    """What is wrong with `thresholds` of `duplicate_targets`."""
    if len(thresholds) and not any(within("eta", eta, "(0, 1)") for eta in thresholds):
        return None
    return Wrong("thresholds", "one or more numbers in (0, 1)", thresholds)


@torch.no_grad()
def duplicate_targets(
    candidates: Candidates,
    boxes: Tensor,
    gt_boxes: Sequence[Tensor],
    gt_classes: Sequence[Tensor],
    thresholds: Sequence[float] = THRESHOLDS,
) -> Tensor:
    """y: (M, T) bool, True for the one candidate per object and threshold that should stay.

    A candidate belongs to the object of its class that it overlaps most (the first of equal ones),
    if their IoU is above the threshold; the highest-scored candidate of an object is its own.

    Args:
        candidates: from `select_candidates`.
        boxes: (N, 4) or (N, C, 4), as in `DuplicateRemoval.forward`.
        gt_boxes: B tensors (G_b, 4), objects without crowds; G_b may be 0.
        gt_classes: B tensors (G_b,).
        thresholds: T values eta in (0, 1).

    Raises:
        ArgumentError: a threshold outside.
        ValueError: other numbers of images.
    """
    require(threshold_problem(thresholds))
    if not len(gt_boxes) == len(gt_classes) == len(candidates.splits):
        raise ValueError(
            f"gt_boxes names {len(gt_boxes)} images, gt_classes {len(gt_classes)}, "
            f"the candidates {len(candidates.splits)}."
        )
    own = candidates.boxes(boxes)
    etas = torch.tensor(tuple(thresholds), dtype=torch.float64, device=own.device)
    targets = torch.zeros(len(candidates), len(etas), dtype=torch.bool, device=own.device)
    images = zip(
        candidates.split(targets),
        candidates.split(own),
        candidates.split(candidates.label),
        candidates.split(candidates.rank),
        gt_boxes,
        gt_classes,
        strict=True,
    )
    for target, box, label, rank, objects, classes in images:
        if len(objects) == 0:
            continue
        rows = torch.isin(label, classes).nonzero()[:, 0]
        ranks = rank[rows][:, None].expand(-1, len(etas))
        overlap = box_iou(box[rows, None].double(), objects.double(), border=1)  # as released
        iou = overlap.masked_fill(label[rows][:, None] != classes, -1)  # (R, G)
        best, owner = iou.max(dim=1)
        valid = best[:, None] > etas  # (R, T)
        owner = owner[:, None].expand(-1, len(etas))
        none = candidates.first_n
        winner = torch.full((len(objects), len(etas)), none, device=own.device)
        winner.scatter_reduce_(0, owner, ranks.masked_fill(~valid, none), "amin")
        target[rows] = valid & (winner.gather(0, owner) == ranks)
    return targets


def log1m_exp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x <= 0, finite also at 0; exact near 0 and far from it, as its gradient.

    Each half of the formula loses all digits, or its gradient does, where the other one is used.
    """
    near = x.clamp(max=-torch.finfo(x.dtype).tiny)
    far = x.clamp(max=-math.log(2))
    return torch.where(x > far, (-torch.expm1(near)).log(), torch.log1p(-far.exp()))


def duplicate_loss(
    candidates: Candidates, logits: Tensor, targets: Tensor, *, positive_weight: float = 4.0
) -> Tensor:
    """L of one image, summed over classes and boxes, divided by first_n T; mean over B images.

    In logarithms, where a product near 1 keeps its distance from it. Differs from the released code
    by its 1e-8 inside the logarithms.

    Args:
        candidates: from `select_candidates`.
        logits: (M, T) from `DuplicateRemoval`.
        targets: (M, T) from `duplicate_targets`.
        positive_weight: weight of y = 1 (released: 4).

    Raises:
        ArgumentError: a negative weight.
    """
    require(at_least("positive_weight", positive_weight, 0))
    logits, log_s0 = widen(logits), candidates.log_scores[:, None]
    # A score that rounds to 1 has lost how far it is from 1, and with it a bounded gradient.
    certain = log_s0 > -torch.finfo(log_s0.dtype).eps
    log_s0 = torch.where(certain, log_s0.detach().clamp(max=0), log_s0)  # (M, 1)
    kept = log_s0 + F.logsigmoid(logits)  # log(s0 s1), (M, T)
    gone = log1m_exp(kept)  # log(1 - s0 s1), (M, T)
    loss = -torch.where(targets, positive_weight * kept, gone).sum()
    return loss / (candidates.first_n * logits.shape[1] * max(len(candidates.splits), 1))


def final_scores(candidates: Candidates, logits: Tensor) -> Tensor:
    """s = s0 mean_eta s1 of every candidate: (M,) float32 or wider."""
    return candidates.log_scores.exp() * widen(logits).sigmoid().mean(dim=1)

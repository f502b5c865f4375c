"""Regions at the boxes that a predictor gives, for a second look: two-stage SGRN, Cascade R-CNN.

Shapes: N regions of all images, R of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import Boxes, Instances
from torch import Tensor

from .sampling import RegionSampling
from .seam import Classified


class Resampler(RegionSampling, ROIHeads):
    """Labels refined boxes anew, at the IoU of a second stage, and samples them for the loss."""

    @configurable
    def __init__(self, *, sampling: str, **kwargs: Any) -> None:
        """
        Args:
            sampling: see `RegionSampling`.
            kwargs: see `ROIHeads`; its matcher has the IoU of the second stage.
        """
        super().__init__(**{"proposal_append_gt": False, **kwargs})
        self._init_sampling(sampling, gt_as_keys=True)

    @classmethod
    def from_config(cls, cfg: CfgNode, sampling: str) -> dict[str, Any]:
        """The IoU is `MODEL.ROI_BOX_CASCADE_HEAD.IOUS[1]`, 0.6 by default."""
        args = super().from_config(cfg)
        args["proposal_matcher"] = Matcher([cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS[1]], [0, 1])
        return {**args, "proposal_append_gt": False, "sampling": sampling}


@torch.no_grad()
def best_foreground_boxes(base: Classified) -> Sequence[Tensor]:
    """(R, 4) of each image: the box of each region's best class that is not the background."""
    best = base.logits[:, :-1].argmax(dim=1)
    labelled = [
        Instances(p.image_size, proposal_boxes=p.proposal_boxes, gt_classes=label)
        for p, label in zip(base.proposals, base.regions.split(best), strict=True)
    ]
    return base.predictor.predict_boxes_for_gt_classes(base.predictions, labelled)


@torch.no_grad()
def refined_proposals(
    boxes: Sequence[Tensor], proposals: Sequence[Instances], *, training: bool
) -> list[Instances]:
    """Proposals at other boxes.

    Args:
        boxes: of each image (R, 4), a box for every proposal.
        proposals: their first boxes; `is_key` is kept.
        training: without the boxes that have no area inside the image. At test time all rows stay;
            one whose box is not finite keeps its first box, and its scores will not be finite.

    Returns:
        per image Instances with `proposal_boxes`, `earlier_boxes` (the first ones), `row` (the
        number of the proposal), `is_key`.

    Raises:
        FloatingPointError: a box is not finite in training.
    """
    refined = []
    for corners, old in zip(boxes, proposals, strict=True):
        finite = corners.isfinite().all(dim=1, keepdim=True)
        if training and not finite.all():
            raise FloatingPointError("The predicted boxes are not finite: training diverged.")
        new = Instances(old.image_size)
        new.proposal_boxes = Boxes(torch.where(finite, corners, old.proposal_boxes.tensor))
        new.proposal_boxes.clip(old.image_size)
        new.earlier_boxes = old.proposal_boxes
        new.row = torch.arange(corners.shape[0], device=corners.device)
        if old.has("is_key"):
            new.is_key = old.is_key
        refined.append(new[new.proposal_boxes.nonempty()] if training else new)
    return refined

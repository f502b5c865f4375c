"""From predictions to detections: what removes duplicates, `MODEL.DUPLICATE_REMOVAL`.

Detectron2 ends every ROI head with NMS per class. `TEST_METHOD soft_nms` decays the scores of
overlapping boxes instead (`layers.soft_nms`), with any trained detector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ...config.defaults import duplicate_removal_node
from ...layers.soft_nms import soft_nms_per_class

METHODS = ("nms", "soft_nms")
DECAYS = ("gaussian", "linear")
Predictions = tuple[Tensor, Tensor]  # logits (N, C + 1), box deltas (N, 4) or (N, 4 C)


@dataclass(frozen=True)
class Removal:
    """See the keys of `MODEL.DUPLICATE_REMOVAL`."""

    method: str = "nms"
    decay: str = "gaussian"
    sigma: float = 0.5

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Removal:
        """
        Raises:
            ValueError: a value is not allowed; names the key, the value and what is.
        """
        node = duplicate_removal_node(cfg)
        for key, allowed in {"TEST_METHOD": METHODS, "SOFT_NMS_DECAY": DECAYS}.items():
            if node[key] not in allowed:
                raise ValueError(
                    f"MODEL.DUPLICATE_REMOVAL.{key} must be one of {', '.join(allowed)}, "
                    f"got {node[key]!r}."
                )
        sigma = node.SOFT_NMS_SIGMA
        if not sigma > 0:
            raise ValueError(
                f"MODEL.DUPLICATE_REMOVAL.SOFT_NMS_SIGMA must be above 0, got {sigma}."
            )
        return cls(node.TEST_METHOD, node.SOFT_NMS_DECAY, sigma)


@torch.no_grad()
def detections(
    removal: Removal,
    predictor: FastRCNNOutputLayers,
    predictions: Predictions,
    proposals: list[Instances],
) -> list[Instances]:
    """Detections of each image, by descending score.

    Args:
        removal: how duplicates are removed.
        predictor: made the predictions; has the score and NMS thresholds and the limit.
        predictions: of all regions.
        proposals: of each image.

    Returns:
        `pred_boxes`, `scores` and `pred_classes`, as `FastRCNNOutputLayers.inference` gives them.
    """
    if removal.method == "nms":
        return predictor.inference(predictions, proposals)[0]
    boxes = predictor.predict_boxes(predictions, proposals)
    probabilities = predictor.predict_probs(predictions, proposals)
    return [
        _soft_nms(removal, predictor, *per_image, proposal.image_size)
        for *per_image, proposal in zip(boxes, probabilities, proposals, strict=True)
    ]


def _soft_nms(
    removal: Removal,
    predictor: FastRCNNOutputLayers,
    boxes: Tensor,
    probabilities: Tensor,
    image_size: tuple[int, int],
) -> Instances:
    """Soft-NMS of one image: (R, 4) or (R, 4 C) boxes, (R, C + 1) probabilities."""
    finite = boxes.isfinite().all(dim=1) & probabilities.isfinite().all(dim=1)
    scores = probabilities[finite, :-1]  # (R, C)
    clipped = Boxes(boxes[finite].reshape(-1, 4))
    clipped.clip(image_size)
    corners = clipped.tensor
    if boxes.shape[1] > 4:
        corners = corners.view(*scores.shape, 4)
    limit = predictor.test_topk_per_image
    region, category, new_scores = soft_nms_per_class(
        corners,
        scores,
        method=removal.decay,
        sigma=removal.sigma,
        iou_threshold=predictor.test_nms_thresh,
        score_threshold=predictor.test_score_thresh,
        max_detections=limit if limit >= 0 else None,
    )
    result = Instances(image_size)
    result.pred_boxes = Boxes(corners[region] if corners.dim() == 2 else corners[region, category])
    result.scores = new_scores
    result.pred_classes = category
    return result


class DuplicateRemoval:
    """Mix-in before `StandardROIHeads` or `Res5ROIHeads`: has a `removal`."""

    @configurable
    def __init__(self, *, removal: Removal | None = None, **kwargs: Any) -> None:
        """
        Args:
            removal: how duplicates are removed; None for Detectron2's NMS.
            kwargs: of the ROI heads.
        """
        super().__init__(**kwargs)
        self.removal = removal or Removal()

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return {**super().from_config(cfg, input_shape), "removal": Removal.from_config(cfg)}

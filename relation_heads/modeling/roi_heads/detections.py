"""From predictions to detections: what removes duplicates, `MODEL.DUPLICATE_REMOVAL`.

Detectron2 ends every ROI head with NMS per class. In its place: Soft-NMS, which decays the scores
of overlapping boxes (Bodla et al., ICCV 2017; `layers.soft_nms`), with any trained detector; or a
network that learns which box of an object stays (Hu et al., CVPR 2018, section 4.3;
`layers.duplicate_removal`), trained with the detector or after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ...config.defaults import duplicate_removal_node
from ...layers.duplicate_candidates import Candidates, select_candidates
from ...layers.duplicate_losses import duplicate_loss, duplicate_targets, final_scores
from ...layers.duplicate_removal import DuplicateRemoval
from ...layers.soft_nms import soft_nms_per_class
from .many_classes import for_many_classes

METHODS = ("nms", "soft_nms", "learned")
DECAYS = ("gaussian", "linear")
# Logits (N, C + 1), and what the predictor makes N rows of boxes from: deltas (N, 4) or (N, 4 C),
# or features (N, D), see `many_classes`.
Predictions = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Removal:
    """See the keys of `MODEL.DUPLICATE_REMOVAL`."""

    method: str = "nms"
    decay: str = "gaussian"
    sigma: float = 0.5
    freeze: bool = False
    first_n: int = 100
    max_classes: int = 0
    thresholds: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9)
    train_threshold: float = 0.001
    positive_weight: float = 4.0
    loss_weight: float = 1.0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Removal:
        """
        Raises:
            ValueError: a value is not allowed; names the key, the value and what is.
        """
        node, key = duplicate_removal_node(cfg), "MODEL.DUPLICATE_REMOVAL"
        for name, allowed in {"TEST_METHOD": METHODS, "SOFT_NMS_DECAY": DECAYS}.items():
            if node[name] not in allowed:
                raise ValueError(
                    f"{key}.{name} must be one of {', '.join(allowed)}, got {node[name]!r}."
                )
        if not node.SOFT_NMS_SIGMA > 0:
            raise ValueError(f"{key}.SOFT_NMS_SIGMA must be above 0, got {node.SOFT_NMS_SIGMA}.")
        if not node.LEARN and (node.TEST_METHOD == "learned" or node.FREEZE):
            raise ValueError(
                f"{key}.TEST_METHOD learned and {key}.FREEZE are for the network that {key}.LEARN "
                "True puts at the end of the head."
            )
        if not node.THRESHOLDS or not all(0 < eta < 1 for eta in node.THRESHOLDS):
            raise ValueError(f"{key}.THRESHOLDS must be in (0, 1), got {node.THRESHOLDS}.")
        return cls(
            method=node.TEST_METHOD,
            decay=node.SOFT_NMS_DECAY,
            sigma=node.SOFT_NMS_SIGMA,
            freeze=node.FREEZE,
            first_n=node.FIRST_N,
            max_classes=node.MAX_CLASSES,
            thresholds=tuple(node.THRESHOLDS),
            train_threshold=node.SCORE_THRESH_TRAIN,
            positive_weight=node.POSITIVE_WEIGHT,
            loss_weight=node.LOSS_WEIGHT,
        )


class EndOfHead:
    """Mix-in before `StandardROIHeads` or `Res5ROIHeads`: `removal`, and the network that learns
    it, `duplicate_removal.*`, or None."""

    @configurable
    def __init__(
        self,
        *,
        removal: Removal | None = None,
        duplicate_removal: DuplicateRemoval | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            removal: how duplicates are removed; None for Detectron2's NMS.
            duplicate_removal: the network.
            kwargs: of the ROI heads.
        """
        super().__init__(**kwargs)
        self.removal = removal or Removal()
        self.duplicate_removal = duplicate_removal

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        args = super().from_config(cfg, input_shape)
        args["box_predictor"] = for_many_classes(args["box_predictor"], cfg)
        removal, node = Removal.from_config(cfg), duplicate_removal_node(cfg)
        network = None
        if node.LEARN:
            network = DuplicateRemoval(
                args["box_predictor"].cls_score.in_features,
                num_thresholds=len(removal.thresholds),
                logit_bias=0.0 if removal.freeze else -3.0,  # as released
            )
        return {**args, "removal": removal, "duplicate_removal": network}

    @property
    def ends_as_stock(self) -> bool:
        """Whether nothing is learned in training, and NMS is what ends the head at test time."""
        return not self.duplicate_removal if self.training else self.removal.method == "nms"

    def _duplicate_losses(
        self,
        predictor: FastRCNNOutputLayers,
        x: Tensor,
        predictions: Predictions,
        proposals: list[Instances],
        targets: list[Instances],
    ) -> dict[str, Tensor]:
        """`loss_duplicates` of all regions but appended ground truth; {} without the network.

        Args:
            predictor: made the predictions.
            x: (N, D) box features.
            predictions: of all regions.
            proposals: of each image.
            targets: the objects of each image.
        """
        if self.duplicate_removal is None:
            return {}
        if proposals[0].has("is_key"):
            is_key = torch.cat([p.is_key for p in proposals])
            x, (logits, second) = x[is_key], predictions
            predictions = logits[is_key], second[is_key]
            proposals = [p[p.is_key] for p in proposals]
        boxes = _clipped(predictor, predictions, proposals)
        removal = self.removal
        candidates = select_candidates(
            _log_scores(predictor, predictions[0]),
            [len(p) for p in proposals],
            first_n=removal.first_n,
            score_threshold=removal.train_threshold,
            max_classes=removal.max_classes or None,
            keep_classes=[t.gt_classes.unique() for t in targets],
        )
        logits = self.duplicate_removal(x, boxes, candidates)
        y = duplicate_targets(
            candidates,
            boxes,
            [t.gt_boxes.tensor for t in targets],
            [t.gt_classes for t in targets],
            removal.thresholds,
        )
        _log_duplicates(candidates, logits, targets)
        loss = duplicate_loss(candidates, logits, y, positive_weight=removal.positive_weight)
        return {"loss_duplicates": loss * removal.loss_weight}

    @torch.no_grad()
    def _detections(
        self,
        predictor: FastRCNNOutputLayers,
        x: Tensor,
        predictions: Predictions,
        proposals: list[Instances],
    ) -> list[Instances]:
        """Detections of each image, by descending score.

        Args:
            predictor: made the predictions; has the score and NMS thresholds and the limit.
            x: (N, D) box features.
            predictions: of all regions.
            proposals: of each image.

        Returns:
            `pred_boxes`, `scores`, `pred_classes`, as `FastRCNNOutputLayers.inference` gives them.
        """
        if self.removal.method == "nms":
            return predictor.inference(predictions, proposals)[0]
        if self.removal.method == "learned":
            return self._learned_detections(predictor, x, predictions, proposals)
        boxes = _clipped(predictor, predictions, proposals).split([len(p) for p in proposals])
        probabilities = predictor.predict_probs(predictions, proposals)
        return [
            self._soft_nms(predictor, corners, scores[:, :-1], p.image_size)
            for corners, scores, p in zip(boxes, probabilities, proposals, strict=True)
        ]

    def _soft_nms(
        self,
        predictor: FastRCNNOutputLayers,
        boxes: Tensor,
        scores: Tensor,
        image_size: tuple[int, int],
    ) -> Instances:
        """Of one image: boxes (R, 4) or (R, C, 4), scores (R, C)."""
        finite = boxes.flatten(1).isfinite().all(dim=1) & scores.isfinite().all(dim=1)
        boxes, scores = boxes[finite], scores[finite]
        limit = predictor.test_topk_per_image
        region, category, new_scores = soft_nms_per_class(
            boxes,
            scores,
            method=self.removal.decay,
            sigma=self.removal.sigma,
            iou_threshold=predictor.test_nms_thresh,
            score_threshold=predictor.test_score_thresh,
            max_detections=limit if limit >= 0 else None,
        )
        return _instances(image_size, boxes, region, category, new_scores)

    def _learned_detections(
        self,
        predictor: FastRCNNOutputLayers,
        x: Tensor,
        predictions: Predictions,
        proposals: list[Instances],
    ) -> list[Instances]:
        boxes = _clipped(predictor, predictions, proposals)
        log_scores = _log_scores(predictor, predictions[0])
        finite = boxes.flatten(1).isfinite().all(dim=1) & log_scores.isfinite().all(dim=1)
        boxes, log_scores, x = boxes[finite], log_scores[finite], x[finite]
        splits = [int(f.sum()) for f in finite.split([len(p) for p in proposals])]
        candidates = select_candidates(
            log_scores,
            splits,
            first_n=self.removal.first_n,
            score_threshold=predictor.test_score_thresh,
            max_classes=self.removal.max_classes or None,
        )
        scores = final_scores(candidates, self.duplicate_removal(x, boxes, candidates))
        limit, found = predictor.test_topk_per_image, []
        for rows, proposal in zip(
            candidates.split(torch.arange(len(candidates), device=x.device)), proposals, strict=True
        ):
            rows = rows[scores[rows] > predictor.test_score_thresh]
            order = scores[rows].argsort(descending=True, stable=True)
            rows = rows[order[:limit] if limit >= 0 else order]
            region, label = candidates.region[rows], candidates.label[rows]
            found.append(_instances(proposal.image_size, boxes, region, label, scores[rows]))
        return found


def _log_scores(predictor: FastRCNNOutputLayers, logits: Tensor) -> Tensor:
    """(N, C + 1) logits to (N, C) log s0."""
    if predictor.use_sigmoid_ce:
        return F.logsigmoid(logits[:, :-1].float())
    return logits.float().log_softmax(dim=1)[:, :-1]


@torch.no_grad()
def _clipped(
    predictor: FastRCNNOutputLayers, predictions: Predictions, proposals: list[Instances]
) -> Tensor:
    """The predicted boxes inside their images: (N, 4), or (N, C, 4) where every class has its own;
    what is not finite stays so."""
    boxes = []
    for corners, p in zip(predictor.predict_boxes(predictions, proposals), proposals, strict=True):
        height, width = p.image_size
        limits = corners.new_tensor([width, height, width, height])
        boxes.append(corners.unflatten(1, (-1, 4)).clamp(min=0).minimum(limits))
    stacked = torch.cat(boxes)
    return stacked[:, 0] if stacked.shape[1] == 1 else stacked


def _instances(
    image_size: tuple[int, int], boxes: Tensor, region: Tensor, label: Tensor, scores: Tensor
) -> Instances:
    result = Instances(image_size)
    result.pred_boxes = Boxes(boxes[region] if boxes.dim() == 2 else boxes[region, label])
    result.scores = scores
    result.pred_classes = label
    return result


@torch.no_grad()
def _log_duplicates(candidates: Candidates, logits: Tensor, targets: list[Instances]) -> None:
    """Scalar `duplicates/detections_per_object`: detections that would score above 0.5, divided by
    the objects; 1 is perfect."""
    shown = int((final_scores(candidates, logits) > 0.5).sum())
    objects = max(sum(len(t) for t in targets), 1)
    get_event_storage().put_scalar("duplicates/detections_per_object", shown / objects)

"""Iterative visual reasoning in ROI heads (Chen et al., CVPR 2018).

Detection:   pool -> box head -> f -> base predictor -> logits f_0, boxes ... the stock losses
             f, f_0, mid-level map -> `IterativeReasoning` ... loss_cls_{local,global,final}

Boxes always come from the base predictor, and gradients of the new losses stop before it, so that
base and backbone train by the stock losses alone. With MODULES [] the heads are the stock ones, bit
for bit.

Region classification (GIVEN_BOXES): the proposals are the boxes of the data set (see
`data.region_mapper`), nothing is matched, sampled, regressed or suppressed, the background has no
logit, and every box comes back with its `region_ids`.

Stock parameters keep their names; new ones are `reasoning.*`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
)
from detectron2.structures import ImageList, Instances
from torch import Tensor

from ...layers.reasoning import IterativeReasoning, ReasonedLogits
from .base import (
    Predictions,
    RegionSampling,
    RegionsROIHeads,
    Res5RegionsROIHeads,
    labelled_losses,
    regions_of,
)
from .reasoning_branch import (
    build_reasoning,
    chosen_prediction,
    named_predictions,
    reason,
    reasoning_config,
    reasoning_losses,
)


def _arguments(
    cfg: CfgNode, input_shape: dict[str, ShapeSpec], in_feature: str, feature_channels: int
) -> dict[str, Any]:
    """What both heads take from `cfg.MODEL.REASONING`."""
    node = reasoning_config(cfg)
    if in_feature not in input_shape:
        raise ValueError(
            f"MODEL.REASONING.LOCAL.IN_FEATURE must be one of {', '.join(input_shape)}, "
            f"got {in_feature!r}."
        )
    shape = input_shape[in_feature]
    return {
        "reasoning": build_reasoning(
            cfg,
            mid_channels=shape.channels,
            feature_channels=feature_channels,
            num_logits=cfg.MODEL.ROI_HEADS.NUM_CLASSES + (not node.GIVEN_BOXES),
        ),
        "in_feature": in_feature,
        "stride": shape.stride,
        "half_pixel": node.LOCAL.HALF_PIXEL,
        "foreground": node.FOREGROUND,
        "beta": node.BETA,
        "loss_weights": node.LOSS_WEIGHTS,
        "test_prediction": node.TEST_PREDICTION,
        "given_boxes": node.GIVEN_BOXES,
        "sampling": node.SAMPLING,
        "gt_as_keys": node.GT_AS_KEYS,
    }


class RegionReasoning(RegionSampling):
    """Mix-in for ROI heads with a `box_predictor`: reasoning over regions or over given boxes."""

    def _init_reasoning(
        self,
        *,
        reasoning: IterativeReasoning | None,
        in_feature: str,
        stride: int,
        half_pixel: bool = True,
        foreground: bool = True,
        beta: float = 0.5,
        loss_weights: Sequence[float] = (1.0, 1.0, 1.0),
        test_prediction: str = "final",
        given_boxes: bool = False,
        sampling: str = "loss",
        gt_as_keys: bool = False,
    ) -> None:
        """
        Args:
            reasoning: None for the stock head.
            in_feature, stride: of the mid-level map.
            half_pixel, foreground, beta, loss_weights, test_prediction, given_boxes, sampling,
                gt_as_keys: see the keys of `MODEL.REASONING`.
        """
        self.reasoning = reasoning
        self.mid_feature, self.mid_stride = in_feature, stride
        self.half_pixel, self.foreground = half_pixel, foreground
        self.beta, self.reasoning_weights = beta, tuple(loss_weights)
        self.test_prediction = test_prediction
        self.given_boxes = given_boxes
        self._init_sampling(sampling if reasoning else "regions", gt_as_keys)
        if given_boxes:  # nothing is regressed
            self.box_predictor.bbox_pred.requires_grad_(False)

    @property
    def is_stock(self) -> bool:
        """Whether there are no modules."""
        return self.reasoning is None

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """See `ROIHeads.forward`; given boxes take a way of their own."""
        if self.given_boxes:
            return self._classify_given(self._embed(features, proposals), features, proposals)
        return super().forward(images, features, proposals, targets)

    def _reason(
        self,
        x: Tensor,
        logits: Tensor,
        features: dict[str, Tensor],
        proposals: list[Instances],
    ) -> ReasonedLogits:
        """
        Args:
            x: (N, D) features of the proposals.
            logits: (N, C + 1) or, for given boxes, (N, C).
            features: of the backbone.
            proposals: of all images.
        """
        return reason(
            self.reasoning,
            logits,
            x,
            regions_of(proposals),
            features[self.mid_feature],
            stride=self.mid_stride,
            num_classes=self.num_classes,
            half_pixel=self.half_pixel,
            foreground=self.foreground,
        )

    def _box_losses(
        self,
        x: Tensor,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
    ) -> tuple[dict[str, Tensor], Predictions]:
        """The stock losses and those of the reasoning, and the base predictions."""
        if self.reasoning is None:
            return super()._box_losses(x, features, proposals, targets)
        base = self.box_predictor(x)
        losses = labelled_losses(self.box_predictor, base, proposals)
        out = self._reason(x, base[0], features, proposals)
        losses.update(self._reasoning_losses(out, proposals))
        reasoned = chosen_prediction(out, self.test_prediction), base[1]
        losses.update(self._duplicate_losses(self.box_predictor, x, reasoned, proposals, targets))
        return losses, base

    def _reasoning_losses(
        self, out: ReasonedLogits, proposals: list[Instances]
    ) -> dict[str, Tensor]:
        return reasoning_losses(out, proposals, beta=self.beta, weights=self.reasoning_weights)

    def _box_detections(
        self, x: Tensor, features: dict[str, Tensor], proposals: list[Instances]
    ) -> list[Instances]:
        """What is found at test time, by the prediction that is asked for."""
        if self.reasoning is None:
            return super()._box_detections(x, features, proposals)
        logits, deltas = self.box_predictor(x)
        out = self._reason(x, logits, features, proposals)
        logits = chosen_prediction(out, self.test_prediction)
        return self._detections(self.box_predictor, x, (logits, deltas), proposals)

    def _classify_given(
        self, x: Tensor, features: dict[str, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Region classification: losses in training, else instances with `region_ids`,
        `class_probs` (R, C) and one field `class_probs_<name>` for every prediction."""
        logits = self.box_predictor(x)[0][:, : self.num_classes]  # (N, C), no background
        out = self._reason(x, logits, features, proposals) if self.reasoning else None
        if self.training:
            labels = torch.cat([p.gt_classes for p in proposals])
            losses = {
                "loss_cls": F.cross_entropy(logits, labels, reduction="sum") / max(len(labels), 1)
            }
            return [], {**losses, **(self._reasoning_losses(out, proposals) if out else {})}
        named = named_predictions(out) if out else {"plain": logits}
        asked = chosen_prediction(out, self.test_prediction) if out else logits
        found = []
        splits = [len(p) for p in proposals]
        probabilities = {
            name: f.float().softmax(dim=1).split(splits) for name, f in {"": asked, **named}.items()
        }
        for image, given in enumerate(proposals):
            result = Instances(given.image_size)
            result.pred_boxes = given.proposal_boxes
            result.region_ids = given.region_ids
            for name, per_image in probabilities.items():
                result.set(f"class_probs_{name}".rstrip("_"), per_image[image])
            result.scores, result.pred_classes = result.class_probs.max(dim=1)
            found.append(result)
        return found, {}


@ROI_HEADS_REGISTRY.register()
class ReasoningROIHeads(RegionReasoning, RegionsROIHeads):
    """`StandardROIHeads` (FPN, DC5, C5) with iterative reasoning."""

    @configurable
    def __init__(self, *, reasoning: dict[str, Any], **kwargs: Any) -> None:
        """
        Args:
            reasoning: arguments of `RegionReasoning._init_reasoning`.
            kwargs: see `StandardROIHeads`.
        """
        super().__init__(**kwargs)
        self._init_reasoning(**reasoning)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        args = super().from_config(cfg, input_shape)
        in_feature = reasoning_config(cfg).LOCAL.IN_FEATURE
        if in_feature not in input_shape and len(args["box_in_features"]) == 1:
            in_feature = args["box_in_features"][0]
        channels = args["box_head"].output_shape.channels
        return {**args, "reasoning": _arguments(cfg, input_shape, in_feature, channels)}


@ROI_HEADS_REGISTRY.register()
class Res5ReasoningROIHeads(RegionReasoning, Res5RegionsROIHeads):
    """`Res5ROIHeads` (C4) with iterative reasoning: h from res4, f from pooled res5."""

    @configurable
    def __init__(self, *, reasoning: dict[str, Any], **kwargs: Any) -> None:
        """
        Args:
            reasoning: arguments of `RegionReasoning._init_reasoning`.
            kwargs: see `Res5ROIHeads`.
        """
        super().__init__(**kwargs)
        self._init_reasoning(**reasoning)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        args = super().from_config(cfg, input_shape)
        channels = args["box_predictor"].cls_score.in_features
        in_feature = args["in_features"][0]
        return {**args, "reasoning": _arguments(cfg, input_shape, in_feature, channels)}

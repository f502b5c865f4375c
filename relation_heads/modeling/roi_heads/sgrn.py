"""SGRN ROI heads (Xu et al., CVPR 2019): classify once, reason over a graph, classify again.

One stage (plug-in), REFINE False:

    pool -> box head -> f -> base predictor -> logits s ....... loss_cls, loss_box_reg
                        f, s -> `SGRNStage` on the same boxes .. loss_cls_sgrn, loss_box_reg_sgrn

Two stages (released code), REFINE True: the base predictor's boxes are labelled and sampled anew at
IoU 0.6, pooled and embedded by the same box head, and the graph is on them. With GRAPH_DIMS [] the
second stage has no graph: the fair twin of two stages, and with one stage the stock head itself,
bit for bit.

Stock parameters keep their names, so that a trained Faster R-CNN loads completely; new ones are
`sgrn.graph.*` and `sgrn.predictor.*` (and `sgrn_box_head.*` with SHARE_FC False).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    build_box_head,
)
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from .base import (
    Predictions,
    RegionSampling,
    RegionsROIHeads,
    Res5RegionsROIHeads,
    labelled_losses,
    regions_of,
)
from .sgrn_stage import (
    Resampler,
    SGRNStage,
    best_foreground_boxes,
    refined_proposals,
    sgrn_config,
)


def _reasoning(cfg: CfgNode, dim: int) -> dict[str, Any]:
    """What both heads take from `cfg.MODEL.SGRN`, for box features of `dim` channels."""
    node = sgrn_config(cfg)
    stage = SGRNStage(cfg, dim) if node.GRAPH_DIMS or node.REFINE else None
    return {
        "sgrn": stage,
        "resampler": Resampler(cfg, node.SAMPLING) if node.REFINE else None,
        "freeze": node.FREEZE,
        "ensemble": node.TEST_ENSEMBLE,
        "loss_weights": node.LOSS_WEIGHTS,
        "sampling": node.SAMPLING,
        "gt_as_keys": node.GT_AS_KEYS,
    }


def _freeze(modules: Sequence[nn.Module]) -> None:
    for module in modules:
        FrozenBatchNorm2d.convert_frozen_batchnorm(module.requires_grad_(False))


class SGRNReasoning(RegionSampling):
    """Mix-in for ROI heads with a `box_predictor`: the second stage, its losses and detections."""

    def _init_sgrn(
        self,
        *,
        base: Sequence[nn.Module],
        sgrn: SGRNStage | None,
        resampler: Resampler | None = None,
        freeze: str = "none",
        ensemble: str = "last",
        loss_weights: Sequence[float] = (1.0, 1.0),
        sampling: str = "loss",
        gt_as_keys: bool = False,
    ) -> None:
        """
        Args:
            base: the modules of the base head, frozen unless `freeze` is "none".
            sgrn: the second stage, None for the stock head.
            resampler: of the refined boxes; None for one stage.
            freeze, ensemble, loss_weights, sampling, gt_as_keys: see the keys of `MODEL.SGRN`.
        """
        self.sgrn = sgrn
        self.resampler = resampler
        self.freeze = freeze
        self.ensemble = ensemble
        self.loss_weights = tuple(loss_weights)
        self._init_sampling(sampling if sgrn else "regions", gt_as_keys)
        if ensemble == "union_nms" and self.removal.method != "nms":
            raise ValueError(
                "MODEL.SGRN.TEST_ENSEMBLE union_nms is NMS over both stages: set it to last or "
                f"mean for MODEL.DUPLICATE_REMOVAL.TEST_METHOD {self.removal.method}."
            )
        if freeze != "none":
            _freeze(base)

    @property
    def is_stock(self) -> bool:
        """Whether there is no second stage."""
        return self.sgrn is None

    def _embed_refined(self, features: dict[str, Tensor], proposals: list[Instances]) -> Tensor:
        """Features (N, D) of refined proposals; the first stage's box head is shared."""
        return self._embed(features, proposals)

    def _reason(
        self,
        x: Tensor,
        predictions: Predictions,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[Predictions, list[Instances], Tensor]:
        """The second stage's predictions, the proposals they belong to, and the features of these.

        Args:
            x: (N, D) features of the proposals.
            predictions: of the base predictor.
            features: of the backbone, for refined proposals.
            proposals: of all images.
            targets: in training, the objects.
        """
        logits = predictions[0]
        if self.box_predictor.use_sigmoid_ce:
            logits = torch.cat([logits[:, :-1], torch.zeros_like(logits[:, -1:])], dim=1)
        if self.resampler:
            boxes = best_foreground_boxes(self.box_predictor, predictions, proposals)
            proposals = refined_proposals(boxes, proposals, drop_empty=self.training)
            if self.training:
                with get_event_storage().name_scope("sgrn"):
                    proposals = self.resampler.label_and_sample_proposals(proposals, targets)
            logits = logits[torch.cat([p.row for p in proposals])]
            x = self._embed_refined(features, proposals)
        regions = regions_of(proposals)
        return self.sgrn(x, logits, self.box_predictor.cls_score, regions), proposals, x

    def _box_losses(
        self,
        x: Tensor,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
    ) -> tuple[dict[str, Tensor], Predictions]:
        """Losses of both stages, and the base predictions."""
        if self.sgrn is None:
            return super()._box_losses(x, features, proposals, targets)
        check_frozen(self.freeze, features)
        base = self.box_predictor(x)
        predictions, refined, x = self._reason(x, base, features, proposals, targets)
        losses = {}
        if self.freeze == "none":
            losses = _scaled(
                labelled_losses(self.box_predictor, base, proposals), self.loss_weights[0]
            )
        with get_event_storage().name_scope("sgrn"):
            second = labelled_losses(self.sgrn.predictor, predictions, refined)
        second = _scaled(second, self.loss_weights[1])
        losses.update({f"{name}_sgrn": value for name, value in second.items()})
        losses.update(self._duplicate_losses(self.sgrn.predictor, x, predictions, refined, targets))
        return losses, base

    def _box_detections(
        self, x: Tensor, features: dict[str, Tensor], proposals: list[Instances]
    ) -> list[Instances]:
        """What the second stage, or both, find."""
        if self.sgrn is None:
            return super()._box_detections(x, features, proposals)
        base = self.box_predictor(x)
        last, refined, x = self._reason(x, base, features, proposals)
        predictor = self.sgrn.predictor
        if self.ensemble == "union_nms":
            stages = ((self.box_predictor, base, proposals), (predictor, last, refined))
            boxes = [p.predict_boxes(*outputs) for p, *outputs in stages]
            scores = [p.predict_probs(*outputs) for p, *outputs in stages]
            return fast_rcnn_inference(
                [torch.cat(both) for both in zip(*boxes, strict=True)],
                [torch.cat(both) for both in zip(*scores, strict=True)],
                [p.image_size for p in proposals],
                predictor.test_score_thresh,
                predictor.test_nms_thresh,
                predictor.test_topk_per_image,
            )[0]
        if self.ensemble == "mean":  # of the logits, as in Reasoning-RCNN
            last = ((base[0] + last[0]) / 2, last[1])
        return self._detections(predictor, x, last, refined)


def _scaled(losses: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    return {name: value * weight for name, value in losses.items()}


@ROI_HEADS_REGISTRY.register()
class SGRNROIHeads(SGRNReasoning, RegionsROIHeads):
    """`StandardROIHeads` (FPN, DC5, C5) with SGRN; `MODEL.ROI_HEADS.NAME SGRNROIHeads` on any
    stock config is enough."""

    @configurable
    def __init__(
        self, *, sgrn_box_head: nn.Module | None = None, reasoning: dict[str, Any], **kwargs: Any
    ) -> None:
        """
        Args:
            sgrn_box_head: the second stage's own box head; None shares the first one's.
            reasoning: arguments of `SGRNReasoning._init_sgrn`, without `base`.
            kwargs: see `StandardROIHeads`.
        """
        super().__init__(**kwargs)
        self.sgrn_box_head = sgrn_box_head
        self._init_sgrn(base=[self.box_head, self.box_predictor], **reasoning)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        args = super().from_config(cfg, input_shape)
        args["reasoning"] = _reasoning(cfg, args["box_head"].output_shape.channels)
        node = sgrn_config(cfg)
        if node.REFINE and not node.SHARE_FC:
            resolution = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
            channels = input_shape[args["box_in_features"][0]].channels
            args["sgrn_box_head"] = build_box_head(
                cfg, ShapeSpec(channels=channels, height=resolution, width=resolution)
            )
        return args

    def _embed_refined(self, features: dict[str, Tensor], proposals: list[Instances]) -> Tensor:
        head = self.box_head if self.sgrn_box_head is None else self.sgrn_box_head
        return head(self._pool(features, proposals))


@ROI_HEADS_REGISTRY.register()
class Res5SGRNROIHeads(SGRNReasoning, Res5RegionsROIHeads):
    """`Res5ROIHeads` (C4) with SGRN on pooled res5."""

    @configurable
    def __init__(self, *, reasoning: dict[str, Any], **kwargs: Any) -> None:
        """
        Args:
            reasoning: arguments of `SGRNReasoning._init_sgrn`, without `base`.
            kwargs: see `Res5ROIHeads`.
        """
        super().__init__(**kwargs)
        self._init_sgrn(base=[self.res5, self.box_predictor], **reasoning)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not sgrn_config(cfg).SHARE_FC:
            raise ValueError(
                "MODEL.SGRN.SHARE_FC False needs a box head of its own for the second stage, and "
                "a C4 model has none (its features are res5): set it True, or use an FPN model."
            )
        args = super().from_config(cfg, input_shape)
        return {**args, "reasoning": _reasoning(cfg, args["box_predictor"].cls_score.in_features)}


def check_frozen(freeze: str, features: dict[str, Tensor]) -> None:
    """Raises a RuntimeError where FREEZE is "all" and the backbone trains all the same."""
    if freeze == "all" and any(f.requires_grad for f in features.values()):
        raise RuntimeError(
            "MODEL.SGRN.FREEZE is all, but the backbone is not frozen: an ROI head cannot freeze "
            "what is below it. This package's tools/train_net.py does; elsewhere call "
            "relation_heads.engine.freeze_below_roi_heads(model) before the optimizer is built."
        )

"""Detectron2's Cascade R-CNN heads around a `Mechanism`, see `heads.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from detectron2.structures import Instances
from torch import Tensor, nn

from ..many_classes import for_many_classes
from .heads import Relational, RelationalROIHeads, told
from .refine import refined_proposals
from .seam import Classified, Losses, Maps, classify


class CascadeRelationalROIHeads(Relational, CascadeROIHeads):
    """Cascade R-CNN: the box head of every stage may listen to regions, the mechanism follows the
    last stage and takes its place in the mean over stages."""

    @classmethod
    def _adapted(cls, cfg: CfgNode, args: dict[str, Any]) -> dict[str, Any]:
        return {"box_predictors": [for_many_classes(p, cfg) for p in args["box_predictors"]]}

    def _box_heads(self) -> list[nn.Module]:
        return list(self.box_head)

    def _embed(
        self,
        maps: Maps,
        proposals: list[Instances],
        box_head: nn.Module | None = None,
        stage: int = -1,
    ) -> Tensor:
        pooled = self.box_pooler(
            [maps[f] for f in self.box_in_features], [p.proposal_boxes for p in proposals]
        )
        if self.training:
            pooled = _ScaleGradient.apply(pooled, 1.0 / self.num_cascade_stages)
        head = self.box_head[stage] if box_head is None else box_head
        is_last = stage in (-1, self.num_cascade_stages - 1)  # which the mechanism follows
        return (self._told_shared if is_last else told)(head, pooled, proposals)

    forward = RelationalROIHeads.forward

    def _forward_box(
        self, features: Maps, proposals: list[Instances], targets: list[Instances] | None = None
    ) -> Losses | list[Instances]:
        """See `CascadeROIHeads._forward_box`."""
        base, losses = self._base(features, proposals, targets)
        found = self._conclude(base, features, targets)
        return {**losses, **found} if self.training else found

    def _base(
        self, maps: Maps, proposals: list[Instances], targets: list[Instances] | None
    ) -> tuple[Classified, Losses]:
        """Of the last stage; the losses of the stages before it."""
        losses, earlier = {}, ()
        for k, predictor in enumerate(self.box_predictor):
            x = self._embed(maps, proposals, stage=k)
            base = replace(classify(x, predictor, proposals), name=f"stage{k}", earlier=earlier)
            if k + 1 == self.num_cascade_stages:
                break
            if self.training:
                losses.update(base.losses())
            base, proposals = self._refined(base, k + 1, targets)
            earlier = (*base.earlier, replace(base, earlier=()))
        return base, losses

    def _refined(
        self, base: Classified, stage: int, targets: list[Instances] | None
    ) -> tuple[Classified, list[Instances]]:
        """The proposals of the next stage, and the classification of the same rows. What was
        outside the loss stays outside."""
        proposals = refined_proposals(base.boxes(), base.proposals, training=self.training)
        if not self.training:
            return base, proposals
        base = base.select([p.row for p in proposals])
        self._match_and_label_boxes(proposals, stage, targets)
        for new, old in zip(proposals, base.proposals, strict=True):
            new.gt_classes[old.gt_classes < 0] = -1
        return base, proposals

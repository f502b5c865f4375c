"""Detectron2's ROI heads around a `Mechanism`: FPN (DC5, C5) and C4, each once; `cascade.py` has
Cascade R-CNN's.

The way of a proposal: `_forward_box` (or `forward` in C4 models) embeds it, the base predictor
classifies it, and `_conclude` gives this classification to the mechanism (`seam.py`) and what comes
back to the end (`end.py`). Registered names are in `names.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    Res5ROIHeads,
    StandardROIHeads,
    select_foreground_proposals,
)
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ...config.defaults import node
from ...config.problems import Problem, raise_fatal
from ..context_res5 import ContextRes5
from ..many_classes import for_many_classes
from ..region_pooler import KEY as REGION_FEATURES
from ..region_pooler import LearnedRegionPooler, learned_poolers, pooler_problems, within_images
from ..scripting import as_stock
from ..watch import watched
from .end import End
from .relation import PooledRelations, has_relations, relation_problems, same_sampling
from .sampling import RegionSampling
from .seam import (
    Classified,
    ListensToRegions,
    Losses,
    Maps,
    Mechanism,
    Shapes,
    classify,
    regions_of,
)


class Relational(RegionSampling):
    """Mix-in before the ROI heads of Detectron2: a mechanism, the end, and what calls them."""

    mechanism_class: type[Mechanism] = Mechanism  # what `from_config` builds
    end_class: type[End] = End

    @configurable
    def __init__(
        self, *, mechanism: Mechanism | None = None, end: End | None = None, **kwargs: Any
    ) -> None:
        """
        Args:
            mechanism: what reasons over the regions; None for nothing.
            end: what makes detections of classified regions; None for Detectron2's NMS.
            kwargs: of Detectron2's ROI heads.
        """
        super().__init__(**kwargs)
        self.mechanism = mechanism or Mechanism()
        self.end = end or End()
        # The first part that listens to other regions decides which of them are there.
        heads = [h for h in self._box_heads() if isinstance(h, ListensToRegions)]
        parts = [p for p in (self.mechanism, *heads, self.end) if p.sampling]
        part = parts[0] if parts else Mechanism()
        self._init_sampling(part.sampling or "regions", part.gt_as_keys)

    def __prepare_scriptable__(self) -> nn.Module:
        parts = {
            "a mechanism": type(self.mechanism) is not Mechanism,
            "an end that is not NMS": self.end.method != "nms",
            "learned region features": any(
                isinstance(child, LearnedRegionPooler) for child in self.children()
            ),
        }
        return as_stock(self, [name for name, on in parts.items() if on], ("mechanism", "end"))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        raise_fatal(cls.problems(cfg))
        args = super().from_config(cfg, input_shape)
        args.update(learned_poolers(cfg, args, input_shape))
        args.update(cls._adapted(cfg, args))
        shapes = cls._shapes(cfg, args, input_shape)
        mechanism = cls.mechanism_class.build(cfg, shapes)
        return {**args, "mechanism": mechanism, "end": cls.end_class.build(cfg, shapes.dim)}

    @classmethod
    def problems(cls, cfg: CfgNode) -> Iterator[Problem]:
        """What is wrong with the keys that these heads read."""
        is_c4, mechanism = issubclass(cls, Res5ROIHeads), cls.mechanism_class
        is_cascade = issubclass(cls, CascadeROIHeads)
        if has_relations(cfg):
            yield from relation_problems(cfg, is_c4=is_c4, is_cascade=is_cascade)
            if mechanism.is_on(cfg) and any(node(cfg, "RELATION").NUM_RELATIONS):
                yield from same_sampling(cfg, mechanism.key)
        yield from mechanism.problems(cfg, is_c4=is_c4)
        yield from cls.end_class.problems(cfg)
        yield from pooler_problems(cfg, is_c4=is_c4)

    @classmethod
    def reads(cls, cfg: CfgNode) -> set[str]:
        """Names of the nodes of this package's keys that these heads read."""
        nodes = {cls.mechanism_class.key, cls.end_class.key, REGION_FEATURES}
        return nodes | {"RELATION"} if has_relations(cfg) else nodes

    @classmethod
    def _adapted(cls, cfg: CfgNode, args: dict[str, Any]) -> dict[str, Any]:
        """Arguments of Detectron2's heads that change."""
        return {"box_predictor": for_many_classes(args["box_predictor"], cfg)}

    @classmethod
    def _shapes(
        cls, cfg: CfgNode, args: dict[str, Any], input_shape: dict[str, ShapeSpec]
    ) -> Shapes:
        features, pooled = cfg.MODEL.ROI_HEADS.IN_FEATURES, None
        if "res5" not in args:  # which C4 models have in place of a box head
            size = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
            pooled = ShapeSpec(input_shape[features[0]].channels, height=size, width=size)
        predictor = args.get("box_predictor") or args["box_predictors"][-1]
        return Shapes(
            dim=predictor.cls_score.in_features,
            num_logits=cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1,
            maps=input_shape,
            in_features=features,
            pooled=pooled,
        )

    def forward_with_given_boxes(
        self, features: Maps, instances: list[Instances]
    ) -> list[Instances]:
        """See `StandardROIHeads.forward_with_given_boxes`."""
        with within_images(self, instances):
            found: list[Instances] = super().forward_with_given_boxes(features, instances)
        return found

    def _box_heads(self) -> list[nn.Module]:
        """Box heads of all stages."""
        return [self.box_head]

    def _embed(
        self, maps: Maps, proposals: list[Instances], box_head: nn.Module | None = None
    ) -> Tensor:
        """x (N, D) of the proposals."""
        pooled = self.box_pooler(
            [maps[f] for f in self.box_in_features], [p.proposal_boxes for p in proposals]
        )  # (N, C, h, w)
        head = self.box_head if box_head is None else box_head
        return self._told_shared(head, pooled, proposals)

    def _told_shared(
        self, box_head: nn.Module, pooled: Tensor, proposals: list[Instances]
    ) -> Tensor:
        """x (N, D) of a box head that the mechanism's classifications share, or have each; of the
        rows `_wanted`."""
        wanted = self._wanted(proposals)
        if getattr(self.mechanism, "box_head", None) is None:
            return self.mechanism.shared(told(box_head, pooled, proposals, wanted))
        return told(box_head, self.mechanism.shared(pooled), proposals, wanted)

    def _wanted(self, proposals: list[Instances]) -> list[Tensor] | None:
        """Of each image (R,) bool, the regions that are read behind the box head; None for all. In
        training these are the regions of the loss, where the box head alone listens to others."""
        reads_all = (
            not self.training
            or self.sampling != "loss"
            or type(self.mechanism) is not Mechanism
            or self.end.sampling is not None
            or len(self._box_heads()) > 1  # the next stage of Cascade R-CNN refines all boxes
            or getattr(self, "train_on_pred_boxes", False)  # which moves all boxes
        )
        return None if reads_all else [p.gt_classes >= 0 for p in proposals]

    def _classified(self, x: Tensor, proposals: list[Instances]) -> Classified:
        """x of the rows `_wanted` by the base predictor."""
        wanted = self._wanted(proposals)
        if wanted is not None:
            proposals = [p[rows] for p, rows in zip(proposals, wanted, strict=True)]
        return classify(x, self.box_predictor, proposals)

    def _base(
        self, maps: Maps, proposals: list[Instances], targets: list[Instances] | None
    ) -> tuple[Classified, Losses]:
        """The base classification, and in training the losses of what comes before it."""
        return self._classified(self._embed(maps, proposals), proposals), {}

    def _reasoned(
        self, base: Classified, maps: Maps, targets: list[Instances] | None
    ) -> tuple[Classified, Losses]:
        """What the mechanism makes of the base classification."""
        return self.mechanism(base, maps, partial(self._embed, maps), targets)

    def _conclude(self, base: Classified, maps: Maps, targets: list[Instances] | None) -> Any:
        """Losses of the box branch in training, else detections of each image."""
        last, losses = self._reasoned(base, maps, targets)
        if self.training:
            return losses if self.end.is_beside else {**losses, **self.end.losses(last, targets)}
        seen = watched()
        if seen:
            seen.last = last
        return self.end(last)

    def _losses_beside(
        self, maps: Maps, proposals: list[Instances], targets: list[Instances] | None
    ) -> Losses:
        """Losses of an end that learns beside the detector: from all proposals, classified as at
        test time. They are no part of the detector's own pass, which is that of a head without this
        end, bit for bit.

        Args:
            maps: of the backbone.
            proposals: of the RPN, without appended ground truth.
            targets: None at test time.
        """
        if not (self.training and self.end.is_beside):
            return {}
        with torch.no_grad(), at_test_time(self):
            base, _ = self._base(maps, proposals, None)
            last, _ = self._reasoned(base, maps, None)
        return self.end.losses(last, targets)


@contextmanager
def at_test_time(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode; afterwards each in the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def told(
    box_head: nn.Module,
    pooled: Tensor,
    proposals: list[Instances],
    wanted: list[Tensor] | None = None,
) -> Tensor:
    """x (N, D) of a box head, which is told the regions if it listens to them, and which of them
    are wanted if not all are."""
    if isinstance(box_head, ListensToRegions):
        regions = regions_of(proposals, between_stages=box_head.between_stages)
        rows = () if wanted is None else (torch.cat(wanted),)
        return box_head(pooled, regions, *rows).flatten(1)
    return box_head(pooled).flatten(1)


class RelationalROIHeads(Relational, StandardROIHeads):
    """FPN, DC5, C5."""

    def forward(
        self,
        images: ImageList,
        features: Maps,
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], Losses]:
        """See `StandardROIHeads.forward`; Cascade R-CNN's gives the box branch the targets, too."""
        with within_images(self, proposals):
            found, losses = CascadeROIHeads.forward(self, images, features, proposals, targets)
            return found, {**losses, **self._losses_beside(features, proposals, targets)}

    def _forward_box(
        self, features: Maps, proposals: list[Instances], targets: list[Instances] | None = None
    ) -> Losses | list[Instances]:
        """See `StandardROIHeads._forward_box`."""
        base, _ = self._base(features, proposals, targets)
        found = self._conclude(base, features, targets)
        if self.training and self.train_on_pred_boxes:
            base.move_proposals()
        return found


class _BoxHeadAfterRes5(ContextRes5, Res5ROIHeads):
    """`Res5ROIHeads` with a box head, called (x, regions), or None for x itself."""

    @configurable
    def __init__(self, *, box_head: nn.Module | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.box_head = box_head


class Res5RelationalROIHeads(Relational, _BoxHeadAfterRes5):
    """C4: x is the mean of res5, which boxes and masks share. The box head is there where
    `MODEL.ROI_BOX_HEAD.NAME` puts relation modules behind the mean."""

    @classmethod
    def _adapted(cls, cfg: CfgNode, args: dict[str, Any]) -> dict[str, Any]:
        dim = args["box_predictor"].cls_score.in_features
        head = PooledRelations(cfg, dim) if has_relations(cfg) else None
        return {**super()._adapted(cfg, args), "box_head": head}

    def _res5(self, maps: Maps, proposals: list[Instances]) -> Tensor:
        """(N, D, h, w) of the proposals."""
        return self._shared_roi_transform(
            [maps[f] for f in self.in_features], [p.proposal_boxes for p in proposals]
        )

    def _mean(self, res5: Tensor, proposals: list[Instances]) -> Tensor:
        """(N, D, h, w) to x (N, D)."""
        x = res5.mean(dim=[2, 3])
        if self.box_head is not None:
            x = told(self.box_head, x, proposals, self._wanted(proposals))
        return self.mechanism.shared(x)

    def _embed(
        self, maps: Maps, proposals: list[Instances], box_head: nn.Module | None = None
    ) -> Tensor:
        return self._mean(self._res5(maps, proposals), proposals)

    def forward(
        self,
        images: ImageList,
        features: Maps,
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], Losses]:
        """See `Res5ROIHeads.forward`."""
        with within_images(self, proposals):
            return self._forward(features, proposals, targets)

    def _forward(
        self, features: Maps, proposals: list[Instances], targets: list[Instances] | None
    ) -> tuple[list[Instances], Losses]:
        given = proposals
        if self.training:
            proposals = self.label_and_sample_proposals(proposals, targets)
        res5 = self._res5(features, proposals)
        base = self._classified(self._mean(res5, proposals), proposals)
        found = self._conclude(base, features, targets)
        if not self.training:
            return self.forward_with_given_boxes(features, found), {}
        if self.mask_on:
            proposals, foreground = select_foreground_proposals(proposals, self.num_classes)
            found.update(self.mask_head(res5[torch.cat(foreground)], proposals))
        return [], {**found, **self._losses_beside(features, given, targets)}

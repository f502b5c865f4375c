"""Object relation modules in the box head (Hu et al., CVPR 2018, eq. 10).

FPN, DC5:   pool -> fc1 -> {+ relation}^r1 -> ReLU -> fc2 -> {+ relation}^r2 -> ReLU -> predictor
C4:         pool -> res5 -> mean -> {+ relation}^r1 -> ReLU -> {+ relation}^r2 -> ReLU -> predictor

The maths is `layers.object_relation`; shapes: N regions of all images, D channels.
The paper defines r > 1 without saying where its ReLU goes; here r modules follow one another, each
with its residual, and the ReLU comes once after them. With r1 = r2 = 0 both heads are Detectron2's
own, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    FastRCNNConvFCHead,
)
from detectron2.structures import Instances
from torch import Tensor, nn

from ...config.defaults import relation_node
from ...layers import ObjectRelation, Regions
from ...layers.object_relation import GEOMETRIES, IMPLEMENTATIONS, INITS
from .base import (
    SAMPLINGS,
    Predictions,
    RegionSampling,
    RegionsROIHeads,
    Res5RegionsROIHeads,
    regions_of,
)

NORMALIZE_BY = ("query", "key")


def _relation_config(cfg: CfgNode) -> CfgNode:
    """`cfg.MODEL.RELATION`, checked.

    Raises:
        ValueError: a value is not allowed; names the key, the value and what is.
    """
    node = relation_node(cfg)
    for key, allowed in {
        "GEOMETRY": GEOMETRIES,
        "NORMALIZE_BY": NORMALIZE_BY,
        "INIT": INITS,
        "IMPLEMENTATION": IMPLEMENTATIONS,
        "SAMPLING": SAMPLINGS,
    }.items():
        if node[key] not in allowed:
            raise ValueError(
                f"MODEL.RELATION.{key} must be one of {', '.join(allowed)}, got {node[key]!r}."
            )
    counts = node.NUM_RELATIONS
    if not (len(counts) == 2 and all(isinstance(r, int) and r >= 0 for r in counts)):
        raise ValueError(
            f"MODEL.RELATION.NUM_RELATIONS must be two numbers [r1, r2] >= 0, got {counts}."
        )
    return node


def _build_relations(cfg: CfgNode, dim: int) -> list[nn.ModuleList]:
    """r1 modules and r2 modules, all for features of `dim` channels."""
    node = _relation_config(cfg)
    if any(node.NUM_RELATIONS) and (node.NUM_HEADS < 1 or dim % node.NUM_HEADS):
        raise ValueError(
            f"MODEL.RELATION.NUM_HEADS {node.NUM_HEADS} must divide the {dim} channels of the box "
            "features (MODEL.ROI_BOX_HEAD.FC_DIM, or the width of res5 in a C4 model)."
        )
    return [
        nn.ModuleList(
            ObjectRelation(
                dim,
                num_heads=node.NUM_HEADS,
                key_dim=node.KEY_DIM,
                geometry=node.GEOMETRY,
                normalize_by=node.NORMALIZE_BY,
                init=node.INIT,
                implementation=node.IMPLEMENTATION,
            )
            for _ in range(count)
        )
        for count in node.NUM_RELATIONS
    ]


@ROI_BOX_HEAD_REGISTRY.register()
class RelationBoxHead(FastRCNNConvFCHead):
    """`FastRCNNConvFCHead` with relation modules between a fc and its ReLU.

    Stock parameters keep their names; new ones are `relation1.*` after `fc1`, `relation2.*` after
    `fc2`. Called by `RelationROIHeads`.
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, relations: Sequence[nn.ModuleList], **kwargs: Any
    ) -> None:
        """
        Args:
            input_shape: of the pooled features (C, h, w).
            relations: the modules after fc1 and those after fc2, called (x, regions).
            kwargs: see `FastRCNNConvFCHead`.
        """
        super().__init__(input_shape, **kwargs)
        needed = max((k for k, stage in enumerate(relations, 1) if len(stage)), default=0)
        if needed > len(self.fcs):
            raise ValueError(
                f"MODEL.RELATION.NUM_RELATIONS {[len(r) for r in relations]} needs "
                f"MODEL.ROI_BOX_HEAD.NUM_FC >= {needed}, got {len(self.fcs)}."
            )
        for k, stage in enumerate(relations, 1):
            self.add_module(f"relation{k}", stage)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        relations = _build_relations(cfg, cfg.MODEL.ROI_BOX_HEAD.FC_DIM)
        return {**super().from_config(cfg, input_shape), "relations": relations}

    @property
    def relations(self) -> list[nn.ModuleList]:
        """The modules after fc 1, 2."""
        return [self.relation1, self.relation2]

    def forward(self, x: Tensor, regions: Regions | None = None) -> Tensor:
        """
        Args:
            x: (N, C, h, w) pooled features.
            regions: of the same N rows.

        Returns:
            (N, FC_DIM) box features.
        """
        if regions is None:
            raise ValueError(
                "RelationBoxHead was called without regions: set MODEL.ROI_HEADS.NAME to "
                "RelationROIHeads, which calls it with them."
            )
        for conv in self.conv_norm_relus:
            x = conv(x)
        x = self.flatten(x)  # (N, C * h * w)
        for k, fc in enumerate(self.fcs, 1):
            x = fc(x)  # (N, FC_DIM)
            for module in getattr(self, f"relation{k}", ()):
                x = module(x, regions)
            x = getattr(self, f"fc_relu{k}")(x)
        return x


@ROI_HEADS_REGISTRY.register()
class RelationROIHeads(RegionSampling, RegionsROIHeads):
    """`StandardROIHeads` (FPN, DC5) with `RelationBoxHead`.

    `MODEL.ROI_HEADS.NAME RelationROIHeads` on any stock config is enough; mask and keypoint
    branches are the stock ones.
    """

    is_stock = False  # without modules the box head is the stock one, which is enough

    @configurable
    def __init__(self, *, sampling: str = "loss", gt_as_keys: bool = False, **kwargs: Any) -> None:
        """
        Args:
            sampling, gt_as_keys: see `MODEL.RELATION.SAMPLING`, `.GT_AS_KEYS`. Without relation
                modules the sampling is Detectron2's, since no other region is looked at.
            kwargs: see `StandardROIHeads`; `box_head` is called with (features, regions).
        """
        super().__init__(**kwargs)
        related = any(len(stage) for stage in self.box_head.relations)
        self._init_sampling(sampling if related else "regions", gt_as_keys)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        node = _relation_config(cfg)
        return {
            **super().from_config(cfg, input_shape),
            "sampling": node.SAMPLING,
            "gt_as_keys": node.GT_AS_KEYS,
        }

    def _embed(self, features: dict[str, Tensor], proposals: list[Instances]) -> Tensor:
        return self.box_head(self._pool(features, proposals), regions_of(proposals))  # (N, D)

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        name = cfg.MODEL.ROI_BOX_HEAD.NAME
        if name not in ("", "FastRCNNConvFCHead", "RelationBoxHead"):
            raise ValueError(
                "RelationROIHeads puts relation modules into FastRCNNConvFCHead: "
                f"MODEL.ROI_BOX_HEAD.NAME must be that or RelationBoxHead, got {name!r}."
            )
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.ROI_BOX_HEAD.NAME = "RelationBoxHead"
        return super()._init_box_head(cfg, input_shape)


@ROI_HEADS_REGISTRY.register()
class Res5RelationROIHeads(RegionSampling, Res5RegionsROIHeads):
    """`Res5ROIHeads` (C4) with relation modules, `relation1.*`, `relation2.*`, on pooled res5."""

    @configurable
    def __init__(
        self,
        *,
        relations: Sequence[nn.ModuleList],
        sampling: str = "loss",
        gt_as_keys: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            relations: the modules of both stages, called (x, regions).
            sampling, gt_as_keys: as in `RelationROIHeads`.
            kwargs: see `Res5ROIHeads`.
        """
        super().__init__(**kwargs)
        self.relation1, self.relation2 = relations
        self._init_sampling("regions" if self.is_stock else sampling, gt_as_keys)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        node = _relation_config(cfg)
        args = super().from_config(cfg, input_shape)
        return {
            **args,
            "relations": _build_relations(cfg, args["box_predictor"].cls_score.in_features),
            "sampling": node.SAMPLING,
            "gt_as_keys": node.GT_AS_KEYS,
        }

    def _relate(self, x: Tensor, regions: Regions) -> Tensor:
        """(N, D) pooled res5 features to (N, D)."""
        for stage in (self.relation1, self.relation2):
            for module in stage:
                x = module(x, regions)
            x = torch.relu(x)  # without a module it changes nothing: means of ReLUs are >= 0
        return x

    @property
    def is_stock(self) -> bool:
        """Whether there are no modules."""
        return not (len(self.relation1) or len(self.relation2))

    def _box_losses(
        self,
        x: Tensor,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
    ) -> tuple[dict[str, Tensor], Predictions]:
        x = self._relate(x, regions_of(proposals))
        return super()._box_losses(x, features, proposals, targets)

    def _box_detections(
        self, x: Tensor, features: dict[str, Tensor], proposals: list[Instances]
    ) -> list[Instances]:
        x = self._relate(x, regions_of(proposals))
        return super()._box_detections(x, features, proposals)

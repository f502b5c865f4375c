"""Object relation modules in the box head (Hu et al., CVPR 2018, eq. 10).

FPN, DC5:   pool -> fc1 -> {+ relation}^r1 -> ReLU -> fc2 -> {+ relation}^r2 -> ReLU -> predictor
C4:         pool -> res5 -> mean -> {+ relation}^r1 -> ReLU -> {+ relation}^r2 -> ReLU -> predictor

`MODEL.ROI_BOX_HEAD.NAME RelationBoxHead` gives every head of this package, whatever its mechanism,
such a box head; in Cascade R-CNN each stage has its own. The maths is `layers.object_relation`;
shapes: N regions of all images, D channels. The paper defines r > 1 without saying where its ReLU
goes; here r modules follow one another, each with its residual, and the ReLU comes once after them.
With r1 = r2 = 0 the heads are Detectron2's own, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY, FastRCNNConvFCHead
from torch import Tensor, nn

from ...config.defaults import node
from ...config.problems import Problem
from ...layers import ObjectRelation, Regions
from ...layers.geometry import PAIR_GEOMETRIES
from ..keys import key_problems, may_diverge
from ..scripting import as_stock
from ..watch import Listened, watched
from .seam import ListensToRegions

ARGUMENTS = ("num_heads", "key_dim", "norm", "geometry", "normalize_by", "init", "implementation")


def has_relations(cfg: CfgNode) -> bool:
    """Whether `MODEL.ROI_BOX_HEAD.NAME` is the box head with relation modules."""
    name = cfg.MODEL.ROI_BOX_HEAD.NAME
    if name not in ROI_BOX_HEAD_REGISTRY:
        return False
    registered = ROI_BOX_HEAD_REGISTRY.get(name)
    return isinstance(registered, type) and issubclass(registered, RelationBoxHead)


def relation_problems(cfg: CfgNode, *, is_c4: bool, is_cascade: bool = False) -> Iterator[Problem]:
    """What is wrong with `MODEL.RELATION`."""
    keys, key = node(cfg, "RELATION"), "MODEL.RELATION"
    counts = keys.NUM_RELATIONS
    if any(counts):
        needed = 2 if counts[1] else 1
        if not is_c4 and cfg.MODEL.ROI_BOX_HEAD.NUM_FC < needed:
            yield Problem(
                f"{key}.NUM_RELATIONS {counts} needs MODEL.ROI_BOX_HEAD.NUM_FC >= {needed}, got "
                f"{cfg.MODEL.ROI_BOX_HEAD.NUM_FC}."
            )
        width = "RESNETS.RES2_OUT_CHANNELS" if is_c4 else "ROI_BOX_HEAD.FC_DIM"
        dim = 8 * cfg.MODEL.RESNETS.RES2_OUT_CHANNELS if is_c4 else cfg.MODEL.ROI_BOX_HEAD.FC_DIM
        yield from key_problems(partial(_modules, cfg, dim), key, {"dim": f"MODEL.{width}"})
        if not keys.NORM:
            yield from may_diverge(cfg, f"{key}.NORM", "max_rms")
    if keys.BETWEEN_STAGES and not (is_cascade and keys.GEOMETRY in PAIR_GEOMETRIES):
        yield Problem(
            f"{key}.BETWEEN_STAGES True relates the boxes of two stages of Cascade R-CNN in pairs: "
            f"it needs Cascade heads and {key}.GEOMETRY {', '.join(PAIR_GEOMETRIES)}; got "
            f"MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME} and {keys.GEOMETRY!r}."
        )


def same_sampling(cfg: CfgNode, other: str) -> Iterator[Problem]:
    """Relation modules and a mechanism see the same regions, so their keys must be equal.

    Args:
        cfg: the config.
        other: node of the mechanism, such as "SGRN".
    """
    for key in ("SAMPLING", "GT_AS_KEYS"):
        ours = node(cfg, "RELATION")[key]
        theirs = node(cfg, other).get(key, ours)  # or the mechanism looks at single regions only
        if ours != theirs:
            yield Problem(
                f"MODEL.RELATION.{key} is {ours} and MODEL.{other}.{key} is {theirs}: both see the "
                "same regions, so they must be equal."
            )


def _modules(cfg: CfgNode, dim: int) -> nn.ModuleList:
    """Of both places, each a list."""
    keys = node(cfg, "RELATION")
    arguments = {name: keys[name.upper()] for name in ARGUMENTS}
    return nn.ModuleList(
        nn.ModuleList(ObjectRelation(dim, **arguments) for _ in range(count))
        for count in keys.NUM_RELATIONS
    )


def _arguments(cfg: CfgNode, dim: int) -> dict[str, Any]:
    """Of both classes below, for features of `dim` channels."""
    keys = node(cfg, "RELATION")
    return {
        "relations": _modules(cfg, dim),
        "sampling": keys.SAMPLING,
        "gt_as_keys": keys.GT_AS_KEYS,
        "between_stages": keys.BETWEEN_STAGES,
    }


class _Relations(ListensToRegions):
    """Mix-in: modules `relation1`, `relation2`. Without any, no other region is looked at.

    Whoever reads some rows only names them as `wanted`. All rows answer in every module, so that
    the last one alone, and what follows it, has less to do.
    """

    def _init_relations(
        self,
        relations: Sequence[Sequence[nn.Module]],
        sampling: str,
        gt_as_keys: bool,
        between_stages: bool,
    ) -> None:
        self.relation1, self.relation2 = map(nn.ModuleList, relations)
        if any(len(stage) for stage in relations):
            self.sampling, self.gt_as_keys = sampling, gt_as_keys
            self.between_stages = between_stages

    def _related(
        self, x: Tensor, modules: nn.ModuleList, regions: Regions, wanted: Tensor | None
    ) -> Tensor:
        """x (N, D) after each of the modules; after the last of all, the wanted rows."""
        last = [*self.relation1, *self.relation2][-1:]
        for module in modules:
            seen = watched()
            if seen:
                seen.listened.append(Listened(module, regions, module.weights(x, regions)))
            rows = (wanted,) if wanted is not None and module in last else ()
            x = module(x, regions, *rows)
        return x


@ROI_BOX_HEAD_REGISTRY.register()
class RelationBoxHead(_Relations, FastRCNNConvFCHead):
    """`FastRCNNConvFCHead` with relation modules between a fc and its ReLU: `relation1.*` after
    `fc1`, `relation2.*` after `fc2`. Stock parameters keep their names."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        relations: Sequence[Sequence[nn.Module]],
        sampling: str = "loss",
        gt_as_keys: bool = False,
        between_stages: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: of the pooled features (C, h, w).
            relations: the modules after fc1 and those after fc2, called (x, regions).
            sampling, gt_as_keys, between_stages: see `MODEL.RELATION.SAMPLING`, `.GT_AS_KEYS`,
                `.BETWEEN_STAGES`.
            kwargs: see `FastRCNNConvFCHead`.
        """
        super().__init__(input_shape, **kwargs)
        needed = max((k for k, stage in enumerate(relations, 1) if len(stage)), default=0)
        if needed > len(self.fcs):
            raise ValueError(f"relations need {needed} fc layers, got {len(self.fcs)}.")
        self._init_relations(relations, sampling, gt_as_keys, between_stages)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        relations = _arguments(cfg, cfg.MODEL.ROI_BOX_HEAD.FC_DIM)
        return {**super().from_config(cfg, input_shape), **relations}

    def __prepare_scriptable__(self) -> nn.Module:
        on = ["relation modules"] if self.sampling else []
        return as_stock(self, on, ("relation1", "relation2"))

    def forward(
        self, x: Tensor, regions: Regions | None = None, wanted: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            x: (N, C, h, w) pooled features.
            regions: of the same N rows.
            wanted: see `ListensToRegions`.

        Returns:
            (N, FC_DIM) box features, of the wanted rows.
        """
        if regions is None:
            raise ValueError(
                "RelationBoxHead was called without regions: MODEL.ROI_HEADS.NAME must be one of "
                "the heads of this package, such as RelationROIHeads, which tell it the regions."
            )
        after = {"fc1": self.relation1, "fc2": self.relation2}
        for name, layer in self.named_children():
            if layer not in after.values():
                x = self._related(layer(x), after.get(name, ()), regions, wanted)
        return x


class PooledRelations(_Relations, nn.Module):
    """The same for C4 models, whose x is the mean of res5."""

    @configurable
    def __init__(
        self,
        *,
        relations: Sequence[Sequence[nn.Module]],
        sampling: str = "loss",
        gt_as_keys: bool = False,
        between_stages: bool = False,
    ) -> None:
        """
        Args:
            relations, sampling, gt_as_keys, between_stages: see `RelationBoxHead`.
        """
        super().__init__()
        self._init_relations(relations, sampling, gt_as_keys, between_stages)

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict[str, Any]:
        return _arguments(cfg, dim)

    def forward(self, x: Tensor, regions: Regions, wanted: Tensor | None = None) -> Tensor:
        """(N, D) to (N, D), of the wanted rows, see `ListensToRegions`."""
        for stage in (self.relation1, self.relation2):
            # Without modules the ReLU changes nothing: means of ReLUs are not negative.
            x = torch.relu(self._related(x, stage, regions, wanted))
        return x


class WithRelations:
    """Mix-in: heads of this package that always have the box head with relation modules."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        return super().from_config(_with_relations(cfg), input_shape)

    @classmethod
    def reads(cls, cfg: CfgNode) -> set[str]:
        """Names of the nodes of this package's keys that these heads read."""
        return super().reads(_with_relations(cfg))

    @classmethod
    def problems(cls, cfg: CfgNode) -> Iterator[Problem]:
        """What is wrong with the keys that these heads read."""
        adapted = _with_relations(cfg)
        yield from super().problems(adapted)
        if not has_relations(adapted):
            yield Problem(
                "MODEL.ROI_BOX_HEAD.NAME must be FastRCNNConvFCHead or RelationBoxHead where "
                f"MODEL.ROI_HEADS.NAME is {cls.__name__}, which puts relation modules into it; "
                f"got {cfg.MODEL.ROI_BOX_HEAD.NAME!r}."
            )


def _with_relations(cfg: CfgNode) -> CfgNode:
    """The config with `RelationBoxHead` in place of Detectron2's box head."""
    if cfg.MODEL.ROI_BOX_HEAD.NAME not in ("", FastRCNNConvFCHead.__name__):
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_BOX_HEAD.NAME = RelationBoxHead.__name__
    return cfg

"""Backbones with context blocks by YAML: stock ones, changed by `MODEL.CONTEXT_BLOCKS.PLUGINS`.

    MODEL:
      BACKBONE:
        NAME: build_context_resnet_fpn_backbone
      CONTEXT_BLOCKS:
        PLUGINS:
          - {name: GC, stages: [res3, res4, res5], position: after_conv3, ratio: 0.0625}
          - {name: GloRe, stages: {res3: [0, 2], res4: [0, 2, 4]}, position: after_add}

`context_plugins` has the keys of a plugin, `context_blocks` the positions. The res5 of C4 models
belongs to the ROI heads: `ContextRes5ROIHeads`, and every Res5 head of this package, puts its
plugins there.
"""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    ROI_HEADS_REGISTRY,
    Backbone,
    build_resnet_backbone,
)
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone
from detectron2.modeling.roi_heads import Res5ROIHeads

from ..config.defaults import node
from .context_blocks import add_context_blocks, residual_stages
from .context_plugins import parse_plugins
from .context_res5 import ContextRes5


@BACKBONE_REGISTRY.register()
def build_context_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """`MODEL.BACKBONE.NAME build_context_resnet_backbone`: C4, C5 and DC5 models."""
    return _with_plugins(cfg, build_resnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_context_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """`MODEL.BACKBONE.NAME build_context_resnet_fpn_backbone`."""
    return _with_plugins(cfg, build_resnet_fpn_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_context_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """`MODEL.BACKBONE.NAME build_context_backbone`: any registered builder of a ResNet or RegNet,
    named in `MODEL.CONTEXT_BLOCKS.BUILDER`."""
    builder = BACKBONE_REGISTRY.get(node(cfg, "CONTEXT_BLOCKS").BUILDER)
    return _with_plugins(cfg, builder(cfg, input_shape))


def _with_plugins(cfg: CfgNode, backbone: Backbone) -> Backbone:
    plugins = parse_plugins(node(cfg, "CONTEXT_BLOCKS").PLUGINS)
    if not plugins:
        return backbone
    stages = residual_stages(backbone)
    if "res5" not in stages and cfg.MODEL.ROI_HEADS.NAME in ROI_HEADS_REGISTRY:
        heads = ROI_HEADS_REGISTRY.get(cfg.MODEL.ROI_HEADS.NAME)
        in_heads = [p for p in plugins if "res5" in p.stages]
        if issubclass(heads, ContextRes5):
            plugins = [p.restricted(p.stages.keys() - {"res5"}) for p in plugins]
        elif in_heads and issubclass(heads, Res5ROIHeads):
            raise ValueError(
                f"{in_heads[0].where}: the res5 of this model belongs to its ROI heads, and "
                f"MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME} does not put plugins there; set "
                "MODEL.ROI_HEADS.NAME ContextRes5ROIHeads."
            )
    add_context_blocks(stages, plugins)
    return backbone

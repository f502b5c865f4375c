"""LR-Net: a ResNet whose convolutions over neighbours are local relation layers.

    MODEL:
      BACKBONE:
        NAME: build_lr_net_fpn_backbone
        FREEZE_AT: 0
      LR_NET:
        DEPTH: 50

Source: Hu et al., "Local Relation Networks for Image Recognition", ICCV 2019. Stem: a 1 x 1
convolution to 64 channels, a local relation layer of stride 2, max pooling. Blocks: Detectron2's
bottlenecks, of 100, 200, 400 and 800 inner channels, with a 7 x 7 local relation layer for conv2;
it has the stride. With a classifier of 1000 classes LR-Net-50 has 23.35 M parameters (published:
23.3), LR-Net-26 14.59 M (14.7).

The width of 100 is no multiple of the paper's m = 8 channels to a group, and the paper does not say
what happens there: here a group has 10. There are no public weights of LR-Net.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from torch import Tensor, nn

from ..config.defaults import node
from ..layers.arguments import one_of, require
from ..layers.blocks.local_relation import LocalRelation
from .staged_backbone import with_fpn

BLOCKS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3)}  # of res2 to res5, by depth
WIDTHS = (100, 200, 400, 800)  # of their inner channels
STEM_CHANNELS, RES2_CHANNELS = 64, 256
CHANNELS_PER_GROUP = {100: 10}  # 8 elsewhere


def relation_conv(channels: int, norm: str, **options: Any) -> nn.Sequential:
    """A local relation layer and its norm, in place of a convolution and its norm.

    No weight of the convolution fits them, so they have names of their own, `relation` and
    `relation_norm`: a checkpoint would put the norm of a convolution in `norm`.

    Args:
        channels: of its input and of its output.
        norm: see `detectron2.layers.get_norm`; "" for none.
        options: of `LocalRelation`.
    """
    layer = LocalRelation(channels=channels, bias=norm == "", **options)
    normalize = get_norm(norm, channels) or nn.Identity()
    return nn.Sequential(OrderedDict(relation=layer, relation_norm=normalize))


class LRStem(CNNBlockBase):
    """(B, C, H, W) to (B, 64, H / 4, W / 4)."""

    def __init__(self, in_channels: int, norm: str) -> None:
        super().__init__(in_channels, STEM_CHANNELS, 4)
        norm1 = get_norm(norm, STEM_CHANNELS)
        self.conv1 = Conv2d(in_channels, STEM_CHANNELS, 1, bias=norm1 is None, norm=norm1)
        weight_init.c2_msra_fill(self.conv1)
        self.conv2 = relation_conv(STEM_CHANNELS, norm, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.conv2(F.relu_(self.conv1(x))))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


def lr_net(
    depth: int,
    *,
    norm: str = "BN",
    in_channels: int = 3,
    num_classes: int | None = None,
    out_features: Sequence[str] | None = None,
    freeze_at: int = 0,
) -> ResNet:
    """An LR-Net, with the names of Detectron2's ResNets.

    Args:
        depth: 26 or 50.
        norm: see `detectron2.layers.get_norm`.
        in_channels: of the image.
        num_classes, out_features, freeze_at: see `detectron2.modeling.ResNet`.

    Raises:
        ArgumentError: another depth.
    """
    require(one_of("depth", depth, BLOCKS))
    stages = []
    c_in, c_out = STEM_CHANNELS, RES2_CHANNELS
    for width, blocks in zip(WIDTHS, BLOCKS[depth], strict=True):
        stage = ResNet.make_stage(
            BottleneckBlock,
            blocks,
            in_channels=c_in,
            out_channels=c_out,
            bottleneck_channels=width,
            stride_per_block=[1 if width == WIDTHS[0] else 2] + [1] * (blocks - 1),
            norm=norm,
        )
        for block in stage:
            block.conv2 = relation_conv(
                width,
                norm,
                stride=block.stride,
                channels_per_group=CHANNELS_PER_GROUP.get(width, 8),
            )
        stages.append(stage)
        c_in, c_out = c_out, 2 * c_out
    return ResNet(LRStem(in_channels, norm), stages, num_classes, out_features, freeze_at)


@BACKBONE_REGISTRY.register()
def build_lr_net_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """`MODEL.BACKBONE.NAME build_lr_net_backbone`: reads `MODEL.LR_NET` and
    `MODEL.BACKBONE.FREEZE_AT`."""
    return _build(cfg, input_shape, node(cfg, "LR_NET").OUT_FEATURES)


@BACKBONE_REGISTRY.register()
def build_lr_net_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """`MODEL.BACKBONE.NAME build_lr_net_fpn_backbone`: over `MODEL.FPN.IN_FEATURES`."""
    return with_fpn(cfg, _build(cfg, input_shape, cfg.MODEL.FPN.IN_FEATURES))


def _build(cfg: CfgNode, input_shape: ShapeSpec, out_features: Sequence[str]) -> ResNet:
    keys = node(cfg, "LR_NET")
    return lr_net(
        keys.DEPTH,
        norm=keys.NORM,
        in_channels=input_shape.channels,
        out_features=out_features,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )

"""A backbone that provably cannot see far, for fair comparisons on Relational Scenes.

Four 3x3 convolutions with batch normalisation and ReLU, strides 2, 2, 2, 1: one feature map "p3" of
stride 8 with a receptive field of 3 + 2*2 + 2*4 + 2*8 = 31 pixels. An object 32 pixels away from a
box cannot change its features, so what a stock head says about the box cannot depend on that
object. (GroupNorm, LayerNorm or global pooling would: they carry statistics of the whole image into
every cell.)
"""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

WIDTHS = (24, 48, 64, 64)
STRIDES = (2, 2, 2, 1)


class ShallowBackbone(Backbone):
    """(B, C, H, W) images to {"p3": (B, 64, H / 8, W / 8)}."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, stride in zip(WIDTHS, STRIDES, strict=True):
            layers += [
                nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            in_channels = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"p3": self.layers(x)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"p3": ShapeSpec(channels=WIDTHS[-1], stride=8)}

    @property
    def size_divisibility(self) -> int:
        return 8


@BACKBONE_REGISTRY.register()
def build_shallow_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ShallowBackbone:
    """`MODEL.BACKBONE.NAME build_shallow_backbone`; no keys of its own."""
    return ShallowBackbone(input_shape.channels)

"""The C5 backbone of Hu et al. 2018: a dilated res5, reduced to 256 channels, beside res4.

Released code (`resnet_v1_101_rcnn_attention_...py`): res5 keeps stride 16 through dilation 2, a 1x1
convolution ("conv_new_1") and a ReLU reduce its 2048 channels to 256 for the box head, and the RPN
looks at res4. Detectron2's own DC5 models have no reduction and put the RPN on res5.
"""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_resnet_backbone
from torch import Tensor, nn

REDUCED_CHANNELS = 256


class C5Backbone(Backbone):
    """(B, 3, H, W) images to "res4" (B, 1024, H / 16, W / 16) and "c5" (B, 256, H / 16, W / 16)."""

    def __init__(self, bottom_up: Backbone) -> None:
        """
        Args:
            bottom_up: gives "res4" and "res5" at the same stride.

        Raises:
            ValueError: it does not.
        """
        super().__init__()
        shapes = bottom_up.output_shape()
        if not {"res4", "res5"} <= shapes.keys() or shapes["res4"].stride != shapes["res5"].stride:
            raise ValueError(
                "build_resnet_c5_backbone needs MODEL.RESNETS.OUT_FEATURES [res4, res5] and "
                "MODEL.RESNETS.RES5_DILATION 2, got strides "
                f"{ {name: shape.stride for name, shape in shapes.items()} }."
            )
        self.bottom_up = bottom_up
        self.reduce = nn.Conv2d(shapes["res5"].channels, REDUCED_CHANNELS, kernel_size=1)
        weight_init.c2_msra_fill(self.reduce)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.bottom_up(x)
        return {"res4": maps["res4"], "c5": torch.relu(self.reduce(maps["res5"]))}

    def output_shape(self) -> dict[str, ShapeSpec]:
        res4 = self.bottom_up.output_shape()["res4"]
        return {"res4": res4, "c5": ShapeSpec(channels=REDUCED_CHANNELS, stride=res4.stride)}


@BACKBONE_REGISTRY.register()
def build_resnet_c5_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> C5Backbone:
    """`MODEL.BACKBONE.NAME build_resnet_c5_backbone`; reads `MODEL.RESNETS` like any ResNet."""
    return C5Backbone(build_resnet_backbone(cfg, input_shape))

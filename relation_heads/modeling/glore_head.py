"""`MODEL.SEM_SEG_HEAD.NAME GloReFCNHead`: an FCN head with global reasoning.

Source: Chen et al., "Graph-Based Global Reasoning Networks", CVPR 2019, Cityscapes experiments;
the layers are those of the authors' segmentation code as copies of it have them:

    c4 -> conv51 -> GloRe x NUM_UNITS -> conv52 -> dropout, 1 x 1 convolution -> bilinear
    (2048)  (512)      (512, N = 64)       (512)       (classes)

conv51 and conv52 are 3 x 3 convolutions without bias, each with a norm and a ReLU. The units start
as the identity. NUM_UNITS 0 is the same head without reasoning, its fair twin. With one unit, 19
classes and batch norms it has 11,993,875 parameters, 185,600 of them in the unit.

For Detectron2's `SemanticSegmentor`, on one feature map of any backbone; the paper's has stride 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from fvcore.nn import weight_init
from torch import Tensor, nn

from ..config.defaults import node
from ..config.problems import Problem, raise_fatal
from ..layers.arguments import at_least, require, within
from ..layers.blocks.glore import GloRe
from .keys import key_problems


@SEM_SEG_HEADS_REGISTRY.register()
class GloReFCNHead(nn.Module):
    """See the module. `MODEL.SEM_SEG_HEAD.COMMON_STRIDE` is not read: the map's stride is known."""

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        in_features: list[str],
        num_classes: int,
        conv_dim: int = 512,
        norm: str | Callable[[int], nn.Module] = "BN",
        num_nodes: int = 64,
        num_units: int = 1,
        dropout: float = 0.1,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
    ) -> None:
        """
        Args:
            input_shape: channels and strides of the backbone's feature maps.
            in_features: the name of the one that is used.
            num_classes: K.
            conv_dim: width of conv51, the units and conv52.
            norm: after conv51, conv52 and in the units, as in Detectron2; "" for none.
            num_nodes: N of a unit; its states are 2 N.
            num_units: in a row; 0 is an FCN.
            dropout: probability that a channel is dropped before the last convolution.
            loss_weight: of `loss_sem_seg`.
            ignore_value: label of pixels that are not in the loss.

        Raises:
            ValueError: an argument that cannot work; says which.
        """
        super().__init__()
        if len(in_features) != 1 or in_features[0] not in input_shape:
            raise ValueError(
                "GloReFCNHead reads one feature map: MODEL.SEM_SEG_HEAD.IN_FEATURES must be one of "
                f"{', '.join(input_shape)}, got {list(in_features)}."
            )
        require(at_least("num_units", num_units, 0), within("dropout", dropout, "[0, 1)"))
        (self.in_feature,) = in_features
        shape = input_shape[self.in_feature]
        self.stride = shape.stride
        self.loss_weight, self.ignore_value = loss_weight, ignore_value
        self.conv51 = _conv3x3(shape.channels, conv_dim, norm)
        unit_norm = partial(get_norm, norm) if norm else None
        self.glore = _units(conv_dim, num_nodes, num_units, unit_norm)
        self.conv52 = _conv3x3(conv_dim, conv_dim, norm)
        self.dropout = nn.Dropout2d(dropout)
        self.predictor = nn.Conv2d(conv_dim, num_classes, 1)
        nn.init.normal_(self.predictor.weight, std=0.001)  # as in Detectron2's DeepLab heads
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def problems(cls, cfg: CfgNode) -> Iterator[Problem]:
        """What is wrong with `MODEL.GLORE_HEAD`."""
        keys = node(cfg, "GLORE_HEAD")
        units = partial(_units, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM, keys.NUM_NODES, keys.NUM_UNITS)
        width = {"channels": "MODEL.SEM_SEG_HEAD.CONVS_DIM"}
        yield from key_problems(units, "MODEL.GLORE_HEAD", width)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments from `MODEL.SEM_SEG_HEAD` and `MODEL.GLORE_HEAD`."""
        raise_fatal(cls.problems(cfg))
        head, glore = cfg.MODEL.SEM_SEG_HEAD, node(cfg, "GLORE_HEAD")
        return {
            "input_shape": input_shape,
            "in_features": head.IN_FEATURES,
            "num_classes": head.NUM_CLASSES,
            "conv_dim": head.CONVS_DIM,
            "norm": head.NORM,
            "num_nodes": glore.NUM_NODES,
            "num_units": glore.NUM_UNITS,
            "dropout": glore.DROPOUT,
            "loss_weight": head.LOSS_WEIGHT,
            "ignore_value": head.IGNORE_VALUE,
        }

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """
        Args:
            features: maps of the backbone; the one of IN_FEATURES is (n, C, H, W).
            targets: (n, h, w) labels of the pixels, h <= stride H and w <= stride W; for training.

        Returns:
            in training None and {"loss_sem_seg": mean over the labelled pixels}, else the logits,
            (n, K, stride H, stride W) float32, and {}.
        """
        logits = self.layers(features[self.in_feature]).float()
        # By the stride and not to the size of the targets, which are not there at test time: the
        # enlarged map may be larger than an image whose size is no multiple of the stride, and what
        # lies outside is cut off, here and by `SemanticSegmentor`. So a pixel's logits are the same
        # in training and at test time.
        logits = F.interpolate(
            logits, scale_factor=self.stride, mode="bilinear", align_corners=False
        )
        if not self.training:
            return logits, {}
        assert targets is not None, "GloReFCNHead needs targets in training."
        height, width = targets.shape[-2:]
        return None, self.losses(logits[..., :height, :width], targets)

    def layers(self, x: Tensor) -> Tensor:
        """(n, C, H, W) features to (n, K, H, W) logits."""
        x = self.conv52(self.glore(self.conv51(x)))
        return self.predictor(self.dropout(x))

    def losses(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Cross entropy of (n, K, h, w) logits; 0 and not NaN where no pixel is labelled."""
        total = F.cross_entropy(logits, targets, reduction="sum", ignore_index=self.ignore_value)
        labelled = (targets != self.ignore_value).sum().clamp(min=1)
        return {"loss_sem_seg": self.loss_weight * total / labelled}


def _units(
    channels: int, num_nodes: int, count: int, norm: Callable[[int], nn.Module] | None = None
) -> nn.Sequential:
    return nn.Sequential(
        *(GloRe(channels=channels, num_nodes=num_nodes, norm=norm) for _ in range(count))
    )


def _conv3x3(
    in_channels: int, out_channels: int, norm: str | Callable[[int], nn.Module]
) -> nn.Module:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        padding=1,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_msra_fill(conv)
    return conv

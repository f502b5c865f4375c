"""The network of the ImageNet table of Chen et al. (CVPR 2019), to count it.

A ResNet of bottleneck blocks with batch norm and ReLU before every convolution (also before that of
a shortcut, which has a norm of its own), a 7 x 7 stem followed by them, the stride in the 3 x 3
convolutions; GloRe units of the MXNet code between blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...layers.blocks.glore import PreActivationGloRe

WIDTHS = (64, 128, 256, 512)  # of the 3 x 3 convolutions of res2 to res5
STAGES = ("res2", "res3", "res4", "res5")


class PublishedOrderGloRe(PreActivationGloRe):
    """The same unit with its products in the order of the released code: the S x L map first."""

    def _states(self, x: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(b.flatten(2), self.conv_state(x).flatten(2).mT)


def _norm_relu_conv(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(), conv)


class _Block(nn.Module):
    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        squeeze: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _norm_relu_conv(in_channels, width),
            _norm_relu_conv(width, width, 3, stride),
            _norm_relu_conv(width, 4 * width),
            squeeze(channels=4 * width) if squeeze else nn.Identity(),
        )
        same = in_channels == 4 * width
        self.shortcut = (
            nn.Identity() if same else _norm_relu_conv(in_channels, 4 * width, 1, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)


def preactivation_resnet(
    blocks: Sequence[int],
    units: Mapping[str, int] | None = None,
    unit: Callable[..., nn.Module] = PublishedOrderGloRe,
    squeeze: Callable[..., nn.Module] | None = None,
) -> nn.Sequential:
    """(n, 3, 224, 224) to (n, 1000).

    Args:
        blocks: of res2 to res5.
        units: stage -> number of its units, after every other block from the first on (of the
            released ResNet-50: 0 and 2 in res3, 0, 2 and 4 in res4). The place within a stage
            changes no count.
        unit: makes one from `channels`.
        squeeze: makes what ends the branch of a block (SE), from `channels`.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for stage, width, count in zip(STAGES, WIDTHS, blocks, strict=True):
        after = range(0, 2 * (units or {}).get(stage, 0), 2)
        for index in range(count):
            stride = 2 if index == 0 and stage != "res2" else 1
            layers.append(_Block(channels, width, stride, squeeze))
            channels = 4 * width
            if index in after:
                layers.append(unit(channels=channels))
    layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(channels, 1000))

"""The 3D ResNet of the released GloRe code, to count it.

Bottleneck blocks with batch norm and ReLU before every convolution; the first convolution of a
block spans three frames in every other block (in res5 only in the second), the stride is in the
1 x 3 x 3 convolution and halves the frames once, at the start of res3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from .preactivation_resnet import STAGES, WIDTHS, PublishedOrderGloRe

R50_PLACES = {"res3": (0, 2), "res4": (0, 2, 4)}  # blocks before the units
R101_PLACES = {"res3": (0, 2), "res4": (5, 11, 17)}

UNIT = partial(PublishedOrderGloRe, dims=3)
Triple = tuple[int, int, int]


def _norm_relu_conv(
    in_channels: int, out_channels: int, kernel: Triple = (1, 1, 1), stride: Triple = (1, 1, 1)
) -> nn.Sequential:
    padding = tuple(k // 2 for k in kernel)
    conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False)  # type: ignore[arg-type]
    return nn.Sequential(nn.BatchNorm3d(in_channels), nn.ReLU(), conv)


class _Block(nn.Module):
    def __init__(self, in_channels: int, width: int, frames: int, stride: Triple | None) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _norm_relu_conv(in_channels, width, (frames, 1, 1)),
            _norm_relu_conv(width, width, (1, 3, 3), stride or (1, 1, 1)),
            _norm_relu_conv(width, 4 * width),
        )
        self.shortcut = (
            _norm_relu_conv(in_channels, 4 * width, stride=stride) if stride else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)


def video_resnet(
    blocks: Sequence[int],
    places: Mapping[str, Sequence[int]],
    unit: Callable[..., nn.Module] = UNIT,
) -> nn.Sequential:
    """(n, 3, 8, 224, 224) to (n, 400).

    Args:
        blocks: of res2 to res5.
        places: stage -> the blocks, from 0, that a unit follows.
        unit: makes one from `channels`.
    """
    stem = nn.Conv3d(3, 32, (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False)
    pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
    layers: list[nn.Module] = [stem, nn.BatchNorm3d(32), nn.ReLU(), pool]
    channels = 32
    strides: dict[str, Triple] = {"res2": (1, 1, 1), "res3": (2, 2, 2)}
    for stage, width, count in zip(STAGES, WIDTHS, blocks, strict=True):
        for index in range(count):
            spans = {"res2": True, "res5": index == 1}.get(stage, index % 2 == 0)
            stride = None if index else strides.get(stage, (1, 2, 2))
            layers.append(_Block(channels, width, 3 if spans else 1, stride))
            channels = 4 * width
            if index in places.get(stage, ()):
                layers.append(unit(channels=channels))
    layers += [nn.BatchNorm3d(channels), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(channels, 400))

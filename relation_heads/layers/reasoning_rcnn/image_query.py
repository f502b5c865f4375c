"""z of Reasoning-RCNN: what an image asks of the classes, squeezed from the backbone's maps.

    z = relu(W_z mean_xy(relu(conv3x3, stride 2 (concatenated maps))) + b_z)

The maps are resized (nearest) to one of them. See `adaptive_reasoning` for the source. The release
takes the mean over the padding of a batch, too; here it is over the cells inside the image, so that
it does not depend on how large the other images of a batch are.

Shapes: B images, F channels of all maps, S squeezed channels, P channels of the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import at_least, require
from ..precision import widen

STRIDE = 2  # of the convolution


class ImageQuery(nn.Module):
    """Maps of a backbone to one vector for each image."""

    def __init__(self, map_channels: int, out_channels: int, *, squeeze_channels: int = 64) -> None:
        """
        Args:
            map_channels: F, the sum over the maps.
            out_channels: P.
            squeeze_channels: S.

        Raises:
            ArgumentError: an argument outside these.
        """
        super().__init__()
        require(
            at_least("map_channels", map_channels, 1),
            at_least("out_channels", out_channels, 1),
            at_least("squeeze_channels", squeeze_channels, 1),
        )
        self.squeeze = nn.Conv2d(map_channels, squeeze_channels, 3, stride=STRIDE, padding=1)
        self.expand = nn.Linear(squeeze_channels, out_channels)

    def forward(
        self,
        maps: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        stride: int,
        resized_to: int = 0,
    ) -> Tensor:
        """
        Args:
            maps: (B, ., H, W) each, at the upper left of the images.
            image_sizes: (height, width) in pixels.
            stride: pixels in a cell of the map that the others are resized to.
            resized_to: number of that map.

        Returns:
            (B, P) z.
        """
        size = maps[resized_to].shape[-2:]
        same = [m if k == resized_to else F.interpolate(m, size) for k, m in enumerate(maps)]
        squeezed = F.relu(self.squeeze(torch.cat(same, dim=1)))  # (B, S, H / 2, W / 2)
        inside = cells_inside(squeezed, image_sizes, stride * STRIDE)
        total = torch.where(inside, widen(squeezed), 0).sum(dim=(2, 3))  # (B, S)
        mean = total / inside.sum(dim=(2, 3))
        return F.relu(self.expand(mean.to(squeezed.dtype)))


def cells_inside(maps: Tensor, image_sizes: Sequence[tuple[int, int]], stride: int) -> Tensor:
    """(B, 1, H, W) bool: cells of maps (B, ., H, W) that begin inside their image."""
    rows, columns = (torch.arange(n, device=maps.device) * stride for n in maps.shape[-2:])
    return torch.stack(
        [(rows < height)[:, None] & (columns < width) for height, width in image_sizes]
    )[:, None]

"""Learned region features in place of RoIAlign: a pooler for the branches of an ROI head.

One layer pools from all levels of a pyramid; a box goes to the level that Detectron2's `ROIPooler`
gives it. Detectron2 does not tell a pooler how large the images are; the heads do, so that no
region looks at the padding of its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, nonzero_tuple
from detectron2.modeling.poolers import (
    ROIPooler,
    assign_boxes_to_levels,
    convert_boxes_to_pooler_format,
)
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..config.defaults import node
from ..config.problems import Problem
from ..layers import LearnedRegionFeatures
from ..layers.regions import row_counts
from .keys import key_problems

KEY = "REGION_FEATURES"
OPTIONS = ("embed_dim", "dim", "support", "inside", "around")
SWITCHES = {"mask": "MASK_ON", "keypoint": "KEYPOINT_ON"}  # of a branch


class LearnedRegionPooler(nn.Module):
    """Called as a `ROIPooler`, in whose place it is."""

    def __init__(self, layer: LearnedRegionFeatures, replaced: ROIPooler) -> None:
        """
        Args:
            layer: pools from maps of every level.
            replaced: says which levels there are, and which boxes go where.
        """
        super().__init__()
        self.layer = layer
        self.output_size = replaced.output_size
        self.min_level, self.max_level = replaced.min_level, replaced.max_level
        self.canonical = replaced.canonical_box_size, replaced.canonical_level
        self.image_sizes: Sequence[tuple[int, int]] | None = None  # pixels; None: the whole maps

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """(N, C, bins, bins) of the boxes of all images, from maps (B, C, H, W) of every level."""
        rows = convert_boxes_to_pooler_format(box_lists)  # (N, 5): image, corners in pixels
        images, boxes = rows[:, 0].long(), rows[:, 1:]
        if self.min_level == self.max_level:
            return self._pool(x[0], boxes, images, 2**self.min_level)
        levels = assign_boxes_to_levels(box_lists, self.min_level, self.max_level, *self.canonical)
        out = x[0].new_zeros(rows.shape[0], x[0].shape[1], *self.output_size)
        for k, maps in enumerate(x):
            at = nonzero_tuple(levels == k)[0]
            found = self._pool(maps, boxes[at], images[at], 2 ** (self.min_level + k))
            out.index_put_((at,), found.to(out.dtype))
        return out

    def _pool(self, maps: Tensor, boxes: Tensor, images: Tensor, stride: int) -> Tensor:
        sizes = None
        if self.image_sizes is not None:
            both = zip(*self.image_sizes, strict=True)  # heights, widths
            pixels = torch.stack([row_counts(axis, maps.device) for axis in both], dim=1)
            sizes = -(pixels // -stride)  # cells that begin inside the image
        return self.layer(maps, boxes / stride, images, sizes)


@contextmanager
def within_images(heads: nn.Module, instances: Sequence[Instances]) -> Iterator[None]:
    """Tells the learned poolers of ROI heads how large the images of these instances are."""
    poolers = [child for child in heads.children() if isinstance(child, LearnedRegionPooler)]
    before = [pooler.image_sizes for pooler in poolers]
    try:
        for pooler in poolers:
            pooler.image_sizes = [one.image_size for one in instances]
        yield
    finally:
        for pooler, sizes in zip(poolers, before, strict=True):
            pooler.image_sizes = sizes


def learned_poolers(
    cfg: CfgNode, args: Mapping[str, Any], input_shape: Mapping[str, ShapeSpec]
) -> dict[str, nn.Module]:
    """The poolers of `MODEL.REGION_FEATURES.BRANCHES`, by the names of the arguments of ROI heads
    that they replace.

    Args:
        cfg: the config.
        args: the heads' arguments.
        input_shape: of the backbone's maps.
    """
    channels = input_shape[cfg.MODEL.ROI_HEADS.IN_FEATURES[0]].channels
    poolers: dict[str, nn.Module] = {}
    for branch in node(cfg, KEY).BRANCHES:
        # C4 has one pooler for all branches.
        name = "pooler" if "pooler" in args else f"{branch}_pooler"
        replaced = args[name]
        poolers[name] = LearnedRegionPooler(
            _layer(cfg, channels, replaced.output_size[0]), replaced
        )
    return poolers


def pooler_problems(cfg: CfgNode, *, is_c4: bool) -> Iterator[Problem]:
    """What is wrong with `MODEL.REGION_FEATURES`."""
    keys = node(cfg, KEY)
    for branch in keys.BRANCHES:
        switch = SWITCHES.get(branch)
        if is_c4 and branch != "box":
            yield Problem(
                f'MODEL.{KEY}.BRANCHES has "{branch}", and in a C4 model all branches share the '
                'pooler of boxes: set it to ["box"].'
            )
        elif switch and not cfg.MODEL[switch]:
            yield Problem(
                f'MODEL.{KEY}.BRANCHES has "{branch}", and MODEL.{switch} is False: leave it out.'
            )
    if keys.BRANCHES:
        yield from key_problems(lambda: _layer(cfg, 8, 7), f"MODEL.{KEY}")


def _layer(cfg: CfgNode, channels: int, bins: int) -> LearnedRegionFeatures:
    keys = node(cfg, KEY)
    options = {name: getattr(keys, name.upper()) for name in OPTIONS}
    return LearnedRegionFeatures(channels, bins=bins, **options)

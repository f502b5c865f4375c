"""Backbones whose parts run one after the other, and Detectron2's FPN over their maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import Tensor

from ..config.defaults import Stage

STAGES = ("stem", *get_args(Stage))  # of strides up to 2, and 4, 8, 16, 32


class Part(NamedTuple):
    """A module of the backbone, by its name there, such as "blocks.3".

    stride: of its output, a power of two up to 32. channels: of its output.
    """

    name: str
    stride: int
    channels: int

    @property
    def stage(self) -> str:
        return STAGES[max(self.stride.bit_length() - 2, 0)]


class StagedBackbone(Backbone):
    """(B, 3, H, W) images, H and W multiples of 32, to {"res2": (B, C, H / 4, W / 4), ...}.

    "res2" to "res5" are the last maps at strides 4, 8, 16 and 32. A subclass makes its modules and
    then calls `set_parts`.
    """

    def set_parts(self, parts: Sequence[Part], out_features: Sequence[str], freeze_at: int) -> None:
        """
        Args:
            parts: in the order in which they run; their strides never fall.
            out_features: some of "res2" to "res5", see `needed_parts`.
            freeze_at: number of stages that are not trained, as in Detectron2's ResNet. 1 is all
                up to stride 2, 2 is res2 as well, ..., 5 is everything.
        """
        self._names = [part.name for part in parts]
        ends = {part.stage: part for part in parts}  # the last one of each stage
        self._ends = {ends[name].name: name for name in ends if name in out_features}
        self._shapes = {
            stage: ShapeSpec(channels=ends[stage].channels, stride=ends[stage].stride)
            for stage in self._ends.values()
        }
        self._frozen = [p.name for p in parts if STAGES.index(p.stage) < freeze_at]
        for name in self._frozen:
            self.get_submodule(name).requires_grad_(False)

    def train(self, mode: bool = True) -> StagedBackbone:
        """Frozen parts compute the same in training: they drop nothing at random."""
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        for name in self._names:
            x = self.get_submodule(name)(x)
            if name in self._ends:
                maps[self._ends[name]] = x
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes

    @property
    def size_divisibility(self) -> int:
        return 32


def needed_parts(
    parts: Sequence[Part], out_features: Sequence[str], network: str, node: str
) -> list[Part]:
    """The parts up to the last map that is asked for.

    Args:
        parts: all of a network.
        out_features: names of maps.
        network: what the error calls it.
        node: of the config, such as "MODEL.TORCHVISION".

    Raises:
        ValueError: a map that the network does not have, or none is asked for.
    """
    has = list(dict.fromkeys(part.stage for part in parts if part.stage != STAGES[0]))
    if not out_features or not set(out_features) <= set(has):
        raise ValueError(
            f"{network} has the features {', '.join(has)}, got {list(out_features)}: set "
            f"MODEL.FPN.IN_FEATURES, or without FPN {node}.OUT_FEATURES."
        )
    last = max(map(STAGES.index, out_features))
    return [part for part in parts if STAGES.index(part.stage) <= last]


def with_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """Detectron2's FPN over the maps of `MODEL.FPN.IN_FEATURES`, with a last, max-pooled level like
    its ResNets'."""
    fpn = cfg.MODEL.FPN
    return FPN(
        bottom_up=bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=fpn.FUSE_TYPE,
    )

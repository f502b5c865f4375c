"""Context blocks inside the residual blocks of a backbone that is already built.

    x -> conv1 -> conv2 -> [after_conv2] -> conv3 -> [after_conv3] -> + x -> ReLU -> [after_add]

Every convolution comes with its norm, conv1 and conv2 with their ReLU. Basic blocks have no conv3,
and there `after_conv2` is before the sum. (Cao et al. 2019 put GC after the last convolution,
before the sum; Chen et al. 2019 put GloRe between blocks, which is after_add.) A local relation
layer can also take the place of conv2 itself, with its norm: conv1 and conv3 keep their weights,
and those of conv2 in a checkpoint are not used.

A block keeps its place, its name and all its parameters: it changes its class for one whose forward
calls three `nn.Sequential`s more. So checkpoints of the stock backbone load completely, which a
wrapper around blocks, or a layer between them, breaks (weights then move to other blocks, without
a message). New parameters are named, for example, `res4.0.after_conv3.gc.conv_mask.weight`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import CNNBlockBase
from detectron2.modeling.backbone.regnet import AnyNet, ResBasicBlock, ResBottleneckBlock
from detectron2.modeling.backbone.resnet import (
    BasicBlock,
    BottleneckBlock,
    DeformBottleneckBlock,
    ResNet,
)
from torch import Tensor, nn

from .context_plugins import CONV2, POSITIONS, Plugin

logger = logging.getLogger(__name__)


class ContextBasicBlock(BasicBlock):
    """`BasicBlock` with plugins."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.conv1(x))
        out = self.after_conv2(self.conv2(out))
        out += x if self.shortcut is None else self.shortcut(x)
        return self.after_add(F.relu_(out))


class ContextBottleneckBlock(BottleneckBlock):
    """`BottleneckBlock` with plugins."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.conv1(x))
        out = self.after_conv2(F.relu_(self.conv2(out)))
        out = self.after_conv3(self.conv3(out))
        out += x if self.shortcut is None else self.shortcut(x)
        return self.after_add(F.relu_(out))


class ContextDeformBottleneckBlock(DeformBottleneckBlock):
    """`DeformBottleneckBlock` with plugins."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.conv1(x))
        offset = self.conv2_offset(out)
        if self.deform_modulated:
            offset_x, offset_y, mask = offset.chunk(3, dim=1)
            out = self.conv2(out, torch.cat([offset_x, offset_y], dim=1), mask.sigmoid())
        else:
            out = self.conv2(out, offset)
        out = self.after_conv2(F.relu_(out))
        out = self.after_conv3(self.conv3(out))
        out += x if self.shortcut is None else self.shortcut(x)
        return self.after_add(F.relu_(out))


class ContextResBasicBlock(ResBasicBlock):
    """RegNet's `ResBasicBlock` with plugins."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.bn(self.proj(x)) if self.proj else x
        return self.after_add(self.af(shortcut + self.after_conv2(self.f(x))))


class ContextResBottleneckBlock(ResBottleneckBlock):
    """RegNet's `ResBottleneckBlock` with plugins."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.bn(self.proj(x)) if self.proj else x
        out = x
        for name, layer in self.f.named_children():
            out = layer(out)
            if name == "b_af":  # the ReLU after the 3x3 convolution
                out = self.after_conv2(out)
        return self.after_add(self.af(shortcut + self.after_conv3(out)))


# Stock class -> ours.
_CLASSES: dict[type[CNNBlockBase], type[CNNBlockBase]] = {
    BasicBlock: ContextBasicBlock,
    BottleneckBlock: ContextBottleneckBlock,
    DeformBottleneckBlock: ContextDeformBottleneckBlock,
    ResBasicBlock: ContextResBasicBlock,
    ResBottleneckBlock: ContextResBottleneckBlock,
}
_BASIC = (BasicBlock, ResBasicBlock)


def residual_stages(backbone: nn.Module) -> dict[str, list[CNNBlockBase]]:
    """The residual blocks of a ResNet or RegNet by stage, also below an FPN ("bottom_up").

    Raises:
        ValueError: the backbone is of another kind.
    """
    net = getattr(backbone, "bottom_up", backbone)
    if isinstance(net, ResNet):
        return {n: list(s.children()) for n, s in zip(net.stage_names, net.stages, strict=True)}
    if isinstance(net, AnyNet):
        return {name: list(stage.children()) for stage, name in net.stages_and_names}
    raise ValueError(
        "Context blocks go into the residual blocks of a ResNet or RegNet, and "
        f"{type(net).__name__} is neither."
    )


def add_context_blocks(
    stages: Mapping[str, Sequence[CNNBlockBase]], plugins: Iterable[Plugin]
) -> None:
    """Adds plugins to blocks, in place. With GC ("add"), GloRe, NL, and LR beside conv2, which
    start as the identity, the blocks compute what they did before.

    Args:
        stages: of `residual_stages`.
        plugins: stages that are not there are an error.

    Raises:
        ValueError: a stage, block or position is not there, or the stage is frozen.
    """
    for plugin in plugins:
        for stage, indices in plugin.stages.items():
            if stage not in stages:
                raise ValueError(
                    f"{plugin.where}: the backbone has no stage {stage!r}; its stages are "
                    f"{', '.join(stages)}."
                )
            blocks = stages[stage]
            if indices and max(indices) >= len(blocks):
                raise ValueError(
                    f"{plugin.where}: {stage} has the blocks 0 to {len(blocks) - 1}, got "
                    f"{max(indices)}."
                )
            for index in range(len(blocks)) if indices is None else indices:
                _add(blocks[index], plugin, f"{stage}.{index}")


def _add(block: CNNBlockBase, plugin: Plugin, name: str) -> None:
    if not any(p.requires_grad for p in block.parameters()):
        raise ValueError(
            f"{plugin.where}: {name} is frozen (MODEL.BACKBONE.FREEZE_AT), and a frozen block is "
            "meant to stay as it is, plugins included; take a later stage, or freeze less."
        )
    like = next(block.parameters())
    if plugin.position == CONV2:
        if not isinstance(block, BottleneckBlock) or not isinstance(block.conv2, nn.Conv2d):
            raise ValueError(
                f"{plugin.where}: position {CONV2} takes the place of the 3 x 3 convolution of a "
                f"bottleneck, and {name}, a {type(block).__name__}, has none."
            )
        layer = plugin.build_conv2(block.conv2.out_channels, block.conv2.stride[0])
        block.conv2 = layer.to(like.device, like.dtype)
        logger.info(f"{plugin.name} in {name}, in place of conv2.")
        return
    _prepare(block, plugin, name)
    chain = getattr(block, plugin.position, None)
    if chain is None:
        raise ValueError(
            f"{plugin.where}: {name} has no conv3, its positions are after_conv2 and after_add, "
            f"got {plugin.position}."
        )
    inner = plugin.position == "after_conv2" and not isinstance(block, _BASIC)
    layer = plugin.build(_conv2_channels(block) if inner else block.out_channels)
    chain.add_module(_free_name(chain, plugin.name.lower()), layer.to(like.device, like.dtype))
    logger.info(f"{plugin.name} in {name}, {plugin.position}.")


def _prepare(block: CNNBlockBase, plugin: Plugin, name: str) -> None:
    """Gives the block places for plugins, once."""
    if type(block) in _CLASSES.values():
        return
    if type(block) not in _CLASSES:
        known = ", ".join(cls.__name__ for cls in _CLASSES)
        raise ValueError(
            f"{plugin.where}: {name} is a {type(block).__name__}; plugins go into {known}."
        )
    block.__class__ = _CLASSES[type(block)]
    for position in POSITIONS:
        if position != "after_conv3" or not isinstance(block, _BASIC):
            block.add_module(position, nn.Sequential())


def _conv2_channels(block: CNNBlockBase) -> int:
    """Of what conv2, or what is in its place, gives."""
    return (block.f.c if isinstance(block, ResBottleneckBlock) else block.conv3).in_channels


def _free_name(chain: nn.Sequential, name: str) -> str:
    """`name`, or `name_2`, ... if the chain has one."""
    names = dict(chain.named_children())
    number = 1 + sum(existing.split("_")[0] == name for existing in names)
    return name if number == 1 else f"{name}_{number}"

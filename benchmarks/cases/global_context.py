"""Global context block (Cao et al. 2019). Peer: the mask as a convolution of one channel."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from relation_heads.layers.blocks.global_context import GlobalContext

from ..case import Case, Target
from ..computation import ACCURATE
from .common import block_accuracy, block_case

RES2 = (256, 200, 336)


def convolution_mask(block: GlobalContext, x: Tensor) -> Tensor:
    """The released order; x (1, C, H, W)."""
    weights = block.conv_mask(x).flatten(2).softmax(dim=2)[..., None]  # (1, 1, L, 1)
    context = (x.flatten(2)[:, None] @ weights).view(1, -1, 1, 1)
    return x + block.channel_add_conv(context)


def block(channels: int) -> GlobalContext:
    """As after training: its last layer does something."""
    made = GlobalContext(channels=channels)
    nn.init.normal_(made.channel_add_conv[-1].weight)
    return made


def case(device: str) -> Case:
    """At res2, where it costs most."""
    target = Target(forward=1.0, backward=1.2, forward_memory=1, backward_memory=1, errors=ACCURATE)
    accuracy = partial(block_accuracy, block, convolution_mask, (64, 25, 42))
    peers = {"convolution mask": convolution_mask}
    return block_case(block, peers, RES2, device, target, accuracy)


CASES = {"Global context block, res2": case}

"""Non-local block (Wang et al. 2018). Peer: the weights of all pairs of positions."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from relation_heads.layers.blocks.non_local import Mode, NonLocal

from ..case import Case, Target
from ..computation import ACCURATE
from .common import Size, block_accuracy, block_case

RES3, RES4 = (512, 100, 168), (1024, 50, 84)


def all_pairs(block: NonLocal, x: Tensor) -> Tensor:
    """The released order; x (1, C, H, W)."""
    theta, phi, g = (conv(x).flatten(2) for conv in (block.theta, block.phi, block.g))  # (1, d, L)
    weights = theta.transpose(1, 2) @ phi  # (1, L, L)
    if block.mode == "dot_product":
        weights = weights / phi.shape[2]
    else:
        weights = (weights * theta.shape[1] ** -0.5).softmax(dim=2)
    y = (weights @ g.transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
    return x + block.conv_out(y)


def block(mode: Mode, channels: int) -> NonLocal:
    """As after training: its last layer does something."""
    made = NonLocal(channels=channels, mode=mode)
    nn.init.normal_(made.conv_out.weight, std=0.05)
    for conv in (made.theta, made.phi):
        nn.init.normal_(conv.weight, std=0.05)
    return made


def case(mode: Mode, size: Size, target: Target, device: str) -> Case:
    """`size`: (C, H, W)."""
    make = partial(block, mode)
    accuracy = partial(block_accuracy, make, all_pairs, (64, 25, 42))
    return block_case(make, {"all pairs": all_pairs}, size, device, target, accuracy)


CASES = {
    "Non-local block, dot product, res4": partial(
        case, "dot_product", RES4, Target(forward=2.4, backward=2.2, errors=ACCURATE)
    ),
    "Non-local block, dot product, res3": partial(
        case, "dot_product", RES3, Target(forward=11, backward=2.2, errors=ACCURATE)
    ),
    "Non-local block, softmax, res3": partial(
        case, "embedded_gaussian", RES3, Target(forward_mib=150, errors=ACCURATE)
    ),
}

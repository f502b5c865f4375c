"""GloRe unit (Chen et al. 2019) with a frozen batch norm, as it is in a detector.

Peer: the released order of operations, with the states of every place.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relation_heads.layers.blocks.glore import GloRe

from ..case import Case, Target
from ..computation import ACCURATE
from .common import block_accuracy, block_case


def released_order(unit: GloRe, x: Tensor) -> Tensor:
    """x (1, C, H, W), no stride."""
    state = unit.conv_state(x).flatten(2)  # (1, S, L)
    projection = unit.conv_proj(x).flatten(2)  # (1, N, L)
    v = torch.matmul(state, projection.permute(0, 2, 1)) * (1 / state.shape[2])  # (1, S, N)
    h = unit.gcn.conv1(v.permute(0, 2, 1).contiguous()).permute(0, 2, 1)
    z = unit.gcn.conv2(F.relu(h + v))
    back = torch.matmul(z, projection).unflatten(2, x.shape[2:])  # (1, S, H, W)
    return x + unit.blocker(unit.conv_extend(back))


def unit(channels: int) -> GloRe:
    """As after training: its norm does something."""
    made = GloRe(channels=channels, norm=partial(nn.BatchNorm2d, eps=1e-4)).eval()
    nn.init.normal_(made.blocker.weight)
    nn.init.normal_(made.blocker.bias)
    return made


def case(size: tuple[int, int, int], device: str) -> Case:
    """`size`: (C, H, W)."""
    target = Target(forward=1.8, backward=1.7, forward_memory=1, backward_memory=1, errors=ACCURATE)
    accuracy = partial(block_accuracy, unit, released_order, (64, 25, 42))
    peers = {"released order": released_order}
    return block_case(unit, peers, size, device, target, accuracy)


CASES = {
    "GloRe unit, res2": partial(case, (256, 200, 336)),
    "GloRe unit, res4": partial(case, (1024, 50, 84)),
}

"""Local relation layer (Hu et al. 2019), between its 1 x 1 convolutions.

Peer: plain PyTorch on `F.unfold`, with k^2 copies of the map. (Their sum by einsum takes longer.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from relation_heads.layers.blocks.window_sum import window_sum

from ..case import OURS, Case, Target
from ..computation import ACCURATE, Computation, errors, variants

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
WINDOW, CHANNELS_PER_GROUP = 7, 8


def inputs(size: tuple[int, int, int], device: str, dtype: torch.dtype) -> Inputs:
    """Query, key, value and prior, the same for every device and dtype.

    Args:
        size: (C, H, W).
    """
    torch.manual_seed(0)
    groups = size[0] // CHANNELS_PER_GROUP
    shapes = (1, groups, *size[1:]), (1, groups, *size[1:]), (1, *size), (WINDOW**2, groups)
    query, key, value, prior = (
        torch.randn(shape).to(device, dtype).requires_grad_() for shape in shapes
    )
    return query, key, value, prior


def unfold_sum(query: Tensor, key: Tensor, value: Tensor, prior: Tensor) -> Tensor:
    """y (1, C, H, W)."""
    half, groups = WINDOW // 2, prior.shape[1]
    keys = F.unfold(key, WINDOW, padding=half).unflatten(1, (-1, WINDOW**2))
    inside = F.unfold(torch.ones_like(key[:, :1]), WINDOW, padding=half).bool()  # (1, k * k, L)
    logits = query.flatten(2).unsqueeze(2) * keys + prior.T.unsqueeze(2)
    weights = logits.masked_fill(~inside.unsqueeze(1), -torch.inf).softmax(2)  # (1, G, k * k, L)
    copies = F.unfold(value, WINDOW, padding=half)
    copies = copies.unflatten(1, (groups, -1, WINDOW**2))  # (1, G, m, k * k, L)
    return (weights.unsqueeze(2) * copies).sum(3).view_as(value)


def ours(query: Tensor, key: Tensor, value: Tensor, prior: Tensor) -> Tensor:
    """y (1, C, H, W)."""
    return window_sum(query, key, value, prior, WINDOW, 1, "product")


def accuracy() -> dict[str, float]:
    """At a size at which the peer is quick."""
    size = (32, 15, 18)
    found = {d: inputs(size, "cpu", d) for d in (torch.float32, torch.float64)}
    forms = {d: Computation(lambda t=t: ours(*t), t) for d, t in found.items()}
    truth = found[torch.float64]
    return errors(forms, Computation(lambda: unfold_sum(*truth), truth))


def case(device: str) -> Case:
    """At 200 x 100 x 168, res3 of LR-Net for an image of 800 x 1333 pixels."""
    tensors = inputs((200, 100, 168), device, torch.float32)
    forms = {OURS: ours, "unfold": unfold_sum}
    target = Target(
        forward=6, backward=3.7, forward_memory=1 / 20, backward_memory=1 / 20,
        errors=ACCURATE,
    )  # fmt: skip
    computations = {n: Computation(lambda f=f: f(*tensors), tensors) for n, f in forms.items()}
    return Case(variants(computations), target, accuracy)


CASES = {"local relation layer, res3": case}

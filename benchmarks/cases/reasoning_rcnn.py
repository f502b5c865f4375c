"""Class reasoning of Reasoning-RCNN (Xu et al. 2019) from the scores of regions, 3001 of them.

Peer: the released order of operations, a dense graph on all channels of the pool and W_g for each
image.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from relation_heads.layers import AdaptiveReasoning, Regions

from ..case import OURS, Case, Target
from ..computation import ACCURATE, Computation, errors, variants

CLASSES, DIM = 3000, 1024
COUNTS = (512, 512)  # regions of two images
NEIGHBOURS = 91  # of a class on average, as in the released graph of ADE

Inputs = tuple[AdaptiveReasoning, Tensor, Tensor, Tensor, Tensor]


def inputs(
    classes: int, dim: int, counts: tuple[int, ...], device: str, dtype: torch.dtype
) -> Inputs:
    """The layer, A with its diagonal (K, K), the pool (K, P), scores (N, K) and attention (B, K),
    the same for every device and dtype."""
    generator = torch.Generator().manual_seed(0)
    linked = torch.rand(classes, classes, generator=generator) < NEIGHBOURS / CLASSES
    edges = torch.rand(classes, classes, generator=generator) * linked
    edges.fill_diagonal_(0)
    torch.manual_seed(0)
    module = AdaptiveReasoning(dim, 8, edges=edges, out_norm="").to(device, dtype)
    adjacency = F.pad(edges + torch.eye(classes), (0, 1, 0, 1)).to(device, dtype)
    pool = torch.randn(classes + 1, dim + 1, generator=generator).to(device, dtype) * 0.01
    scores = torch.randn(sum(counts), classes + 1, generator=generator).to(device, dtype)
    attention = torch.randn(len(counts), classes + 1, generator=generator).softmax(1)
    return (
        module, adjacency, pool, scores.requires_grad_(),
        attention.to(device, dtype).requires_grad_(),
    )  # fmt: skip


def released_order(counts: tuple[int, ...], values: Inputs) -> Tensor:
    """h (N, E)."""
    module, adjacency, pool, scores, attention = values
    told = attention[:, :, None] * (adjacency @ pool)  # (B, K, P)
    embedded = F.relu(module.transform(told))  # (B, K, E)
    p = scores.softmax(dim=1).split(counts)
    return torch.cat([q @ e for q, e in zip(p, embedded, strict=True)])


def ours(counts: tuple[int, ...], values: Inputs) -> Tensor:
    """h (N, E)."""
    module, _, pool, scores, attention = values
    boxes = [torch.zeros(n, 4, device=scores.device) for n in counts]
    return module(scores, pool, attention, Regions.from_boxes(boxes, [(1, 1)] * len(counts)))


def computation(form: partial[Tensor], values: Inputs) -> Computation:
    """Of one form, with gradients of scores, attention and W_g."""
    module, _, _, scores, attention = values
    return Computation(lambda: form(values), [scores, attention, *module.transform.parameters()])


def accuracy() -> dict[str, float]:
    """At a size at which the released order is quick."""
    counts = (9, 6)
    found = {d: inputs(300, 32, counts, "cpu", d) for d in (torch.float32, torch.float64)}
    forms = {d: computation(partial(ours, counts), values) for d, values in found.items()}
    truth = computation(partial(released_order, counts), found[torch.float64])
    return errors(forms, truth)


def case(device: str) -> Case:
    """One step of two images."""
    values = inputs(CLASSES, DIM, COUNTS, device, torch.float32)
    forms = {OURS: ours, "released order": released_order}
    computations = {n: computation(partial(f, COUNTS), values) for n, f in forms.items()}
    return Case(variants(computations), Target(errors=ACCURATE), accuracy)


CASES = {"class reasoning, 3001 scores, R=1024": case}

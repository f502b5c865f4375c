"""Spatial edges between the regions of an image: how near, on which side, how much overlap.

Source: Chen, Li, Fei-Fei, Gupta, "Iterative Visual Reasoning Beyond Convolutions", CVPR 2018,
section 3.2: several kinds of edges, weighted by a kernel of the distance. The paper does not say
from where to where distances are measured, nor whether rows are normalised. Here, for a target i
and a source j with centres c:

    d = c_j - c_i;  kappa = exp(-|d| / bandwidth)
    A_left = kappa where d_x < 0;  right: d_x > 0;  top: d_y < 0;  bottom: d_y > 0
    A_iou = IoU(i, j)

without edges from a region to itself. With hundreds of overlapping proposals the rows of these sum
to 10 and more, so that they are divided by their sums there.

Shapes: R regions of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ..arguments import Wrong, above, each_of, require
from ..boxes import box_iou
from ..precision import widen

Relation = Literal["left", "right", "top", "bottom", "iou"]
RELATIONS: tuple[str, ...] = get_args(Relation)
EPSILON = 1e-12


def edge_problems(relations: Sequence[str], bandwidth: float) -> list[Wrong | None]:
    """What is wrong with these two arguments of `spatial_edges`."""
    return [each_of("relations", relations, RELATIONS), above("bandwidth", bandwidth, 0)]


@torch.no_grad()
def spatial_edges(
    boxes: Tensor,
    relations: Sequence[str] = RELATIONS,
    *,
    bandwidth: float = 50.0,
    source_weight: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """The adjacency A_e of every kind of edge: (E, R, R), rows are targets, columns sources.

    Args:
        boxes: (R, 4) x1, y1, x2, y2 in pixels.
        relations: E names out of `RELATIONS`.
        bandwidth: Delta of kappa, pixels.
        source_weight: (R,) >= 0, multiplies all edges that come from a region, for example its
            probability to be an object; None is 1. A region of weight 0 is not listened to.
        normalize: divide every row by its sum; rows without an edge stay 0.

    Raises:
        ArgumentError: an unknown relation or one that comes twice, a bandwidth not above 0.
    """
    require(*edge_problems(relations, bandwidth))
    boxes = widen(boxes)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    offset = centers[None] - centers[:, None]  # (R, R, 2), of j seen from i
    kappa = torch.exp(-offset.norm(dim=2) / bandwidth)
    x, y = offset.unbind(2)
    sides = {"left": x < 0, "right": x > 0, "top": y < 0, "bottom": y > 0}
    edges = [
        kappa * sides[name] if name in sides else box_iou(boxes[:, None], boxes)
        for name in relations
    ]
    adjacency = torch.stack(edges) if edges else boxes.new_zeros(0, *kappa.shape)  # (E, R, R)
    others = ~torch.eye(boxes.shape[0], dtype=torch.bool, device=boxes.device)
    adjacency = adjacency * others
    if source_weight is not None:
        adjacency = adjacency * source_weight.to(boxes.dtype)
    if normalize:
        adjacency = adjacency / adjacency.sum(dim=2, keepdim=True).clamp(min=EPSILON)
    return adjacency

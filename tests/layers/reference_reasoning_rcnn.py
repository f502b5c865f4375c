"""Reasoning-RCNN in float64, one cell, one class and one region at a time, in the released order:
the graph on all channels of the pool, and W_g for every image. Autograd can follow it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def relu(x: Tensor) -> Tensor:
    return x * (x > 0)


def softmax(scores: Tensor) -> Tensor:
    exponentials = [torch.exp(s - scores.detach().max()) for s in scores]
    return torch.stack([e / sum(exponentials) for e in exponentials])


def nearest(image_map: Tensor, size: tuple[int, int]) -> Tensor:
    """(F, h, w) to (F, H, W): the cell in which the upper left corner of the new cell lies."""
    old = image_map.shape[1:]
    rows = [math.floor(y * old[0] / size[0]) for y in range(size[0])]
    columns = [math.floor(x * old[1] / size[1]) for x in range(size[1])]
    return torch.stack([torch.stack([image_map[:, y, x] for x in columns], 1) for y in rows], 1)


def query(
    weight: dict[str, Tensor],
    maps: list[Tensor],
    image_size: tuple[int, int],
    stride: int,
    resized_to: int,
) -> Tensor:
    """z (P,) of ONE image; maps (F, H, W)."""
    size = tuple(maps[resized_to].shape[1:])
    x = torch.cat([nearest(m, size) for m in maps])
    cells = []
    for top in range(-1, size[0], 2):  # a border of 1 cell, every second place
        for left in range(-1, size[1], 2):
            if top + 2 >= size[0] + 1 or left + 2 >= size[1] + 1:
                continue  # the window reaches over the lower or right border
            value = weight["query.squeeze.bias"]
            for dy in range(3):
                for dx in range(3):
                    y, col = top + dy, left + dx
                    if 0 <= y < size[0] and 0 <= col < size[1]:
                        kernel = weight["query.squeeze.weight"][:, :, dy, dx]
                        value = value + kernel @ x[:, y, col]
            begins = ((top + 1) * stride, (left + 1) * stride)  # pixels
            if begins[0] < image_size[0] and begins[1] < image_size[1]:
                cells.append(relu(value))
    mean = sum(cells) / len(cells)
    return relu(weight["query.expand.weight"] @ mean + weight["query.expand.bias"])


def attention(z: Tensor, pool: Tensor) -> Tensor:
    """a (K,) of ONE image."""
    return softmax(torch.stack([z @ row for row in pool]))


def enhanced(
    weight: dict[str, Tensor], logits: Tensor, pool: Tensor, a: Tensor, adjacency: Tensor
) -> Tensor:
    """h (R, E) of ONE image before the LayerNorm.

    Args:
        weight: of the module, by name.
        logits: (R, K).
        pool: (K, P).
        a: (K,).
        adjacency: (K, K) A with its diagonal, the background last.
    """
    told = [
        sum(adjacency[c, other] * pool[other] for other in range(len(pool)))
        for c in range(len(pool))
    ]
    embedded = [
        relu(weight["transform.weight"] @ (a[c] * told[c]) + weight["transform.bias"])
        for c in range(len(pool))
    ]
    return torch.stack(
        [sum(p * e for p, e in zip(softmax(s), embedded, strict=True)) for s in logits]
    )


def layer_norm(weight: dict[str, Tensor], h: Tensor, eps: float) -> Tensor:
    rows = []
    for row in h:
        centred = row - sum(row) / len(row)
        scale = torch.sqrt((centred * centred).sum() / len(row) + eps)
        rows.append(centred / scale * weight["norm.weight"] + weight["norm.bias"])
    return torch.stack(rows)

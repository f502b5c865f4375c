"""What the local relation layer is compared with: one output, neighbour and channel at a time.

It takes the parameters of the layer under test, in float64, and computes everything else itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from relation_heads.layers.blocks.local_relation import LocalRelation


def _similarity(kind: str, q: Tensor, k: Tensor) -> Tensor:
    if kind == "product":
        return q * k
    return -torch.abs(q - k) if kind == "difference" else -((q - k) ** 2)


def _prior(layer: LocalRelation, dx: int, dy: int) -> Tensor:
    """b_g(D) of all groups."""
    first, _, last = layer.prior
    unit = max(1, (layer.window - 1) / 2)
    hidden = first.weight[:, 0] * (dx / unit) + first.weight[:, 1] * (dy / unit) + first.bias
    return last.weight @ torch.clamp(hidden, min=0)


def local_relation(layer: LocalRelation, x: Tensor) -> Tensor:
    """(n, C, H, W) to (n, C, H', W')."""
    images, channels, height, width = x.shape
    groups = layer.query.out_channels
    half, stride = layer.window // 2, layer.stride
    w_q, w_k, w_o = (conv.weight[:, :, 0, 0] for conv in (layer.query, layer.key, layer.out))
    prior = {
        (dy, dx): _prior(layer, dx, dy)
        for dy in range(-half, half + 1)
        for dx in range(-half, half + 1)
    }
    rows = []
    for n in range(images):
        keys = {(y, z): w_k @ x[n, :, y, z] for y in range(height) for z in range(width)}
        for y in range(0, height, stride):
            for z in range(0, width, stride):
                query = w_q @ x[n, :, y, z] + layer.query.bias
                near = [d for d in prior if (y + d[0], z + d[1]) in keys]
                logits = torch.stack(
                    [
                        _similarity(layer.similarity, query, keys[y + dy, z + dx]) + prior[dy, dx]
                        for dy, dx in near
                    ]
                )  # (neighbours, G)
                shares = torch.exp(logits - logits.max().detach())
                shares = shares / shares.sum(0)
                total = []
                for c in range(channels):
                    g = c // (channels // groups)
                    values = torch.stack([x[n, c, y + dy, z + dx] for dy, dx in near])
                    total.append(shares[:, g] @ values)
                out = w_o @ torch.stack(total)
                rows.append(out if layer.out.bias is None else out + layer.out.bias)
    size = math.ceil(height / stride), math.ceil(width / stride)
    return torch.stack(rows).view(images, *size, channels).permute(0, 3, 1, 2)

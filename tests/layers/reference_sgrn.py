"""SGRN as nested loops in float64: one region, one neighbour, one kernel at a time.

The order is the paper's and the released code's: neighbours' nodes are weighted and summed first
and projected by L_k afterwards; kernels are exponentials divided by their sum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from relation_heads.layers import SGRN

MIN_WIDTH = 1e-3  # ours; the released code adds 1e-14 to the square of a width


def latent(module: SGRN, f: Tensor) -> list[Tensor]:
    learner, z = module.learner, []
    for row in f:
        for fc in (learner.fc1, learner.fc2):
            scale = fc.weight_g.detach().double()  # (L, 1)
            direction = fc.weight_v.detach().double()
            weight = torch.stack(
                [scale[k, 0] * d / math.sqrt(float(d @ d)) for k, d in enumerate(direction)]
            )
            row = (weight @ row + fc.bias.detach().double()).clamp(min=0)
        if learner.similarity == "cosine":
            row = row / math.sqrt(float(row @ row)) * math.sqrt(abs(float(learner.scale)))
        z.append(row)
    return z


def polar(query: list[float], key: list[float], size: tuple[int, int], angle: str):
    height, width = size
    dx = ((key[0] + key[2]) / 2 - (query[0] + query[2]) / 2) / width
    dy = ((key[1] + key[3]) / 2 - (query[1] + query[3]) / 2) / height
    distance = math.sqrt(dx * dx + dy * dy)
    if angle == "atan2":
        return distance, math.atan2(dy, dx)
    if dx == 0:
        return distance, 0.0 if dy == 0 else math.copysign(math.pi / 2, dy)
    return distance, math.atan(dy / dx)


def gaussian(kernels, k: int, distance: float, theta: float) -> float:
    """(u - mu)^T Sigma^-1 (u - mu), Sigma^-1 written out."""
    mean = kernels.mean[k].tolist()
    width = [math.sqrt(w * w + MIN_WIDTH**2) for w in kernels.width[k].tolist()]
    dd, dt = distance - mean[0], theta - mean[1]
    if kernels.angle == "atan2":
        dt = min((dt + 2 * math.pi * n for n in (-1, 0, 1)), key=abs)
    shear = 0.0 if kernels.shear is None else float(kernels.shear[k])
    inverse = [
        [1 / width[0] ** 2 + shear**2, shear / width[1]],
        [shear / width[1], 1 / width[1] ** 2],
    ]
    return dd * (inverse[0][0] * dd + inverse[0][1] * dt) + dt * (
        inverse[1][0] * dd + inverse[1][1] * dt
    )


def sgrn_image(
    module: SGRN,
    f: Tensor,
    x: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    is_key: list[bool],
    key_bias: list[float],
) -> Tensor:
    """(N, D) features, (N, P) nodes of ONE image to (N, E) h before dropout and LayerNorm."""
    z = latent(module, f.double())
    boxes = boxes.double().tolist()
    keys = [j for j, answers in enumerate(is_key) if answers]
    neighbours = []
    for i in range(len(z)):
        scored = sorted((-float(z[i] @ z[j]) - key_bias[j], j) for j in keys)
        neighbours.append([(j, -e) for e, j in scored[: module.num_neighbors]])
    h = x.double()
    for conv in module.convs:
        weight = conv.linear.weight.detach().double()
        block = len(weight) // conv.num_kernels
        out = torch.zeros(len(h), len(weight), dtype=torch.float64)
        for i, near in enumerate(neighbours):
            scores = [e for _, e in near]
            places = [polar(boxes[i], boxes[j], size, module.angle) for j, _ in near]
            for k in range(conv.num_kernels):
                w = [math.exp(-0.5 * gaussian(conv.kernels, k, *u)) for u in places]
                e = [math.exp(s) for s in scores]
                if conv.edge_norm == "joint":
                    products = [a * b for a, b in zip(w, e, strict=True)]
                    edges = [p / sum(products) for p in products]
                else:
                    if conv.kernel_norm == "neighbors":
                        w = [a / sum(w) for a in w]
                    elif conv.kernel_norm == "kernels":
                        others = range(conv.num_kernels)
                        total = [
                            sum(math.exp(-0.5 * gaussian(conv.kernels, o, *u)) for o in others)
                            for u in places
                        ]
                        w = [a / b for a, b in zip(w, total, strict=True)]
                    if conv.edge_norm is None:
                        e = [1.0] * len(e)
                    elif conv.edge_norm == "softmax":
                        e = [b / sum(e) for b in e]
                    else:
                        e = scores
                    edges = [a * b for a, b in zip(w, e, strict=True)]
                gathered = torch.zeros(h.shape[1], dtype=torch.float64)
                for edge, (j, _) in zip(edges, near, strict=True):
                    gathered += edge * h[j]
                rows = slice(k * block, (k + 1) * block)
                out[i, rows] = weight[rows] @ gathered
        h = out.clamp(min=0)
    return h

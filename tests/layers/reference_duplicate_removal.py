"""Learned duplicate removal in the released code's order, float64, slow and obvious on purpose.

Class after class, box after box, head after head; the sum of both embeddings is projected (not each
of them), raw features are summed and projected afterwards, the gate keeps its ReLU. Everything of
the network is differentiable. `dense_logits` is the same in batched tensors (classes, first_n,
first_n, .), as the released symbols lay them out, for comparisons of memory and time. The random
modules and inputs of the tests stand at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from relation_heads.layers.duplicates.network import DuplicateRemoval
from tests.layers.reference_object_relation import deltas, embed

DIM = 16
CLASSES = 4


def sorted_regions(scores: list[float], first_n: int, threshold: float) -> list[int]:
    """The regions of one class by falling score; equal scores in their order."""
    order = sorted(range(len(scores)), key=lambda n: (-scores[n], n))
    return [n for n in order if scores[n] > threshold][:first_n]


def class_logits(module: DuplicateRemoval, features: Tensor, boxes: list[list[float]]) -> Tensor:
    """(n, D) features and n boxes of one class in rank order to (n, T)."""
    heads = module.num_heads
    d_k = module.query.out_features // heads
    d_v = module.value.out_features // heads
    embedded = []
    for rank, feature in enumerate(features):
        half = module.rank_dim // 2
        z = [rank / 1000 ** (2 * k / module.rank_dim) for k in range(half)]
        e = torch.tensor([math.sin(v) for v in z] + [math.cos(v) for v in z], dtype=torch.float64)
        rank_feature = module.rank.weight @ e + module.rank.bias
        embedded.append(module.appearance.weight @ feature + module.appearance.bias + rank_feature)
    out = []
    for n, asked in enumerate(embedded):
        relation = []
        for h in range(heads):
            rows = slice(h * d_k, (h + 1) * d_k)
            q = module.query.weight[rows] @ asked + module.query.bias[rows]
            weights = []
            for m, other in enumerate(embedded):
                k = module.key.weight[rows] @ other + module.key.bias[rows]
                e = torch.tensor(
                    embed(deltas(boxes[n], boxes[m], "query", False), 8, 100.0),
                    dtype=torch.float64,
                )
                gate = (module.gate.weight[h] @ e + module.gate.bias[h]).relu()
                weights.append(gate.clamp(min=1e-6).log() + q @ k / math.sqrt(d_k))
            softmax = torch.stack(weights).softmax(dim=0)
            raw = sum(w * other for w, other in zip(softmax, embedded, strict=True))
            rows = slice(h * d_v, (h + 1) * d_v)
            relation.append(module.value.weight[rows] @ raw + module.value.bias[rows])
        final = (asked + torch.cat(relation)).relu()
        out.append(module.logit.weight @ final + module.logit.bias)
    return torch.stack(out)


def overlap(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x[2] - x[0] + 1) * (x[3] - x[1] + 1) for x in (a, b)]
    return width * height / (areas[0] + areas[1] - width * height)


def class_targets(
    boxes: list[list[float]],
    scores: list[float],
    objects: list[list[float]],
    thresholds: Sequence[float],
) -> list[list[float]]:
    """Boxes of one class in rank order and its objects to (n, T) of 0 and 1.

    The score of a box counts for the object it overlaps most, if that is above the threshold, and
    is 0 for all others; the first box of the highest score wins an object, also when all are 0,
    but only boxes above the threshold may win.
    """
    targets = [[0.0] * len(thresholds) for _ in boxes]
    if not objects:
        return targets
    ious = [[overlap(box, thing) for thing in objects] for box in boxes]
    for t, eta in enumerate(thresholds):
        allowed = [max(row) > eta for row in ious]
        for g in range(len(objects)):
            masked = [
                s if row[g] > eta and row.index(max(row)) == g else 0.0
                for s, row in zip(scores, ious, strict=True)
            ]
            winner = masked.index(max(masked))
            if allowed[winner]:
                targets[winner][t] = 1.0
    return targets


def class_loss(s0: Tensor, logits: Tensor, targets: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Sum over (n,) scores and (n, T) logits; the released code divides it by first_n T."""
    product = s0[:, None] * logits.sigmoid()
    positive = -targets * (product + epsilon).log() * 4.0
    negative = -(1 - targets) * (1 - product + epsilon).log()
    return (positive + negative).sum()


def dense_logits(
    module: DuplicateRemoval, features: Tensor, log_scores: Tensor, boxes: Tensor, first_n: int
) -> tuple[Tensor, Tensor]:
    """One image, all classes at once: (C, first_n, T) logits and (C, first_n) regions."""
    heads = module.num_heads
    order = log_scores.argsort(dim=0, descending=True, stable=True)[:first_n].T  # (C, n)
    wave = 1000 ** (torch.arange(module.rank_dim // 2).to(features) * 2 / module.rank_dim)
    z = torch.arange(order.shape[1]).to(features)[:, None] / wave
    ranks = module.rank(torch.cat([z.sin(), z.cos()], dim=1))  # (n, E)
    f = module.appearance(features)[order] + ranks  # (C, n, E)
    x1, y1, x2, y2 = boxes[order].unbind(-1)  # (C, n)
    w, h, cx, cy = x2 - x1 + 1, y2 - y1 + 1, (x1 + x2) / 2, (y1 + y2) / 2
    position = torch.stack(
        [
            ((cx[:, :, None] - cx[:, None]).abs() / w[:, :, None]).clamp(min=1e-3).log(),
            ((cy[:, :, None] - cy[:, None]).abs() / h[:, :, None]).clamp(min=1e-3).log(),
            (w[:, :, None] / w[:, None]).log(),
            (h[:, :, None] / h[:, None]).log(),
        ],
        dim=-1,
    )  # (C, n, n, 4)
    z = 100 * position[..., None] / 1000 ** (torch.arange(8).to(features) / 8)
    embedding = torch.cat([z.sin(), z.cos()], dim=-1).flatten(-2)  # (C, n, n, 64)
    gate = module.gate(embedding).relu().clamp(min=1e-6).log().permute(0, 3, 1, 2)
    q = module.query(f).unflatten(-1, (heads, -1)).transpose(1, 2)  # (C, H, n, d_k)
    k = module.key(f).unflatten(-1, (heads, -1)).transpose(1, 2)
    weights = (gate + q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    raw = (weights.flatten(1, 2) @ f).unflatten(1, (heads, -1))  # (C, H, n, E)
    projection = module.value.weight.unflatten(0, (heads, -1))  # (H, E / H, E)
    relation = torch.einsum("chne,hve->cnhv", raw, projection).flatten(2) + module.value.bias
    return module.logit(F.relu(f + relation)), order


def random_boxes(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(n, 2, 2, generator=generator) * torch.tensor([400.0, 300.0])
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def random_log_scores(n: int, classes: int = CLASSES, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(n, classes + 1, generator=generator)).log_softmax(dim=1)[:, :-1]


def make(**kwargs: Any) -> DuplicateRemoval:
    torch.manual_seed(0)
    kwargs = dict(embed_dim=8, rank_dim=12, num_heads=2, key_dim=4) | kwargs
    module = DuplicateRemoval(DIM, **kwargs)
    for layer in module.children():  # biases matter; W_s too small would hide errors
        torch.nn.init.normal_(layer.bias, std=0.1)
    torch.nn.init.normal_(module.logit.weight, std=0.5)
    return module


def inputs(*splits: int, classes: int = CLASSES, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(N, DIM) features, (N, 4) boxes and (N, C) log scores."""
    n = sum(splits)
    features = torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed))
    return features, random_boxes(n, seed), random_log_scores(n, classes, seed)

"""HKRM's relation in float64, one pair of regions at a time. Autograd can follow it."""

from __future__ import annotations

import torch
from torch import Tensor


def edge(weight: dict[str, Tensor], first: Tensor, second: Tensor) -> Tensor:
    """a of two regions (D,)."""
    x = torch.where(first > second, first - second, second - first)
    layers = sorted({int(name.split(".")[1]) for name in weight if name.startswith("edge.")})
    for number in layers:
        x = weight[f"edge.{number}.weight"] @ x + weight[f"edge.{number}.bias"]
        x = x * (x > 0) if number != layers[-1] else x
    return x[0]


def relate_image(
    weight: dict[str, Tensor], features: Tensor, is_key: list[bool]
) -> tuple[Tensor, Tensor]:
    """f' (n, E) and a (n, n) of ONE image, features (n, D)."""
    fixed, n = features.detach(), len(features)
    a = [[edge(weight, fixed[i], fixed[j]) for j in range(n)] for i in range(n)]
    out = []
    for i in range(n):
        total, mean = 0.0, torch.zeros_like(features[0])
        for j in range(n):
            if is_key[j]:
                total = total + torch.exp(a[i][j])
                mean = mean + torch.exp(a[i][j]) * features[j]
        out.append(weight["transform.weight"] @ (mean / total) + weight["transform.bias"])
    return torch.stack(out), torch.stack([torch.stack(row) for row in a])


def prior_loss(edges: list[Tensor], labels: list[list[int]], prior: Tensor) -> Tensor:
    errors = []
    for a, label in zip(edges, labels, strict=True):
        for i, first in enumerate(label):
            for j, second in enumerate(label):
                if 0 <= first < len(prior) and 0 <= second < len(prior):
                    errors.append((a[i, j] - prior[first, second]) ** 2)
    return sum(errors) / len(errors)

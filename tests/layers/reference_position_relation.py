"""The position relation of Hou et al. 2024 in the released order, one pair of boxes at a time, on
Python's own numbers: boxes are (cx, cy, w, h), and sines and cosines take turns in the channels."""

from __future__ import annotations

import math

import torch


def channels(n: list[float], m: list[float]) -> list[float]:
    """The 64 channels of one pair (cx, cy, w, h)."""
    dx = math.log(abs(n[0] - m[0]) / (n[2] + 0.00001) + 1.0)
    dy = math.log(abs(n[1] - m[1]) / (n[3] + 0.00001) + 1.0)
    dw = math.log((n[2] + 0.00001) / (m[2] + 0.00001))
    dh = math.log((n[3] + 0.00001) / (m[3] + 0.00001))
    result = []
    for d in (dx, dy, dw, dh):
        for k in range(8):
            phase = 100.0 * d / 10000.0 ** (2 * k / 16)
            result += [math.sin(phase), math.cos(phase)]
    return result


def reference_bias(
    queries: torch.Tensor, keys: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """(H, Nq, Nk) of the boxes (Nq, 4) and (Nk, 4) of one image, as (cx, cy, w, h).

    Args:
        weight: (H, 64), its channels as in `channels`; may have a gradient, as `bias` (H,).
    """
    rows = []
    for n in queries.tolist():
        for m in keys.tolist():
            e = torch.tensor(channels(n, m), dtype=torch.float64)
            rows.append(torch.relu(weight @ e + bias))
    empty = weight.new_zeros(0, len(weight))
    return torch.stack(rows or [*empty]).T.reshape(len(weight), len(queries), len(keys))


def reference_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """(H, Nq, d_v) of one image: (H, Nq, d_k), (H, Nk, d_k), (H, Nk, d_v), (H, Nq, Nk)."""
    heads = []
    for h in range(len(query)):
        out = []
        for n in range(query.shape[1]):
            logits = key[h] @ query[h, n] / math.sqrt(query.shape[2]) + bias[h, n]
            weights = torch.exp(logits) / torch.exp(logits).sum()
            out.append(weights @ value[h])
        heads.append(torch.stack(out))
    return torch.stack(heads)

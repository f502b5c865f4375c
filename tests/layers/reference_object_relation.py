"""The object relation module as nested loops in float64, one equation per line, in the released
code's order.

Slow and obvious on purpose: one query, one head, one key at a time; raw features are summed first
and projected afterwards (the released `linear_out`), and the gate keeps its ReLU. Norm "" is the
released code; "max_rms" is ours.
"""

from __future__ import annotations

import math

import torch

from relation_heads.layers import ObjectRelation


def deltas(query: list[float], key: list[float], normalize_by: str, geometry: str) -> list[float]:
    border = 0.00001 if geometry == "position" else 1
    wn, hn = query[2] - query[0] + border, query[3] - query[1] + border
    wm, hm = key[2] - key[0] + border, key[3] - key[1] + border
    unit = (wn, hn) if normalize_by == "query" else (wm, hm)
    result = []
    for axis in (0, 1):
        shift = (key[axis] + key[axis + 2]) / 2 - (query[axis] + query[axis + 2]) / 2
        t = shift / unit[axis]
        if geometry == "position":
            result.append(math.log(1 + abs(t)))
        elif geometry == "signed":
            result.append(math.copysign(math.log(1 + 4 * abs(t)), t) if t else 0.0)
        else:
            result.append(math.log(max(abs(t), 1e-3)))
    return [*result, math.log(wn / wm), math.log(hn / hm)]


def embed(
    values: list[float], wavelengths: int, scale: float, longest: float = 1000
) -> list[float]:
    result = []
    for value in values:
        z = [scale * value / longest ** (k / wavelengths) for k in range(wavelengths)]
        result += [math.sin(v) for v in z] + [math.cos(v) for v in z]
    return result


def shortened(row: list[float], longest: float) -> list[float]:
    rms = math.sqrt(sum(value**2 for value in row) / len(row))
    return [value / rms * longest for value in row] if rms > longest else row


def relate_image(
    module: ObjectRelation,
    features: torch.Tensor,
    boxes: torch.Tensor,
    is_key: list[bool],
    earlier: torch.Tensor | None = None,
) -> torch.Tensor:
    """(N, D) features and (N, 4) boxes of ONE image to (N, D), everything float64. Regions ask from
    their `earlier` boxes (N, 4), if there are any."""
    p = {name: value.detach().double() for name, value in module.named_parameters()}
    heads, dim = module.num_heads, module.dim
    d_k, d_v = p["query.weight"].shape[0] // heads, dim // heads
    box = boxes.double().tolist()
    asking = box if earlier is None else earlier.double().tolist()
    f = features.detach().double()
    asked, told = f.clone(), f.clone()
    if module.norm == "max_rms":
        asked = torch.tensor([shortened(row, 1.0) for row in f.tolist()], dtype=torch.float64)
        told = torch.tensor([shortened(row, 2.0) for row in f.tolist()], dtype=torch.float64)
    if module.geometry == "unary":
        for n, (x1, y1, x2, y2) in enumerate(box):
            single = [(x1 + x2) / 2 / 4, (y1 + y2) / 2 / 4, x2 - x1 + 1, y2 - y1 + 1]
            where = torch.tensor(embed(single, dim // 8, 1.0), dtype=torch.float64)
            asked[n] += where
            told[n] += where
    keys = [m for m, allowed in enumerate(is_key) if allowed]
    out = f.clone()
    for n in range(len(f)):
        for h in range(heads):
            rows = slice(h * d_k, (h + 1) * d_k)
            q = p["query.weight"][rows] @ asked[n] + p["query.bias"][rows]
            weights = []
            for m in keys:
                k = p["key.weight"][rows] @ asked[m] + p["key.bias"][rows]
                gate, added = 1.0, 0.0
                if module.geometry in ("relation", "signed", "position"):
                    d = deltas(asking[n], box[m], module.normalize_by, module.geometry)
                    longest = 10000 if module.geometry == "position" else 1000
                    e = torch.tensor(embed(d, 8, 100.0, longest), dtype=torch.float64)
                    gate = max(0.0, float(p["gate.weight"][h] @ e + p["gate.bias"][h]))
                if module.geometry == "position":  # is added to the logits instead
                    gate, added = 1.0, gate
                weights.append(max(gate, 1e-6) * math.exp(float(k @ q) / math.sqrt(d_k) + added))
            if not keys:
                continue
            raw = sum(w * told[m] for w, m in zip(weights, keys, strict=True)) / sum(weights)
            rows = slice(h * d_v, (h + 1) * d_v)
            out[n, rows] += p["value.weight"][rows] @ raw + p["value.bias"][rows]
    return out

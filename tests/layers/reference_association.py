"""Association of tracklets and detections in float64, one pair at a time, one equation per line."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.layers.reference_object_relation import deltas, embed

Seen = list[tuple[int, Tensor, list[float]]]  # frames of a tracklet, oldest first: number, phi, box


def tracklet_feature(weight: dict[str, Tensor], seen: Seen) -> Tensor:
    """Eq. 5 and 6."""
    alpha = [torch.exp(weight["temporal.weight"] @ phi) for _, phi, _ in seen]
    return sum(a * phi for a, (_, phi, _) in zip(alpha, seen, strict=True)) / sum(alpha)


def predicted(seen: Seen, frame: int) -> list[float]:
    (start, _, first), (end, _, last) = seen[0], seen[-1]
    box = []
    for side in range(4):
        axis = side % 2
        way = (last[axis] + last[axis + 2]) / 2 - (first[axis] + first[axis + 2]) / 2
        speed = way / (end - start) if end > start else 0.0
        box.append(last[side] + speed * (frame - end))
    return box


def place(box: list[float], size: tuple[int, int]) -> list[float]:
    (x1, y1, x2, y2), (height, width) = box, size
    values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    return embed(values, 8, 100.0)


def iou(a: list[float], b: list[float]) -> float:
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(
        0.0, min(a[3], b[3]) - max(a[1], b[1])
    )
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (area - shared)


def linear(weight: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return weight[f"{name}.weight"] @ x + weight.get(f"{name}.bias", torch.zeros(()))


def score(
    weight: dict[str, Tensor],
    seen: Seen,
    phi: Tensor,
    box: list[float],
    frame: int,
    size: tuple[int, int],
) -> Tensor:
    """s of one tracklet and one detection with phi_s (D,)."""
    phi_t, there = tracklet_feature(weight, seen), predicted(seen, frame)
    relation = linear(weight, "relation", torch.cat([phi_t, phi]))  # eq. 7
    a, b = linear(weight, "cosine", phi_t), linear(weight, "cosine", phi)
    cosine = (a @ b) / (a.norm() * b.norm())  # eq. 8
    where = torch.tensor(place(there, size) + place(box, size), dtype=torch.float64)
    moved = torch.tensor(
        embed(deltas(there, box, "query", "signed"), 8, 100.0), dtype=torch.float64
    )
    parts = [
        relation,
        cosine[None],
        linear(weight, "place", where),
        linear(weight, "motion", moved),
    ]
    hidden = linear(weight, "hidden", torch.cat(parts))
    learned = linear(weight, "score", hidden * (hidden > 0))[0]
    return weight["gain"] * (cosine + iou(there, box) - 1) + learned

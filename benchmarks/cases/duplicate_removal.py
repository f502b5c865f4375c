"""The geometry of learned duplicate removal: log w_G of all pairs of boxes of every class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from relation_heads.layers.duplicates.network import PAIRS_PER_BATCH
from relation_heads.layers.separable_gate import separable_log_gate

from ..case import OURS, Case, Target, Variant
from .object_relation import HEADS, make_boxes, plain_embedding, plain_log_gate


def _in_batches(gate: Callable[[Tensor], Tensor], boxes: Tensor) -> list[Tensor]:
    """`gate` of (C, n, 4) boxes, as many classes at once as the layer takes."""
    classes = PAIRS_PER_BATCH // boxes.shape[1] ** 2
    return [gate(part) for part in boxes.split(classes)]


def _geometry(num_classes: int, count: int, target: Target, device: str) -> Case:
    boxes = torch.stack([make_boxes(count, seed) for seed in range(num_classes)]).to(device)
    generator = torch.Generator().manual_seed(0)
    weight = 0.1 * torch.randn(HEADS, 64, generator=generator).to(device)
    bias = 0.1 * torch.randn(HEADS, generator=generator).to(device)

    def separable(part: Tensor) -> Tensor:
        return separable_log_gate(part, part, weight, bias)

    def dense(part: Tensor) -> Tensor:
        return plain_log_gate(plain_embedding(part), weight, bias)

    def errors() -> dict[str, float]:
        part = boxes[:4].double()
        wide = weight.double(), bias.double()
        true = plain_log_gate(plain_embedding(part), *wide)
        results = {
            "float32": separable(boxes[:4]),
            "float64": separable_log_gate(part, part, *wide),
        }
        return {k: float((out - true).norm() / true.norm()) for k, out in results.items()}

    variants = {
        OURS: Variant(lambda: _in_batches(separable, boxes)),
        "dense embedding": Variant(lambda: dense(boxes)),
        "dense embedding, in batches": Variant(lambda: _in_batches(dense, boxes), is_peer=False),
    }
    return Case(variants, target, errors)


CASES: dict[str, Callable[[str], Case]] = {
    "duplicate removal geometry, 80 x 100": lambda device: _geometry(
        80,
        100,
        Target(3.0, forward_memory=1 / 4, errors={"float32": 2e-4, "float64": 1e-12}),
        device,
    ),
}

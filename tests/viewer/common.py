"""Detections made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from relation_heads.visualization.detections import Detections, Relations

# Two regions on one object at (0, 0), two on one at (20, 0), one at (50, 50), one at (80, 0).
BOXES = np.array(
    [
        [0, 0, 10, 10], [0, 0, 10, 8], [20, 0, 30, 10], [21, 0, 31, 10], [50, 50, 60, 60],
        [80, 0, 90, 10],
    ],
    dtype=np.float32,
)  # fmt: skip
LABELS = ["cat", "cat", "dog", "dog", "cow", "pig"]
# Of the detection in region 0, by head.
HEARD = np.array([[0.1, 0.1, 0.2, 0.25, 0.3, 0.05], [0, 0, 0, 0, 1, 0]], dtype=np.float32)


def by_hand(**changes: Any) -> Detections:
    """Two detections, a cat in region 0 and a cow in region 4, on an image 200 wide, 100 high."""
    weights = np.stack([HEARD, np.eye(6, dtype=np.float32)[[4, 4]]], axis=1)  # (2 heads, 2, 6)
    fields: dict[str, Any] = {
        "image": np.full((100, 200, 3), (200, 120, 40), np.uint8),
        "boxes": BOXES[[0, 4]],
        "scores": np.array([0.9, 0.4], np.float32),
        "classes": np.array([0, 2]),
        "names": ["cat", "cow"],
        "file_name": "/home/somebody/photos/farm.jpg",
        "relations": (
            Relations("roi_heads.box_head.relation2.0", "ObjectRelation", BOXES, list(LABELS),
                      np.array([0, 4]), weights),
        ),
        "attention": {"plain": np.array([0.25, 0.5]), "local1": np.array([0.75, 0.5])},
    }  # fmt: skip
    return Detections(**{**fields, **changes})


def at_random(
    rng: np.random.Generator,
    *,
    number: int = 8,
    regions: int = 40,
    heads: int = 4,
    modules: int = 2,
    image: np.ndarray | None = None,
    file_name: str = "",
    min_score: float = 0.0,
) -> Detections:
    """Detections and regions of any place and size; softmax weights."""
    if image is None:
        image = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    size = np.array(image.shape[1::-1])
    corner = rng.uniform(0, 0.8, (regions, 2))
    boxes = np.hstack([corner, np.minimum(corner + rng.uniform(0.05, 0.5, (regions, 2)), 1)])
    boxes *= np.tile(size, 2)
    region = rng.choice(regions, number, replace=False)
    relations = []
    for module in range(modules):
        scores = np.exp(rng.normal(0, 2, (heads, number, regions)))
        relations.append(
            Relations(
                f"roi_heads.box_head.relation{module + 1}.0", "ObjectRelation", boxes,
                [f"class{k % 7}" for k in range(regions)], region,
                (scores / scores.sum(-1, keepdims=True)).astype(np.float32),
            )
        )  # fmt: skip
    return Detections(
        image=image,
        boxes=boxes[region],
        scores=np.sort(rng.uniform(min_score, 1, number))[::-1],
        classes=np.arange(number) % 7,
        names=[f"class{k % 7}" for k in range(number)],
        file_name=file_name,
        relations=tuple(relations),
    )

"""Boxes with features, made up."""

from __future__ import annotations

import torch

from relation_heads.analysis.given_boxes.data import BoxFeatures

CLASSES = ["cat", "dog", "cup", "bed"]
CHANNELS = 6


def toy(counts, *, seed=0, noise=0.3, name="toy", labels=None):
    """Images with so many boxes each; features are the class's own vector and noise."""
    draw = torch.Generator().manual_seed(seed)
    number = sum(counts)
    corners = 200 * torch.rand(number, 2, generator=draw)
    boxes = torch.cat([corners, corners + 20 + 80 * torch.rand(number, 2, generator=draw)], dim=1)
    if labels is None:
        labels = torch.randint(len(CLASSES), (number,), generator=draw)
    vectors = torch.randn(len(CLASSES), CHANNELS, generator=torch.Generator().manual_seed(99))
    features = vectors[labels] + noise * torch.randn(number, CHANNELS, generator=draw)
    return BoxFeatures(
        names=[f"{name}_{k}.jpg" for k in range(len(counts))],
        counts=torch.tensor(counts),
        sizes=torch.tensor([[300, 310]] * len(counts)),
        boxes=boxes,
        labels=labels,
        features=features.half(),
        image_features=torch.randn(len(counts), CHANNELS, generator=draw).half(),
        class_names=CLASSES,
        made_from={"dataset": name, "annotations": f"of {name}", "weights": "w"},
    )

"""Relational Scenes without pixels, to see in seconds what a layer can and cannot learn.

A region's feature is its look (one-hot, noisy) and its box is exact, so that nothing but the
relation layer decides: `co-occurrence` needs any exchange between regions, `size` the ratio of
sizes, `direction` the sign of the displacement.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from relation_heads.data.scenes.scenes import CLASS_GROUPS, CLASSES, LOOK_ALIKES, compose_scenes
from relation_heads.layers import Regions

MIX = {"co-occurrence": 0.3, "direction": 0.3, "size": 0.3, "rare": 0.1}
ALIKE = {name: names[0] for names in LOOK_ALIKES for name in names}
LOOK_NAMES = sorted({ALIKE.get(name, name) for name in CLASSES})
LOOKS = torch.tensor([LOOK_NAMES.index(ALIKE.get(name, name)) for name in CLASSES])
ITERATIONS = 500

# (features, regions) to the logits of one or more classifiers; the last is the one that counts.
Net = Callable[[Tensor, Regions], tuple[Tensor, ...]]


def batch(scenes, generator) -> tuple[Tensor, Regions, Tensor]:
    """Features (N, looks), regions, classes (N,)."""
    regions = Regions.from_boxes(
        [torch.as_tensor(s.boxes) for s in scenes], [(192, 192)] * len(scenes)
    )
    classes = torch.cat([torch.as_tensor(s.classes) for s in scenes])
    features = F.one_hot(LOOKS[classes], len(LOOK_NAMES)).float()
    return features + 0.15 * torch.randn(features.shape, generator=generator), regions, classes


def accuracy_by_group(
    build: Callable[[], nn.Module], seed: int, scenes: int = 16
) -> dict[str, float]:
    """Trains the net that `build` makes, on so many scenes an iteration; percent of objects of a
    group that are right."""
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    train, val = compose_scenes(1500, seed, mix=MIX), compose_scenes(400, seed + 100, mix=MIX)
    net = build()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for i in range(ITERATIONS):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * min(1, (i + 1) / 30) * (1 if i < 0.7 * ITERATIONS else 0.1)
        x, regions, classes = batch(
            [train[k] for k in rng.integers(len(train), size=scenes)], generator
        )
        loss = sum(F.cross_entropy(logits, classes) for logits in net(x, regions))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
    net.eval()
    with torch.no_grad():
        x, regions, classes = batch(val, generator)
        correct = (net(x, regions)[-1].argmax(1) == classes).float()
    groups = np.array([CLASS_GROUPS[CLASSES[c]] for c in classes.tolist()])
    return {
        g: 100 * correct[groups == g].mean().item() for g in ("co-occurrence", "direction", "size")
    }

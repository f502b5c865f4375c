"""What each geometry can and cannot learn, on scenes without pixels.

A region's feature is its look (one-hot, noisy) and its box is exact, so that nothing but the
relation layer decides: `co-occurrence` needs any exchange between regions, `size` the log-size
ratio, `direction` the sign of the displacement.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from relation_heads.data.relational_scenes import CLASS_GROUPS, CLASSES, LOOK_ALIKES, compose_scenes
from relation_heads.layers import ObjectRelation, Regions

MIX = {"co-occurrence": 0.3, "direction": 0.3, "size": 0.3, "rare": 0.1}
ALIKE = {name: names[0] for names in LOOK_ALIKES for name in names}
LOOK_NAMES = sorted({ALIKE.get(name, name) for name in CLASSES})
LOOKS = torch.tensor([LOOK_NAMES.index(ALIKE.get(name, name)) for name in CLASSES])
WIDTH, ITERATIONS, BATCH = 64, 500, 16


class Net(nn.Module):
    """fc, relation, ReLU, twice; without a geometry the regions stay alone."""

    def __init__(self, geometry, num_heads):
        super().__init__()
        self.fc = nn.ModuleList([nn.Linear(len(LOOK_NAMES), WIDTH), nn.Linear(WIDTH, WIDTH)])
        self.relation = nn.ModuleList(
            ObjectRelation(WIDTH, num_heads=num_heads, key_dim=16, geometry=geometry, init="xavier")
            for _ in range(2 if geometry else 0)
        )
        self.scores = nn.Linear(WIDTH, len(CLASSES))

    def forward(self, x, regions):
        for k, fc in enumerate(self.fc):
            x = fc(x)
            x = F.relu(self.relation[k](x, regions) if len(self.relation) else x)
        return self.scores(x)


def batch(scenes, generator):
    regions = Regions.from_boxes(
        [torch.as_tensor(s.boxes) for s in scenes], [(192, 192)] * len(scenes)
    )
    classes = torch.cat([torch.as_tensor(s.classes) for s in scenes])
    features = F.one_hot(LOOKS[classes], len(LOOK_NAMES)).float()
    return features + 0.15 * torch.randn(features.shape, generator=generator), regions, classes


def accuracy_by_group(geometry, num_heads, seed):
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    train, val = compose_scenes(1500, seed, mix=MIX), compose_scenes(400, seed + 100, mix=MIX)
    net = Net(geometry, num_heads)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for i in range(ITERATIONS):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * min(1, (i + 1) / 30) * (1 if i < 0.7 * ITERATIONS else 0.1)
        x, regions, classes = batch(
            [train[k] for k in rng.integers(len(train), size=BATCH)], generator
        )
        loss = F.cross_entropy(net(x, regions), classes)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
    with torch.no_grad():
        x, regions, classes = batch(val, generator)
        correct = (net(x, regions).argmax(1) == classes).float()
    groups = np.array([CLASS_GROUPS[CLASSES[c]] for c in classes.tolist()])
    return {
        g: 100 * correct[groups == g].mean().item() for g in ("co-occurrence", "direction", "size")
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_alone_a_region_is_at_chance(seed):
    accuracy = accuracy_by_group(None, 1, seed)
    assert (
        accuracy["co-occurrence"] < 35 and accuracy["direction"] < 60 and accuracy["size"] < 60
    ), accuracy


@pytest.mark.parametrize("seed", [0, 1])
def test_published_geometry_learns_all_but_direction(seed):
    accuracy = accuracy_by_group("relation", 4, seed)
    assert accuracy["co-occurrence"] > 95 and accuracy["size"] > 95, accuracy
    assert 40 < accuracy["direction"] < 60, accuracy


@pytest.mark.parametrize("seed", [0, 1])
def test_signed_geometry_learns_direction_too(seed):
    accuracy = accuracy_by_group("signed", 8, seed)
    assert accuracy["co-occurrence"] > 90 and accuracy["size"] > 90, accuracy
    assert accuracy["direction"] > 85, accuracy

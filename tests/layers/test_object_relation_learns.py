"""What each geometry can and cannot learn, on scenes without pixels."""

import pytest
import torch.nn.functional as F
from torch import nn

from relation_heads.data.scenes.scenes import CLASSES
from relation_heads.layers import ObjectRelation
from tests.layers.image_free import LOOK_NAMES, accuracy_by_group

WIDTH = 64


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
        return (self.scores(x),)


@pytest.mark.parametrize("seed", [0])
def test_alone_a_region_is_at_chance(seed):
    accuracy = accuracy_by_group(lambda: Net(None, 1), seed)
    assert (
        accuracy["co-occurrence"] < 35 and accuracy["direction"] < 60 and accuracy["size"] < 60
    ), accuracy


@pytest.mark.parametrize("seed", [0])
def test_published_geometry_learns_all_but_direction(seed):
    accuracy = accuracy_by_group(lambda: Net("relation", 4), seed, scenes=8)
    assert accuracy["co-occurrence"] > 95 and accuracy["size"] > 80, accuracy
    assert 40 < accuracy["direction"] < 60, accuracy


@pytest.mark.parametrize("seed", [0])
def test_signed_geometry_learns_direction_too(seed):
    accuracy = accuracy_by_group(lambda: Net("signed", 8), seed, scenes=8)
    assert accuracy["co-occurrence"] > 90 and accuracy["size"] > 90, accuracy
    assert accuracy["direction"] > 85, accuracy

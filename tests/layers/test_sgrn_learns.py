"""What SGRN can and cannot learn, on scenes without pixels: a base classifier, and a second one on
[f, h], trained together."""

import pytest
import torch
from torch import nn

from relation_heads.data.scenes.scenes import CLASSES
from relation_heads.layers import SGRN, semantic_nodes
from tests.layers.image_free import LOOK_NAMES, accuracy_by_group

WIDTH, GRAPH = 64, 64


class Net(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(len(LOOK_NAMES), WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()
        )
        self.base = nn.Linear(WIDTH, len(CLASSES))
        self.graph = SGRN(WIDTH, WIDTH + 1, latent_dim=64, graph_dims=(GRAPH,), **options)
        self.final = nn.Linear(WIDTH + GRAPH, len(CLASSES))
        for layer in (self.base, self.final):  # as Detectron2 starts its classifiers
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, x, regions):
        f = self.features(x)
        logits = self.base(f)
        nodes = semantic_nodes(logits, self.base.weight.detach(), self.base.bias.detach())
        return logits, self.final(torch.cat([f, self.graph(f.detach(), nodes, regions)], dim=1))


@pytest.mark.parametrize("seed", [0])
def test_polar_coordinates_tell_left_from_right_but_not_small_from_large(seed):
    accuracy = accuracy_by_group(Net, seed)
    assert accuracy["co-occurrence"] > 85 and accuracy["direction"] > 90, accuracy
    assert 40 < accuracy["size"] < 60, accuracy


def test_arctan_does_not_tell_left_from_right():
    accuracy = accuracy_by_group(lambda: Net(angle="arctan"), 0)
    assert 40 < accuracy["direction"] < 60, accuracy


def test_without_the_layer_norm_nothing_is_learned_in_a_short_schedule():
    accuracy = accuracy_by_group(lambda: Net(out_norm=""), 0)
    assert accuracy["co-occurrence"] < 40 and accuracy["direction"] < 60, accuracy

"""A miniature of what diverged: a small detector on small scenes, trained from random weights at a
learning rate that is too high for the published relation modules.

What it takes: features that train and that no norm holds (a backbone that ends as an FPN does), and
boxes, RPN and classes that train with them. Two fully connected layers on fixed features show none
of it.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from relation_heads import get_cfg
from relation_heads.config import find_config
from relation_heads.data.scenes.scenes import compose_scenes, render

SIZE, BATCH, ITERATIONS, WARMUP, LR = 128, 2, 100, 30, 0.05
TOO_LARGE = 1e3  # losses are 4 at the start


class EndsWithoutNorm(Backbone):
    """Four convolutions with batch norm, then a lateral and an output convolution without."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        layers, channels = [], 3
        for width, stride in ((16, 2), (32, 2), (64, 2), (64, 1)):
            conv = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.layers = nn.Sequential(*layers)
        self.lateral, self.out = nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3, padding=1)
        for conv in (self.lateral, self.out):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, x):
        return {"p3": self.out(self.lateral(self.layers(x)))}

    def output_shape(self):
        return {"p3": ShapeSpec(channels=64, stride=8)}


@pytest.fixture(scope="module")
def scenes():
    """100 scenes of 128 x 128 pixels, as the detector gets them."""
    images = []
    for scene in compose_scenes(100, 0, size=SIZE, min_gap=8):
        objects = Instances((SIZE, SIZE))
        objects.gt_boxes = Boxes(torch.as_tensor(scene.boxes))
        objects.gt_classes = torch.as_tensor(scene.classes)
        image = torch.as_tensor(np.ascontiguousarray(render(scene).transpose(2, 0, 1)))
        images.append({"image": image, "instances": objects, "height": SIZE, "width": SIZE})
    return images


def trained(scenes, norm, seed=2):
    """The iteration at which the training diverged, or None, and all losses."""
    cfg = get_cfg()
    cfg.merge_from_file(find_config("RelationalScenes/faster_rcnn_shallow.yaml"))
    cfg.MODEL.BACKBONE.NAME = EndsWithoutNorm.__name__
    cfg.MODEL.ROI_HEADS.NAME = "RelationROIHeads"
    cfg.MODEL.RELATION.KEY_DIM = 16
    cfg.MODEL.RELATION.NUM_RELATIONS = [2, 2]
    cfg.MODEL.RELATION.NORM = norm
    torch.manual_seed(seed)
    model = build_model(cfg).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
    order, losses = torch.Generator().manual_seed(seed), []
    with EventStorage():
        for i in range(ITERATIONS):
            optimizer.param_groups[0]["lr"] = LR * min(1.0, (i + 1) / WARMUP)
            rows = torch.randperm(len(scenes), generator=order)[:BATCH]
            try:
                loss = sum(model([scenes[r] for r in rows]).values())
            except FloatingPointError:  # boxes that are not finite
                return i, losses
            losses.append(float(loss.detach()))
            if not losses[-1] < TOO_LARGE:
                return i, losses
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return None, losses


@pytest.fixture(autouse=True)
def backbone():
    name = EndsWithoutNorm.__name__
    if name not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY.register(EndsWithoutNorm)
    yield
    BACKBONE_REGISTRY._obj_map.pop(name)


def test_the_published_form_diverges(scenes):
    diverged, _ = trained(scenes, "")
    assert diverged is not None and diverged > WARMUP / 2


def test_the_default_trains_to_the_end(scenes):
    diverged, losses = trained(scenes, get_cfg().MODEL.RELATION.NORM)
    assert diverged is None
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])

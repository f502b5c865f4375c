import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.modeling import build_backbone
from torch import nn

from relation_heads.config import get_cfg
from relation_heads.modeling.without_memory import without_memory


def test_a_model_without_memory_has_the_shapes_of_the_real_one():
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res4", "res5"]
    with without_memory():
        shapes = build_backbone(cfg).state_dict()
    real = build_backbone(cfg).state_dict()
    assert all(t.is_meta for t in shapes.values())
    assert {k: (t.shape, t.dtype) for k, t in shapes.items()} == {
        k: (t.shape, t.dtype) for k, t in real.items()
    }


def test_real_tensors_are_drawn_there_and_all_are_afterwards():
    with without_memory():
        real = nn.init.normal_(torch.zeros(9, device="cpu"))
        assert nn.init.uniform_(torch.zeros(9)).is_meta
    assert real.std() > 0 and nn.Linear(9, 9).weight.std() > 0

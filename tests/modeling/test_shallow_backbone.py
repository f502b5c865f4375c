"""The fairness of Relational Scenes is a theorem: the stock head cannot see the partner."""

import pytest

pytest.importorskip("detectron2")

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from relation_heads.config import find_config, get_cfg
from relation_heads.data.scenes.scenes import (
    CLASS_GROUPS,
    CLASSES,
    compose_scene,
    render,
    swap_partner,
)
from relation_heads.modeling import ShallowBackbone

RECEPTIVE_FIELD = 31


def test_receptive_field_is_31_pixels():
    backbone = ShallowBackbone().eval()
    image = torch.rand(1, 3, 128, 128, requires_grad=True)
    backbone(image)["p3"][0, :, 8, 8].sum().backward()
    ys, xs = image.grad[0].abs().sum(0).nonzero(as_tuple=True)
    assert ys.max() - ys.min() + 1 == xs.max() - xs.min() + 1 == RECEPTIVE_FIELD


def test_output_shape_is_what_it_says():
    backbone = ShallowBackbone()
    shape = backbone.output_shape()["p3"]
    assert shape == ShapeSpec(channels=64, stride=8)
    assert backbone(torch.rand(2, 3, 64, 96))["p3"].shape == (2, 64, 8, 12)


def model_of(config, **opts):
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.merge_from_file(find_config(f"RelationalScenes/{config}.yaml"))
    model = build_model(cfg).eval()
    for module in model.modules():  # statistics of a trained model: not 0 and 1
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.05, 0.2)
    return model


def class_logits(model, scene):
    """(N, 23) logits of the scene's own boxes."""
    image = torch.as_tensor(render(scene).transpose(2, 0, 1).copy())
    features = model.backbone(model.preprocess_image([{"image": image}]).tensor)
    proposals = Instances((scene.size, scene.size))
    proposals.proposal_boxes = Boxes(torch.as_tensor(scene.boxes))
    logits = []
    hook = model.roi_heads.box_predictor.register_forward_hook(lambda _, __, o: logits.append(o[0]))
    with torch.no_grad():
        model.roi_heads(None, features, [proposals])
    hook.remove()
    return logits[0]


def largest_change(model, min_gap, scenes=12):
    """What swapping the partner does to the logits of the objects that depend on it, over some
    scenes."""
    rng = np.random.default_rng(0)
    changes = []
    for _ in range(scenes):
        scene = compose_scene(rng, "co-occurrence", min_gap=min_gap)
        groups = [CLASS_GROUPS[CLASSES[c]] for c in scene.classes]
        partner = CLASSES[scene.classes[groups.index("partner")]]
        other = "moon" if partner != "moon" else "sun"
        dependent = torch.tensor([g == "co-occurrence" for g in groups])
        before, after = (class_logits(model, s) for s in (scene, swap_partner(scene, other)))
        assert not torch.equal(
            before[~dependent], after[~dependent]
        )  # the partner itself did change
        changes.append((before - after)[dependent].abs().max().item())
    return max(changes)


def test_stock_head_cannot_know_a_partner_32_pixels_away():
    assert largest_change(model_of("faster_rcnn_shallow"), min_gap=32) == 0.0


def test_the_probe_sees_a_partner_that_is_near():
    """Positive control: the zero above is due to the distance, not to a probe that sees nothing."""
    assert largest_change(model_of("faster_rcnn_shallow"), min_gap=4, scenes=40) > 1e-4


def test_relation_head_can_know_it():
    assert largest_change(model_of("faster_rcnn_shallow_relation"), min_gap=32) > 1e-4

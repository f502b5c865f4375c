"""LR-Net: counts of the paper, maps, frozen stages, and a step of a detector on it."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from relation_heads.config import get_cfg
from relation_heads.layers import LocalRelation
from relation_heads.layers.arguments import ArgumentError
from relation_heads.modeling.context_blocks import residual_stages
from relation_heads.modeling.lr_net import lr_net
from tests.modeling.common import build, losses

FPN = (
    "MODEL.BACKBONE.NAME", "build_lr_net_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT", 0,
    "MODEL.LR_NET.DEPTH", 26,
)  # fmt: skip


def config(*opts):
    cfg = get_cfg()
    cfg.merge_from_list(
        ["MODEL.BACKBONE.NAME", "build_lr_net_backbone", "MODEL.BACKBONE.FREEZE_AT", 0, *opts]
    )
    return cfg


def relations(module: nn.Module) -> list[LocalRelation]:
    return [m for m in module.modules() if isinstance(m, LocalRelation)]


@pytest.mark.parametrize(
    ("depth", "blocks", "millions", "of_the_priors"),
    [(50, (3, 4, 6, 3), 23.35, 24_983), (26, (2, 2, 2, 2), 14.59, 13_796)],
)
def test_parameters_of_the_paper(depth, blocks, millions, of_the_priors):
    """The paper does not say how wide its geometry priors are, so they are counted apart."""
    with torch.device("meta"):
        net = lr_net(depth, num_classes=1000)
    assert [len(stage) for stage in residual_stages(net).values()] == list(blocks)
    priors = sum(p.numel() for layer in relations(net) for p in layer.prior.parameters())
    assert priors == of_the_priors
    assert round((sum(p.numel() for p in net.parameters()) - priors) / 1e6, 2) == millions


def test_every_place_has_its_layer():
    with torch.device("meta"):
        net = lr_net(50)
    kernels = {m.kernel_size for m in net.modules() if isinstance(m, nn.Conv2d)}
    assert kernels == {(1, 1)}
    stem, *layers = relations(net)
    assert (stem.query.in_channels, stem.stride, stem.window) == (64, 2, 7)
    found = [(m.query.in_channels, m.query.out_channels, m.stride) for m in layers]
    assert found == [
        *3 * [(100, 10, 1)],
        (200, 25, 2), *3 * [(200, 25, 1)],
        (400, 50, 2), *5 * [(400, 50, 1)],
        (800, 100, 2), *2 * [(800, 100, 1)],
    ]  # fmt: skip
    assert {m.similarity for m in layers} == {"product"}


def test_maps_have_the_shapes_that_they_say():
    backbone = build_backbone(config("MODEL.LR_NET.DEPTH", 26)).eval()
    maps = backbone(torch.rand(1, 3, 64, 96))
    for k, name in enumerate(("res2", "res3", "res4", "res5")):
        stride = 2 ** (k + 2)
        assert backbone.output_shape()[name] == ShapeSpec(channels=256 * 2**k, stride=stride)
        assert maps[name].shape == (1, 256 * 2**k, 64 // stride, 96 // stride)


@pytest.mark.parametrize("freeze_at", [0, 1, 2])
def test_frozen_stages(freeze_at):
    with torch.device("meta"):
        keys = ("MODEL.LR_NET.DEPTH", 26, "MODEL.BACKBONE.FREEZE_AT", freeze_at)
        net = build_backbone(config(*keys, "MODEL.LR_NET.OUT_FEATURES", ["res3"]))
    trained = {n.split(".")[0] for n, p in net.named_parameters() if p.requires_grad}
    assert trained == set(["stem", "res2", "res3"][freeze_at:])


@pytest.mark.parametrize("norm", ["BN", ""])
def test_every_layer_has_a_norm_or_a_bias(norm):
    with torch.device("meta"):
        net = lr_net(26, norm=norm)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    convs = [m for m in net.modules() if isinstance(m, Conv2d)]
    assert len(norms) == (len(convs) + len(relations(net)) if norm else 0)
    assert {m.out.bias is None for m in relations(net)} == {norm != ""}


def test_a_detector_on_it_trains():
    model = build(*FPN, settle=False)
    found = losses(model)
    assert all(value.isfinite() for value in found.values())
    sum(found.values()).backward()
    for name, parameter in model.backbone.bottom_up.named_parameters():
        assert parameter.grad.isfinite().all(), name
        # A unit of a prior that all places, or none, switch on adds the same to all of them.
        assert parameter.grad.any() or ".prior." in name, name


def test_what_is_refused():
    with pytest.raises(ArgumentError) as caught:
        lr_net(101)
    assert [(w.argument, w.value) for w in caught.value.wrong] == [("depth", 101)]
    with pytest.raises(ValueError, match=r"MODEL\.LR_NET\.NORM must be .* got 'GN'"):
        build_backbone(config("MODEL.LR_NET.NORM", "GN"))

"""Weights of mmdet and of the GloRe video networks; checkpoints are made here, with their names."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("detectron2")

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import nn

import relation_heads
from relation_heads.engine.convert import (
    glore_3d_to_2d,
    is_mmdet_1,
    left_out_of_glore_3d,
    mmdet_to_detectron2,
)
from relation_heads.layers.blocks.glore import GloRe
from tests.helpers import tiny_cfg

NUM_CLASSES = 3
CONTEXT = [
    "MODEL.BACKBONE.NAME", "build_context_resnet_fpn_backbone",
    "MODEL.CONTEXT_BLOCKS.PLUGINS", [
        {"name": "GC", "stages": ["res3", "res5"], "position": "after_conv3", "ratio": 0.125},
        {"name": "NL", "stages": {"res4": [1]}, "position": "after_conv3", "inner_channels": 5},
    ],
]  # fmt: skip
NORMS = [
    "MODEL.FPN.NORM", "BN", "MODEL.ROI_MASK_HEAD.NORM", "BN", "MODEL.ROI_BOX_HEAD.NORM", "BN",
    "MODEL.ROI_BOX_HEAD.NUM_CONV", 4, "MODEL.ROI_BOX_HEAD.NUM_FC", 1,
    "MODEL.RESNETS.NUM_GROUPS", 2, "MODEL.RESNETS.WIDTH_PER_GROUP", 2,
]  # fmt: skip
AGNOSTIC = [
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True,
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True,
]  # fmt: skip


# ---- mmdet ----


def mask_rcnn_cfg(*opts) -> CfgNode:
    """A narrow Mask R-CNN R50-FPN; its widths are all an mmdet checkpoint does not set."""
    cfg = tiny_cfg([], [], NUM_CLASSES, "", base=relation_heads.get_cfg())
    cfg.merge_from_list([
        "MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.STRIDE_IN_1X1", False,
        "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16,
        "MODEL.RESNETS.WIDTH_PER_GROUP", 4,
        "MODEL.FPN.OUT_CHANNELS", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 12,
        "MODEL.ROI_BOX_HEAD.CONV_DIM", 8, "MODEL.MASK_ON", True,
        "MODEL.ROI_MASK_HEAD.NUM_CONV", 4, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0,
    ])  # fmt: skip
    cfg.merge_from_list(list(opts))
    return cfg


def random_detector(*opts) -> nn.Module:
    """Every tensor is different everywhere, so that each move of a row is seen."""
    model = build_model(mask_rcnn_cfg(*opts)).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and not name.startswith("pixel"):
                value.uniform_(0.5, 1) if value.dim() == 1 else value.normal_(std=0.1)
    return model


TO_MMDET = [  # regular expression of ours -> name in mmdet; numbers are moved in `to_mmdet`
    (r"^backbone\.bottom_up\.stem\.conv1\.norm", "backbone.bn1"),
    (r"^backbone\.bottom_up\.stem", "backbone"),
    (r"^backbone\.bottom_up\.res(\d)", lambda m: f"backbone.layer{int(m[1]) - 1}"),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"\.after_conv3\.gc\.", ".context_block."),
    (r"\.after_conv3\.nl\.(\w+)", r".nonlocal_block.\1.conv"),
    (r"^backbone\.fpn_lateral(\d)", lambda m: f"neck.lateral_convs.{int(m[1]) - 2}.conv"),
    (r"^backbone\.fpn_output(\d)", lambda m: f"neck.fpn_convs.{int(m[1]) - 2}.conv"),
    (r"^proposal_generator\.rpn_head\.conv", "rpn_head.rpn_conv"),
    (r"^proposal_generator\.rpn_head\.objectness_logits", "rpn_head.rpn_cls"),
    (r"^proposal_generator\.rpn_head\.anchor_deltas", "rpn_head.rpn_reg"),
    (r"^roi_heads\.box_head\.bn(\d)", lambda m: f"HEADS.bbox_head.shared_convs.{int(m[1]) - 1}.bn"),
    (r"^roi_heads\.box_head\.conv(\d)",
     lambda m: f"HEADS.bbox_head.shared_convs.{int(m[1]) - 1}.conv"),
    (r"^roi_heads\.box_head\.fc(\d)", lambda m: f"HEADS.bbox_head.shared_fcs.{int(m[1]) - 1}"),
    (r"^roi_heads\.box_predictor\.cls_score", "HEADS.bbox_head.fc_cls"),
    (r"^roi_heads\.box_predictor\.bbox_pred", "HEADS.bbox_head.fc_reg"),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)",
     lambda m: f"HEADS.mask_head.convs.{int(m[1]) - 1}.conv"),
    (r"^roi_heads\.mask_head\.deconv", "HEADS.mask_head.upsample"),
    (r"^roi_heads\.mask_head\.predictor", "HEADS.mask_head.conv_logits"),
    (r"\.conv\.norm\.", ".bn."),
]  # fmt: skip


def to_mmdet(model: nn.Module, version: int) -> dict[str, torch.Tensor]:
    """The inverse of the conversion, with rows that only mmdet 1 has set to 77."""
    state = {}
    for key, value in model.state_dict().items():
        if key.startswith("pixel"):
            continue
        for pattern, replacement in TO_MMDET:
            key = re.sub(pattern, replacement, key)
        key = key.replace("HEADS.", "" if version == 1 else "roi_head.")
        if version == 1 and "fc_cls" in key:
            value = torch.roll(value, 1, 0)
        one_class = {"fc_reg": 4, "conv_logits": 1}.get(key.split(".")[-2], 0)
        if version == 1 and one_class and len(value) > one_class:
            value = torch.cat([torch.full_like(value[:one_class], 77), value])
        state[key] = value.clone()
    return state


@pytest.mark.parametrize(
    "opts", [[], AGNOSTIC, NORMS, CONTEXT], ids=["stock", "agnostic", "norms", "context"]
)
@pytest.mark.parametrize("version", [1, 2])
def test_every_tensor_arrives(version, opts):
    model = random_detector(*opts)
    state = to_mmdet(model, version)
    assert ("bbox_head.fc_cls.weight" in state) == (version == 1) == is_mmdet_1(state)
    converted = mmdet_to_detectron2(state, theta="divided")
    ours = {k: v for k, v in model.state_dict().items() if not k.startswith("pixel")}
    assert converted.keys() == {k for k in ours if not k.endswith("num_batches_tracked")}
    for key, value in converted.items():
        assert torch.equal(value, ours[key]), key


def test_places_of_context_blocks():
    names = {
        "layer3.22.context_block.conv_mask.bias": "res4.22.after_conv3.gc.conv_mask.bias",
        "layer4.0.context_block.channel_mul_conv.1.weight": (
            "res5.0.after_conv3.gc.channel_mul_conv.1.weight"
        ),
        "layer2.3.nonlocal_block.conv_out.conv.bias": "res3.3.after_conv3.nl.conv_out.bias",
    }
    state = {f"backbone.{key}": torch.zeros(3, 1, 1) for key in names}
    converted = mmdet_to_detectron2({**state, "bbox_head.fc_cls.weight": torch.zeros(3, 1)})
    assert list(converted)[:-1] == [f"backbone.bottom_up.{name}" for name in names.values()]


def test_background_of_mmdet_1():
    state = {
        "bbox_head.fc_cls.weight": torch.tensor([[0.0], [1], [2]]),
        "bbox_head.fc_cls.bias": torch.tensor([0.0, 1, 2]),
        "bbox_head.fc_reg.weight": torch.arange(12.0)[:, None],
        "bbox_head.fc_reg.bias": torch.arange(12.0),
        "mask_head.conv_logits.weight": torch.tensor([0.0, 1, 2]).view(3, 1, 1, 1),
        "mask_head.conv_logits.bias": torch.tensor([0.0, 1, 2]),
    }
    converted = mmdet_to_detectron2(state)
    rows = {key: value.flatten().tolist() for key, value in converted.items()}
    for kind in ("weight", "bias"):
        assert rows[f"roi_heads.box_predictor.cls_score.{kind}"] == [1, 2, 0]
        assert rows[f"roi_heads.box_predictor.bbox_pred.{kind}"] == list(range(4, 12))
        assert rows[f"roi_heads.mask_head.predictor.{kind}"] == [1, 2]


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    torch.manual_seed(1)
    return random_detector()


def drop(key):
    return lambda state: state.pop(key)


def put(key, *shape):
    return lambda state: state.update({key: torch.zeros(shape)})


REG = "roi_head.bbox_head.fc_reg.weight"
CLS = "roi_head.bbox_head.fc_cls.weight"
MASK = "backbone.layer2.1.context_block.conv_mask"
G = "backbone.layer2.1.nonlocal_block.g.conv.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (put("backbone.layer2.0.conv2_offset.bias", 18), "1 of the names .*conv2_offset"),
        (put("neck.fpn_convs.4.conv.weight", 8, 8, 3, 3), "1 of the names .*fpn_convs.4"),
        (put("backbone.layer2.0.gen_attention_block.gamma", 1), "gamma: generalised attention"),
        (drop(CLS), "mmdet 1.* here is neither"),
        (put("bbox_head.fc_cls.weight", 4, 12), "mmdet 1.* here are both"),
        (put(REG, 16, 12), r"fc_reg.weight must have 4 or 12 rows.* 3 classes.* got 16"),
        (put("roi_head.mask_head.conv_logits.bias", 4), "conv_logits.bias must have 1 or 3 .*4"),
        (put("rpn_head.rpn_cls.weight", 6, 8, 1, 1), "rpn_cls.weight must have 3 rows.* got 6"),
        (put(f"{MASK}.weight", 1, 8, 1, 1), "8 channels where conv3 has 32: .* not come after"),
        (lambda state: [put(f"{MASK}.weight", 1, 32, 1, 1)(state), put(G, 5, 32, 1, 1)(state)],
         "layer2.1 has a context_block and a nonlocal_block.* order"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_an_error(detector, change, message):
    state = to_mmdet(detector, 2)
    mmdet_to_detectron2(state)
    change(state)
    with pytest.raises(ValueError, match=message):
        mmdet_to_detectron2(state)


def test_many_unknown_names_are_counted():
    state = {f"backbone.layer1.{i}.gn1.bias": torch.zeros(1) for i in range(6)}
    with pytest.raises(ValueError, match=r"^6 of the names .*layer1.3.gn1.bias and 2 more\.$"):
        mmdet_to_detectron2(state)


def non_local_of(state, power, x):
    """The released code: theta^T phi divided by d^power, x (1, C, H, W)."""

    def conv(name):
        key = f"backbone.layer3.1.nonlocal_block.{name}.conv"
        return lambda t: nn.functional.conv2d(t, state[f"{key}.weight"], state[f"{key}.bias"])

    theta, phi, g = (conv(name)(x).flatten(2) for name in ("theta", "phi", "g"))
    pairwise = theta.transpose(1, 2) @ phi / theta.shape[1] ** power
    y = g @ pairwise.softmax(dim=2).transpose(1, 2)
    return x + conv("conv_out")(y.unflatten(2, x.shape[2:]))


@pytest.mark.parametrize(("theta", "power"), [("divided", 0.5), ("multiplied", -0.5)])
def test_non_local_blocks_of_both_kinds_do_the_same(theta, power):
    state = to_mmdet(random_detector(*CONTEXT), 1)
    converted = mmdet_to_detectron2(state, theta=theta)
    model = random_detector(*CONTEXT)
    model.load_state_dict(converted, strict=False)
    block = model.backbone.bottom_up.res4[1].after_conv3.nl
    x = torch.randn(1, 64, 4, 5)
    expected = {p: non_local_of(state, p, x) for p in (0.5, -0.5)}
    assert (expected[0.5] - expected[-0.5]).abs().max() > 1e-3
    torch.testing.assert_close(block(x), expected[power])


def test_non_local_blocks_of_mmdet_1_have_to_be_told_apart():
    state = to_mmdet(random_detector(*CONTEXT), 1)
    with pytest.raises(ValueError, match=r"non-local blocks of mmdet 1.*: set --theta to divided"):
        mmdet_to_detectron2(state)
    mmdet_to_detectron2(to_mmdet(random_detector(), 1))
    mmdet_to_detectron2(to_mmdet(random_detector(*CONTEXT), 2))


# ---- boxes of mmdet 1 ----


def test_deltas_of_mmdet_1_decode_to_the_same_boxes():
    corner, size = torch.rand(50, 2) * 100, torch.rand(50, 2) * 80 + 1
    boxes, deltas = torch.cat([corner, corner + size], 1), torch.randn(50, 4)
    # mmdet 1: deltas times target_stds; sizes and corners with the pixel x2 inside.
    dx, dy, dw, dh = (deltas * torch.tensor([0.1, 0.1, 0.2, 0.2])).unbind(1)
    width, height = boxes[:, 2] - boxes[:, 0] + 1, boxes[:, 3] - boxes[:, 1] + 1
    x = (boxes[:, 0] + boxes[:, 2]) / 2 + width * dx
    y = (boxes[:, 1] + boxes[:, 3]) / 2 + height * dy
    w, h = width * dw.exp(), height * dh.exp()
    legacy = torch.stack(
        [x - w / 2 + 0.5, y - h / 2 + 0.5, x + w / 2 - 0.5, y + h / 2 - 0.5], dim=1
    )
    edges = torch.tensor([0.0, 0, 1, 1])
    decode = Box2BoxTransform(weights=mask_rcnn_cfg().MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS)
    torch.testing.assert_close(decode.apply_deltas(deltas, boxes + edges), legacy + edges)


def test_anchors_of_mmdet_1_are_those_with_offset_one_half():
    stride, ratios = 16, torch.tensor([0.5, 1, 2])  # of height to width
    size = stride * 8
    w, h = size / ratios.sqrt(), size * ratios.sqrt()
    centre = 0.5 * (stride - 1)
    legacy = torch.stack(
        [centre - (w - 1) / 2, centre - (h - 1) / 2, centre + (w - 1) / 2, centre + (h - 1) / 2], 1
    ).round()
    generator = DefaultAnchorGenerator(
        sizes=[[size]], aspect_ratios=[ratios.tolist()], strides=[stride], offset=0.5
    )
    ours = generator([torch.zeros(1, 1, 1, 1)])[0].tensor
    assert (ours - (legacy + torch.tensor([0.0, 0, 1, 1]))).abs().max() <= 0.5 + 1e-4


# ---- GloRe ----

UNIT = {  # of the released code, without num_batches_tracked
    "conv_state.weight", "conv_state.bias", "conv_proj.weight", "conv_proj.bias",
    "gcn.conv1.weight", "gcn.conv1.bias", "gcn.conv2.weight", "conv_extend.weight",
    "blocker.weight", "blocker.bias", "blocker.running_mean", "blocker.running_var",
}  # fmt: skip
UNITS = {
    50: ({3: (1, 3), 4: (1, 3, 5)}, {"res3": [0, 2], "res4": [0, 2, 4]}),
    101: ({3: (1, 3), 4: (6, 12, 18)}, {"res3": [0, 2], "res4": [5, 11, 17]}),
}
WIDTHS = {3: 8, 4: 16}
B03 = "conv4.B03_extra"


def random_unit(dims: int, channels: int) -> GloRe:
    norm = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
    unit = GloRe(channels=channels, dims=dims, normalize=False, norm=norm).eval()
    with torch.no_grad():
        for value in unit.state_dict().values():
            if value.is_floating_point():
                value.uniform_(0.1, 1)
    return unit


def video_network(depth: int, widths=WIDTHS) -> dict[str, torch.Tensor]:
    """Names of `resnet50_3d_gcn_x5.py` and `resnet101_3d_gcn_x5.py`; narrow."""
    blocks = {2: 3, 3: 4, 4: {50: 6, 101: 23}[depth], 5: 3}
    state = {"conv1.conv.weight": torch.zeros(4, 3, 3, 5, 5), "conv1.bn.weight": torch.zeros(4)}
    for stage, number in blocks.items():
        for block in range(1, number + 1):
            time = (3 if block == 2 else 1) if stage == 5 else (3 if stage == 2 or block % 2 else 1)
            kernels = {"m1": (time, 1, 1), "m2": (1, 3, 3), "m3": (1, 1, 1)}
            if block == 1:
                kernels["w1"] = (1, 1, 1)
            for name, kernel in kernels.items():
                layer = f"conv{stage}.B{block:02}.conv_{name}"
                state[f"{layer}.bn.running_mean"] = torch.zeros(4)
                state[f"{layer}.conv.weight"] = torch.zeros(4, 4, *kernel)
            if block in UNITS[depth][0].get(stage, ()):
                unit = random_unit(3, widths[stage]).state_dict()
                state.update({f"conv{stage}.B{block:02}_extra.{k}": v for k, v in unit.items()})
    state["tail.bn.num_batches_tracked"] = torch.tensor(3)
    return {**state, "classifier.weight": torch.zeros(5, 4), "classifier.bias": torch.zeros(5)}


@pytest.mark.parametrize("depth", [50, 101])
def test_units_of_the_released_networks(depth):
    state = video_network(depth)
    converted = glore_3d_to_2d(state)
    places = UNITS[depth][1]
    expected = {
        f"{stage}.{block}.after_add.glore.{name}"
        for stage, blocks in places.items()
        for block in blocks
        for name in UNIT | {"blocker.num_batches_tracked"}
    }
    assert converted.keys() == expected
    left_out = left_out_of_glore_3d(state)
    assert len(left_out) + len(converted) == len(state)
    # conv1; every block of conv2; every second of conv3 and conv4; one of conv5.
    over_time = [key for key in left_out if state[key].dim() == 5 and state[key].shape[2] > 1]
    assert len(over_time) == {50: 1 + 3 + 2 + 3 + 1, 101: 1 + 3 + 2 + 12 + 1}[depth]


def test_a_converted_unit_does_to_an_image_what_it_did_to_a_clip_of_one_frame():
    clip_unit, image_unit = random_unit(3, 8), random_unit(2, 8)
    state = {f"conv4.B06_extra.{key}": value for key, value in clip_unit.state_dict().items()}
    prefix = "res4.5.after_add.glore."
    converted = {k.removeprefix(prefix): v for k, v in glore_3d_to_2d(state).items()}
    image_unit.load_state_dict(converted, strict=True)
    x = torch.rand(2, 8, 5, 6)
    expected = clip_unit(x[:, :, None])[:, :, 0]
    assert (expected - x).abs().max() > 0.1
    torch.testing.assert_close(image_unit(x), expected)


def test_a_unit_of_an_old_pytorch_has_no_counter():
    state = {f"conv3.B01_extra.{k}": v for k, v in random_unit(3, 8).state_dict().items()}
    del state["conv3.B01_extra.blocker.num_batches_tracked"]
    assert len(glore_3d_to_2d(state)) == len(UNIT)


@pytest.mark.parametrize(
    "change, message",
    [
        (drop(f"{B03}.conv_proj.weight"), "res4.2.* not complete, it lacks conv_proj.weight"),
        (put(f"{B03}.conv_state.weight", 8, 16, 3, 1, 1), r"conv_state.*\(8, 16, 1, 1, 1\)"),
        (put(f"{B03}.gcn.conv1.bias", 3), r"gcn.conv1.bias .*must be \(4,\).* got \(3,\)"),
        (put(f"{B03}.fc_2.weight", 8, 4, 1, 1, 1), "1 of the names .*B03_extra.fc_2"),
        (put("conv4.B03.conv_m4.conv.weight", 4, 4, 1, 1, 1), "1 of the names .*conv_m4"),
        (lambda state: [state.pop(k) for k in list(state) if "_extra" in k], "has no GloRe unit"),
    ],
)  # fmt: skip
def test_a_network_that_does_not_fit_is_an_error(change, message):
    state = video_network(50)
    change(state)
    with pytest.raises(ValueError, match=message):
        glore_3d_to_2d(state)

"""Context blocks keep a backbone's names, places and outputs, and then train."""

from __future__ import annotations

import copy
import io
import pickle

import pytest

pytest.importorskip("detectron2")

import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import ShapeSpec, deform_conv
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from detectron2.modeling.backbone import regnet
from torch import nn

from relation_heads.modeling.context_blocks import residual_stages
from relation_heads.modeling.context_plugins import parse_plugins
from tests.modeling.common import C4, C4_SGRN, build, config, detections, losses

GC = {"name": "GC", "stages": ["res3", "res4", "res5"]}
GLORE = {"name": "GloRe", "stages": {"res3": [0], "res4": [0, 1]}}
LR = {"name": "LR", "stages": ["res5"], "window": 3}
IN_PLACE = {**LR, "position": "conv2", "stages": ["res3", "res5"], "norm": "BN"}
BLOCKS = "MODEL.CONTEXT_BLOCKS.PLUGINS"


def plugins(*entries, name="build_context_resnet_fpn_backbone"):
    """Keys and values: these plugins in a ResNet-FPN."""
    return ("MODEL.BACKBONE.NAME", name, BLOCKS, list(entries))


R18 = ("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64)
X101 = ("MODEL.RESNETS.DEPTH", 101, "MODEL.RESNETS.NUM_GROUPS", 4,
        "MODEL.RESNETS.WIDTH_PER_GROUP", 4)  # fmt: skip
R34 = (*R18, "MODEL.RESNETS.DEPTH", 34)
DC5 = (
    *C4,
    "MODEL.RESNETS.OUT_FEATURES", ["res5"],
    "MODEL.RESNETS.RES5_DILATION", 2,
    "MODEL.RPN.IN_FEATURES", ["res5"],
    "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES", ["res5"],
    "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC", 1,
)  # fmt: skip
DEFORM = ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True])
RETINA = (
    "MODEL.META_ARCHITECTURE", "RetinaNet",
    "MODEL.RETINANET.NUM_CLASSES", 5,
    "MODEL.RESNETS.OUT_FEATURES", ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"],
    "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone",
)  # fmt: skip


@BACKBONE_REGISTRY.register()
def build_tiny_regnet_backbone(cfg, input_shape):
    """Stages s1 to s4 at strides 4 to 32, under the names that the tiny config reads."""
    return regnet.RegNet(
        stem_class=regnet.SimpleStem,
        stem_width=16,
        block_class=getattr(regnet, cfg.VERSION_BLOCK),
        depth=6,
        w_a=16,
        w_0=16,
        w_m=2.0,
        group_width=8,
        se_ratio=0.25,
        out_features=["s3"],
    )


def regnet_config(block):
    """Keys and values, and the builder's block."""
    cfg = config(*C4, "MODEL.BACKBONE.NAME", "build_tiny_regnet_backbone")
    cfg.VERSION_BLOCK = block
    return cfg


# name -> (stock keys, builder of the changed backbone, position of GC)
FAMILIES = {
    "R18-FPN": (R18, "build_context_resnet_fpn_backbone", "after_conv2"),
    "R34-FPN": (R34, "build_context_resnet_fpn_backbone", "after_conv2"),
    "R50-FPN": ((), "build_context_resnet_fpn_backbone", "after_conv3"),
    "X101-FPN": (X101, "build_context_resnet_fpn_backbone", "after_conv3"),
    "R50-C4": (C4, "build_context_resnet_backbone", "after_conv3"),
    "R50-DC5": (DC5, "build_context_resnet_backbone", "after_conv3"),
    "DCNv1-FPN": (DEFORM, "build_context_resnet_fpn_backbone", "after_conv3"),
    "DCNv2-FPN": (
        (*DEFORM, "MODEL.RESNETS.DEFORM_MODULATED", True),
        "build_context_resnet_fpn_backbone",
        "after_conv3",
    ),
    "RetinaNet": ((*R18, *RETINA), "build_context_backbone", "after_conv2"),
}
families = pytest.mark.parametrize(
    ("stock", "builder", "position"), FAMILIES.values(), ids=FAMILIES.keys()
)


def changed(stock, builder, position, *more):
    """Keys and values of a stock model with GC everywhere, GloRe, and `more` plugins."""
    keys = dict(zip(stock[::2], stock[1::2], strict=True))
    inner = keys.get("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone")
    heads = ("MODEL.ROI_HEADS.NAME", "ContextRes5ROIHeads")
    return (
        *stock, *plugins({**GC, "position": position}, GLORE, *more, name=builder),
        "MODEL.CONTEXT_BLOCKS.BUILDER", inner,
        *(heads if keys.get("MODEL.ROI_HEADS.NAME") == "Res5ROIHeads" else ()),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _deformable_convolutions_on_the_cpu(monkeypatch):
    """Detectron2's have no backward there; torchvision's compute the same."""

    def plain(x, offset, weight, stride, padding, dilation, groups, deformable_groups):
        return torchvision.ops.deform_conv2d(
            x, offset, weight, stride=stride, padding=padding, dilation=dilation
        )

    def modulated(x, offset, mask, weight, bias, stride, padding, dilation, *groups):
        return torchvision.ops.deform_conv2d(
            x, offset, weight, bias, stride=stride, padding=padding, dilation=dilation, mask=mask
        )

    monkeypatch.setattr(deform_conv, "deform_conv", plain)
    monkeypatch.setattr(deform_conv, "modulated_deform_conv", modulated)


def is_new(name):
    return any(f".{p}." in name for p in ("after_conv2", "after_conv3", "after_add"))


def stir(model):
    """Random values in the new layers, so that they do something."""
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        if is_new(name):
            nn.init.normal_(parameter, std=0.1)
            if name.endswith("channel_add_conv.1.bias"):
                nn.init.ones_(parameter)  # before a ReLU, all of whose few channels could be off
    return model


# ---- drop-in ----


@families
def test_names_and_outputs_of_the_stock_model_stay_bit_for_bit(stock, builder, position):
    theirs = build(*stock, settle=False)
    ours = build(*changed(stock, builder, position), settle=False)
    expected = theirs.state_dict()
    new = [name for name in ours.state_dict() if is_new(name)]
    assert new and [n for n in ours.state_dict() if n not in new] == list(expected)
    assert not ours.load_state_dict(expected, strict=False).unexpected_keys
    before, after = losses(theirs), losses(ours)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(after[name], value), name


@families
def test_one_step_trains_every_new_parameter(stock, builder, position):
    model = stir(build(*changed(stock, builder, position), settle=False))
    sum(losses(model).values()).backward()
    assert any(is_new(n) for n, _ in model.named_parameters())
    for name, parameter in model.named_parameters():
        if is_new(name):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            # softmax cannot tell the bias of the attention mask
            assert parameter.grad.any() or name.endswith("conv_mask.bias"), name


@pytest.mark.parametrize("block", ["ResBottleneckBlock", "ResBasicBlock"])
def test_regnet(block):
    cfg = regnet_config(block)
    torch.manual_seed(0)
    stock = build_backbone(cfg).eval()
    last = "after_conv2" if block == "ResBasicBlock" else "after_conv3"
    cfg.merge_from_list(
        ("MODEL.CONTEXT_BLOCKS.BUILDER", "build_tiny_regnet_backbone",
         *plugins({"name": "GC", "stages": ["s2", "s3"], "position": last},
                  {"name": "NL", "stages": ["s3"], "position": "after_conv2"},
                  {"name": "GloRe", "stages": {"s3": [0]}}, name="build_context_backbone"))
    )  # fmt: skip
    torch.manual_seed(0)
    ours = build_backbone(cfg).eval()
    ours.load_state_dict(stock.state_dict(), strict=False)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(ours(x)["s3"], stock(x)["s3"])
    names = {n for n, _ in ours.named_parameters()} - {n for n, _ in stock.named_parameters()}
    assert names and all(is_new(f".{n}") for n in names)
    stir(ours)
    assert not torch.equal(ours(x)["s3"], stock(x)["s3"])


def test_a_backbone_checkpoint_with_suffix_names_loads_completely(tmp_path):
    """As ImageNet checkpoints do: matched by the ends of the names, 265 tensors of a ResNet-50."""
    torch.manual_seed(1)
    stock = build_backbone(config())
    weights = {
        name.removeprefix("bottom_up."): torch.randn_like(value.float())
        for name, value in stock.state_dict().items()
        if name.startswith("bottom_up.") and not name.endswith("num_batches_tracked")
    }
    assert len(weights) == 265
    with (tmp_path / "R-50.pkl").open("wb") as file:
        content = {"model": {k: v.numpy() for k, v in weights.items()}, "__author__": "test"}
        pickle.dump({**content, "matching_heuristics": True}, file)
    torch.manual_seed(2)
    ours = nn.ModuleDict(
        {"backbone": build_backbone(config(*changed((), *FAMILIES["R50-FPN"][1:])))}
    )
    DetectionCheckpointer(ours).load(str(tmp_path / "R-50.pkl"))
    loaded = ours.state_dict()
    for name, value in weights.items():
        assert torch.equal(loaded[f"backbone.bottom_up.{name}"], value), name


def test_without_plugins_it_is_the_stock_backbone():
    ours, stock = build_backbone(config(*plugins())), build_backbone(config())
    assert [type(m) for m in ours.modules()] == [type(m) for m in stock.modules()]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of sizes, which stay as they are
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_copies_pickles_and_traces():
    model = stir(build_backbone(config(*changed((), *FAMILIES["R50-FPN"][1:])))).eval()
    x = torch.rand(1, 3, 64, 64)
    expected = model(x)["p4"]
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(copy.deepcopy(model)(x)["p4"], expected)
    assert torch.equal(again(x)["p4"], expected)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    traced = torch.jit.trace(model.bottom_up, x, strict=False)
    torch.jit.save(traced, io.BytesIO())
    torch.testing.assert_close(traced(x)["res5"], model.bottom_up(x)["res5"])


# ---- positions ----


def seen_by(module):
    """(input, output) of the next call."""
    calls = []
    module.register_forward_hook(lambda _, args, out: calls.append((args[0].clone(), out.clone())))
    return calls


def one_block(*entries, stock=()):
    """The second block of res4, in evaluation mode, and its input and output."""
    backbone = stir(build_backbone(config(*stock, *plugins(*entries)))).eval()
    block = residual_stages(backbone)["res4"][1]
    calls = seen_by(block)
    return backbone, block, calls


def test_after_conv2_is_after_its_relu():
    backbone, block, _ = one_block({"name": "SE", "stages": ["res4"], "position": "after_conv2"})
    conv2, plugin, conv3 = (seen_by(m) for m in (block.conv2, block.after_conv2, block.conv3))
    backbone(torch.rand(1, 3, 64, 64))
    assert torch.equal(plugin[0][0], conv2[0][1].relu())
    assert plugin[0][0].shape[1] == block.conv2.out_channels != block.out_channels
    assert torch.equal(conv3[0][0], plugin[0][1])


def test_after_conv3_is_before_the_sum():
    backbone, block, calls = one_block({"name": "SE", "stages": ["res4"]})
    conv3, plugin = seen_by(block.conv3), seen_by(block.after_conv3)
    backbone(torch.rand(1, 3, 64, 64))
    assert torch.equal(plugin[0][0], conv3[0][1])
    x, out = calls[0]
    assert torch.equal(out, (plugin[0][1] + x).relu())


def test_after_add_is_after_the_last_relu():
    backbone, block, calls = one_block({"name": "NL", "stages": ["res4"]})
    conv3, plugin = seen_by(block.conv3), seen_by(block.after_add)
    backbone(torch.rand(1, 3, 64, 64))
    x, out = calls[0]
    assert torch.equal(plugin[0][0], (conv3[0][1] + x).relu())
    assert torch.equal(out, plugin[0][1])


def test_plugins_at_one_place_follow_one_another():
    entries = [
        {"name": "GC", "stages": ["res4"], "position": "after_add"},
        {"name": "GloRe", "stages": {"res4": [1]}},
        {"name": "GC", "stages": ["res4"], "position": "after_add", "pooling": "average"},
    ]
    backbone, block, calls = one_block(*entries)
    assert [n for n, _ in block.after_add.named_children()] == ["gc", "glore", "gc_2"]
    conv3 = seen_by(block.conv3)
    backbone(torch.rand(1, 3, 64, 64))
    x, out = calls[0]
    expected = (conv3[0][1] + x).relu()
    for layer in block.after_add:
        assert not torch.equal(layer(expected), expected)
        expected = layer(expected)
    torch.testing.assert_close(out, expected)


def test_stages_and_blocks_are_those_asked_for():
    backbone = build_backbone(config(*plugins({**GC, "stages": {"res3": [0, 2], "res5": [1]}})))
    found = {name.split(".after_")[0] for name, _ in backbone.named_parameters() if is_new(name)}
    assert found == {f"bottom_up.{b}" for b in ("res3.0", "res3.2", "res5.1")}


def test_glore_has_a_norm_unless_told_otherwise():
    for entry, norm in (
        (GLORE, "GN"),
        ({**GLORE, "norm": ""}, ""),
        ({**GLORE, "norm": "BN"}, "BN"),
    ):
        assert parse_plugins([entry])[0].norm == norm
    assert parse_plugins([{"name": "NL", "stages": ["res4"]}])[0].norm == ""


def test_options_and_norm_reach_the_layer():
    entry = {"name": "GloRe", "stages": ["res4"], "num_nodes": 3, "norm": "BN"}
    _, block, _ = one_block(entry)
    assert block.after_add.glore.conv_proj.out_channels == 3
    assert isinstance(block.after_add.glore.blocker, nn.BatchNorm2d)
    assert block.after_add.glore.blocker.eps == 1e-4


# ---- local relation, beside conv2 and in place of it ----


def test_local_relation_starts_as_the_identity_and_trains():
    stock, ours = build(settle=False), build(*plugins(LR), settle=False)
    new = {n.split("res5.")[1] for n, _ in ours.named_parameters() if is_new(n)}
    assert {n.split(".", 1)[0] for n in new} == {"0", "1", "2"}
    assert all(n[2:].startswith("after_conv2.lr.relation.") for n in new)
    ours.load_state_dict(stock.state_dict(), strict=False)
    before, after = losses(stock), losses(stir(ours))
    assert before.keys() == after.keys() and before != after
    sum(after.values()).backward()
    for name, parameter in ours.named_parameters():
        assert not is_new(name) or parameter.grad.any() or ".prior." in name, name
    ours = build(*plugins(LR), settle=False)
    ours.load_state_dict(stock.state_dict(), strict=False)
    assert {k: float(v) for k, v in losses(ours).items()} == {
        k: float(v) for k, v in before.items()
    }


def test_in_place_of_conv2_the_other_layers_keep_names_and_weights(tmp_path):
    """As ImageNet checkpoints do, matched by the ends of the names."""
    stock, changed = (build_backbone(config(*keys)) for keys in ((), plugins(IN_PLACE)))
    weights = {
        name.removeprefix("bottom_up."): torch.randn_like(value.float())
        for name, value in stock.state_dict().items()
        if name.startswith("bottom_up.") and not name.endswith("num_batches_tracked")
    }
    with (tmp_path / "R-50.pkl").open("wb") as file:
        content = {"model": {k: v.numpy() for k, v in weights.items()}, "__author__": "test"}
        pickle.dump({**content, "matching_heuristics": True}, file)
    first = {n: p.clone() for n, p in changed.state_dict().items() if ".relation" in n}
    ours = nn.ModuleDict({"backbone": changed})
    DetectionCheckpointer(ours).load(str(tmp_path / "R-50.pkl"))
    loaded = ours.state_dict()
    replaced = [n for n in weights if n.startswith(("res3", "res5")) and ".conv2." in n]
    assert len(replaced) == 5 * (4 + 3)
    for name, value in weights.items():
        assert (f"backbone.bottom_up.{name}" in loaded) == (name not in replaced), name
        assert name in replaced or torch.equal(loaded[f"backbone.bottom_up.{name}"], value), name
    assert first and all(torch.equal(loaded[f"backbone.{n}"], value) for n, value in first.items())


@pytest.mark.parametrize("in_1x1", [True, False])
def test_in_place_of_conv2_it_has_its_stride_and_trains(in_1x1):
    keys = ("MODEL.RESNETS.STRIDE_IN_1X1", in_1x1)
    se = {"name": "SE", "stages": ["res3"], "position": "after_conv2"}
    model = build(*keys, *plugins(IN_PLACE, se))
    blocks = residual_stages(model.backbone)["res3"]
    assert [b.conv2.relation.stride for b in blocks] == [1 if in_1x1 else 2, 1, 1, 1]
    assert all(b.conv2.relation.query.in_channels == b.conv2.relation_norm.num_features == 16
               and len(b.after_conv2) == 1 for b in blocks)  # fmt: skip
    block = blocks[1]
    conv1, conv2, after = (seen_by(m) for m in (block.conv1, block.conv2, block.after_conv2))
    sum(losses(model).values()).backward()
    assert torch.equal(conv2[0][0], conv1[0][1].relu())
    assert torch.equal(after[0][0], conv2[0][1].relu())
    for name, parameter in model.named_parameters():
        assert ".relation" not in name or ".prior." in name or parameter.grad.any(), name


def test_the_norm_in_place_of_conv2():
    for entry, norm in ((LR, ""), ({**LR, "position": "conv2"}, "GN"), (IN_PLACE, "BN")):
        assert parse_plugins([entry])[0].norm == norm


@pytest.mark.parametrize("stock", [R18, DEFORM])
def test_what_has_no_conv2_to_replace_is_refused(stock):
    with pytest.raises(ValueError, match=r"PLUGINS\[0\]: .* bottleneck, and res3.0, a .* has none"):
        build_backbone(config(*stock, *plugins(IN_PLACE)))


def test_a_convolution_is_replaced_once():
    with pytest.raises(
        ValueError, match=r"PLUGINS\[1\]: .* and res5.0, a BottleneckBlock, has none"
    ):
        build_backbone(config(*plugins(IN_PLACE, {**LR, "position": "conv2"})))


def test_widths_without_groups_are_refused():
    entry = {**IN_PLACE, "channels_per_group": 3}
    with pytest.raises(ValueError, match=r"\(LR, 16 channels\): .* channels_per_group 3, got 16"):
        build_backbone(config(*plugins(entry)))


# ---- res5 of C4 models ----


@pytest.mark.parametrize("heads", [(*C4, "MODEL.ROI_HEADS.NAME", "ContextRes5ROIHeads"), C4_SGRN])
def test_res5_of_the_roi_heads_takes_plugins(heads):
    backbone = ("MODEL.BACKBONE.NAME", "build_context_resnet_backbone")
    stages = {"res4": [5], "res5": [0, 2]}
    model = build(*heads, *backbone, BLOCKS, [{"name": "GC", "stages": stages}], settle=False)
    found = {name.split(".after_")[0] for name, _ in model.named_parameters() if is_new(name)}
    assert found == {"backbone.res4.5", "roi_heads.res5.0", "roi_heads.res5.2"}
    stir(model)
    sum(losses(model).values()).backward()
    assert model.roi_heads.res5[2].after_conv3.gc.conv_mask.weight.grad.any()
    assert len(detections(model)) == 2


def test_res5_of_stock_heads_is_refused():
    backbone = ("MODEL.BACKBONE.NAME", "build_context_resnet_backbone")
    with pytest.raises(
        ValueError, match=r"Res5ROIHeads does not put plugins .* ContextRes5ROIHeads"
    ):
        build(*C4, *backbone, BLOCKS, [GC], settle=False)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("GC", r"PLUGINS\[0\] must be a dict such as .*, got 'GC'"),
        ({"stages": ["res4"]}, "name must be one of GC, GloRe, LR, NL, SE, got None"),
        ({"name": "CBAM", "stages": ["res4"]}, "got 'CBAM'"),
        ({**GC, "ration": 0.1}, "GC has no key 'ration'; did you mean ratio?"),
        ({**GC, "zzz": 0.1}, "GC has no key 'zzz'; allowed are name, stages, position, ratio"),
        ({**GC, "norm": "BN"}, "GC has no key 'norm'"),
        ({**GC, "channels": 3}, "GC has no key 'channels'"),
        ({**GC, "position": "before"}, "position must be one of after_conv2, .*, got 'before'"),
        ({**GC, "position": "conv2"}, "position must be one of after_conv2, .*, got 'conv2'"),
        ({**LR, "position": "conv3"}, "position must be one of conv2, after_conv2, .* 'conv3'"),
        ({**LR, "stride": 2}, "LR has no key 'stride'"),
        ({"name": "GC"}, "stages must be different names, .*, got None"),
        ({**GC, "stages": "res4"}, "got 'res4'"),
        ({**GC, "stages": []}, r"got \[\]"),
        ({**GC, "stages": ["res4", "res4"]}, "different names"),
        ({**GC, "stages": {"res4": []}}, r"got \{'res4': \[\]\}"),
        ({**GC, "stages": {"res4": [0, 0]}}, "stages must be"),
        ({**GC, "stages": {"res4": [-1]}}, "stages must be"),
        ({**GC, "stages": {"res4": 1}}, "stages must be"),
        ({**GLORE, "norm": "FrozenBN"}, "FrozenBN has no weight to train"),
        ({**GLORE, "norm": "bn"}, "norm must be one of '', 'BN', .*, got 'bn'"),
    ],
)
def test_wrong_entries_are_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        parse_plugins([entry])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**GC, "stages": ["res6"]}, "no stage 'res6'; its stages are res2, res3, res4, res5"),
        ({**GC, "stages": {"res4": [0, 6]}}, "res4 has the blocks 0 to 5, got 6"),
        ({**GC, "ratio": 0.0}, r"PLUGINS\[0\] \(GC, 64 channels\): "),
        ({"name": "NL", "stages": ["res4"], "mode": "max"}, r"\(NL, 128 channels\): .*'max'"),
        ({**GC, "ratio": float("inf")}, r"PLUGINS\[0\] \(GC, 64 channels\): "),
        ({**GC, "ratio": 1e9}, r"PLUGINS\[0\] \(GC, 64 channels\): .* parameters"),
        ({"name": "GloRe", "stages": ["res4"], "num_nodes": 10**18}, r"\(GloRe, 128 channels\): "),
    ],
)
def test_what_does_not_fit_the_backbone_is_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(config(*plugins(entry)))


def test_basic_blocks_have_no_conv3():
    with pytest.raises(ValueError, match=r"res3.0 has no conv3, .* got after_conv3"):
        build_backbone(config(*R18, *plugins(GC)))


def test_a_frozen_stage_is_refused():
    with pytest.raises(ValueError, match=r"res2.0 is frozen \(MODEL.BACKBONE.FREEZE_AT\)"):
        entry = {"name": "GC", "stages": ["res4", "res2"]}
        build_backbone(config("MODEL.BACKBONE.FREEZE_AT", 2, *plugins(entry)))


def test_other_backbones_are_refused():
    keys = ("MODEL.CONTEXT_BLOCKS.BUILDER", "build_shallow_backbone")
    with pytest.raises(ValueError, match="ResNet or RegNet, and ShallowBackbone is neither"):
        build_backbone(config(*plugins(GC, name="build_context_backbone"), *keys), ShapeSpec(3))

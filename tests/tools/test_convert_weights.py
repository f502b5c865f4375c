"""The program: files in, files that Detectron2 loads out, and a config that fits them."""

from __future__ import annotations

import pickle
import re

import pytest

pytest.importorskip("detectron2")

import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from relation_heads.engine.checkpoint import ReportingCheckpointer
from tests.engine.test_convert import (
    AGNOSTIC,
    CONTEXT,
    NORMS,
    UNITS,
    mask_rcnn_cfg,
    random_detector,
    to_mmdet,
    video_network,
)
from tests.tools.test_train_net import load_tool

# What the printed config has to set right; mmdet 1 has the other three.
UNSET = [
    "INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", [0, 0, 0], "MODEL.RESNETS.DEPTH", 101,
    "MODEL.RESNETS.STRIDE_IN_1X1", True, "MODEL.ROI_HEADS.NUM_CLASSES", 7,
    "MODEL.ROI_BOX_HEAD.NUM_FC", 3, "MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.MASK_ON", False,
]  # fmt: skip
LEGACY = ["MODEL.ANCHOR_GENERATOR.OFFSET", 0.5] + [
    value
    for head in ("BOX", "MASK")
    for key, setting in (("POOLER_TYPE", "ROIAlign"), ("POOLER_SAMPLING_RATIO", 2))
    for value in (f"MODEL.ROI_{head}_HEAD.{key}", setting)
]
INPUT = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53],
         "MODEL.PIXEL_STD", [58.395, 57.12, 57.375]]  # fmt: skip


@pytest.fixture
def convert(tmp_path, capsys):
    """Saves a state dict, converts it and returns what was printed and the path of the result."""

    def convert(source, content, suffix=".pkl"):
        torch.save(content, tmp_path / "in.pth")
        out = tmp_path / f"out{suffix}"
        load_tool("convert_weights").main([source, str(tmp_path / "in.pth"), str(out)])
        return capsys.readouterr().out, out

    return convert


def merged(printed: str, cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(printed)))
    return cfg


def detections(model: nn.Module) -> dict[str, torch.Tensor]:
    image = torch.randint(0, 255, (3, 64, 96), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model.eval()([{"image": image.to(torch.uint8), "height": 64, "width": 96}])
    fields = found[0]["instances"].get_fields()
    return {k: v.tensor if k == "pred_boxes" else v for k, v in fields.items()}


@pytest.mark.parametrize(
    "opts, version, suffix",
    [([], 1, ".pth"), (NORMS, 2, ".pkl"), (AGNOSTIC, 1, ".pkl"), (CONTEXT, 2, ".pth")],
    ids=["stock", "norms", "agnostic", "context"],
)
def test_a_detector_of_mmdet_detects_the_same(convert, opts, version, suffix):
    original = random_detector(*opts, *INPUT, *(LEGACY if version == 1 else []))
    state = to_mmdet(original, version)
    printed, out = convert("mmdet-gcnet", {"state_dict": state, "meta": {"epoch": 12}}, suffix)
    cfg = merged(printed, mask_rcnn_cfg(*UNSET))
    assert cfg.MODEL.WEIGHTS == str(out) and cfg.INPUT.FORMAT == "RGB"
    number = sum(not key.endswith("num_batches_tracked") for key in state)
    assert f"{number} tensors of mmdet {version}" in printed.splitlines()[0]
    assert ("background is moved" in printed) == (version == 1)
    model = build_model(cfg)
    checkpointer = ReportingCheckpointer(model, complete=True)
    checkpointer.load(cfg.MODEL.WEIGHTS)
    assert not checkpointer.report.skipped and not checkpointer.report.unexpected
    expected, found = detections(original), detections(model)
    assert len(expected["scores"]) > 10 and expected["pred_masks"].any()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


@pytest.mark.parametrize("depth", [50, 101])
def test_units_of_a_video_network(convert, depth):
    """As it was saved from several devices, with an optimizer."""
    state = {f"module.{key}": value for key, value in video_network(depth).items()}
    printed, out = convert(
        "glore-3d", {"state_dict": state, "epoch": 3, "optimizer": {"state": {}}}
    )
    assert "65 tensors of 5 units" in printed and "kernels over time" in printed
    cfg = CfgNode(yaml.safe_load(printed))
    assert cfg.MODEL.BACKBONE.NAME == "build_context_resnet_fpn_backbone"
    (plugin,) = cfg.MODEL.CONTEXT_BLOCKS.PLUGINS
    assert plugin == {
        "name": "GloRe",
        "position": "after_add",
        "norm": "BN",
        "normalize": False,
        "stages": UNITS[depth][1],
    }
    content = pickle.loads(out.read_bytes())
    assert content["matching_heuristics"] and len(content["model"]) == 65
    assert content["model"]["res3.0.after_add.glore.conv_proj.weight"].shape == (2, 8, 1, 1)


def test_units_load_into_a_model_with_plugins(convert):
    """Blocks of 32 and 64 channels, as wide as those of the narrow ResNet."""
    state = video_network(50, {3: 32, 4: 64})
    printed, out = convert("glore-3d", state, ".pth")
    model = build_model(merged(printed, mask_rcnn_cfg()))
    before = model.state_dict()["backbone.bottom_up.res4.4.conv1.weight"].clone()
    DetectionCheckpointer(model).load(str(out))
    loaded = {k: v for k, v in model.state_dict().items() if ".glore." in k}
    assert len(loaded) == 65
    for key, value in loaded.items():
        stage, block, name = key.removeprefix("backbone.bottom_up.res").split(".", 2)
        name = name.removeprefix("after_add.glore.")
        theirs = state[f"conv{stage}.B{int(block) + 1:02}_extra.{name}"]
        assert torch.equal(value.flatten(), theirs.flatten()), key
    assert torch.equal(model.state_dict()["backbone.bottom_up.res4.4.conv1.weight"], before)


class Opens:
    """Creates a file when it is unpickled without care."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_file_with_more_than_weights_is_not_run(convert, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        convert("mmdet-gcnet", {"state_dict": {}, "meta": Opens(tmp_path / "opened")})
    assert stop.value.code == 2 and not (tmp_path / "opened").exists()
    message = capsys.readouterr().err
    assert "in.pth is damaged or holds more than weights" in message and message.count("\n") == 1


@pytest.mark.parametrize(
    "content, message",
    [(None, "No such file"), (b"hello", "is damaged or holds"), (b"PK\3\4" * 9, "is damaged or")],
)
def test_a_file_that_is_no_checkpoint(tmp_path, capsys, content, message):
    path = tmp_path / "in.pth"
    if content:
        path.write_bytes(content)
    with pytest.raises(SystemExit):
        load_tool("convert_weights").main(["glore-3d", str(path), str(tmp_path / "out.pkl")])
    error = capsys.readouterr().err
    assert (
        error.startswith(f"convert_weights.py: {path}")
        and message in error
        and error.count("\n") == 1
    )


@pytest.mark.parametrize(
    "source, content, suffix, message",
    [
        ("mmdet-gcnet", {"state_dict": {}}, ".pkl", "has no state_dict"),
        ("mmdet-gcnet", [1], ".pkl", "has no state_dict"),
        ("mmdet-gcnet", {"model": {"a": torch.zeros(1)}}, ".pkl", "has no state_dict"),
        ("mmdet-gcnet", {"a.b": torch.zeros(1)}, ".pkl", "1 of the names .*: a.b"),
        ("glore-3d", {"bbox_head.x": torch.zeros(1)}, ".pkl", "1 of the names .*: bbox_head.x"),
        ("glore-3d", {}, ".bin", "OUTPUT must end with .pkl or .pth"),
    ],
)
def test_what_does_not_fit_ends_with_a_sentence(
    convert, tmp_path, capsys, source, content, suffix, message
):
    with pytest.raises(SystemExit) as stop:
        convert(source, content, suffix)
    assert stop.value.code == 2 and not list(tmp_path.glob("out*"))
    captured = capsys.readouterr()
    assert not captured.out and captured.err.count("\n") == 1
    assert re.search(message, captured.err)


def test_a_backbone_of_another_depth(convert, capsys):
    state = to_mmdet(random_detector(), 2)
    state = {key: value for key, value in state.items() if not key.startswith("backbone.layer3.5.")}
    with pytest.raises(SystemExit):
        convert("mmdet-gcnet", state)
    assert "stages of this one have 3, 4, 5, 3 blocks" in capsys.readouterr().err


def test_the_command_line_tells_non_local_blocks_apart(tmp_path, capsys):
    state = to_mmdet(random_detector(*CONTEXT), 1)
    torch.save(state, tmp_path / "in.pth")
    command = ["mmdet-gcnet", str(tmp_path / "in.pth"), str(tmp_path / "out.pth")]
    with pytest.raises(SystemExit):
        load_tool("convert_weights").main(command)
    assert "set --theta to divided or multiplied" in capsys.readouterr().err
    load_tool("convert_weights").main([*command, "--theta", "multiplied"])
    name = "backbone.bottom_up.res4.1.after_conv3.nl.theta.weight"
    weight = torch.load(tmp_path / "out.pth")["model"][name]
    assert torch.equal(weight, 5 * state["backbone.layer3.1.nonlocal_block.theta.conv.weight"])

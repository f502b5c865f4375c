"""Checkpoint files of other code to files that Detectron2 loads, and the config that fits them."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from .convert import (
    glore_3d_to_2d,
    is_mmdet_1,
    left_out_of_glore_3d,
    mmdet_to_detectron2,
)

State = Mapping[str, Tensor]
Options = dict[str, Any]  # of a plugin

# By the number of blocks of every stage.
DEPTHS: dict[tuple[int, ...], int] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
BOTTOM_UP, BOX, MASK = "backbone.bottom_up.", "roi_heads.box_head.", "roi_heads.mask_head."
FORMATS = (".pkl", ".pth")

MMDET_NOTES = """\
The K classes keep their order. Box deltas are the same numbers: target_stds 0.1, 0.1, 0.2, 0.2 of
mmdet are BBOX_REG_WEIGHTS 10, 10, 5, 5.
Input and strides are those of style="pytorch". The weights do not tell: with style="caffe" FORMAT
is BGR, STRIDE_IN_1X1 is true, and PIXEL_MEAN and PIXEL_STD are in the img_norm_cfg of mmdet.
"""
MMDET_1_NOTES = """\
The background is moved from the first class to the last; its boxes and masks, which have no use,
are dropped.
A box of mmdet 1 includes the pixel x2: its right edge is at x2 + 1 here, where deltas decode to the
same box. OFFSET, POOLER_TYPE and POOLER_SAMPLING_RATIO are for its anchors and its RoIAlign.
"""
GLORE_NOTES = """\
The units learned on features before their ReLU, on 4 x 28 x 28 (res3) or 4 x 14 x 14 places (res4),
and without the 1/L: they are a start for training, and not the identity on a pretrained backbone.
"""


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint of PyTorch, read without running code from it.

    Raises:
        OSError, ValueError: it cannot be read so, or has something else inside.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        if isinstance(error, OSError) and error.filename:
            raise
        raise ValueError(
            f"{path} is damaged or holds more than weights, which could run code when it is read; "
            "if you trust it, save its state_dict in a file of its own with torch.save."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} has no state_dict, by that name or alone, with tensors in it.")
    if all(key.startswith("module.") for key in state):  # of DataParallel
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return dict(state)


def write_checkpoint(path: Path, weights: State, author: str, *, suffixes: bool) -> None:
    """Writes what `DetectionCheckpointer` reads.

    Args:
        path: ends with one of FORMATS.
        weights: by name.
        author: where they come from.
        suffixes: the names may be ends of those of a model.
    """
    extra = {"__author__": author, "matching_heuristics": suffixes}
    if path.suffix == ".pkl":
        with path.open("wb") as file:
            pickle.dump({"model": {k: v.numpy() for k, v in weights.items()}, **extra}, file)
    else:
        # Without a copy, a part of a tensor is saved with all of its storage.
        torch.save({"model": {k: v.clone() for k, v in weights.items()}, **extra}, path)


def mmdet_settings(weights: State, *, background_first: bool) -> dict[str, Any]:
    """Config keys of an FPN model for weights of `mmdet_to_detectron2`.

    Args:
        weights: of the whole detector.
        background_first: whether they come from mmdet 1.

    Raises:
        ValueError: the backbone is not a ResNet or ResNeXt of depth 50, 101 or 152.
    """
    num_classes = len(weights["roi_heads.box_predictor.cls_score.bias"]) - 1

    def count(layer: str) -> int:
        return sum(bool(re.fullmatch(rf"{layer}\d+\.weight", name)) for name in weights)

    def norm(layer: str) -> str:
        return "BN" if f"{layer}.norm.weight" in weights else ""

    def shared(layer: str, rows: int) -> bool:
        return num_classes > 1 and len(weights[f"roi_heads.{layer}.bias"]) == rows

    settings = {
        **backbone_settings(weights),
        "MODEL.FPN.NORM": norm("backbone.fpn_lateral2"),
        "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
        "MODEL.ROI_BOX_HEAD.NUM_CONV": count(f"{BOX}conv"),
        "MODEL.ROI_BOX_HEAD.NUM_FC": count(f"{BOX}fc"),
        "MODEL.ROI_BOX_HEAD.NORM": norm(f"{BOX}conv1"),
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": shared("box_predictor.bbox_pred", 4),
        "MODEL.MASK_ON": f"{MASK}predictor.bias" in weights,
    }
    if settings["MODEL.MASK_ON"]:
        settings["MODEL.ROI_MASK_HEAD.NUM_CONV"] = count(f"{MASK}mask_fcn")
        settings["MODEL.ROI_MASK_HEAD.NORM"] = norm(f"{MASK}mask_fcn1")
        settings["MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"] = shared("mask_head.predictor", 1)
    if background_first:
        settings["MODEL.ANCHOR_GENERATOR.OFFSET"] = 0.5
        for head in ("BOX", "MASK"):
            settings[f"MODEL.ROI_{head}_HEAD.POOLER_TYPE"] = "ROIAlign"
            settings[f"MODEL.ROI_{head}_HEAD.POOLER_SAMPLING_RATIO"] = 2
    return settings


def backbone_settings(weights: State) -> dict[str, Any]:
    """The input, the ResNet and its plugins."""
    plugins: dict[tuple[str, int], Options] = {}
    blocks = [0, 0, 0, 0]
    for name in weights:
        match = re.fullmatch(rf"({BOTTOM_UP}res([2-5])\.(\d+)\.)conv3\.weight", name)
        if match:
            place, stage, block = match.groups()
            blocks[int(stage) - 2] += 1
            options = after_conv3(weights, f"{place}after_conv3.")
            if options:
                plugins[f"res{stage}", int(block)] = options
    if tuple(blocks) not in DEPTHS:
        raise ValueError(
            f"The backbone must be a ResNet or ResNeXt of depth 50, 101 or 152; the stages of this "
            f"one have {', '.join(map(str, blocks))} blocks with three convolutions."
        )
    width, group_width = weights[f"{BOTTOM_UP}res2.0.conv2.weight"].shape[:2]
    return {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "MODEL.RESNETS.DEPTH": DEPTHS[tuple(blocks)],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.NUM_GROUPS": width // group_width,
        "MODEL.RESNETS.WIDTH_PER_GROUP": group_width,
        **plugin_settings(plugins),
    }


def after_conv3(weights: State, place: str) -> Options:
    """The plugin at a place, without its stages; empty if there is none."""
    if f"{place}nl.g.weight" in weights:
        inner_channels = len(weights[f"{place}nl.g.weight"])
        return {"name": "NL", "position": "after_conv3", "inner_channels": inner_channels}
    transforms = {kind: f"{place}gc.channel_{kind}_conv.0.weight" for kind in ("add", "mul")}
    fusions = [kind for kind, name in transforms.items() if name in weights]
    if not fusions:
        return {}
    hidden, channels = weights[transforms[fusions[0]]].shape[:2]
    options = {"name": "GC", "position": "after_conv3", "ratio": hidden / channels}
    if f"{place}gc.conv_mask.weight" not in weights:
        options["pooling"] = "average"
    if fusions != ["add"]:
        options["fusions"] = fusions
    return options


def glore_settings(weights: State) -> dict[str, Any]:
    """Config keys of an FPN model for units of `glore_3d_to_2d`."""
    plugins: dict[tuple[str, int], Options] = {}
    for name, value in weights.items():
        if name.endswith(".conv_proj.weight"):
            stage, block = name.split(".")[:2]
            nodes, channels = value.shape[:2]
            options = {"name": "GloRe", "position": "after_add", "norm": "BN", "normalize": False}
            if nodes != channels // 4:
                options["num_nodes"] = nodes
            plugins[stage, int(block)] = options
    return plugin_settings(plugins)


def plugin_settings(plugins: Mapping[tuple[str, int], Options]) -> dict[str, Any]:
    """(stage, block) -> options as config keys; blocks of the same options share an entry."""
    entries: dict[str, Options] = {}
    for (stage, block), options in sorted(plugins.items()):
        entry = entries.setdefault(repr(options), {**options, "stages": {}})
        entry["stages"].setdefault(stage, []).append(block)
    if not entries:
        return {}
    return {
        "MODEL.BACKBONE.NAME": "build_context_resnet_fpn_backbone",
        "MODEL.CONTEXT_BLOCKS.PLUGINS": list(entries.values()),
    }


def as_yaml(settings: Mapping[str, Any], notes: Iterable[str]) -> str:
    """Notes as comments, then the settings as a config file of Detectron2."""
    tree: dict[str, Any] = {"VERSION": 2}
    for key, value in settings.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    text = yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=100)
    return "".join(f"# {line}\n" for line in notes) + text


def convert_file(args: argparse.Namespace) -> None:
    """Reads, converts, writes, and prints what the model needs.

    Args:
        args: of `tools/convert_weights.py`.

    Raises:
        OSError, ValueError: a file cannot be read or has something that the rules do not know.
    """
    if args.output.suffix not in FORMATS:
        raise ValueError(f"OUTPUT must end with {' or '.join(FORMATS)}, got {args.output}.")
    state = read_state(args.input)
    if args.source == "mmdet-gcnet":
        weights = mmdet_to_detectron2(state, args.theta)
        first = is_mmdet_1(state)
        settings = {
            "MODEL.WEIGHTS": str(args.output),
            **mmdet_settings(weights, background_first=first),
        }
        notes = [
            f"{args.output}: {len(weights)} tensors of mmdet {1 if first else '2 or later'}; "
            f"{len(state) - len(weights)} counters of batch norms left out.",
            *(MMDET_1_NOTES if first else "").splitlines(),
            *MMDET_NOTES.splitlines(),
        ]
    else:
        weights = glore_3d_to_2d(state)
        settings = glore_settings(weights)
        left_out = [state[key] for key in left_out_of_glore_3d(state)]
        over_time = sum(value.dim() == 5 and value.shape[2] > 1 for value in left_out)
        units = sum(name.endswith(".conv_proj.weight") for name in weights)
        notes = [
            f"{args.output}: {len(weights)} tensors of {units} units. The other {len(left_out)} of "
            f"the network are left out, {over_time} of them kernels over time.",
            *GLORE_NOTES.splitlines(),
        ]
    suffixes = args.source == "glore-3d"
    write_checkpoint(args.output, weights, f"{args.source}, converted", suffixes=suffixes)
    print(as_yaml(settings, notes), end="")

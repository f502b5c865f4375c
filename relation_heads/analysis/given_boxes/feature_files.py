"""Features of given boxes in files: one `.pt` per data set, with what it was made from.

A file that is there is read and not made again; one that was made from something else is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from torch import nn

from ...config import get_cfg, merge_file
from ...data.files import replacing
from ...engine.checkpoint import ReportingCheckpointer
from .data import BoxFeatures
from .features import extract, made_from, read_records

CONFIG = "Photos/faster_rcnn_lite0_FPN.yaml"
# What makes `CONFIG` the default: its backbone without the FPN, whose weights would be random.
WITHOUT_FPN = (
    "MODEL.BACKBONE.NAME", "build_efficientnet_lite_backbone",
    "MODEL.EFFICIENTNET_LITE.OUT_FEATURES", ["res3", "res4", "res5"],
    "INPUT.MIN_SIZE_TEST", 384,
    "INPUT.MAX_SIZE_TEST", 640,
)  # fmt: skip


def feature_cfg(config: str = "", opts: Sequence[Any] = ()) -> CfgNode:
    """The config whose backbone, input and pooling are used.

    Args:
        config: name or path; empty for `CONFIG` without its FPN.
        opts: more keys and values.

    Raises:
        OSError, ValueError: a file or a key is wrong; says which.
    """
    cfg = get_cfg()
    try:
        merge_file(cfg, config or CONFIG)
        cfg.merge_from_list([*(() if config else WITHOUT_FPN), *opts])
    except (AssertionError, KeyError) as error:
        raise ValueError(f"{config or CONFIG}: {error.args[0]}.") from error
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def frozen_backbone(cfg: CfgNode) -> nn.Module:
    """The backbone of a config with the weights of `MODEL.WEIGHTS`.

    Raises:
        ImportError, ValueError: the weights are not installed, or leave something untrained.
    """
    backbone = build_backbone(cfg)
    # Detectors have these names.
    ReportingCheckpointer(nn.ModuleDict({"backbone": backbone}), complete=True).load(
        cfg.MODEL.WEIGHTS
    )
    return backbone.eval().requires_grad_(False)


def load_or_extract(datasets: Iterable[str], cfg: CfgNode, folder: Path) -> dict[str, BoxFeatures]:
    """The features of data sets, by name: read from `<folder>/<name>.pt`, or made and written.

    Raises:
        OSError, ValueError, ImportError: as `extract`; a file was made from something else.
    """
    backbone = frozen_backbone(cfg)
    found = {}
    for dataset in datasets:
        path = folder / f"{dataset}.pt"
        if path.is_file():
            found[dataset] = read(path, made_from(dataset, cfg, backbone, read_records(dataset)))
            continue
        found[dataset] = extract(dataset, cfg, backbone)
        with replacing(path, "wb") as file:
            torch.save(asdict(found[dataset]), file)
    return found


def read(path: Path, expected: dict[str, str]) -> BoxFeatures:
    """The features in a file.

    Args:
        path: of the file.
        expected: `made_from` as it must be.

    Raises:
        ValueError: it is another kind of file, or was made from something else.
    """
    content = torch.load(path, weights_only=True)
    if not isinstance(content, dict) or content.keys() != {f.name for f in fields(BoxFeatures)}:
        raise ValueError(f"{path} has no features of boxes: remove it, or give another folder.")
    found = BoxFeatures(**content)
    for key, value in expected.items():
        if found.made_from.get(key) != value:
            raise ValueError(
                f"{path} was made from another {key}: {found.made_from.get(key)}, not {value}. "
                "Remove it, or give another folder."
            )
    return found

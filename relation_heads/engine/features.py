"""Box features of detections, for whoever describes images by their regions.

Any Faster, Mask or Cascade R-CNN of Detectron2 or of this package: Detectron2's own heads are read
as the heads of this package without a mechanism, which equal them bit for bit and have the same
parameters.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads
from detectron2.utils.logger import setup_logger
from torch import nn
from tqdm import tqdm

from ..modeling import (
    CascadeDuplicateRemovalROIHeads,
    ContextRes5ROIHeads,
    DuplicateRemovalROIHeads,
    Res5DuplicateRemovalROIHeads,
    watch,
)
from ..modeling.roi_heads.heads import Relational
from .checkpoint import ReportingCheckpointer
from .model_config import config_of, merge_overrides
from .pictures import records
from .trainer import RelationTrainer

SAME = {  # heads of Detectron2, and ours that equal them
    StandardROIHeads: DuplicateRemovalROIHeads,
    Res5ROIHeads: Res5DuplicateRemovalROIHeads,
    ContextRes5ROIHeads: Res5DuplicateRemovalROIHeads,
    CascadeROIHeads: CascadeDuplicateRemovalROIHeads,
}
ARRAYS = ("boxes", "scores", "classes", "features")


def watchable(cfg: CfgNode) -> CfgNode:
    """A copy of a config whose ROI heads can be watched.

    Raises:
        ValueError: the model has no ROI heads, or ones of somebody else.
    """
    architecture, name = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME
    if not issubclass(META_ARCH_REGISTRY.get(architecture), GeneralizedRCNN):
        raise ValueError(
            f"Box features are those of ROI heads: MODEL.META_ARCHITECTURE must be GeneralizedRCNN "
            f"or PanopticFPN, got {architecture}."
        )
    heads = ROI_HEADS_REGISTRY.get(name)
    if not issubclass(SAME.get(heads, heads), Relational):
        known = ", ".join(c.__name__ for c in SAME)
        raise ValueError(
            f"MODEL.ROI_HEADS.NAME must be one of {known} or a head of this package, got {name}."
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NAME = SAME.get(heads, heads).__name__
    return cfg


@torch.no_grad()
def box_features(model: nn.Module, inputs: Iterable[dict]) -> Iterator[dict[str, Any]]:
    """The detections of each image with x, what their regions were classified from.

    Args:
        model: of a `watchable` config, in evaluation mode.
        inputs: of the test loader, one image each.

    Yields:
        `image_id`, `file_name`, `height`, `width` of the input; float32 `boxes` (D, 4) x1 y1 x2 y2
        in pixels of that size, `scores` (D,), `features` (D, channels); int64 `classes` (D,).
    """
    for record in inputs:
        with watch() as seen:
            (output,) = model([record])
        found = output["instances"]
        arrays = {
            "boxes": found.pred_boxes.tensor.float(),
            "scores": found.scores.float(),
            "classes": found.pred_classes,
            "features": seen.features(0, found).float(),
        }
        about = {k: record[k] for k in ("image_id", "file_name", "height", "width") if k in record}
        yield {**about, **{k: v.cpu().numpy() for k, v in arrays.items()}}


def write_per_image(images: Iterable[dict[str, Any]], folder: Path) -> Iterator[Path]:
    """One `.npz` per image, named as its file; two files of one name get their image ids."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = set()
    for image in images:
        stem = Path(str(image.get("file_name", image.get("image_id")))).stem
        if stem in taken:
            stem = f"{stem}_{image.get('image_id', len(taken))}"
        taken.add(stem)
        path = folder / f"{stem}.npz"
        np.savez(path, **image)
        yield path


def write_per_set(images: Iterable[dict[str, Any]], path: Path) -> Path:
    """One `.npz` for all images: `image_ids`, `file_names`, `sizes` (height, width), `counts` (I,),
    and the arrays of all detections, one image after the other."""
    rows = list(images)
    if not rows:
        raise ValueError("There are no images.")
    arrays = {name: np.concatenate([r[name] for r in rows]) for name in ARRAYS}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        image_ids=np.array([str(r.get("image_id", "")) for r in rows]),
        file_names=np.array([str(r.get("file_name", "")) for r in rows]),
        sizes=np.array([(r["height"], r["width"]) for r in rows]),
        counts=np.array([len(r["boxes"]) for r in rows]),
        **arrays,
    )
    return path


def extract(args: argparse.Namespace) -> None:
    """Writes what the arguments of `tools/extract_features.py` ask for.

    Raises:
        OSError, ValueError: a file or a key is not there, or the model has no box features.
    """
    setup_logger(name="fvcore")
    cfg = config_of(args.config_file)
    merge_overrides(cfg, args.opts)
    cfg = watchable(cfg)
    model = RelationTrainer.build_model(cfg).eval()
    ReportingCheckpointer(model, complete=True).load(cfg.MODEL.WEIGHTS)
    images = box_features(model, tqdm(_inputs(cfg, args.image), unit="image", disable=None))
    if args.output.suffix == ".npz":
        print(write_per_set(images, args.output))
        return
    written = sum(1 for _ in write_per_image(images, args.output))
    print(f"{written} files in {args.output}")


def _inputs(cfg: CfgNode, files: list[str]) -> Iterator[dict]:
    """Inputs of the model, one image each and read when its turn comes: the given files, or the
    test sets."""
    if files:
        return map(DatasetMapper(cfg, is_train=False), records(cfg, files))
    return (
        record
        for name in cfg.DATASETS.TEST
        for batch in RelationTrainer.build_test_loader(cfg, name)
        for record in batch
    )

"""What is wrong with a config, found before anything is built.

Most of these mistakes otherwise cost a training run: a NUM_CLASSES that is too small trains on
silently (class NUM_CLASSES is the background), a frozen random backbone diverges, annotation ids
from 0 lower the AP. All problems are reported together, one sentence each.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlparse

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    ROI_HEADS_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY

from ..config.defaults import (
    context_blocks_node,
    duplicate_removal_node,
    reasoning_node,
    sgrn_node,
)
from ..data.cityscapes import provide_cityscapes_scripts
from ..data.coco_format import class_names, coco_problems, empty_box_problems, read_coco
from ..modeling.context_plugins import parse_plugins

logger = logging.getLogger(__name__)

# The box head that must be told the regions, and our ROI heads, which tell it.
RELATION_BOX_HEAD = "RelationBoxHead"
RELATION_ROI_HEADS = ("RelationROIHeads", "Res5RelationROIHeads")
SGRN_ROI_HEADS = ("SGRNROIHeads", "Res5SGRNROIHeads")
REASONING_ROI_HEADS = ("ReasoningROIHeads", "Res5ReasoningROIHeads")
CONTEXT_BUILDERS = (
    "build_context_resnet_backbone",
    "build_context_resnet_fpn_backbone",
    "build_context_backbone",
)

# Meta-architecture -> where it reads its number of classes.
_NUM_CLASSES = {
    "GeneralizedRCNN": "ROI_HEADS",
    "PanopticFPN": "ROI_HEADS",
    "RetinaNet": "RETINANET",
    "SemanticSegmentor": "SEM_SEG_HEAD",
}
# JSON files of training sets above this size are not read: only a few minor problems in them are
# silent, and COCO's (450 MB) takes longer to read than a start-up should.
_MAX_TRAIN_JSON_BYTES = 100e6


def check_cfg(cfg: CfgNode, *, eval_only: bool = False, resume: bool = False) -> None:
    """Checks a config; logs what is only odd.

    Args:
        cfg: the config, all data sets registered.
        eval_only: nothing will be trained, so what matters for training alone is not checked.
        resume: the run goes on from the last checkpoint in `OUTPUT_DIR`, if there is one.

    Raises:
        ValueError: one line per problem, with the key, its value and what is allowed.
    """
    resumes = resume and os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))
    problems = [*_names(cfg), *_device(cfg), *_datasets(cfg, eval_only), *_given_boxes(cfg)]
    problems += [*_context_blocks(cfg), *_duplicate_removal(cfg)]
    if not resumes:
        problems += _weights(cfg)
    if not eval_only:
        problems += [*_amp(cfg), *([] if resumes else [*_from_scratch(cfg), *_frozen_base(cfg)])]
        _warn_steps(cfg)
    if problems:
        raise ValueError("\n".join(["The config cannot work:", *(f"- {p}" for p in problems)]))


def _close(name: str, known: Iterable[str]) -> str:
    """`; did you mean a, b?`, or nothing."""
    matches = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(matches)}?" if matches else "."


def _names(cfg: CfgNode) -> Iterator[str]:
    """Names that select what is built."""
    yield from _unknown("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY)
    yield from _unknown("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY)
    if cfg.MODEL.META_ARCHITECTURE in ("SemanticSegmentor", "PanopticFPN"):
        name = cfg.MODEL.SEM_SEG_HEAD.NAME
        yield from _unknown("MODEL.SEM_SEG_HEAD.NAME", name, SEM_SEG_HEADS_REGISTRY)
    if _NUM_CLASSES.get(cfg.MODEL.META_ARCHITECTURE) != "ROI_HEADS":
        return
    heads, box_head = cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_BOX_HEAD.NAME
    yield from _unknown("MODEL.ROI_HEADS.NAME", heads, ROI_HEADS_REGISTRY)
    if box_head:  # Res5ROIHeads has none
        yield from _unknown("MODEL.ROI_BOX_HEAD.NAME", box_head, ROI_BOX_HEAD_REGISTRY)
    if box_head == RELATION_BOX_HEAD and heads not in RELATION_ROI_HEADS:
        yield (
            f"MODEL.ROI_BOX_HEAD.NAME {box_head} must be told the regions, and "
            f"MODEL.ROI_HEADS.NAME {heads} does not do that: set MODEL.ROI_HEADS.NAME "
            f"{RELATION_ROI_HEADS[0]}."
        )


def _given_boxes(cfg: CfgNode) -> Iterator[str]:
    """Region classification is a setting of several keys."""
    if not reasoning_node(cfg).GIVEN_BOXES:
        return
    wanted = {
        "MODEL.ROI_HEADS.NAME": (cfg.MODEL.ROI_HEADS.NAME, REASONING_ROI_HEADS),
        "MODEL.PROPOSAL_GENERATOR.NAME": (
            cfg.MODEL.PROPOSAL_GENERATOR.NAME,
            ("PrecomputedProposals",),
        ),
        "MODEL.MASK_ON": (cfg.MODEL.MASK_ON, (False,)),
        "MODEL.KEYPOINT_ON": (cfg.MODEL.KEYPOINT_ON, (False,)),
    }
    for key, (value, allowed) in wanted.items():
        if value not in allowed:
            names = " or ".join(str(a) for a in allowed)
            yield (
                f"MODEL.REASONING.GIVEN_BOXES is True, which classifies the boxes of the data set: "
                f"{key} must be {names}, got {value} (see configs/heads/given_boxes.yaml)."
            )


def _context_blocks(cfg: CfgNode) -> Iterator[str]:
    """Plugins that cannot be read, or that nobody reads."""
    plugins, name = context_blocks_node(cfg).PLUGINS, cfg.MODEL.BACKBONE.NAME
    try:
        parse_plugins(plugins)
    except ValueError as error:
        yield str(error)
    if plugins and name not in CONTEXT_BUILDERS:
        yield (
            f"MODEL.CONTEXT_BLOCKS.PLUGINS are given, and MODEL.BACKBONE.NAME {name} does not read "
            f"them; use one of {', '.join(CONTEXT_BUILDERS)} (the last with any other builder in "
            "MODEL.CONTEXT_BLOCKS.BUILDER)."
        )


def _duplicate_removal(cfg: CfgNode) -> Iterator[str]:
    """Another end than NMS that nobody reads, or whose lower scores fall below the threshold."""
    node, heads = duplicate_removal_node(cfg), cfg.MODEL.ROI_HEADS.NAME
    if node.TEST_METHOD == "nms" and not node.LEARN:
        return
    ours = {
        "StandardROIHeads": "DuplicateRemovalROIHeads",
        "Res5ROIHeads": "Res5DuplicateRemovalROIHeads",
    }
    if heads in ours:
        yield (
            f"MODEL.DUPLICATE_REMOVAL has TEST_METHOD {node.TEST_METHOD} and LEARN {node.LEARN}, "
            f"which MODEL.ROI_HEADS.NAME {heads} does not read: set MODEL.ROI_HEADS.NAME "
            f"{ours[heads]}."
        )
    if node.TEST_METHOD != "nms" and cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST >= 0.05:
        logger.warning(
            f"MODEL.DUPLICATE_REMOVAL.TEST_METHOD {node.TEST_METHOD} lowers scores, and "
            f"MODEL.ROI_HEADS.SCORE_THRESH_TEST {cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST} then drops "
            "true detections: 0.001 is usual."
        )
    if node.TEST_METHOD != "nms" and cfg.TEST.AUG.ENABLED:
        logger.warning(
            f"TEST.AUG merges what MODEL.DUPLICATE_REMOVAL.TEST_METHOD {node.TEST_METHOD} leaves "
            "of each view by NMS at MODEL.ROI_HEADS.NMS_THRESH_TEST."
        )


def _unknown(key: str, name: str, registry: Any) -> Iterator[str]:
    if name not in registry:
        yield f"{key} {name!r} is not registered{_close(name, (known for known, _ in registry))}"


def _device(cfg: CfgNode) -> Iterator[str]:
    try:
        device = torch.device(cfg.MODEL.DEVICE)
    except RuntimeError:
        yield f"MODEL.DEVICE {cfg.MODEL.DEVICE!r} is not a device; use cuda or cpu."
        return
    if device.type == "cuda" and not torch.cuda.is_available():
        yield f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but there is no GPU here: set MODEL.DEVICE cpu."


def _amp(cfg: CfgNode) -> Iterator[str]:
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        yield (
            "SOLVER.AMP.ENABLED is True with MODEL.DEVICE cpu, but Detectron2's mixed precision "
            "needs a GPU: set SOLVER.AMP.ENABLED False."
        )


def _weights(cfg: CfgNode) -> Iterator[str]:
    weights = cfg.MODEL.WEIGHTS
    # Others are fetched: https://..., detectron2://...
    if weights and "://" not in weights and not os.path.isfile(urlparse(weights).path):
        yield f"MODEL.WEIGHTS: there is no file {weights} (seen from {os.getcwd()})."


def _from_scratch(cfg: CfgNode) -> Iterator[str]:
    """Parts of the backbone that would stay random. Only ResNets read these keys."""
    if cfg.MODEL.WEIGHTS or "resnet" not in cfg.MODEL.BACKBONE.NAME:
        return
    scratch = "but MODEL.WEIGHTS is empty, so that the backbone starts from random values"
    if cfg.MODEL.RESNETS.NORM == "FrozenBN":
        yield (
            f"MODEL.RESNETS.NORM is FrozenBN, {scratch}: training diverges at once without working "
            "normalisation; set MODEL.RESNETS.NORM BN or GN, or give pretrained weights."
        )
    if cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        yield (
            f"MODEL.BACKBONE.FREEZE_AT is {cfg.MODEL.BACKBONE.FREEZE_AT}, {scratch} and its first "
            "stages would keep them: set MODEL.BACKBONE.FREEZE_AT 0, or give pretrained weights."
        )


def _frozen_base(cfg: CfgNode) -> Iterator[str]:
    """Training something on a detector that stays as it is needs one."""
    freeze, weights = sgrn_node(cfg).FREEZE, cfg.MODEL.WEIGHTS
    keys: list[tuple[str, Any, Any]] = []
    if freeze != "none" and cfg.MODEL.ROI_HEADS.NAME in SGRN_ROI_HEADS:
        keys.append(("MODEL.SGRN.FREEZE", freeze, "none"))
    if duplicate_removal_node(cfg).FREEZE:
        keys.append(("MODEL.DUPLICATE_REMOVAL.FREEZE", True, False))
    for key, value, off in keys:
        if not weights or "ImageNetPretrained" in weights:
            yield (
                f"{key} is {value}, which keeps the detector of MODEL.WEIGHTS as it is, but "
                f"{weights!r} has none: give a trained Faster R-CNN, or set {key} {off}."
            )


def _warn_steps(cfg: CfgNode) -> None:
    late = [step for step in cfg.SOLVER.STEPS if step > cfg.SOLVER.MAX_ITER]
    if late and cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR":  # the others have no steps
        logger.warning(
            f"SOLVER.STEPS {late} come after SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}: the learning "
            "rate will not drop there."
        )


def _datasets(cfg: CfgNode, eval_only: bool) -> Iterator[str]:
    """Data sets: registered, of the same classes, as many as the model has, and in good order."""
    test = list(dict.fromkeys(cfg.DATASETS.TEST))
    train = [name for name in dict.fromkeys(cfg.DATASETS.TRAIN) if name not in test]
    known = []
    for name in train + test:
        if name in DatasetCatalog:
            known.append(name)
        else:
            yield f"The data set {name!r} is not registered{_close(name, DatasetCatalog)}"
    kind = "stuff" if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor" else "thing"
    classes = {name: names for name in known if (names := _classes(name, kind))}
    yield from _num_classes(cfg, classes)
    yield from _same_classes(classes)
    for name in known:
        if name in test or not eval_only:
            yield from _json(name, is_test=name in test)
    yield from _cityscapes(name for name in known if name in test)


def _cityscapes(test: Iterable[str]) -> Iterator[str]:
    """Data sets whose evaluation needs a package of theirs, which is missed after the training."""
    for name in test:
        if str(MetadataCatalog.get(name).get("evaluator_type")).startswith("cityscapes"):
            try:
                provide_cityscapes_scripts()
            except ModuleNotFoundError as error:
                yield f"{name}: {error}"


def _classes(name: str, kind: str) -> list[str]:
    """Names of the "thing" or "stuff" classes of a data set, empty if they cannot be known before
    it is loaded."""
    metadata = MetadataCatalog.get(name)
    if metadata.get(f"{kind}_classes"):
        return list(metadata.get(f"{kind}_classes"))
    if kind == "thing" and _is_coco(metadata):
        try:
            return class_names(read_coco(metadata.json_file))
        except ValueError:  # `_json` says why
            pass
    return []


def _num_classes(cfg: CfgNode, classes: dict[str, list[str]]) -> Iterator[str]:
    node = _NUM_CLASSES.get(cfg.MODEL.META_ARCHITECTURE)
    if not node:
        return
    number = cfg.MODEL[node].NUM_CLASSES
    others = [f"{name} has {len(c)}" for name, c in classes.items() if len(c) != number]
    if others:
        yield (
            f"MODEL.{node}.NUM_CLASSES is {number}, but {', '.join(others)}: the numbers must be "
            "equal."
        )


def _same_classes(classes: dict[str, list[str]]) -> Iterator[str]:
    """Differences to the first data set. (Lists of other lengths fail `_num_classes` too.)"""
    for name, other in list(classes.items())[1:]:
        first, reference = next(iter(classes.items()))
        if other == reference:
            continue
        if len(other) != len(reference):
            yield f"{first} has {len(reference)} classes and {name} has {len(other)}."
            continue
        k = next(k for k, (a, b) in enumerate(zip(reference, other, strict=True)) if a != b)
        yield f"Class {k} is {reference[k]!r} in {first} and {other[k]!r} in {name}."


def _is_coco(metadata: Any) -> bool:
    return metadata.get("evaluator_type") in ("coco", "coco_panoptic_seg") and os.path.isfile(
        metadata.get("json_file", "")
    )


def _json(name: str, *, is_test: bool) -> Iterator[str]:
    """Problems of a JSON file that is there; those of a training set are warnings."""
    metadata = MetadataCatalog.get(name)
    if not _is_coco(metadata):
        return
    if not is_test and os.path.getsize(metadata.json_file) > _MAX_TRAIN_JSON_BYTES:
        return
    try:
        dataset = read_coco(metadata.json_file)
    except ValueError as error:
        yield f"{name}: {error}"
        return
    if metadata.get("thing_classes") and class_names(dataset) != list(metadata.thing_classes):
        yield f"{name}: the categories in {metadata.json_file} are not the classes of the data set."
    minor = empty_box_problems(dataset)
    # Detectron2 lets COCO 2014's "minival" files pass, which repeat some annotation ids.
    fatal = is_test and "minival" not in metadata.json_file
    for problem in coco_problems(dataset):
        if fatal and problem not in minor:
            yield f"{name}: {problem}"
        else:
            logger.warning(f"{name}: {problem}")

"""Values of Detectron2's own keys that cannot work: single ones, see `stock_types`, and those that
do not fit each other. A rule asks only about keys that the model of the config reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from operator import attrgetter

from detectron2.config import CfgNode
from detectron2.modeling import ANCHOR_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import (
    PROPOSAL_GENERATOR_REGISTRY,
    RPN_HEAD_REGISTRY,
)
from detectron2.modeling.proposal_generator.rrpn import RRPN
from detectron2.modeling.roi_heads import (
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    CascadeROIHeads,
    RROIHeads,
)

from ..config.problems import Problem, did_you_mean
from ..config.schema import described, fits, wrong_values
from ..modeling.registered import classifies_given_boxes, roi_heads_class, rpn_class
from .stock_types import ALWAYS, IN_TRAINING, Ratio

# Others, as "L", have one channel, which fits any number of means.
CHANNELS = {"BGR": 3, "RGB": 3, "YUV-BT.601": 3, "HSV": 3, "YCbCr": 3, "LAB": 3, "RGBA": 4,
            "CMYK": 4}  # fmt: skip
COCO_KEYPOINTS = 17


def stock_problems(cfg: CfgNode, eval_only: bool) -> Iterator[Problem]:
    """What is wrong with values of Detectron2's keys: with single ones, or else with several."""
    values = list(stock_values(cfg, eval_only))
    yield from values or stock_relations(cfg, eval_only)


def stock_values(cfg: CfgNode, eval_only: bool) -> Iterator[Problem]:
    """Values that are not of the type of their key."""
    yield from wrong_values(cfg, ALWAYS if eval_only else {**ALWAYS, **IN_TRAINING})
    for split in ("TRAIN", "TEST"):
        times = Counter(map(str, cfg.DATASETS[split] or ()))
        twice = [name for name, count in times.items() if count > 1]
        if twice:
            yield Problem(f"DATASETS.{split} has {', '.join(twice)} more than once.")
    if not (eval_only or cfg.DATASETS.TRAIN):
        yield Problem("DATASETS.TRAIN is empty: there is nothing to train on.")


def stock_relations(cfg: CfgNode, eval_only: bool) -> Iterator[Problem]:
    """Values that do not fit each other, each of them right alone."""
    yield from _input(cfg)
    yield from _modules(cfg, eval_only)
    yield from _box_head(cfg)
    yield from _box_weights(cfg)
    yield from _keypoints(cfg)
    if not eval_only:
        yield from _schedule(cfg)
        yield from _matchers(cfg)


def _input(cfg: CfgNode) -> Iterator[Problem]:
    mean, std, crop = list(cfg.MODEL.PIXEL_MEAN), list(cfg.MODEL.PIXEL_STD), cfg.INPUT.CROP
    channels = CHANNELS.get(cfg.INPUT.FORMAT, len(mean))
    if (len(mean), len(std)) != (channels, channels):
        yield Problem(
            f"MODEL.PIXEL_MEAN {mean} and MODEL.PIXEL_STD {std} must have {channels} values each, "
            f"one for each channel of INPUT.FORMAT {cfg.INPUT.FORMAT}."
        )
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and (len(sizes) != 2 or sizes[0] > sizes[1]):
        yield Problem(
            f"INPUT.MIN_SIZE_TRAIN_SAMPLING is range, so INPUT.MIN_SIZE_TRAIN must be the smallest "
            f"and the largest size, got {tuple(sizes)}."
        )
    if crop.ENABLED and crop.TYPE.startswith("relative") and max(crop.SIZE) > 1:
        yield Problem(
            f"INPUT.CROP.SIZE is {list(crop.SIZE)}, and with INPUT.CROP.TYPE {crop.TYPE} it is a "
            "share of the image, at most 1."
        )


def _modules(cfg: CfgNode, eval_only: bool) -> Iterator[Problem]:
    """Names of modules that Detectron2 builds, and where proposals come from."""
    model, arch, heads = cfg.MODEL, cfg.MODEL.META_ARCHITECTURE, roi_heads_class(cfg) is not None
    precomputed = model.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals"
    proposes = arch == "ProposalNetwork" or (heads and not precomputed)
    rpn = rpn_class(cfg) is not None
    names = {
        "PROPOSAL_GENERATOR.NAME": (PROPOSAL_GENERATOR_REGISTRY, proposes),
        "ANCHOR_GENERATOR.NAME": (ANCHOR_GENERATOR_REGISTRY, rpn or arch == "RetinaNet"),
        "RPN.HEAD_NAME": (RPN_HEAD_REGISTRY, rpn),
        "ROI_MASK_HEAD.NAME": (ROI_MASK_HEAD_REGISTRY, heads and model.MASK_ON),
        "ROI_KEYPOINT_HEAD.NAME": (ROI_KEYPOINT_HEAD_REGISTRY, heads and model.KEYPOINT_ON),
    }
    for key, (registry, is_read) in names.items():
        name = attrgetter(key)(model)
        if is_read and name not in registry:
            hint = did_you_mean(str(name), [known for known, _ in registry])
            yield Problem(f"MODEL.{key} {name!r} is not registered{hint}")
    if heads and precomputed and not (model.LOAD_PROPOSALS or classifies_given_boxes(cfg)):
        yield Problem(
            "MODEL.PROPOSAL_GENERATOR.NAME is PrecomputedProposals, so MODEL.LOAD_PROPOSALS must "
            "be True, got False."
        )
    for split in ("TEST",) if eval_only else ("TRAIN", "TEST"):
        files, sets = len(cfg.DATASETS[f"PROPOSAL_FILES_{split}"]), len(cfg.DATASETS[split])
        # Those of test sets are looked up one by one, so that there may be more.
        fit = files == sets if split == "TRAIN" else files >= sets
        if model.LOAD_PROPOSALS and not fit:
            yield Problem(
                f"MODEL.LOAD_PROPOSALS is True, which needs one file for each data set: "
                f"DATASETS.{split} has {sets}, DATASETS.PROPOSAL_FILES_{split} {files}."
            )


def _box_head(cfg: CfgNode) -> Iterator[Problem]:
    """What `FastRCNNConvFCHead`, `FastRCNNOutputLayers` and the heads beside them assert."""
    model, heads = cfg.MODEL, roi_heads_class(cfg)
    if heads is None:
        return
    keys, classes = model.ROI_BOX_HEAD, model.ROI_HEADS.NUM_CLASSES
    if keys.USE_FED_LOSS and not keys.USE_SIGMOID_CE:
        yield Problem(
            "MODEL.ROI_BOX_HEAD.USE_FED_LOSS is True, so MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE must be "
            "True, got False."
        )
    if keys.USE_FED_LOSS and keys.FED_LOSS_NUM_CLASSES > classes:
        yield Problem(
            f"MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES is {keys.FED_LOSS_NUM_CLASSES}, more than "
            f"the {classes} classes of MODEL.ROI_HEADS.NUM_CLASSES."
        )
    convs = {"ROI_BOX_HEAD": keys.NUM_CONV, "ROI_MASK_HEAD": model.MASK_ON}
    for node, is_read in convs.items():
        if is_read and model[node].NORM == "GN" and model[node].CONV_DIM % 32:
            yield Problem(
                f"MODEL.{node}.CONV_DIM must be a multiple of the 32 groups of MODEL.{node}.NORM "
                f"GN, got {model[node].CONV_DIM}."
            )
    if keys.NAME == "FastRCNNConvFCHead" and not (keys.NUM_FC or keys.NUM_CONV):
        yield Problem(
            "MODEL.ROI_BOX_HEAD.NUM_FC and MODEL.ROI_BOX_HEAD.NUM_CONV are 0: FastRCNNConvFCHead "
            "needs a layer."
        )


def _box_weights(cfg: CfgNode) -> Iterator[Problem]:
    """One weight for each number of a box: a rotated one has an angle, too."""
    classes = {"RPN": (rpn_class(cfg), RRPN), "ROI_BOX_HEAD": (roi_heads_class(cfg), RROIHeads)}
    for node, (used, rotated) in classes.items():
        weights = tuple(cfg.MODEL[node].BBOX_REG_WEIGHTS)
        if used and len(weights) != (5 if issubclass(used, rotated) else 4):
            yield Problem(
                f"MODEL.{node}.BBOX_REG_WEIGHTS must have 4 values, or 5 for rotated boxes, got "
                f"{weights} for {used.__name__}."
            )


def _keypoints(cfg: CfgNode) -> Iterator[Problem]:
    """Without sigmas pycocotools has those of COCO's person, and fails after all of inference."""
    keys, heads = cfg.MODEL.ROI_KEYPOINT_HEAD, roi_heads_class(cfg)
    sigmas = len(cfg.TEST.KEYPOINT_OKS_SIGMAS)
    tested = heads is not None and cfg.MODEL.KEYPOINT_ON and cfg.DATASETS.TEST
    if tested and (sigmas or COCO_KEYPOINTS) != keys.NUM_KEYPOINTS:
        yield Problem(
            "TEST.KEYPOINT_OKS_SIGMAS must have one value for each of the "
            f"{keys.NUM_KEYPOINTS} points of MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, got {sigmas}"
            f"{'' if sigmas else f', which stands for the {COCO_KEYPOINTS} of COCO'}."
        )


def _schedule(cfg: CfgNode) -> Iterator[Problem]:
    steps = list(cfg.SOLVER.STEPS)
    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and steps != sorted(steps):
        yield Problem(f"SOLVER.STEPS must grow, got {tuple(steps)}.")
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    if sampler.startswith("Weighted") and "TRAIN_REPEAT_FACTOR" not in cfg.DATASETS:
        yield Problem(
            f"DATALOADER.SAMPLER_TRAIN {sampler} needs DATASETS.TRAIN_REPEAT_FACTOR, which this "
            "config has not: give a list of (data set, factor)."
        )
    ratio = cfg.DATALOADER.get("RANDOM_SUBSET_RATIO")
    if sampler == "RandomSubsetTrainingSampler" and not fits(ratio, Ratio):
        yield Problem(
            f"DATALOADER.RANDOM_SUBSET_RATIO must be {described(Ratio)} for "
            f"DATALOADER.SAMPLER_TRAIN {sampler}, got {ratio!r}."
        )


def _matchers(cfg: CfgNode) -> Iterator[Problem]:
    """Thresholds divide the IoUs into one range more than there are thresholds."""
    model, heads = cfg.MODEL, roi_heads_class(cfg)
    read = {
        "RPN": rpn_class(cfg) is not None,
        "ROI_HEADS": heads is not None,
        "RETINANET": model.META_ARCHITECTURE == "RetinaNet",
    }
    for node in (node for node, is_read in read.items() if is_read):
        keys = model[node]
        thresholds, labels = list(keys.IOU_THRESHOLDS), list(keys.IOU_LABELS)
        if thresholds != sorted(thresholds) or 0 in thresholds:
            yield Problem(
                f"MODEL.{node}.IOU_THRESHOLDS must be above 0 and grow, got {thresholds}."
            )
        if len(labels) != len(thresholds) + 1:
            yield Problem(
                f"MODEL.{node}.IOU_LABELS must have one value more than "
                f"MODEL.{node}.IOU_THRESHOLDS {thresholds}, got {labels}."
            )
    if heads is None or not issubclass(heads, CascadeROIHeads):
        return
    cascade, first = model.ROI_BOX_CASCADE_HEAD, model.ROI_HEADS.IOU_THRESHOLDS[0]
    if cascade.IOUS[0] != first:
        yield Problem(
            f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS begins with {cascade.IOUS[0]}, and "
            f"MODEL.ROI_HEADS.IOU_THRESHOLDS is {first}: the first stage has both."
        )
    if len(cascade.BBOX_REG_WEIGHTS) != len(cascade.IOUS):
        yield Problem(
            f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS {cascade.IOUS} and "
            f"MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS {cascade.BBOX_REG_WEIGHTS} must have one "
            "value each for a stage."
        )

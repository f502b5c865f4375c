"""What is wrong with a config, found before anything is built.

Most of these mistakes otherwise cost a training run: a NUM_CLASSES that is too small trains on
silently (class NUM_CLASSES is the background), a frozen random backbone diverges, annotation ids
from 0 lower the AP. One function per group of keys yields its problems; all are reported together,
one sentence each.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from detectron2.config import CfgNode
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    ROI_HEADS_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY, StandardROIHeads

from ..config.defaults import node, value_problems
from ..config.problems import Problem, did_you_mean, log_and_raise
from ..modeling.context_backbone import build_context_backbone
from ..modeling.context_plugins import parse_plugins
from ..modeling.registered import roi_heads_class
from ..modeling.torchvision_backbone import require_network
from .backbone_checks import backbone_problems
from .checkpoint import saved_in
from .dataset_checks import NUM_CLASSES, dataset_problems
from .form_checks import form_problems, is_relational, unread_problems
from .stock_checks import stock_relations, stock_values

logger = logging.getLogger(__name__)
CANNOT = "The config cannot work:"
SEMANTIC = ("SemanticSegmentor", "PanopticFPN")  # meta-architectures with a semantic head


def check_cfg(
    cfg: CfgNode,
    *,
    eval_only: bool = False,
    resume: bool = False,
    earlier_heads: Sequence[str] = (),
) -> None:
    """Checks a config; logs what is only odd.

    Args:
        cfg: the config, all data sets registered.
        eval_only: nothing will be trained, so what matters for training alone is not checked.
        resume: the run goes on from the last checkpoint in `OUTPUT_DIR`, if there is one.
        earlier_heads: values that `MODEL.ROI_HEADS.NAME` had before it was overridden, see
            `form_checks.head_names`.

    Raises:
        ValueError: one line per problem, with the key, its value and what is allowed.
    """
    types = list(stock_values(cfg, eval_only))
    if types:  # what follows reads these keys, and can take their types for granted
        log_and_raise([*types, *value_problems(cfg)], CANNOT, logger)
    resumes = resume and bool(saved_in(cfg.OUTPUT_DIR))
    values = [*value_problems(cfg), *stock_relations(cfg, eval_only)]
    form = list(form_problems(cfg, earlier_heads))
    problems = [*_names(cfg), *form, *values, *_device(cfg), *_output(cfg)]
    problems += dataset_problems(cfg, eval_only)
    problems += [] if resumes else _weights(cfg)
    # What relates several keys is asked where each is right alone; with other heads, the rest may
    # be right.
    if not (form or values):
        problems += [*unread_problems(cfg), *_heads(cfg)]
    if not values:
        problems += [*_context_blocks(cfg), *_torchvision(cfg), *_end_of_head(cfg)]
    if not (values or eval_only):
        problems += [*_amp(cfg), *_steps(cfg)]
        problems += [] if resumes else [*_from_scratch(cfg), *_frozen_base(cfg)]
    if not any(problem.fatal for problem in problems):
        problems += backbone_problems(cfg)
    log_and_raise(problems, CANNOT, logger)


def _names(cfg: CfgNode) -> Iterator[Problem]:
    """Names that select what is built."""
    yield from _unknown("MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY)
    yield from _unknown("MODEL.BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY)
    if cfg.MODEL.META_ARCHITECTURE in SEMANTIC:
        name = cfg.MODEL.SEM_SEG_HEAD.NAME
        yield from _unknown("MODEL.SEM_SEG_HEAD.NAME", name, SEM_SEG_HEADS_REGISTRY)
    if NUM_CLASSES.get(cfg.MODEL.META_ARCHITECTURE) != "ROI_HEADS":
        return
    yield from _unknown("MODEL.ROI_HEADS.NAME", cfg.MODEL.ROI_HEADS.NAME, ROI_HEADS_REGISTRY)
    box_head = cfg.MODEL.ROI_BOX_HEAD.NAME
    if box_head:  # Res5ROIHeads has none
        yield from _unknown("MODEL.ROI_BOX_HEAD.NAME", box_head, ROI_BOX_HEAD_REGISTRY)
        return
    heads = roi_heads_class(cfg)
    if heads and issubclass(heads, StandardROIHeads) and not is_relational(heads):
        yield Problem(
            f"MODEL.ROI_BOX_HEAD.NAME is empty, and MODEL.ROI_HEADS.NAME "
            f"{cfg.MODEL.ROI_HEADS.NAME} needs a box head, such as FastRCNNConvFCHead."
        )


def _unknown(key: str, name: str, registry: Iterable[tuple[str, Any]]) -> Iterator[Problem]:
    known = [registered for registered, _ in registry]
    if name not in known:
        yield Problem(f"{key} {name!r} is not registered{did_you_mean(name, known)}")


def _heads(cfg: CfgNode) -> Iterator[Problem]:
    """What the model and its heads say of their own keys, where they say something."""
    heads: list[Any] = [roi_heads_class(cfg)]
    arch, name = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SEM_SEG_HEAD.NAME
    if arch in META_ARCH_REGISTRY:
        heads.append(META_ARCH_REGISTRY.get(arch))
    if arch in SEMANTIC and name in SEM_SEG_HEADS_REGISTRY:
        heads.append(SEM_SEG_HEADS_REGISTRY.get(name))
    for head in heads:
        if hasattr(head, "problems"):
            yield from head.problems(cfg)


def _context_blocks(cfg: CfgNode) -> Iterator[Problem]:
    """Plugins that cannot be read, or that nobody reads, and a backbone that is not there."""
    keys, name = node(cfg, "CONTEXT_BLOCKS"), cfg.MODEL.BACKBONE.NAME
    plugins = keys.PLUGINS
    try:
        parse_plugins(plugins)
    except ValueError as error:
        yield Problem(str(error))
    readers = [n for n, b in BACKBONE_REGISTRY if b.__module__ == build_context_backbone.__module__]
    if plugins and name not in readers:
        yield Problem(
            f"MODEL.CONTEXT_BLOCKS.PLUGINS are given, and MODEL.BACKBONE.NAME {name} does not read "
            f"them; use one of {', '.join(readers)} (the last with any other builder in "
            "MODEL.CONTEXT_BLOCKS.BUILDER)."
        )
    if name == build_context_backbone.__name__:
        others = [(n, builder) for n, builder in BACKBONE_REGISTRY if n not in readers]
        yield from _unknown("MODEL.CONTEXT_BLOCKS.BUILDER", keys.BUILDER, others)


def _torchvision(cfg: CfgNode) -> Iterator[Problem]:
    if "torchvision" in cfg.MODEL.BACKBONE.NAME:
        try:
            require_network(node(cfg, "TORCHVISION").NAME)
        except ValueError as error:
            yield Problem(str(error))


def _end_of_head(cfg: CfgNode) -> Iterator[Problem]:
    """Another end than NMS that lowers scores: what else looks at scores or merges boxes."""
    method = node(cfg, "DUPLICATE_REMOVAL").TEST_METHOD
    if method == "nms":
        return
    threshold = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
    if threshold >= 0.05:
        yield Problem(
            f"MODEL.DUPLICATE_REMOVAL.TEST_METHOD {method} lowers scores, and "
            f"MODEL.ROI_HEADS.SCORE_THRESH_TEST {threshold} then drops true detections: 0.001 is "
            "usual.",
            fatal=False,
        )
    if cfg.TEST.AUG.ENABLED:
        yield Problem(
            f"TEST.AUG merges what MODEL.DUPLICATE_REMOVAL.TEST_METHOD {method} leaves of each "
            "view by NMS at MODEL.ROI_HEADS.NMS_THRESH_TEST.",
            fatal=False,
        )


def _device(cfg: CfgNode) -> Iterator[Problem]:
    device = cfg.MODEL.DEVICE
    try:
        kind = torch.device(device).type
    except RuntimeError:
        yield Problem(f"MODEL.DEVICE {device!r} is not a device; use cuda or cpu.")
        return
    if kind == "cuda" and not torch.cuda.is_available():
        yield Problem(f"MODEL.DEVICE is {device}, but there is no GPU here: set MODEL.DEVICE cpu.")


def _output(cfg: CfgNode) -> Iterator[Problem]:
    """A folder that cannot be made or written to, by the nearest one that is there."""
    folder = cfg.OUTPUT_DIR
    try:
        if not folder or "\0" in folder:
            why = "it is no name of a folder"
        else:
            there = next(p for p in (Path(folder), *Path(folder).absolute().parents) if p.exists())
            if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
                return
            why = f"{there} {'cannot be written to' if there.is_dir() else 'is no folder'}"
    except OSError as error:  # too long
        why = str(error.strerror)
    shown = folder if len(folder) <= 100 else f"{folder[:100]}..."
    yield Problem(f"OUTPUT_DIR {shown!r} cannot be made: {why}.")


def _amp(cfg: CfgNode) -> Iterator[Problem]:
    if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
        yield Problem(
            "SOLVER.AMP.ENABLED is True with MODEL.DEVICE cpu, but Detectron2's mixed precision "
            "needs a GPU: set SOLVER.AMP.ENABLED False."
        )


def _weights(cfg: CfgNode) -> Iterator[Problem]:
    weights = cfg.MODEL.WEIGHTS
    # Others are fetched: https://..., detectron2://...
    if weights and "://" not in weights and not os.path.isfile(urlparse(weights).path):
        yield Problem(f"MODEL.WEIGHTS: there is no file {weights} (seen from {os.getcwd()}).")


def _from_scratch(cfg: CfgNode) -> Iterator[Problem]:
    """Parts of the backbone that would stay random. Only these backbones read these keys."""
    kinds = ("resnet", "torchvision", "efficientnet_lite", "lr_net")
    resnet, torchvision, lite, lr_net = (kind in cfg.MODEL.BACKBONE.NAME for kind in kinds)
    if cfg.MODEL.WEIGHTS or not (resnet or torchvision or lite or lr_net):
        return
    scratch = "but MODEL.WEIGHTS is empty, so that the backbone starts from random values"
    keys = "LR_NET" if lr_net else "RESNETS"
    norm = (node(cfg, keys) if lr_net else cfg.MODEL.RESNETS).NORM
    if (resnet or lr_net) and norm == "FrozenBN":
        yield Problem(
            f"MODEL.{keys}.NORM is FrozenBN, {scratch}: training diverges at once without working "
            f"normalisation; set MODEL.{keys}.NORM BN or SyncBN, or give pretrained weights."
        )
    if torchvision:
        yield Problem(
            f"MODEL.BACKBONE.NAME is {cfg.MODEL.BACKBONE.NAME}, whose batch norms are frozen, "
            f"{scratch}: most networks diverge so; give pretrained weights.",
            fatal=False,
        )
    if cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        yield Problem(
            f"MODEL.BACKBONE.FREEZE_AT is {cfg.MODEL.BACKBONE.FREEZE_AT}, {scratch} and its first "
            "stages would keep them: set MODEL.BACKBONE.FREEZE_AT 0, or give pretrained weights."
        )


def _frozen_base(cfg: CfgNode) -> Iterator[Problem]:
    """Training something on a detector that stays as it is needs one. ImageNet's weights are those
    of a backbone: with them the RPN, which every detector with ROI heads has, must train."""
    patterns, weights = cfg.MODEL.get("TRAIN_ONLY", []), cfg.MODEL.WEIGHTS
    has_rpn = roi_heads_class(cfg) is not None and cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RPN"
    rpn_trains = any(fnmatchcase("proposal_generator.rpn_head.conv.weight", p) for p in patterns)
    of_backbone = "ImageNetPretrained" in weights and has_rpn and not rpn_trains
    if patterns and (not weights or of_backbone):
        yield Problem(
            f"MODEL.TRAIN_ONLY is {list(patterns)}, which keeps the rest of the model of "
            f"MODEL.WEIGHTS as it is, but {weights!r} has none: give a trained detector, or set "
            "MODEL.TRAIN_ONLY []."
        )


def _steps(cfg: CfgNode) -> Iterator[Problem]:
    late = [step for step in cfg.SOLVER.STEPS if step > cfg.SOLVER.MAX_ITER]
    if late and cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupMultiStepLR":  # the others have no steps
        yield Problem(
            f"SOLVER.STEPS {late} come after SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER}: the learning "
            "rate will not drop there.",
            fatal=False,
        )

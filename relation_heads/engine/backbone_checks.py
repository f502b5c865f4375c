"""What a backbone gives, and what is read of it: known before anything is built for real."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, ProposalNetwork, build_backbone
from detectron2.modeling.meta_arch import PanopticFPN, RetinaNet, SemanticSegmentor

from ..command_line import told
from ..config import get_cfg
from ..config.problems import Problem, did_you_mean
from ..modeling.registered import roi_heads_class, rpn_class
from ..modeling.without_memory import without_memory


def backbone_problems(cfg: CfgNode) -> Iterator[Problem]:
    """A backbone that cannot be built, and names of feature maps that it does not give."""
    nodes = _readers(cfg)
    try:
        maps = _maps(cfg) if nodes else {}
    except Exception as error:  # an assertion, a KeyError, ...: a builder raises what it likes
        yield Problem(
            f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} cannot be built: {told(error)}. It has "
            f"{', '.join(_changed(cfg))}."
        )
        return
    for node in nodes:
        yield from _unknown_maps(node, list(cfg.MODEL[node].IN_FEATURES), maps)
        if node in ("RPN", "RETINANET"):
            yield from _anchors(cfg, node)


def _maps(cfg: CfgNode) -> dict[str, ShapeSpec]:
    """Built without memory, or with it by a builder that cannot do that."""
    with _silent():
        try:
            with without_memory():
                return build_backbone(cfg).output_shape()
        except Exception:
            return build_backbone(cfg).output_shape()


def _changed(cfg: CfgNode) -> Iterator[str]:
    """Its features, and values that are not the defaults: one of them is wrong."""
    usual = get_cfg().MODEL
    for node in ("BACKBONE", "RESNETS", "FPN", "CONTEXT_BLOCKS"):
        for key, value in cfg.MODEL.get(node, {}).items():
            if value != usual[node].get(key) or key.endswith("_FEATURES"):
                yield f"MODEL.{node}.{key} {value}"


@contextmanager
def _silent() -> Iterator[None]:
    """While open, nothing is logged: the backbone is built once more."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _readers(cfg: CfgNode) -> list[str]:
    """The nodes whose IN_FEATURES this model reads."""
    arch = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if not issubclass(arch, GeneralizedRCNN | ProposalNetwork | RetinaNet | SemanticSegmentor):
        return []  # somebody's own, which may read other keys
    reads = {
        "RETINANET": issubclass(arch, RetinaNet),
        "SEM_SEG_HEAD": issubclass(arch, SemanticSegmentor | PanopticFPN),
        "ROI_HEADS": roi_heads_class(cfg),
        "RPN": rpn_class(cfg),
    }
    return [node for node, is_read in reads.items() if is_read]


def _unknown_maps(node: str, names: list[str], maps: dict[str, ShapeSpec]) -> Iterator[Problem]:
    key = f"MODEL.{node}.IN_FEATURES"
    has = f"the backbone gives {', '.join(maps)}"
    if not names:
        yield Problem(f"{key} is empty; {has}.")
    for name, times in Counter(names).items():
        if name not in maps:
            yield Problem(f"{key} has {name!r}, and {has}{did_you_mean(name, maps)}")
        elif times > 1:
            yield Problem(f"{key} has {name!r} {times} times.")


def _anchors(cfg: CfgNode, node: str) -> Iterator[Problem]:
    """One list for all maps, or one for each."""
    maps = len(cfg.MODEL[node].IN_FEATURES)
    for name in ("SIZES", "ASPECT_RATIOS"):
        lists = cfg.MODEL.ANCHOR_GENERATOR[name]
        if len(lists) not in (1, maps):
            yield Problem(
                f"MODEL.ANCHOR_GENERATOR.{name} must have one list, or one for each of the {maps} "
                f"maps of MODEL.{node}.IN_FEATURES, got {len(lists)}: {lists}."
            )

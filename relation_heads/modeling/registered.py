"""Which ROI heads a config builds, asked of Detectron2's registries instead of compared by name."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    ROI_HEADS_REGISTRY,
    ProposalNetwork,
    SemanticSegmentor,
)
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.modeling.roi_heads import ROIHeads

from .image_classifier import ImageClassifier

# Meta-architectures that never look at MODEL.ROI_HEADS (RetinaNet, FCOS are dense).
_WITHOUT_ROI_HEADS = (DenseDetector, ImageClassifier, ProposalNetwork, SemanticSegmentor)


def roi_heads_class(cfg: CfgNode) -> type[ROIHeads] | None:
    """The class that `MODEL.ROI_HEADS.NAME` names.

    Returns:
        None where the meta-architecture has no ROI heads, or a name is not registered.
    """
    arch, heads = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME
    if arch not in META_ARCH_REGISTRY or heads not in ROI_HEADS_REGISTRY:
        return None
    if issubclass(META_ARCH_REGISTRY.get(arch), _WITHOUT_ROI_HEADS):
        return None
    return ROI_HEADS_REGISTRY.get(heads)


def rpn_class(cfg: CfgNode) -> type[RPN] | None:
    """The RPN that `MODEL.PROPOSAL_GENERATOR.NAME` names.

    Returns:
        None where the model has none, or another generator, or a name is not registered.
    """
    arch, name = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if arch not in META_ARCH_REGISTRY or name not in PROPOSAL_GENERATOR_REGISTRY:
        return None
    has_one = issubclass(META_ARCH_REGISTRY.get(arch), ProposalNetwork) or roi_heads_class(cfg)
    generator = PROPOSAL_GENERATOR_REGISTRY.get(name)
    is_rpn = isinstance(generator, type) and issubclass(generator, RPN)
    return generator if has_one and is_rpn else None


def classifies_given_boxes(cfg: CfgNode) -> bool:
    """Whether the model of a config is told the boxes and asked for their classes alone.

    That is so for ROI heads whose class has `classifies_given_boxes = True`. Mapper and evaluator
    follow it.
    """
    heads = roi_heads_class(cfg)
    return heads is not None and getattr(heads, "classifies_given_boxes", False)

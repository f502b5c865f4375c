"""Detectron2 adapters of `relation_heads.layers`; importing this registers them."""

from . import context_backbone  # noqa: F401  (registers)
from .c5_backbone import C5Backbone
from .glore_head import GloReFCNHead
from .roi_heads import *  # noqa: F403  (their __all__)
from .roi_heads import __all__ as _roi_heads
from .shallow_backbone import ShallowBackbone

__all__ = ["C5Backbone", "GloReFCNHead", "ShallowBackbone", *_roi_heads]

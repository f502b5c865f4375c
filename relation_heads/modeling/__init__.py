"""Detectron2 adapters of `relation_heads.layers`; importing this registers them."""

import detectron2  # noqa: F401  (first: it registers us, see `registration`)

from . import context_backbone, lr_net  # noqa: F401  (register)
from .c5_backbone import C5Backbone
from .context_res5 import ContextRes5ROIHeads
from .efficientnet_lite import EfficientNetLite
from .glore_head import GloReFCNHead
from .image_classifier import ImageClassifier
from .region_classification import RegionClassificationROIHeads, Res5RegionClassificationROIHeads
from .roi_heads import *  # noqa: F403  (their __all__)
from .roi_heads import __all__ as _roi_heads
from .shallow_backbone import ShallowBackbone
from .torchvision_backbone import TorchvisionBackbone
from .watch import Listened, Seen, watch, watched

__all__ = [
    "C5Backbone",
    "ContextRes5ROIHeads",
    "EfficientNetLite",
    "GloReFCNHead",
    "ImageClassifier",
    "Listened",
    "RegionClassificationROIHeads",
    "Res5RegionClassificationROIHeads",
    "Seen",
    "ShallowBackbone",
    "TorchvisionBackbone",
    "watch",
    "watched",
    *_roi_heads,
]

"""Detectron2's own heads with another end than NMS: `MODEL.DUPLICATE_REMOVAL`.

The heads of this package read the same keys.
"""

from __future__ import annotations

from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY

from .base import RegionsROIHeads, Res5RegionsROIHeads


@ROI_HEADS_REGISTRY.register()
class DuplicateRemovalROIHeads(RegionsROIHeads):
    """`StandardROIHeads` (FPN, DC5); training is the stock one."""

    is_stock = True


@ROI_HEADS_REGISTRY.register()
class Res5DuplicateRemovalROIHeads(Res5RegionsROIHeads):
    """`Res5ROIHeads` (C4); training is the stock one."""

    is_stock = True

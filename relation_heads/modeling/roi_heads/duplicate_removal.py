"""Detectron2's own heads with another end than NMS: `MODEL.DUPLICATE_REMOVAL`.

The heads of this package read the same keys. A network that learns to remove duplicates sees all
proposals in training, as at test time; the stock losses stay on Detectron2's sample.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import configurable
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY

from .base import RegionSampling, RegionsROIHeads, Res5RegionsROIHeads


class AllProposals(RegionSampling):
    """Mix-in: all proposals where duplicate removal is learned, else Detectron2's sample."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._init_sampling("loss" if self.duplicate_removal else "regions", gt_as_keys=False)


@ROI_HEADS_REGISTRY.register()
class DuplicateRemovalROIHeads(AllProposals, RegionsROIHeads):
    """`StandardROIHeads` (FPN, DC5)."""


@ROI_HEADS_REGISTRY.register()
class Res5DuplicateRemovalROIHeads(AllProposals, Res5RegionsROIHeads):
    """`Res5ROIHeads` (C4)."""

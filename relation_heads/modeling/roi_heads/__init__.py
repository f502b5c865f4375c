"""ROI heads whose regions see one another; importing this registers them."""

from .context import ContextRes5ROIHeads
from .duplicate_removal import DuplicateRemovalROIHeads, Res5DuplicateRemovalROIHeads
from .reasoning import ReasoningROIHeads, Res5ReasoningROIHeads
from .relation import RelationBoxHead, RelationROIHeads, Res5RelationROIHeads
from .sgrn import Res5SGRNROIHeads, SGRNROIHeads

__all__ = [
    "ContextRes5ROIHeads",
    "DuplicateRemovalROIHeads",
    "ReasoningROIHeads",
    "RelationBoxHead",
    "RelationROIHeads",
    "Res5DuplicateRemovalROIHeads",
    "Res5ReasoningROIHeads",
    "Res5RelationROIHeads",
    "Res5SGRNROIHeads",
    "SGRNROIHeads",
]

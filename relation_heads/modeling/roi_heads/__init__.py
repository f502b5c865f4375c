"""ROI heads whose regions see one another; importing this registers them."""

from .relation import RelationBoxHead, RelationROIHeads, Res5RelationROIHeads
from .sgrn import Res5SGRNROIHeads, SGRNROIHeads

__all__ = [
    "RelationBoxHead",
    "RelationROIHeads",
    "Res5RelationROIHeads",
    "Res5SGRNROIHeads",
    "SGRNROIHeads",
]

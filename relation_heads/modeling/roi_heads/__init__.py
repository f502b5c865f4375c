"""ROI heads whose regions see one another; importing this registers them."""

from .relation import RelationBoxHead, RelationROIHeads, Res5RelationROIHeads

__all__ = ["RelationBoxHead", "RelationROIHeads", "Res5RelationROIHeads"]

"""ROI heads whose regions see one another; importing this registers them.

`heads.py`, `cascade.py`: Detectron2's heads around a mechanism (`seam.py`) and an end (`end.py`).
`relation.py`, `sgrn.py`, `reasoning_rcnn.py` and `reasoning.py` are the mechanisms. `names.py`:
what a config can ask for.
"""

from .cascade import CascadeRelationalROIHeads
from .end import End
from .heads import RelationalROIHeads, Res5RelationalROIHeads
from .names import (
    CascadeDuplicateRemovalROIHeads,
    CascadeReasoningRCNNROIHeads,
    CascadeReasoningROIHeads,
    CascadeRelationROIHeads,
    CascadeSGRNROIHeads,
    DuplicateRemovalROIHeads,
    ReasoningRCNNROIHeads,
    ReasoningROIHeads,
    RelationROIHeads,
    Res5DuplicateRemovalROIHeads,
    Res5ReasoningRCNNROIHeads,
    Res5ReasoningROIHeads,
    Res5RelationROIHeads,
    Res5SGRNROIHeads,
    SGRNROIHeads,
)
from .reasoning import ReasoningMechanism
from .reasoning_rcnn import ReasoningRCNNMechanism
from .relation import RelationBoxHead
from .seam import Classified, Mechanism, Shapes
from .sgrn import SGRNMechanism

__all__ = [
    "CascadeDuplicateRemovalROIHeads",
    "CascadeReasoningRCNNROIHeads",
    "CascadeReasoningROIHeads",
    "CascadeRelationROIHeads",
    "CascadeRelationalROIHeads",
    "CascadeSGRNROIHeads",
    "Classified",
    "DuplicateRemovalROIHeads",
    "End",
    "Mechanism",
    "ReasoningMechanism",
    "ReasoningRCNNMechanism",
    "ReasoningRCNNROIHeads",
    "ReasoningROIHeads",
    "RelationBoxHead",
    "RelationROIHeads",
    "RelationalROIHeads",
    "Res5DuplicateRemovalROIHeads",
    "Res5ReasoningRCNNROIHeads",
    "Res5ReasoningROIHeads",
    "Res5RelationROIHeads",
    "Res5RelationalROIHeads",
    "Res5SGRNROIHeads",
    "SGRNMechanism",
    "SGRNROIHeads",
    "Shapes",
]

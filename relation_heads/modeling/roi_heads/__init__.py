"""ROI heads whose regions see one another; importing this registers them.

`heads.py`: Detectron2's heads around a mechanism (`seam.py`) and an end (`end.py`). `relation.py`,
`sgrn.py` and `reasoning.py` are the mechanisms. `names.py`: what a config can ask for.
"""

from .context import ContextRes5ROIHeads
from .end import End
from .given_boxes import RegionClassificationROIHeads, Res5RegionClassificationROIHeads
from .heads import CascadeRelationalROIHeads, RelationalROIHeads, Res5RelationalROIHeads
from .names import (
    CascadeDuplicateRemovalROIHeads,
    CascadeReasoningROIHeads,
    CascadeRelationROIHeads,
    CascadeSGRNROIHeads,
    DuplicateRemovalROIHeads,
    ReasoningROIHeads,
    RelationROIHeads,
    Res5DuplicateRemovalROIHeads,
    Res5ReasoningROIHeads,
    Res5RelationROIHeads,
    Res5SGRNROIHeads,
    SGRNROIHeads,
)
from .reasoning import ReasoningMechanism
from .relation import RelationBoxHead
from .seam import Classified, Mechanism, Shapes
from .sgrn import SGRNMechanism
from .watch import Listened, Seen, watch, watched

__all__ = [
    "CascadeDuplicateRemovalROIHeads",
    "CascadeReasoningROIHeads",
    "CascadeRelationROIHeads",
    "CascadeRelationalROIHeads",
    "CascadeSGRNROIHeads",
    "Classified",
    "ContextRes5ROIHeads",
    "DuplicateRemovalROIHeads",
    "End",
    "Listened",
    "Mechanism",
    "ReasoningMechanism",
    "ReasoningROIHeads",
    "RegionClassificationROIHeads",
    "RelationBoxHead",
    "RelationROIHeads",
    "RelationalROIHeads",
    "Res5DuplicateRemovalROIHeads",
    "Res5ReasoningROIHeads",
    "Res5RegionClassificationROIHeads",
    "Res5RelationROIHeads",
    "Res5RelationalROIHeads",
    "Res5SGRNROIHeads",
    "SGRNMechanism",
    "SGRNROIHeads",
    "Seen",
    "Shapes",
    "watch",
    "watched",
]

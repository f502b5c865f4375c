"""The names in Detectron2's registry: every mechanism in FPN, C4 and Cascade form.

Relation modules are no mechanism but a box head, so that they combine with each of these:
`MODEL.ROI_BOX_HEAD.NAME RelationBoxHead`.
"""

from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY

from .cascade import CascadeRelationalROIHeads
from .heads import RelationalROIHeads, Res5RelationalROIHeads
from .reasoning import ReasoningMechanism
from .reasoning_rcnn import ReasoningRCNNMechanism
from .relation import WithRelations
from .sgrn import SGRNMechanism


@ROI_HEADS_REGISTRY.register()
class DuplicateRemovalROIHeads(RelationalROIHeads):
    """Detectron2's own heads with the end of `MODEL.DUPLICATE_REMOVAL`, which all others have."""


@ROI_HEADS_REGISTRY.register()
class Res5DuplicateRemovalROIHeads(Res5RelationalROIHeads):
    """The same for C4."""


@ROI_HEADS_REGISTRY.register()
class CascadeDuplicateRemovalROIHeads(CascadeRelationalROIHeads):
    """The same for Cascade R-CNN."""


@ROI_HEADS_REGISTRY.register()
class RelationROIHeads(WithRelations, RelationalROIHeads):
    """Object relation modules, `MODEL.RELATION`."""


@ROI_HEADS_REGISTRY.register()
class Res5RelationROIHeads(WithRelations, Res5RelationalROIHeads):
    """The same for C4."""


@ROI_HEADS_REGISTRY.register()
class CascadeRelationROIHeads(WithRelations, CascadeRelationalROIHeads):
    """The same for Cascade R-CNN, in the box head of every stage."""


@ROI_HEADS_REGISTRY.register()
class SGRNROIHeads(RelationalROIHeads):
    """SGRN, `MODEL.SGRN`."""

    mechanism_class = SGRNMechanism


@ROI_HEADS_REGISTRY.register()
class Res5SGRNROIHeads(Res5RelationalROIHeads):
    mechanism_class = SGRNMechanism


@ROI_HEADS_REGISTRY.register()
class CascadeSGRNROIHeads(CascadeRelationalROIHeads):
    mechanism_class = SGRNMechanism


@ROI_HEADS_REGISTRY.register()
class ReasoningROIHeads(RelationalROIHeads):
    """Iterative visual reasoning, `MODEL.REASONING`."""

    mechanism_class = ReasoningMechanism


@ROI_HEADS_REGISTRY.register()
class Res5ReasoningROIHeads(Res5RelationalROIHeads):
    mechanism_class = ReasoningMechanism


@ROI_HEADS_REGISTRY.register()
class CascadeReasoningROIHeads(CascadeRelationalROIHeads):
    mechanism_class = ReasoningMechanism


@ROI_HEADS_REGISTRY.register()
class ReasoningRCNNROIHeads(RelationalROIHeads):
    """Reasoning-RCNN, `MODEL.REASONING_RCNN`."""

    mechanism_class = ReasoningRCNNMechanism


@ROI_HEADS_REGISTRY.register()
class Res5ReasoningRCNNROIHeads(Res5RelationalROIHeads):
    mechanism_class = ReasoningRCNNMechanism


@ROI_HEADS_REGISTRY.register()
class CascadeReasoningRCNNROIHeads(CascadeRelationalROIHeads):
    mechanism_class = ReasoningRCNNMechanism

"""What ends a detector: Soft-NMS (Bodla et al., ICCV 2017), and a network that learns which box of
an object stays (Hu et al., CVPR 2018)."""

from .network import DuplicateRemoval
from .soft_suppression import soft_nms, soft_nms_per_class

__all__ = ["DuplicateRemoval", "soft_nms", "soft_nms_per_class"]

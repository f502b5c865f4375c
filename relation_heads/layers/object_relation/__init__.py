"""Object relation modules (Hu et al., CVPR 2018)."""

from .module import ObjectRelation

__all__ = ["ObjectRelation"]

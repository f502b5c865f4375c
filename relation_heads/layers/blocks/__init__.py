"""Blocks inside backbones: GloRe (Chen et al., CVPR 2019), non-local (Wang et al., CVPR 2018),
global context (Cao et al., 2019), squeeze and excitation (Hu et al., CVPR 2018), local relation (Hu
et al., ICCV 2019)."""

from .global_context import GlobalContext, SqueezeExcitation
from .glore import GloRe, PreActivationGloRe
from .local_relation import LocalRelation, ResidualLocalRelation
from .non_local import NonLocal

__all__ = [
    "GloRe",
    "GlobalContext",
    "LocalRelation",
    "NonLocal",
    "PreActivationGloRe",
    "ResidualLocalRelation",
    "SqueezeExcitation",
]

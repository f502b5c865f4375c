"""The science in plain PyTorch: no Detectron2, no configuration, usable from any framework."""

from .context import GlobalContext, SqueezeExcitation
from .duplicate_removal import DuplicateRemoval
from .geometry import box_embedding, pair_embedding, relative_geometry, sinusoidal_embedding
from .global_reasoning import GlobalReasoning
from .glore import GloRe, PreActivationGloRe
from .knowledge_graph import KnowledgeGraph
from .non_local import NonLocal
from .object_relation import ObjectRelation
from .reasoning import IterativeReasoning
from .regions import Regions
from .sgrn import SGRN, semantic_nodes
from .soft_suppression import soft_nms, soft_nms_per_class
from .spatial_memory import SpatialMemory

__all__ = [
    "SGRN",
    "DuplicateRemoval",
    "GloRe",
    "GlobalContext",
    "GlobalReasoning",
    "IterativeReasoning",
    "KnowledgeGraph",
    "NonLocal",
    "ObjectRelation",
    "PreActivationGloRe",
    "Regions",
    "SpatialMemory",
    "SqueezeExcitation",
    "box_embedding",
    "pair_embedding",
    "relative_geometry",
    "semantic_nodes",
    "sinusoidal_embedding",
    "soft_nms",
    "soft_nms_per_class",
]

"""The science in plain PyTorch: no Detectron2, no configuration, usable from any framework."""

from .geometry import box_embedding, pair_embedding, relative_geometry, sinusoidal_embedding
from .global_reasoning import GlobalReasoning
from .knowledge_graph import KnowledgeGraph
from .object_relation import ObjectRelation, regions_embedding
from .reasoning import IterativeReasoning
from .regions import Regions
from .sgrn import SGRN, semantic_nodes
from .spatial_memory import SpatialMemory

__all__ = [
    "SGRN",
    "GlobalReasoning",
    "IterativeReasoning",
    "KnowledgeGraph",
    "ObjectRelation",
    "Regions",
    "SpatialMemory",
    "box_embedding",
    "pair_embedding",
    "regions_embedding",
    "relative_geometry",
    "semantic_nodes",
    "sinusoidal_embedding",
]

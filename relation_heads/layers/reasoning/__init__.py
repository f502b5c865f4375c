"""Iterative visual reasoning (Chen et al., CVPR 2018)."""

from .global_module import GlobalReasoning
from .knowledge_graph import KnowledgeGraph
from .rollout import IterativeReasoning, ReasonedLogits
from .spatial_memory import SpatialMemory

__all__ = [
    "GlobalReasoning",
    "IterativeReasoning",
    "KnowledgeGraph",
    "ReasonedLogits",
    "SpatialMemory",
]

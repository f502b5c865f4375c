"""Spatial-aware graph relation network (Xu et al., CVPR 2019)."""

from .module import SGRN, semantic_nodes
from .sparse_graph import SparseGraph

__all__ = ["SGRN", "SparseGraph", "semantic_nodes"]

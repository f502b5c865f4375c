"""The science in plain PyTorch: no Detectron2, no configuration, usable from any framework."""

from .geometry import box_embedding, pair_embedding, relative_geometry, sinusoidal_embedding
from .object_relation import ObjectRelation, regions_embedding
from .regions import Regions
from .sgrn import SGRN, semantic_nodes

__all__ = [
    "SGRN",
    "ObjectRelation",
    "Regions",
    "box_embedding",
    "pair_embedding",
    "regions_embedding",
    "relative_geometry",
    "semantic_nodes",
    "sinusoidal_embedding",
]

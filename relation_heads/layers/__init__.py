"""The science in plain PyTorch: no Detectron2, no configuration, usable from any framework."""

from .association import Association, TemporalAttention, Tracklets
from .blocks.global_context import GlobalContext, SqueezeExcitation
from .blocks.glore import GloRe, PreActivationGloRe
from .blocks.local_relation import LocalRelation, ResidualLocalRelation
from .blocks.non_local import NonLocal
from .duplicates.network import DuplicateRemoval
from .duplicates.soft_suppression import soft_nms, soft_nms_per_class
from .geometry import box_embedding, pair_embedding, relative_geometry, sinusoidal_embedding
from .hkrm.difference_relation import DifferenceRelation, prior_loss
from .object_relation.module import ObjectRelation
from .object_relation.position import PositionRelation
from .reasoning.global_module import GlobalReasoning
from .reasoning.knowledge_graph import KnowledgeGraph
from .reasoning.rollout import IterativeReasoning
from .reasoning.spatial_memory import SpatialMemory
from .reasoning_rcnn.adaptive_reasoning import AdaptiveReasoning, semantic_pool
from .region_features.learned import LearnedRegionFeatures
from .regions import Regions
from .sgrn.module import SGRN, semantic_nodes

__all__ = [
    "SGRN",
    "AdaptiveReasoning",
    "Association",
    "DifferenceRelation",
    "DuplicateRemoval",
    "GloRe",
    "GlobalContext",
    "GlobalReasoning",
    "IterativeReasoning",
    "KnowledgeGraph",
    "LearnedRegionFeatures",
    "LocalRelation",
    "NonLocal",
    "ObjectRelation",
    "PositionRelation",
    "PreActivationGloRe",
    "Regions",
    "ResidualLocalRelation",
    "SpatialMemory",
    "SqueezeExcitation",
    "TemporalAttention",
    "Tracklets",
    "box_embedding",
    "pair_embedding",
    "prior_loss",
    "relative_geometry",
    "semantic_nodes",
    "semantic_pool",
    "sinusoidal_embedding",
    "soft_nms",
    "soft_nms_per_class",
]

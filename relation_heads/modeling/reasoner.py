"""The layers of iterative reasoning from the keys of `MODEL.REASONING`."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode

from ..config.defaults import node
from ..layers.reasoning.global_module import GlobalReasoning
from ..layers.reasoning.knowledge_graph import KnowledgeGraph
from ..layers.reasoning.rollout import IterativeReasoning
from ..layers.reasoning.spatial_memory import SpatialMemory
from .class_graphs import load_class_graph

logger = logging.getLogger(__name__)


def class_graph(cfg: CfgNode) -> KnowledgeGraph | None:
    """The graph in `MODEL.REASONING.GLOBAL.GRAPH_FILE`, if there is one and a module reads it."""
    keys = node(cfg, "REASONING")
    if "global" not in keys.MODULES:
        return None
    path = keys.GLOBAL.GRAPH_FILE
    if not path:
        logger.info(
            "MODEL.REASONING.GLOBAL.GRAPH_FILE is empty: the global module reasons over spatial "
            "edges between regions only."
        )
        return None
    return load_class_graph(cfg, path)


def spatial_memory(cfg: CfgNode, *, mid_channels: int, num_logits: int, fed: int) -> SpatialMemory:
    keys = node(cfg, "REASONING").LOCAL
    return SpatialMemory(
        mid_channels=mid_channels,
        num_logits=num_logits,
        high_channels=fed,
        channels=keys.CHANNELS,
        crop_size=keys.CROP_SIZE,
        init_size=tuple(keys.INIT_SIZE),
        fc_dim=keys.FC_DIM,
        num_fc=keys.NUM_FC,
        init=keys.INIT,
        half_pixel=keys.HALF_PIXEL,
    )


def global_reasoning(
    cfg: CfgNode,
    graph: KnowledgeGraph | None,
    *,
    feature_channels: int,
    num_logits: int,
    fed: int,
) -> GlobalReasoning:
    keys = node(cfg, "REASONING").GLOBAL
    return GlobalReasoning(
        keys.CHANNELS,
        feature_channels=feature_channels,
        num_logits=num_logits,
        update_logits=fed,
        num_relations=len(keys.RELATIONS),
        num_stacks=keys.NUM_STACKS,
        knowledge=[a for _, a in graph.adjacencies()] if graph else (),
        num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        embeddings=graph.embeddings if graph else None,
        embedding_channels=keys.EMBEDDING_DIM,
    )


def reasoner(
    cfg: CfgNode,
    graph: KnowledgeGraph | None,
    *,
    mid_channels: int,
    feature_channels: int,
    num_logits: int,
) -> IterativeReasoning:
    keys = node(cfg, "REASONING")
    modules = set(keys.MODULES)
    logits = {
        "num_logits": num_logits,
        "fed": num_logits * (2 if keys.CROSS_FEED and len(modules) == 2 else 1),
    }
    memory = regions_and_classes = None
    if "local" in modules:
        memory = spatial_memory(cfg, mid_channels=mid_channels, **logits)
    if "global" in modules:
        regions_and_classes = global_reasoning(
            cfg, graph, feature_channels=feature_channels, **logits
        )
    return IterativeReasoning(
        memory=memory,
        graph=regions_and_classes,
        num_iterations=keys.NUM_ITERS,
        relations=keys.GLOBAL.RELATIONS,
        bandwidth=keys.GLOBAL.BANDWIDTH,
        normalize_edges=keys.GLOBAL.NORMALIZE_EDGES,
        cross_feed=keys.CROSS_FEED,
    )

"""What the reasoning heads share: the reasoner of a config, its inputs and its losses.

Shapes: N regions of all images, C classes; logits (N, C + 1) with the background last, or (N, C)
where boxes are given.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from torch import Tensor

from ...config.defaults import reasoning_node
from ...layers import Regions
from ...layers.global_reasoning import GlobalReasoning
from ...layers.knowledge_graph import KnowledgeGraph
from ...layers.reasoning import IterativeReasoning, ReasonedLogits
from ...layers.reasoning_losses import reweighted_loss
from ...layers.region_crops import boxes_in_cells
from ...layers.region_edges import RELATIONS
from ...layers.spatial_memory import INITS, SpatialMemory
from .base import SAMPLINGS, foreground_probability

logger = logging.getLogger(__name__)

MODULES = ("local", "global")


def reasoning_config(cfg: CfgNode) -> CfgNode:
    """`cfg.MODEL.REASONING`, checked.

    Raises:
        ValueError: a value is not allowed; names the key, the value and what is.
    """
    node = reasoning_node(cfg)
    for key, values, allowed in (
        ("MODULES", node.MODULES, MODULES),
        ("GLOBAL.RELATIONS", node.GLOBAL.RELATIONS, RELATIONS),
        ("LOCAL.INIT", [node.LOCAL.INIT], INITS),
        ("SAMPLING", [node.SAMPLING], SAMPLINGS),
    ):
        unknown = [value for value in values if value not in allowed]
        if unknown:
            raise ValueError(
                f"MODEL.REASONING.{key} must be of {', '.join(allowed)}, got {unknown[0]!r}."
            )
    if node.NUM_ITERS < 1:
        raise ValueError(f"MODEL.REASONING.NUM_ITERS must be at least 1, got {node.NUM_ITERS}.")
    if len(node.LOSS_WEIGHTS) != 3:
        raise ValueError(
            "MODEL.REASONING.LOSS_WEIGHTS must be three numbers, of the local, the global and the "
            f"final prediction, got {node.LOSS_WEIGHTS}."
        )
    if cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE and node.MODULES:
        raise ValueError(
            "MODEL.REASONING needs a softmax classifier: set MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE "
            "False."
        )
    return node


def class_graph(cfg: CfgNode) -> KnowledgeGraph | None:
    """The graph in `MODEL.REASONING.GLOBAL.GRAPH_FILE`, in the order of the data set's classes."""
    path = reasoning_node(cfg).GLOBAL.GRAPH_FILE
    if not path:
        logger.info(
            "MODEL.REASONING.GLOBAL.GRAPH_FILE is empty: the global module reasons over spatial "
            "edges between regions only."
        )
        return None
    graph = KnowledgeGraph.load(path)
    names = (
        MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes")
        if cfg.DATASETS.TRAIN
        else None
    )
    if names:
        graph = graph.reordered(names)
    if len(graph.classes) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise ValueError(
            f"{path} has {len(graph.classes)} classes, MODEL.ROI_HEADS.NUM_CLASSES is "
            f"{cfg.MODEL.ROI_HEADS.NUM_CLASSES}: they must be equal."
        )
    logger.info(graph.describe())
    return graph


def build_reasoning(
    cfg: CfgNode, *, mid_channels: int, feature_channels: int, num_logits: int
) -> IterativeReasoning | None:
    """The reasoner of a config, None without modules.

    Args:
        cfg: the config.
        mid_channels: of the feature map that local reasoning crops.
        feature_channels: of the box features.
        num_logits: C + 1, or C where boxes are given.
    """
    node = reasoning_config(cfg)
    modules = set(node.MODULES)
    if not modules:
        return None
    fed = num_logits * (2 if node.CROSS_FEED and len(modules) == 2 else 1)
    memory = graph = None
    if "local" in modules:
        memory = SpatialMemory(
            mid_channels=mid_channels,
            num_logits=num_logits,
            high_channels=fed,
            channels=node.LOCAL.CHANNELS,
            crop_size=node.LOCAL.CROP_SIZE,
            init_size=tuple(node.LOCAL.INIT_SIZE),
            fc_dim=node.LOCAL.FC_DIM,
            num_fc=node.LOCAL.NUM_FC,
            init=node.LOCAL.INIT,
        )
    if "global" in modules:
        classes = class_graph(cfg)
        graph = GlobalReasoning(
            node.GLOBAL.CHANNELS,
            feature_channels=feature_channels,
            num_logits=num_logits,
            update_logits=fed,
            num_relations=len(node.GLOBAL.RELATIONS),
            num_stacks=node.GLOBAL.NUM_STACKS,
            knowledge=[a for _, a in classes.adjacencies()] if classes else (),
            num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            embeddings=classes.embeddings if classes else None,
            embedding_channels=node.GLOBAL.EMBEDDING_DIM,
        )
    return IterativeReasoning(
        memory=memory,
        graph=graph,
        num_iterations=node.NUM_ITERS,
        relations=node.GLOBAL.RELATIONS,
        bandwidth=node.GLOBAL.BANDWIDTH,
        normalize_edges=node.GLOBAL.NORMALIZE_EDGES,
        cross_feed=node.CROSS_FEED,
    )


def reason(
    reasoning: IterativeReasoning,
    logits: Tensor,
    features: Tensor,
    regions: Regions,
    maps: Tensor,
    *,
    stride: int,
    num_classes: int,
    half_pixel: bool,
    foreground: bool,
) -> ReasonedLogits:
    """Runs the reasoner on the regions of a batch.

    Args:
        reasoning: the module.
        logits: (N, C + 1) or (N, C) of the base classifier.
        features: (N, D) of the box head.
        regions: N.
        maps: (B, D_m, H, W) mid-level features.
        stride: pixels per cell of `maps`.
        num_classes: C.
        half_pixel: see `boxes_in_cells`.
        foreground: regions write, and are listened to, by their probability to be an object.
    """
    probabilities = logits.detach().float().softmax(dim=1)
    assignment = probabilities[:, :num_classes]  # what is background assigns little
    weights = None
    if foreground and logits.shape[1] > num_classes:
        weights = foreground_probability(probabilities)
    if regions.is_key is not None:  # may ask, but neither write nor be listened to
        ones = torch.ones_like(probabilities[:, 0]) if weights is None else weights
        weights = ones * regions.is_key
    grid_sizes = [(-(-int(h) // stride), -(-int(w) // stride)) for h, w in regions.image_sizes]
    return reasoning(
        logits,
        features,
        regions,
        maps=maps,
        boxes_in_cells=boxes_in_cells(regions.boxes, stride, half_pixel),
        grid_sizes=grid_sizes,
        assignment=assignment,
        weights=weights,
    )


def reasoning_losses(
    out: ReasonedLogits,
    proposals: list[Instances],
    *,
    beta: float,
    weights: Sequence[float],
) -> dict[str, Tensor]:
    """`loss_cls_local`, `loss_cls_global`, `loss_cls_final` over the rows that are in the loss.

    Args:
        out: of all N regions.
        proposals: with `gt_classes`, -1 outside the loss.
        beta: see `example_weights`.
        weights: of the three losses.
    """
    labels = torch.cat([p.gt_classes for p in proposals])
    keep = labels >= 0
    labels = labels[keep]
    losses = {}
    for name, path, weight in (
        ("local", out.memory, weights[0]),
        ("global", out.graph, weights[1]),
    ):
        if path:
            loss = reweighted_loss([f[keep] for f in path], out.plain[keep], labels, beta)
            losses[f"loss_cls_{name}"] = loss * weight
    final = F.cross_entropy(out.final[keep], labels, reduction="sum") / max(len(labels), 1)
    losses["loss_cls_final"] = final * weights[2]
    return losses


def named_predictions(out: ReasonedLogits) -> dict[str, Tensor]:
    """Logits by name: plain, local1, ..., global1, ..., final."""
    named = {"plain": out.plain}
    for name, path in (("local", out.memory), ("global", out.graph)):
        named.update({f"{name}{k}": f for k, f in enumerate(path, 1)})
    return {**named, "final": out.final}


def chosen_prediction(out: ReasonedLogits, name: str) -> Tensor:
    """The logits (N, .) of one prediction; "local" and "global" are the last of their path.

    Raises:
        ValueError: there is none of that name.
    """
    named = named_predictions(out)
    for path, predictions in (("local", out.memory), ("global", out.graph)):
        if predictions:
            named[path] = predictions[-1]
    if name not in named:
        raise ValueError(
            f"MODEL.REASONING.TEST_PREDICTION must be one of {', '.join(named)}, got {name!r}."
        )
    return named[name]

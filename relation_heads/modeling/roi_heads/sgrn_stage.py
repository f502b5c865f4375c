"""The second stage of SGRN: boxes, graph, and the classifier that reads [f, h].

    base logits s, boxes -> (refined boxes) -> features f
    nodes x = softmax(s) [W, b] of the base classifier      (layers.sgrn.semantic_nodes)
    h = SGRN(f, x, boxes);  [f, h] -> predictor

Shapes: N regions of all images, D channels of f, E of h, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, ROIHeads
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ...config.defaults import sgrn_node
from ...layers import SGRN, Regions, semantic_nodes
from ...layers.sgrn import CHOICES, MAPPINGS, Mapping
from .base import SAMPLINGS, RegionSampling, foreground_probability
from .detections import Predictions
from .many_classes import box_predictor

Freeze = Literal["none", "base", "all"]
TestEnsemble = Literal["last", "mean", "union_nms"]


def sgrn_config(cfg: CfgNode) -> CfgNode:
    """`cfg.MODEL.SGRN`, checked.

    Raises:
        ValueError: a value is not allowed; names the key, the value and what is.
    """
    node = sgrn_node(cfg)
    choices = {
        **{name.upper(): allowed for name, allowed in CHOICES.items()},
        "NODE_EMBED": MAPPINGS,
        "FREEZE": get_args(Freeze),
        "TEST_ENSEMBLE": get_args(TestEnsemble),
        "SAMPLING": SAMPLINGS,
    }
    for key, allowed in choices.items():
        if node[key] not in allowed:
            names = ", ".join(repr(a) for a in allowed)
            raise ValueError(f"MODEL.SGRN.{key} must be one of {names}, got {node[key]!r}.")
    for key in ("NUM_KERNELS", "NUM_NEIGHBORS", "LATENT_DIM"):
        if node[key] < 1:
            raise ValueError(f"MODEL.SGRN.{key} must be at least 1, got {node[key]}.")
    if not 0 <= node.DROPOUT < 1:
        raise ValueError(f"MODEL.SGRN.DROPOUT must be in [0, 1), got {node.DROPOUT}.")
    if len(node.LOSS_WEIGHTS) != 2:
        raise ValueError(
            "MODEL.SGRN.LOSS_WEIGHTS must be two numbers, of the base predictor and of the second, "
            f"got {node.LOSS_WEIGHTS}."
        )
    if not (node.SHARE_FC or node.REFINE):
        raise ValueError(
            "MODEL.SGRN.SHARE_FC False gives a second stage a box head of its own, and with "
            "MODEL.SGRN.REFINE False there is one stage only: set REFINE True or SHARE_FC True."
        )
    if node.REFINE and len(cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS) < 2:
        raise ValueError(
            "MODEL.SGRN.REFINE takes the IoU of its second stage from "
            "MODEL.ROI_BOX_CASCADE_HEAD.IOUS[1], got "
            f"{list(cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS)}."
        )
    if any(width < 1 or width % node.NUM_KERNELS for width in node.GRAPH_DIMS):
        raise ValueError(
            "MODEL.SGRN.GRAPH_DIMS must be multiples of MODEL.SGRN.NUM_KERNELS "
            f"{node.NUM_KERNELS}, got {node.GRAPH_DIMS}."
        )
    if node.FOREGROUND_EDGES and node.EDGE_NORM == "none":
        raise ValueError(
            "MODEL.SGRN.FOREGROUND_EDGES adds log-probabilities to the scores of edges, which "
            "MODEL.SGRN.EDGE_NORM none does not exponentiate: set FOREGROUND_EDGES False, or "
            "EDGE_NORM softmax or joint."
        )
    if node.FREEZE != "none" and not (node.GRAPH_DIMS or node.REFINE):
        raise ValueError(
            f"MODEL.SGRN.FREEZE {node.FREEZE} leaves nothing to train where MODEL.SGRN.GRAPH_DIMS "
            "is [] and MODEL.SGRN.REFINE False: there is no second stage."
        )
    return node


class Resampler(RegionSampling, ROIHeads):
    """Labels refined boxes anew, at the IoU of the second stage, and samples them for the loss."""

    def __init__(self, cfg: CfgNode, sampling: str) -> None:
        """
        Args:
            cfg: the IoU is `MODEL.ROI_BOX_CASCADE_HEAD.IOUS[1]`, 0.6 by default.
            sampling: see `MODEL.SGRN.SAMPLING`.
        """
        matcher = Matcher([cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS[1]], [0, 1])
        args = {"proposal_matcher": matcher, "proposal_append_gt": False}
        super().__init__(**{**ROIHeads.from_config(cfg), **args})
        self._init_sampling(sampling, gt_as_keys=False)


class SGRNStage(nn.Module):
    """Graph and predictor of the second stage. Without a graph it is the stage's fair twin."""

    @configurable
    def __init__(
        self,
        *,
        graph: SGRN | None,
        predictor: nn.Module,
        mapping: Mapping = "soft",
        pool_bias: bool = True,
        detach_pool: bool = True,
        detach_learner_input: bool = True,
        foreground_edges: bool = False,
    ) -> None:
        """
        Args:
            graph: for features of D channels, or None.
            predictor: as `FastRCNNOutputLayers`, for D + E channels.
            mapping, pool_bias, detach_pool, detach_learner_input, foreground_edges: see the keys of
                `MODEL.SGRN`.
        """
        super().__init__()
        self.graph = graph
        self.predictor = predictor
        self.mapping = mapping
        self.pool_bias = pool_bias
        self.detach_pool = detach_pool
        self.detach_learner_input = detach_learner_input
        self.foreground_edges = foreground_edges

    @classmethod
    def from_config(cls, cfg: CfgNode, dim: int) -> dict[str, Any]:
        node = sgrn_config(cfg)
        graph = None
        if node.GRAPH_DIMS:
            choices = {name: node[name.upper()] for name in CHOICES}
            graph = SGRN(
                dim,
                dim + int(node.POOL_BIAS),
                latent_dim=node.LATENT_DIM,
                graph_dims=node.GRAPH_DIMS,
                num_kernels=node.NUM_KERNELS,
                num_neighbors=node.NUM_NEIGHBORS,
                dropout=node.DROPOUT,
                **choices,
            )
        channels = dim + (graph.out_dim if graph else 0)
        return {
            "graph": graph,
            "predictor": box_predictor(cfg, channels),
            "mapping": node.NODE_EMBED,
            "pool_bias": node.POOL_BIAS,
            "detach_pool": node.DETACH_POOL,
            "detach_learner_input": node.DETACH_LEARNER_INPUT,
            "foreground_edges": node.FOREGROUND_EDGES,
        }

    def forward(self, x: Tensor, logits: Tensor, classifier: nn.Linear, regions: Regions) -> Any:
        """
        Args:
            x: (N, D) f of the boxes in `regions`.
            logits: (N, C + 1) of the base classifier, background last; with sigmoid classifiers,
                whose background has no score, 0 there.
            classifier: the base classifier, C + 1 rows of D.
            regions: N.

        Returns:
            what the predictor gives for N rows.
        """
        if self.graph is None:
            return self.predictor(x)
        weight, bias = classifier.weight, classifier.bias
        if self.detach_pool:
            weight, bias = weight.detach(), bias.detach()
        nodes = semantic_nodes(logits, weight, bias if self.pool_bias else None, self.mapping)
        key_bias = None
        if self.foreground_edges:
            key_bias = foreground_probability(logits.detach().float().softmax(dim=1)).log()  # (N,)
        learner_input = x.detach() if self.detach_learner_input else x
        h = self.graph(learner_input, nodes, regions, key_bias)  # (N, E)
        return self.predictor(torch.cat([x, h.to(x.dtype)], dim=1))


@torch.no_grad()
def best_foreground_boxes(
    predictor: FastRCNNOutputLayers, predictions: Predictions, proposals: list[Instances]
) -> Sequence[Tensor]:
    """The box of each region's best class that is not the background.

    Args:
        predictor: made the predictions.
        predictions: logits (N, C + 1), background last, and what boxes are made from.
        proposals: N of all images.

    Returns:
        (N_b, 4) of each image.
    """
    # Shapes, not len(): a traced model must not keep this number of regions.
    splits = [p.proposal_boxes.tensor.shape[0] for p in proposals]
    best = predictions[0][:, :-1].argmax(dim=1).split(splits)
    labelled = [
        Instances(p.image_size, proposal_boxes=p.proposal_boxes, gt_classes=label)
        for p, label in zip(proposals, best, strict=True)
    ]
    return predictor.predict_boxes_for_gt_classes(predictions, labelled)


@torch.no_grad()
def refined_proposals(
    boxes: Sequence[Tensor], proposals: list[Instances], *, drop_empty: bool
) -> list[Instances]:
    """Proposals at the boxes that the base predictor gives.

    Args:
        boxes: per image (N_b, 4), of `best_foreground_boxes`; N in all.
        proposals: their first boxes; `is_key` is kept.
        drop_empty: without the boxes that have no area inside the image (training; at test time
            rows must stay aligned).

    Returns:
        per image Instances with `proposal_boxes`, `row` (0 to N - 1), `is_key` if given.

    Raises:
        FloatingPointError: a box is not finite.
    """
    splits = [b.shape[0] for b in boxes]  # not len(), as above
    rows = torch.arange(sum(splits), device=boxes[0].device).split(splits)
    refined = []
    for b, row, old in zip(boxes, rows, proposals, strict=True):
        new = Instances(old.image_size)
        new.proposal_boxes = Boxes(b)
        try:
            new.proposal_boxes.clip(old.image_size)
        except AssertionError as error:  # how `Boxes` says that they are not finite
            raise FloatingPointError(
                "The base predictor's boxes are not finite: training diverged."
            ) from error
        new.row = row
        if old.has("is_key"):
            new.is_key = old.is_key
        refined.append(new[new.proposal_boxes.nonempty()] if drop_empty else new)
    return refined

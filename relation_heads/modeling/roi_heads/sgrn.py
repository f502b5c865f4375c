"""SGRN (Xu et al., CVPR 2019): classify once, reason over a graph, classify again.

    base logits s, boxes -> (refined boxes) -> features f
    nodes x = softmax(s) [W, b] of the base classifier      (layers.sgrn.semantic_nodes)
    h = SGRN(f, x, boxes);  [f, h] -> predictor              loss_cls_sgrn, loss_box_reg_sgrn

One stage (plug-in), REFINE False: the graph is on the proposals. Two stages (released code), REFINE
True: the base predictor's boxes are labelled and sampled anew at IoU 0.6, pooled and embedded by
the same box head, and the graph is on them. With GRAPH_DIMS [] the second stage has no graph: the
fair twin of two stages, and with one stage the stock head itself, bit for bit.

New parameters are `mechanism.graph.*` and `mechanism.predictor.*` (and `mechanism.box_head.*` with
SHARE_FC False). Shapes: N regions of all images, D channels of f, E of h, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

import torch
from detectron2.config import CfgNode
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, build_box_head
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ...config.defaults import TestEnsemble, node
from ...config.problems import Problem
from ...layers import SGRN, semantic_nodes
from ...layers.arguments import one_of, require
from ...layers.regions import foreground_probability
from ...layers.sgrn.module import CHOICES, MAPPINGS, Mapping
from ..keys import key_problems, may_diverge
from ..many_classes import box_predictor
from ..watch import Listened, watched
from .refine import Resampler, best_foreground_boxes, refined_proposals
from .seam import (
    Classified,
    Embed,
    Losses,
    Maps,
    Mechanism,
    Predictions,
    Shapes,
)

ARGUMENTS = ("latent_dim", "graph_dims", "num_kernels", "num_neighbors", "dropout", *CHOICES)


class SGRNMechanism(Mechanism):
    """Graph and predictor of the second stage. Without a graph it is the stage's fair twin."""

    key = "SGRN"

    def __init__(
        self,
        *,
        predictor: nn.Module,
        graph: SGRN | None = None,
        resampler: Resampler | None = None,
        box_head: nn.Module | None = None,
        mapping: Mapping = "soft",
        pool_bias: bool = True,
        detach_pool: bool = True,
        detach_learner_input: bool = True,
        foreground_edges: bool = False,
        ensemble: TestEnsemble = "last",
        mean_gradient: bool = True,
        loss_weights: Sequence[float] = (1.0, 1.0),
        sampling: str = "loss",
        gt_as_keys: bool = False,
    ) -> None:
        """
        Args:
            predictor: as `FastRCNNOutputLayers`, for D + E channels.
            graph: for features of D channels, or None.
            resampler: of the refined boxes; None for one stage.
            box_head: of the second stage; None shares the first one's.
            mapping: `MODEL.SGRN.NODE_EMBED`; the others are the keys of the same name.
        """
        super().__init__()
        require(
            one_of("mapping", mapping, MAPPINGS),
            one_of("ensemble", ensemble, get_args(TestEnsemble)),
        )
        self.graph, self.predictor, self.box_head = graph, predictor, box_head
        self.resampler = resampler
        self.mapping, self.pool_bias = mapping, pool_bias
        self.detach_pool, self.detach_learner_input = detach_pool, detach_learner_input
        self.foreground_edges = foreground_edges
        self.ensemble, self.loss_weights = ensemble, tuple(loss_weights)
        self.num_classifications = sum(map(bool, loss_weights)) if mean_gradient else 1
        self.sampling, self.gt_as_keys = sampling, gt_as_keys

    @classmethod
    def is_on(cls, cfg: CfgNode) -> bool:
        keys = node(cfg, "SGRN")
        return bool(keys.GRAPH_DIMS or keys.REFINE)

    @classmethod
    def build(cls, cfg: CfgNode, shapes: Shapes) -> Mechanism:
        keys = node(cfg, "SGRN")
        if not cls.is_on(cfg):
            return Mechanism()
        graph = _graph(cfg, shapes.dim) if keys.GRAPH_DIMS else None
        channels = shapes.dim + (graph.out_dim if graph else 0)
        mechanism = cls(
            predictor=box_predictor(cfg, channels),
            graph=graph,
            box_head=None if keys.SHARE_FC else build_box_head(cfg, shapes.pooled),
            mapping=keys.NODE_EMBED,
            pool_bias=keys.POOL_BIAS,
            detach_pool=keys.DETACH_POOL,
            detach_learner_input=keys.DETACH_LEARNER_INPUT,
            foreground_edges=keys.FOREGROUND_EDGES,
            ensemble=keys.TEST_ENSEMBLE,
            mean_gradient=keys.MEAN_GRADIENT,
            loss_weights=keys.LOSS_WEIGHTS,
            sampling=keys.SAMPLING,
            gt_as_keys=keys.GT_AS_KEYS,
        )
        if keys.REFINE:
            mechanism.resampler = Resampler(cfg, keys.SAMPLING)
        return mechanism

    @classmethod
    def problems(cls, cfg: CfgNode, *, is_c4: bool = False) -> Iterator[Problem]:
        keys, key = node(cfg, "SGRN"), "MODEL.SGRN"
        if keys.GRAPH_DIMS:
            yield from key_problems(partial(_graph, cfg, cfg.MODEL.ROI_BOX_HEAD.FC_DIM), key)
        if cls.is_on(cfg) and all(keys.LOSS_WEIGHTS) and not keys.MEAN_GRADIENT:
            yield from may_diverge(cfg, f"{key}.MEAN_GRADIENT", "True")
        if not (keys.SHARE_FC or keys.REFINE):
            yield Problem(
                f"{key}.SHARE_FC False gives a second stage a box head of its own, and with "
                f"{key}.REFINE False there is one stage only: set REFINE True or SHARE_FC True."
            )
        if is_c4 and not keys.SHARE_FC:
            yield Problem(
                f"{key}.SHARE_FC False needs a box head of its own for the second stage, and a C4 "
                "model has none (its features are res5): set it True, or use an FPN model."
            )
        if keys.REFINE and len(cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS) < 2:
            yield Problem(
                f"{key}.REFINE takes the IoU of its second stage from "
                "MODEL.ROI_BOX_CASCADE_HEAD.IOUS[1], got "
                f"{list(cfg.MODEL.ROI_BOX_CASCADE_HEAD.IOUS)}."
            )
        end = node(cfg, "DUPLICATE_REMOVAL").TEST_METHOD
        if keys.TEST_ENSEMBLE == "union_nms" and end == "learned":
            yield Problem(
                f"{key}.TEST_ENSEMBLE union_nms has the boxes of both stages, of which "
                "MODEL.DUPLICATE_REMOVAL.TEST_METHOD learned has learned the second alone: set "
                "TEST_ENSEMBLE to last or mean, or TEST_METHOD to nms or soft_nms."
            )
        if keys.FOREGROUND_EDGES and keys.EDGE_NORM == "none":
            yield Problem(
                f"{key}.FOREGROUND_EDGES adds log-probabilities to the scores of edges, which "
                f"{key}.EDGE_NORM none does not exponentiate: set FOREGROUND_EDGES False, or "
                "EDGE_NORM softmax or joint."
            )

    def forward(
        self, base: Classified, maps: Maps, embed: Embed, targets: list[Instances] | None = None
    ) -> tuple[Classified, Losses]:
        """See `Mechanism.forward`."""
        last = self._second(base, embed, targets)
        if self.training:
            losses = {}
            for stage, weight in zip((base, last), self.loss_weights, strict=True):
                if weight:
                    losses.update({n: value * weight for n, value in stage.losses().items()})
            return last, losses
        if self.ensemble == "mean":  # of the logits, as in Reasoning-RCNN
            last = last.with_logits((base.logits + last.logits) / 2)
        elif self.ensemble == "union_nms":
            last = both_stages(base, last)
        return last, {}

    def _second(
        self, base: Classified, embed: Embed, targets: list[Instances] | None
    ) -> Classified:
        """What the second stage sees."""
        same, x = base, base.x
        if self.resampler:
            proposals = refined_proposals(
                best_foreground_boxes(base), base.proposals, training=self.training
            )
            if self.training:
                with get_event_storage().name_scope("sgrn"):
                    proposals = self.resampler.label_and_sample_proposals(proposals, targets)
            same = base.select([p.row for p in proposals])
            x = embed(proposals, self.box_head)
            same = replace(same, proposals=proposals)
        second = self._predict(x, same, base.predictor)
        return replace(same, x=x, predictor=self.predictor, predictions=second, name="sgrn")

    def _predict(self, x: Tensor, base: Classified, predictor: nn.Module) -> Predictions:
        """Predictions of x (N, D), whose base classification has the logits and boxes."""
        if self.graph is None:
            return self.predictor(x)
        logits, regions = base.logits, base.regions
        if predictor.use_sigmoid_ce:  # there the background has no score
            logits = torch.cat([logits[:, :-1], torch.zeros_like(logits[:, -1:])], dim=1)
        weight, bias = predictor.cls_score.weight, predictor.cls_score.bias
        if self.detach_pool:
            weight, bias = weight.detach(), bias.detach()
        nodes = semantic_nodes(logits, weight, bias if self.pool_bias else None, self.mapping)
        key_bias = None
        if self.foreground_edges:
            key_bias = foreground_probability(logits.detach().float().softmax(dim=1)).log()  # (N,)
        f = x.detach() if self.detach_learner_input else x
        seen = watched()
        if seen:
            weights = self.graph.graph(f, regions, key_bias).weights(regions)
            seen.listened.append(Listened(self.graph, regions, [w[None] for w in weights]))
        h = self.graph(f, nodes, regions, key_bias)  # (N, E)
        return self.predictor(torch.cat([x, h.to(x.dtype)], dim=1))


def _graph(cfg: CfgNode, dim: int) -> SGRN:
    keys = node(cfg, "SGRN")
    arguments = {name: keys[name.upper()] for name in ARGUMENTS}
    return SGRN(dim, dim + int(keys.POOL_BIAS), **arguments)


@dataclass(frozen=True)
class _Found:
    """Boxes and probabilities that are there already, in place of a predictor."""

    boxes: Sequence[Tensor]
    probabilities: Sequence[Tensor]
    test_score_thresh: float
    test_nms_thresh: float
    test_topk_per_image: int

    inference = FastRCNNOutputLayers.inference

    def predict_boxes(self, predictions: Predictions, proposals: object) -> Sequence[Tensor]:
        return self.boxes

    def predict_probs(self, predictions: Predictions, proposals: object) -> Sequence[Tensor]:
        return self.probabilities


def both_stages(base: Classified, last: Classified) -> Classified:
    """The regions of two classifications in one: 2 R of an image, those of `base` first."""

    def joined(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat(pair) for pair in zip(a, b, strict=True)]

    proposals = []
    for first, second in zip(base.proposals, last.proposals, strict=True):
        both = Instances(first.image_size)
        both.proposal_boxes = Boxes.cat([first.proposal_boxes, second.proposal_boxes])
        proposals.append(both)
    found = _Found(
        joined(base.boxes(), last.boxes()),
        joined(base.probabilities(), last.probabilities()),
        last.predictor.test_score_thresh,
        last.predictor.test_nms_thresh,
        last.predictor.test_topk_per_image,
    )

    def rows(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat(joined(base.regions.split(a), last.regions.split(b)))

    x = rows(base.x, last.x)
    # `found` has the boxes; what the two predictors make theirs from may differ in width.
    return Classified(x, found, (rows(base.logits, last.logits), x), proposals)

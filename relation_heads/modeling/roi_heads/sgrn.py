"""SGRN (Xu et al., CVPR 2019): classify once, reason over a graph, classify again.

    base logits s, boxes -> (refined boxes) -> features f
    nodes x = softmax(s) [W, b] of the base classifier      (layers.sgrn.semantic_nodes)
    h = SGRN(f, x, boxes);  [f, h] -> predictor              loss_cls_sgrn, loss_box_reg_sgrn

One stage (plug-in), REFINE False: the graph is on the proposals. Two stages (released code), REFINE
True: the graph is on refined boxes, see `second_look`. With GRAPH_DIMS [] the second stage has no
graph: the fair twin of two stages, and with one stage the stock head itself, bit for bit.

New parameters are `mechanism.graph.*` and `mechanism.predictor.*` (and `mechanism.box_head.*` with
SHARE_FC False). Shapes: N regions of all images, D channels of f, E of h, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling.roi_heads import build_box_head
from torch import Tensor

from ...config.defaults import node
from ...config.problems import Problem
from ...layers import SGRN, semantic_nodes
from ...layers.arguments import one_of, require
from ...layers.regions import foreground_probability
from ...layers.sgrn.module import CHOICES, MAPPINGS, Mapping
from ..keys import key_problems
from ..many_classes import box_predictor
from ..watch import Listened, watched
from .refine import Resampler
from .seam import Classified, Maps, Mechanism, Shapes
from .second_look import SecondLook, softmax_logits

ARGUMENTS = ("latent_dim", "graph_dims", "num_kernels", "num_neighbors", "dropout", *CHOICES)


class SGRNMechanism(SecondLook):
    """A second look with what the graph says."""

    key, name = "SGRN", "sgrn"

    def __init__(
        self,
        *,
        mapping: Mapping = "soft",
        pool_bias: bool = True,
        detach_pool: bool = True,
        detach_learner_input: bool = True,
        foreground_edges: bool = False,
        sampling: str = "loss",
        gt_as_keys: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            mapping: `MODEL.SGRN.NODE_EMBED`; the others are the keys of the same name.
            kwargs: see `SecondLook`; `graph` is an `SGRN`.
        """
        super().__init__(**kwargs)
        require(one_of("mapping", mapping, MAPPINGS))
        self.mapping, self.pool_bias = mapping, pool_bias
        self.detach_pool, self.detach_learner_input = detach_pool, detach_learner_input
        self.foreground_edges = foreground_edges
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
        return cls(
            predictor=box_predictor(cfg, channels),
            graph=graph,
            resampler=Resampler(cfg, keys.SAMPLING) if keys.REFINE else None,
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

    @classmethod
    def problems(cls, cfg: CfgNode, *, is_c4: bool = False) -> Iterator[Problem]:
        keys, key = node(cfg, "SGRN"), "MODEL.SGRN"
        if keys.GRAPH_DIMS:
            yield from key_problems(partial(_graph, cfg, cfg.MODEL.ROI_BOX_HEAD.FC_DIM), key)
        yield from super().problems(cfg)
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
        if keys.FOREGROUND_EDGES and keys.EDGE_NORM == "none":
            yield Problem(
                f"{key}.FOREGROUND_EDGES adds log-probabilities to the scores of edges, which "
                f"{key}.EDGE_NORM none does not exponentiate: set FOREGROUND_EDGES False, or "
                "EDGE_NORM softmax or joint."
            )

    def enhanced(self, x: Tensor, base: Classified, maps: Maps) -> Tensor:
        """See `SecondLook.enhanced`."""
        logits, regions = softmax_logits(base), base.regions
        weight, bias = base.predictor.cls_score.weight, base.predictor.cls_score.bias
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
        return self.graph(f, nodes, regions, key_bias)


def _graph(cfg: CfgNode, dim: int) -> SGRN:
    keys = node(cfg, "SGRN")
    arguments = {name: keys[name.upper()] for name in ARGUMENTS}
    return SGRN(dim, dim + int(keys.POOL_BIAS), **arguments)

"""Reasoning-RCNN (Xu et al., CVPR 2019): classify once, let classes reason, classify again.

    base logits s, maps of the backbone -> layers.reasoning_rcnn.AdaptiveReasoning -> h
    [f, h] -> predictor                loss_cls_reasoning_rcnn, loss_box_reg_reasoning_rcnn

One stage, or two with REFINE True (released code), see `second_look`; in both h of a region is of
its own base scores. With CHANNELS 0 there is no h: the fair twin of two stages, and with one stage
the stock head itself, bit for bit. No region listens to another one.

Shapes: N regions of B images, D channels of f, E of h, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from torch import Tensor

from ...config.defaults import node
from ...config.problems import Problem
from ...layers import AdaptiveReasoning, semantic_pool
from ..class_graphs import file_problems, load_class_graph
from ..keys import key_problems
from ..many_classes import box_predictor
from ..watch import watched
from .refine import Resampler
from .relation import has_relations
from .seam import Classified, Maps, Mechanism, Shapes
from .second_look import SecondLook, softmax_logits


class ReasoningRCNNMechanism(SecondLook):
    """A second look with what the classes told one another."""

    key, name = "REASONING_RCNN", "reasoning_rcnn"

    def __init__(self, *, map_strides: Mapping[str, int] | None = None, **kwargs: Any) -> None:
        """
        Args:
            map_strides: pixels per cell of the maps that the image's attention is made from, finest
                first, by name; see `attention_maps`.
            kwargs: see `SecondLook`; `graph` is an `AdaptiveReasoning`.
        """
        super().__init__(**kwargs)
        strides = map_strides or {}
        self.map_names, self.map_strides = tuple(strides), tuple(strides.values())

    @classmethod
    def is_on(cls, cfg: CfgNode) -> bool:
        keys = node(cfg, "REASONING_RCNN")
        return bool(keys.CHANNELS or keys.REFINE)

    @classmethod
    def build(cls, cfg: CfgNode, shapes: Shapes) -> Mechanism:
        keys = node(cfg, "REASONING_RCNN")
        if not cls.is_on(cfg):
            return Mechanism()
        maps = attention_maps(shapes.maps) if keys.CHANNELS else {}
        channels = sum(shape.channels for shape in maps.values())
        sampling = node(cfg, "RELATION").SAMPLING if has_relations(cfg) else "regions"
        return cls(
            graph=_graph(cfg, shapes.dim, channels, _edges(cfg)) if keys.CHANNELS else None,
            predictor=box_predictor(cfg, shapes.dim + keys.CHANNELS),
            resampler=Resampler(cfg, sampling) if keys.REFINE else None,
            map_strides={name: shape.stride for name, shape in maps.items()},
            ensemble=keys.TEST_ENSEMBLE,
            mean_gradient=keys.MEAN_GRADIENT,
            loss_weights=keys.LOSS_WEIGHTS,
        )

    @classmethod
    def problems(cls, cfg: CfgNode, *, is_c4: bool = False) -> Iterator[Problem]:
        keys, key = node(cfg, "REASONING_RCNN"), "MODEL.REASONING_RCNN"
        if keys.CHANNELS:
            graph = partial(_graph, cfg, cfg.MODEL.ROI_BOX_HEAD.FC_DIM, 8)
            yield from key_problems(graph, key)
            yield from file_problems(cfg, keys.GRAPH_FILE, f"{key}.GRAPH_FILE")
        yield from super().problems(cfg)

    def enhanced(self, x: Tensor, base: Classified, maps: Maps) -> Tensor:
        """See `SecondLook.enhanced`."""
        pool = semantic_pool(base.predictor.cls_score.weight, base.predictor.cls_score.bias)
        to = min(1, len(self.map_names) - 1)  # the second finest, of one map itself
        attention = self.graph.attention(
            pool,
            [self.shared(maps[name]) for name in self.map_names],
            base.image_sizes,
            self.map_strides[to],
            to,
        )
        seen = watched()
        if seen:
            seen.class_attention = attention
        return self.graph(softmax_logits(base), pool, attention, base.regions)


def attention_maps(maps: Mapping[str, ShapeSpec]) -> dict[str, ShapeSpec]:
    """The maps of a backbone that an image's attention is made from, finest first: all but the
    finest, or the only one. Of p2 to p6 those are p3 to p6, as in the release."""
    finest_first = sorted(maps.items(), key=lambda item: item[1].stride)
    return dict(finest_first[1:] or finest_first)


def _edges(cfg: CfgNode) -> Tensor | None:
    """Of the graph in `MODEL.REASONING_RCNN.GRAPH_FILE`; None without one."""
    keys = node(cfg, "REASONING_RCNN")
    if not keys.GRAPH_FILE:
        return None
    return load_class_graph(cfg, keys.GRAPH_FILE).adjacency(normalize=keys.EDGE_NORM == "rows")


def _graph(
    cfg: CfgNode, dim: int, map_channels: int, edges: Tensor | None = None
) -> AdaptiveReasoning:
    keys = node(cfg, "REASONING_RCNN")
    return AdaptiveReasoning(
        dim,
        map_channels,
        channels=keys.CHANNELS,
        squeeze_channels=keys.SQUEEZE_CHANNELS,
        edges=edges,
        out_norm=keys.OUT_NORM,
    )

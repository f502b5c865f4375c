"""Iterative visual reasoning (Chen et al., CVPR 2018) as a mechanism.

    base logits f_0, features f, mid-level map -> `IterativeReasoning` -> logits
    loss_cls_local, loss_cls_global, loss_cls_final

Boxes always come from the base predictor, and gradients of the new losses stop before it, so that
base and backbone train by the stock losses alone. With MODULES [] the heads are the stock ones, bit
for bit. New parameters are `mechanism.reasoner.*`.

Shapes: N regions of all images, C classes; logits (N, K), K = C + 1 with the background last, or C
where boxes are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor

from ...config.defaults import Module, node
from ...config.problems import Problem
from ...config.schema import wrong_values
from ...layers.reasoning.losses import reasoning_losses
from ...layers.reasoning.region_crops import boxes_in_cells
from ...layers.reasoning.rollout import IterativeReasoning, ReasonedLogits
from ...layers.regions import foreground_probability
from ..class_graphs import file_problems
from ..keys import key_problems
from ..reasoner import class_graph, global_reasoning, reasoner, spatial_memory
from ..watch import watched
from .seam import Classified, Embed, Losses, Maps, Mechanism, Shapes

DEFAULT_FEATURE = "p4"
EMBEDDING = {"embedding_channels": "MODEL.REASONING.GLOBAL.EMBEDDING_DIM"}  # argument -> key


class ReasoningMechanism(Mechanism):
    """Runs the reasoner on the regions and a feature map, and adds its losses."""

    key = "REASONING"

    def __init__(
        self,
        *,
        reasoner: IterativeReasoning,
        in_feature: str,
        stride: int,
        half_pixel: bool = True,
        foreground: bool = True,
        beta: float = 0.5,
        loss_weights: Sequence[float] = (1.0, 1.0, 1.0),
        test_prediction: str = "final",
        sampling: str = "loss",
        gt_as_keys: bool = False,
    ) -> None:
        """
        Args:
            reasoner: takes maps of `in_feature`.
            in_feature: name of the mid-level map.
            stride: its pixels per cell.
            half_pixel, foreground, beta, loss_weights, test_prediction, sampling, gt_as_keys: see
                the keys of `MODEL.REASONING`.
        """
        super().__init__()
        self.reasoner = reasoner
        self.in_feature, self.stride = in_feature, stride
        self.map_names = (in_feature,)
        self.half_pixel, self.foreground = half_pixel, foreground
        self.beta, self.loss_weights = beta, tuple(loss_weights)
        self.test_prediction = test_prediction
        self.sampling, self.gt_as_keys = sampling, gt_as_keys

    @classmethod
    def is_on(cls, cfg: CfgNode) -> bool:
        return bool(node(cfg, "REASONING").MODULES)

    @classmethod
    def build(cls, cfg: CfgNode, shapes: Shapes) -> Mechanism:
        if not cls.is_on(cfg):
            return Mechanism()
        keys, graph = node(cfg, "REASONING"), class_graph(cfg)
        name = in_feature(keys.LOCAL.IN_FEATURE, shapes.in_features)
        return cls(
            reasoner=reasoner(
                cfg,
                graph,
                mid_channels=shapes.maps[name].channels,
                feature_channels=shapes.dim,
                num_logits=shapes.num_logits,
            ),
            in_feature=name,
            stride=shapes.maps[name].stride,
            half_pixel=keys.LOCAL.HALF_PIXEL,
            foreground=keys.FOREGROUND,
            beta=keys.BETA,
            loss_weights=keys.LOSS_WEIGHTS,
            test_prediction=keys.TEST_PREDICTION,
            sampling=keys.SAMPLING,
            gt_as_keys=keys.GT_AS_KEYS,
        )

    @classmethod
    def problems(cls, cfg: CfgNode, *, is_c4: bool = False) -> Iterator[Problem]:
        keys, key = node(cfg, "REASONING"), "MODEL.REASONING"
        if not keys.MODULES:
            return
        known = prediction_names(keys.MODULES, keys.NUM_ITERS)
        types = {"LOCAL.IN_FEATURE": feature_names(cfg), "TEST_PREDICTION": known}
        yield from wrong_values(keys, {k: Literal[tuple(v)] for k, v in types.items()}, f"{key}.")
        if cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE:
            yield Problem(
                f"{key} needs a softmax classifier: set MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE False."
            )
        if "local" in keys.MODULES:
            memory = partial(spatial_memory, cfg, mid_channels=8, num_logits=2, fed=2)
            yield from key_problems(memory, f"{key}.LOCAL")
        if "global" in keys.MODULES:
            graph = partial(global_reasoning, cfg, None, feature_channels=8, num_logits=2, fed=2)
            yield from key_problems(graph, f"{key}.GLOBAL", EMBEDDING)
            yield from file_problems(cfg, keys.GLOBAL.GRAPH_FILE, f"{key}.GLOBAL.GRAPH_FILE")

    def forward(
        self, base: Classified, maps: Maps, embed: Embed, targets: list[Instances] | None = None
    ) -> tuple[Classified, Losses]:
        """See `Mechanism.forward`; `named` has all predictions."""
        out = self.reason(base, maps[self.in_feature])
        named = out.named()
        asked = self.test_prediction
        if asked in get_args(Module):  # its last
            asked = f"{asked}{self.reasoner.num_iterations}"
        last = replace(base.with_logits(named[asked]), named=named)
        if not self.training:
            return last, {}
        labels = torch.cat([p.gt_classes for p in base.proposals])
        losses = reasoning_losses(out, labels, beta=self.beta, weights=self.loss_weights)
        return last, {**base.losses(), **losses}

    def reason(self, base: Classified, maps: Tensor) -> ReasonedLogits:
        """Predictions of the regions, with maps (B, D_m, H, W) of `in_feature`."""
        probabilities = base.logits.detach().float().softmax(dim=1)
        num_classes, regions = base.predictor.num_classes, base.regions
        weights = None
        if self.foreground and base.logits.shape[1] > num_classes:
            weights = foreground_probability(probabilities)
        if regions.is_key is not None:  # may ask, but neither write nor be listened to
            ones = torch.ones_like(probabilities[:, 0]) if weights is None else weights
            weights = ones * regions.is_key
        out = self.reasoner(
            base.logits,
            base.x,
            regions,
            maps=maps,
            boxes_in_cells=boxes_in_cells(regions.boxes, self.stride, self.half_pixel),
            grid_sizes=[self._grid_size(size, maps) for size in regions.image_sizes],
            assignment=probabilities[:, :num_classes],  # what is background assigns little
            weights=weights,
        )
        seen = watched()
        if seen:
            seen.attention = dict(zip(out.named(), out.attention.unbind(1), strict=False))
        return out

    def _grid_size(self, image_size: tuple[int, int], maps: Tensor) -> tuple[int, int]:
        """(height, width) of an image in cells, which a backbone may round up or down."""
        cells = [(s + self.stride - 1) // self.stride for s in image_size]
        if torch.jit.is_tracing():  # sizes are tensors there
            height, width = (torch.as_tensor(m) for m in maps.shape[2:])
            return cells[0].minimum(height), cells[1].minimum(width)
        return min(cells[0], maps.shape[2]), min(cells[1], maps.shape[3])


def feature_names(cfg: CfgNode) -> list[str]:
    """What `MODEL.REASONING.LOCAL.IN_FEATURE` may be: a map of the ROI heads, or "" to choose."""
    return ["", *cfg.MODEL.ROI_HEADS.IN_FEATURES]


def in_feature(asked: str, names: Sequence[str]) -> str:
    """The mid-level map: the one that is asked for; by default p4, or the only one of `names`."""
    return asked or (DEFAULT_FEATURE if len(names) > 1 else names[0])


def prediction_names(modules: Sequence[str], num_iterations: int) -> list[str]:
    """What can be asked for: plain, local (its last), global, local1, ..., global1, ..., final."""
    numbered = [f"{m}{k}" for m in modules for k in range(1, num_iterations + 1)]
    return ["plain", *modules, *numbered, "final"]

"""A mechanism that classifies every region a second time, at its own box or at a refined one.

    base logits s, boxes -> (refined boxes) -> features x
    h of a graph;  [x, h] -> predictor           loss_cls_<name>, loss_box_reg_<name>

One stage, REFINE False: the second predictor sees the proposals. Two stages, REFINE True: the base
predictor's boxes are labelled and sampled anew at IoU 0.6, pooled and embedded by the same box
head, or by one of its own. Without a graph the second predictor sees x alone.

New parameters are `mechanism.graph.*`, `mechanism.predictor.*`, and `mechanism.box_head.*`. Shapes:
N regions of all images, R of one, D channels of x, E of h, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from detectron2.config import CfgNode
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ...config.defaults import TestEnsemble, node
from ...config.problems import Problem
from ...layers.arguments import one_of, require
from ..keys import may_diverge
from .refine import Resampler, best_foreground_boxes, refined_proposals
from .seam import Classified, Embed, Losses, Maps, Mechanism, Predictions


class SecondLook(Mechanism):
    """Graph and predictor of the second stage. Without a graph it is the stage's fair twin."""

    name = ""  # of its losses

    def __init__(
        self,
        *,
        predictor: nn.Module,
        graph: nn.Module | None = None,
        resampler: Resampler | None = None,
        box_head: nn.Module | None = None,
        ensemble: TestEnsemble = "last",
        mean_gradient: bool = True,
        loss_weights: Sequence[float] = (1.0, 1.0),
    ) -> None:
        """
        Args:
            predictor: as `FastRCNNOutputLayers`, for D + E channels.
            graph: what `enhanced` asks for h, or None.
            resampler: of the refined boxes; None for one stage.
            box_head: of the second stage; None shares the first one's.
            ensemble, mean_gradient, loss_weights: see `MODEL.SGRN.TEST_ENSEMBLE`, `.MEAN_GRADIENT`,
                `.LOSS_WEIGHTS`.
        """
        super().__init__()
        require(one_of("ensemble", ensemble, get_args(TestEnsemble)))
        self.graph, self.predictor, self.box_head = graph, predictor, box_head
        self.resampler = resampler
        self.ensemble, self.loss_weights = ensemble, tuple(loss_weights)
        self.num_classifications = sum(map(bool, loss_weights)) if mean_gradient else 1

    @classmethod
    def problems(cls, cfg: CfgNode, *, is_c4: bool = False) -> Iterator[Problem]:
        keys, key = node(cfg, cls.key), f"MODEL.{cls.key}"
        if cls.is_on(cfg) and all(keys.LOSS_WEIGHTS) and not keys.MEAN_GRADIENT:
            yield from may_diverge(cfg, f"{key}.MEAN_GRADIENT", "True")
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

    def enhanced(self, x: Tensor, base: Classified, maps: Maps) -> Tensor:
        """h (N, E); only asked for where there is a graph.

        Args:
            x: (N, D) of the regions of the second stage.
            base: the base classification of the same rows, whose `proposals` have their boxes.
            maps: of the backbone.
        """
        raise NotImplementedError

    def forward(
        self, base: Classified, maps: Maps, embed: Embed, targets: list[Instances] | None = None
    ) -> tuple[Classified, Losses]:
        """See `Mechanism.forward`."""
        last = self._second(base, maps, embed, targets)
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
        self, base: Classified, maps: Maps, embed: Embed, targets: list[Instances] | None
    ) -> Classified:
        """What the second stage sees."""
        same, x = base, base.x
        if self.resampler:
            proposals = refined_proposals(
                best_foreground_boxes(base), base.proposals, training=self.training
            )
            if self.training:
                with get_event_storage().name_scope(self.name):
                    proposals = self.resampler.label_and_sample_proposals(proposals, targets)
            same = base.select([p.row for p in proposals])
            x = embed(proposals, self.box_head)
            same = replace(same, proposals=proposals)
        second = self._predict(x, same, maps)
        return replace(same, x=x, predictor=self.predictor, predictions=second, name=self.name)

    def _predict(self, x: Tensor, base: Classified, maps: Maps) -> Predictions:
        """Predictions of x (N, D), whose base classification has the logits and boxes."""
        if self.graph is None:
            return self.predictor(x)
        h = self.enhanced(x, base, maps)
        return self.predictor(torch.cat([x, h.to(x.dtype)], dim=1))


def softmax_logits(base: Classified) -> Tensor:
    """(N, C + 1) logits for a softmax; those of a sigmoid classifier have no background, whose
    logit is 0 here."""
    if not base.predictor.use_sigmoid_ce:
        return base.logits
    return torch.cat([base.logits[:, :-1], torch.zeros_like(base.logits[:, -1:])], dim=1)


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

"""From classified regions to detections: what removes duplicates, `MODEL.DUPLICATE_REMOVAL`.

Detectron2 ends every ROI head with NMS per class. In its place: Soft-NMS, which decays the scores
of overlapping boxes (Bodla et al., ICCV 2017; `layers.soft_nms`), with any trained detector; or a
network that learns which box of an object stays (Hu et al., CVPR 2018, section 4.3;
`layers.duplicates.network`), trained beside the detector, with it or after it.

New parameters are `end.network.*`. Shapes: N regions of all images, R of one, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import get_args

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ...config.defaults import TestMethod, node
from ...config.problems import Problem
from ...layers import soft_nms_per_class
from ...layers.arguments import one_of, require
from ...layers.duplicates.candidates import Candidates, select_candidates
from ...layers.duplicates.losses import duplicate_loss, duplicate_targets, final_scores
from ...layers.duplicates.network import DuplicateRemoval
from ...layers.duplicates.soft_suppression import Method as Decay
from ..keys import key_problems, may_diverge
from ..many_classes import ManyClassesOutputLayers
from ..watch import watched
from .seam import Classified, ListensToRegions, Losses

Found = tuple[list[Instances], list[Tensor]]  # detections of each image, rows that they come from


class End(ListensToRegions, nn.Module):
    """NMS, Soft-NMS or what a network has learned."""

    key = "DUPLICATE_REMOVAL"  # its node of the config

    def __init__(
        self,
        *,
        method: TestMethod = "nms",
        decay: Decay = "gaussian",
        sigma: float = 0.5,
        network: DuplicateRemoval | None = None,
        end_to_end: bool = False,
        first_n: int = 100,
        max_classes: int | None = None,
        thresholds: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9),
        train_threshold: float = 0.001,
        class_threshold: float = 0.0,
        positive_weight: float = 4.0,
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            network: is trained where it is there; for `thresholds`.
            end_to_end, method, decay, sigma, first_n, max_classes, thresholds, train_threshold,
                class_threshold, positive_weight, loss_weight: see the keys of
                `MODEL.DUPLICATE_REMOVAL`.
        """
        super().__init__()
        require(
            one_of("method", method, get_args(TestMethod)), one_of("decay", decay, get_args(Decay))
        )
        if method == "learned" and network is None:
            raise ValueError("method 'learned' needs a network, got None.")
        self.method, self.decay, self.sigma = method, decay, sigma
        self.network, self.end_to_end = network, end_to_end
        self.first_n, self.max_classes = first_n, max_classes
        self.thresholds = tuple(thresholds)
        self.train_threshold, self.class_threshold = train_threshold, class_threshold
        self.positive_weight, self.loss_weight = positive_weight, loss_weight
        if network and end_to_end:  # sees all proposals in training, as at test time
            self.sampling, self.gt_as_keys = "loss", False

    @property
    def is_beside(self) -> bool:
        """Whether it learns beside the detector, from a pass of its own."""
        return self.network is not None and not self.end_to_end

    @classmethod
    def build(cls, cfg: CfgNode, dim: int) -> End:
        """The end of a config, for box features of `dim` channels."""
        keys = node(cfg, "DUPLICATE_REMOVAL")
        return cls(
            method=keys.TEST_METHOD,
            decay=keys.SOFT_NMS_DECAY,
            sigma=keys.SOFT_NMS_SIGMA,
            network=_network(cfg, dim) if keys.LEARN else None,
            end_to_end=keys.END_TO_END,
            first_n=keys.FIRST_N,
            max_classes=keys.MAX_CLASSES or None,
            thresholds=keys.THRESHOLDS,
            train_threshold=keys.SCORE_THRESH_TRAIN,
            class_threshold=keys.CLASS_THRESH_TEST,
            positive_weight=keys.POSITIVE_WEIGHT,
            loss_weight=keys.LOSS_WEIGHT,
        )

    @classmethod
    def problems(cls, cfg: CfgNode) -> Iterator[Problem]:
        """What is wrong with `MODEL.DUPLICATE_REMOVAL`."""
        keys, key = node(cfg, "DUPLICATE_REMOVAL"), "MODEL.DUPLICATE_REMOVAL"
        if keys.TEST_METHOD == "learned" and not keys.LEARN:
            yield Problem(
                f"{key}.TEST_METHOD learned is for the network that {key}.LEARN True puts at the "
                "end of the head."
            )
        if keys.LEARN:
            yield from key_problems(partial(_network, cfg, 1024), key)
            if keys.END_TO_END:
                yield from may_diverge(cfg, f"{key}.END_TO_END", "False")

    def losses(self, last: Classified, targets: list[Instances]) -> Losses:
        """`loss_duplicates` of all regions but appended ground truth; {} without the network.

        Args:
            last: the final classification. What it has a gradient for, the loss trains.
            targets: the objects of each image.
        """
        if self.network is None:
            return {}
        if last.proposals[0].has("is_key"):
            last = last.select([p.is_key for p in last.proposals])
        boxes, log_scores = clipped_boxes(last), last.log_scores()
        candidates = select_candidates(
            log_scores,
            [len(p) for p in last.proposals],
            first_n=self.first_n,
            score_threshold=self.train_threshold,
            max_classes=self.max_classes,
            keep_classes=[t.gt_classes.unique() for t in targets],
        )
        logits = self.network(last.x, boxes, candidates)
        y = duplicate_targets(
            candidates,
            boxes,
            [t.gt_boxes.tensor for t in targets],
            [t.gt_classes for t in targets],
            self.thresholds,
        )
        _log_duplicates(candidates, logits, targets)
        loss = duplicate_loss(candidates, logits, y, positive_weight=self.positive_weight)
        return {"loss_duplicates": loss * self.loss_weight}

    @torch.no_grad()
    def forward(self, last: Classified) -> list[Instances]:
        """Detections of each image, by descending score: `pred_boxes`, `scores`, `pred_classes`, as
        `FastRCNNOutputLayers.inference` gives them. The predictor has the thresholds."""
        if self.method == "nms":
            found, rows = last.after_nms()
        elif self.method == "soft_nms":
            found, rows = self._soft_nms(last)
        else:
            found, rows = self._learned(last)
        if watched():
            if self.method == "nms":
                rows = _among_all(last, rows)
            for instances, row in zip(found, rows, strict=True):
                instances.region = row
        return found

    def _soft_nms(self, last: Classified) -> Found:
        predictor = last.predictor
        limit = predictor.test_topk_per_image
        boxes = last.regions.split(clipped_boxes(last))
        found, rows = [], []
        for corners, scores, p in zip(boxes, last.probabilities(), last.proposals, strict=True):
            finite = corners.flatten(1).isfinite().all(dim=1) & scores.isfinite().all(dim=1)
            corners = corners[finite]
            region, label, new_scores = soft_nms_per_class(
                corners,
                scores[finite, :-1],
                method=self.decay,
                sigma=self.sigma,
                iou_threshold=predictor.test_nms_thresh,
                score_threshold=predictor.test_score_thresh,
                max_detections=limit if limit >= 0 else None,
            )
            found.append(_instances(p.image_size, corners, region, label, new_scores))
            rows.append(finite.nonzero()[:, 0][region])
        return found, rows

    def _learned(self, last: Classified) -> Found:
        predictor, limit = last.predictor, last.predictor.test_topk_per_image
        boxes, log_scores = clipped_boxes(last), last.log_scores()
        finite = boxes.flatten(1).isfinite().all(dim=1) & log_scores.isfinite().all(dim=1)
        boxes, log_scores, x = boxes[finite], log_scores[finite], last.x[finite]
        kept = last.regions.split(finite)
        counts = [k.sum() if torch.jit.is_tracing() else int(k.sum()) for k in kept]
        candidates = select_candidates(
            log_scores,
            counts,
            first_n=self.first_n,
            score_threshold=predictor.test_score_thresh,
            max_classes=self.max_classes,
            class_threshold=self.class_threshold,
        )
        scores = final_scores(candidates, self.network(x, boxes, candidates))
        found, origin, start = [], [], 0
        numbers = candidates.split(torch.arange(candidates.region.shape[0], device=x.device))
        for rows, p, k, count in zip(numbers, last.proposals, kept, counts, strict=True):
            rows = rows[scores[rows] > predictor.test_score_thresh]
            order = scores[rows].argsort(descending=True, stable=True)
            rows = rows[order[:limit] if limit >= 0 else order]
            region, label = candidates.region[rows], candidates.label[rows]
            found.append(_instances(p.image_size, boxes, region, label, scores[rows]))
            origin.append(k.nonzero()[:, 0][region - start])
            start += count
        return found, origin


def _network(cfg: CfgNode, dim: int) -> DuplicateRemoval:
    keys = node(cfg, "DUPLICATE_REMOVAL")
    return DuplicateRemoval(
        dim, num_thresholds=len(keys.THRESHOLDS), logit_bias=float(keys.LOGIT_BIAS)
    )


def _among_all(last: Classified, rows: list[Tensor]) -> list[Tensor]:
    """Numbers of regions as given; Detectron2's NMS counts those alone whose boxes and scores are
    finite."""
    if isinstance(last.predictor, ManyClassesOutputLayers) and not last.earlier:
        return rows
    numbered = []
    for row, boxes, scores in zip(rows, last.boxes(), last.probabilities(), strict=True):
        finite = boxes.isfinite().all(dim=1) & scores.isfinite().all(dim=1)
        numbered.append(finite.nonzero()[:, 0][row])
    return numbered


@torch.no_grad()
def clipped_boxes(last: Classified) -> Tensor:
    """The predicted boxes inside their images: (N, 4), or (N, C, 4) where every class has its own;
    what is not finite stays so."""
    boxes = []
    for corners, size in zip(last.boxes(), last.image_sizes, strict=True):
        limits = torch.as_tensor(size).to(corners).flip(0).repeat(2)  # w, h, w, h
        boxes.append(corners.unflatten(1, (-1, 4)).clamp(min=0).minimum(limits))
    stacked = torch.cat(boxes)
    return stacked[:, 0] if stacked.shape[1] == 1 else stacked


def _instances(
    image_size: tuple[int, int], boxes: Tensor, region: Tensor, label: Tensor, scores: Tensor
) -> Instances:
    result = Instances(image_size)
    result.pred_boxes = Boxes(boxes[region] if boxes.dim() == 2 else boxes[region, label])
    result.scores = scores
    result.pred_classes = label
    return result


@torch.no_grad()
def _log_duplicates(candidates: Candidates, logits: Tensor, targets: list[Instances]) -> None:
    """Scalar `duplicates/detections_per_object`: detections that would score above 0.5, divided by
    the objects; 1 is perfect."""
    shown = int((final_scores(candidates, logits) > 0.5).sum())
    objects = max(sum(len(t) for t in targets), 1)
    get_event_storage().put_scalar("duplicates/detections_per_object", shown / objects)

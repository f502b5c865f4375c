"""Detectron2's predictor for thousands of classes: it computes what is used.

    scores = x W_cls + b_cls                                          (N, C + 1)
    deltas of class c = x W_box[c] + b_box[c]                         (N, 4), and C times that

With boxes per class the stock predictor computes N C boxes, four fifths of its work, and the loss
reads those of the foreground rows' own classes, NMS those of the best scores. Here the second
prediction is x itself, and rows of W_box are gathered where a box is asked for. At test time
`layers.duplicates.class_selection` takes the best candidates instead of filtering all of them.

Losses, gradients and detections are those of `FastRCNNOutputLayers` up to the rounding of a product
of another shape, and of its NMS, which rounds boxes of high classes (see `nms_per_class`). Of equal
scores the stock NMS leaves the order open; here it is that of regions, then classes. Soft-NMS,
learned duplicate removal and SGRN's union of two stages ask for all boxes and get them. Up to
MANY_CLASSES classes predictors stay the stock ones, bit for bit.

Shapes: N regions of all images, R of one, D channels, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..layers.duplicates.class_selection import select_by_class

MANY_CLASSES = 300  # predictors of more classes change
ROWS = 512  # boxes that gather their weights at once
DENSE = 100  # one product for all boxes of an image is as fast as to gather one box in so many
LARGEST = 6e4  # what is below overflows in no type, neither as a delta nor when it becomes a box

BoxesOf = Callable[[Tensor, Tensor], Tensor]  # regions (M,), classes (M,) to boxes (M, 4)


class ManyClassesOutputLayers(FastRCNNOutputLayers):
    """`FastRCNNOutputLayers` that selects detections by `layers.duplicates.class_selection`."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, ...) features of the regions to logits (N, C + 1) and deltas (N, 4 or 4 C)."""
        x = x.flatten(1)
        return self.cls_score(x), self.bbox_pred(x)

    @torch.no_grad()
    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """See `FastRCNNOutputLayers.inference`. Regions with a box or score that is not finite are
        left out, as there, but counted in the returned rows."""
        if torch.jit.is_tracing():  # a trace cannot take candidates until there are enough
            return super().inference(predictions, proposals)
        probabilities = self.predict_probs(predictions, proposals)
        per_image = predictions[1].split([len(p) for p in proposals])
        found = [
            self._select(scores, second, p)
            for scores, second, p in zip(probabilities, per_image, proposals, strict=True)
        ]
        return [instances for instances, _ in found], [regions for _, regions in found]

    def _select(
        self, scores: Tensor, second: Tensor, proposals: Instances
    ) -> tuple[Instances, Tensor]:
        """Detections of one image and the regions they come from.

        Args:
            scores: (R, C + 1), is overwritten.
            second: R rows of the second prediction.
            proposals: R.
        """
        is_finite, boxes_of = self._boxes(second, proposals)
        is_finite = is_finite & scores.sum(dim=1).isfinite()  # of scores in [0, 1]
        scores[:, -1] = -math.inf
        scores[~is_finite] = -math.inf

        def clipped(region: Tensor, label: Tensor) -> Tensor:
            boxes = Boxes(boxes_of(region, label))
            boxes.clip(proposals.image_size)
            return boxes.tensor

        limit = self.test_topk_per_image
        selected = select_by_class(
            scores,
            clipped,
            score_threshold=self.test_score_thresh,
            iou_threshold=self.test_nms_thresh,
            max_detections=limit if limit >= 0 else None,
        )
        result = Instances(proposals.image_size)
        result.pred_boxes = Boxes(selected.boxes)
        result.scores = selected.scores
        result.pred_classes = selected.label
        return result, selected.region

    def _boxes(self, second: Tensor, proposals: Instances) -> tuple[Tensor, BoxesOf]:
        """Which of R regions have finite boxes in all classes, (R,) bool, and a function that gives
        boxes; `second` is deltas (R, 4) or (R, 4 C)."""
        boxes = self.box2box_transform.apply_deltas(second, proposals.proposal_boxes.tensor)
        boxes = boxes.unflatten(1, (-1, 4))  # (R, C or 1, 4)

        def boxes_of(region: Tensor, label: Tensor) -> Tensor:
            return boxes[region, label if boxes.shape[1] > 1 else 0]

        return boxes.isfinite().flatten(1).all(dim=1), boxes_of


class ManyBoxesOutputLayers(ManyClassesOutputLayers):
    """The same with boxes per class: predictions are logits (N, C + 1) and x (N, D), of which every
    method makes the boxes that it needs."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, ...) features of the regions to logits (N, C + 1) and the features (N, D)."""
        x = x.flatten(1)
        return self.cls_score(x), x

    def _deltas(self, x: Tensor, labels: Tensor) -> Tensor:
        """(M, D) features and (M,) classes to deltas (M, 4)."""
        weight = self.bbox_pred.weight.unflatten(0, (self.num_classes, 4))[labels]  # (M, 4, D)
        bias = self.bbox_pred.bias.unflatten(0, (self.num_classes, 4))[labels]  # (M, 4)
        return torch.baddbmm(bias[:, :, None], weight, x[:, :, None])[:, :, 0]

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """See `FastRCNNOutputLayers.losses`; new is that a row has deltas of its own class alone,
        and the background none."""
        logits, x = predictions
        labels = torch.cat([p.gt_classes for p in proposals])
        rows = ((labels >= 0) & (labels < self.num_classes)).nonzero()[:, 0]
        own = self._deltas(x[rows], labels[rows])
        deltas = own.new_zeros(len(labels), 4).index_put((rows,), own)
        return super().losses((logits, deltas), proposals)

    def predict_boxes(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> Sequence[Tensor]:
        """See `FastRCNNOutputLayers.predict_boxes`: all boxes (R, 4 C) of each image."""
        logits, x = predictions
        return super().predict_boxes((logits, self.bbox_pred(x)), proposals)

    def predict_boxes_for_gt_classes(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> Sequence[Tensor]:
        """See `FastRCNNOutputLayers.predict_boxes_for_gt_classes`: boxes (R, 4) of each image."""
        if not proposals:
            return []
        logits, x = predictions
        labels = torch.cat([p.gt_classes for p in proposals]).clamp(0, self.num_classes - 1)
        return super().predict_boxes((logits, self._deltas(x, labels)), proposals)

    def _boxes(self, second: Tensor, proposals: Instances) -> tuple[Tensor, BoxesOf]:
        """See `ManyClassesOutputLayers`; `second` is x, and boxes are made when they are asked for.
        Whether all of them are finite, the asked-for and the others, follows from a bound:
        |delta| <= max |W_box| |x|_1 + max |b_box|; where it does not, all are made."""
        corners = proposals.proposal_boxes.tensor
        bound = torch.linalg.vector_norm(second, ord=1, dim=1)  # (R,)
        bound = bound * _largest(self.bbox_pred.weight) + _largest(self.bbox_pred.bias)
        is_finite = torch.maximum(bound, corners.abs().amax(dim=1)) < LARGEST
        if not is_finite.all():
            return super()._boxes(self.bbox_pred(second), proposals)

        def boxes_of(region: Tensor, label: Tensor) -> Tensor:
            if DENSE * len(region) > len(corners) * self.num_classes:
                deltas = self.bbox_pred(second).unflatten(1, (-1, 4))[region, label]
            else:
                rows = zip(region.split(ROWS), label.split(ROWS), strict=True)
                deltas = torch.cat([self._deltas(second[r], c) for r, c in rows])
            return self.box2box_transform.apply_deltas(deltas, corners[region])

        return is_finite, boxes_of


def _largest(values: Tensor) -> Tensor:
    """The largest absolute value; nan if there is one."""
    return torch.stack(values.aminmax()).abs().amax()


def box_predictor(cfg: CfgNode, channels: int) -> FastRCNNOutputLayers:
    """Detectron2's predictor of (N, `channels`) features, or above MANY_CLASSES classes the one of
    this file that fits."""
    return _fitting_class(cfg)(cfg, ShapeSpec(channels=channels))


def for_many_classes(predictor: nn.Module, cfg: CfgNode) -> nn.Module:
    """What `box_predictor` builds, with the weights of a predictor that Detectron2 built already.

    The predictor itself up to MANY_CLASSES classes, and if it is not Detectron2's. The state of
    the random generator stays, so that all that is built later starts as it does in a stock model.

    Args:
        predictor: built from `cfg`.
        cfg: of the model.
    """
    if type(predictor) is not FastRCNNOutputLayers or predictor.num_classes <= MANY_CLASSES:
        return predictor
    with torch.random.fork_rng(devices=[]):
        ours = box_predictor(cfg, predictor.cls_score.in_features)
    ours.load_state_dict(predictor.state_dict())
    ours.box2box_transform = predictor.box2box_transform  # every stage of a Cascade has its own
    return ours


def _fitting_class(cfg: CfgNode) -> type[FastRCNNOutputLayers]:
    if cfg.MODEL.ROI_HEADS.NUM_CLASSES <= MANY_CLASSES:
        return FastRCNNOutputLayers
    is_shared = cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG  # one box for all classes
    return ManyClassesOutputLayers if is_shared else ManyBoxesOutputLayers

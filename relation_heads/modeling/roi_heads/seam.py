"""The seam between Detectron2's ROI heads and a relational mechanism.

    proposals -> embed -> x -> base predictor -> [Mechanism] -> end of the head
                                  Classified     Classified, losses

The heads (`heads.py`: FPN, C4; `cascade.py`) hold one mechanism and one end and never look inside.
A new mechanism is one class in one file, see `examples/own_mechanism.py`.

Shapes: N regions of all images, R of one, D channels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.cascade_rcnn import _ScaleGradient
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ...config.problems import Problem
from ...layers import Regions

Losses = dict[str, Tensor]
Maps = dict[str, Tensor]  # of the backbone, by name
# Logits (N, C + 1), and what the predictor makes N rows of boxes from: deltas (N, 4) or (N, 4 C),
# or features (N, D), see `many_classes`.
Predictions = tuple[Tensor, Tensor]
Embed = Callable[..., Tensor]  # (proposals, box_head=None) to x (N, D), pooled from the same maps


def regions_of(proposals: Sequence[Instances], *, between_stages: bool = False) -> Regions:
    """The `Regions` of a batch of proposals, with their field `is_key` where they have one.

    Args:
        proposals: of each image.
        between_stages: regions ask from the boxes of the stage before, where there was one.
    """
    asks = between_stages and proposals[0].has("earlier_boxes")
    return Regions.from_boxes(
        [p.proposal_boxes.tensor for p in proposals],
        [p.image_size for p in proposals],
        [p.is_key for p in proposals] if proposals[0].has("is_key") else None,
        [p.earlier_boxes.tensor for p in proposals] if asks else None,
    )


@dataclass(frozen=True, eq=False)
class Classified:
    """One classification of the regions: by which predictor, from what, of which boxes.

    Attributes:
        x: (N, D) features.
        predictor: as `FastRCNNOutputLayers`.
        predictions: of the predictor, or of a mechanism in its place.
        proposals: of each image; in training with `gt_classes`: C for background, -1 for regions
            outside the loss.
        name: of the stage, the end of the names of its losses; "" for none.
        earlier: of the same regions, in Cascade R-CNN: probabilities are the mean over all stages.
        named: logits (N, .) by name, where a mechanism predicts more than once.
    """

    x: Tensor
    predictor: nn.Module
    predictions: Predictions
    proposals: list[Instances]
    name: str = ""
    earlier: tuple[Classified, ...] = ()
    named: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def logits(self) -> Tensor:
        """(N, C + 1), background last."""
        return self.predictions[0]

    @property
    def regions(self) -> Regions:
        """The boxes."""
        return regions_of(self.proposals)

    @property
    def image_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each image."""
        return [p.image_size for p in self.proposals]

    def with_logits(self, logits: Tensor) -> Classified:
        """The same boxes with other logits."""
        return replace(self, predictions=(logits, self.predictions[1]))

    def select(self, rows: Sequence[Tensor]) -> Classified:
        """Some of the regions.

        Args:
            rows: of each image, (R,) bool, or the numbers of rows.
        """
        flat, start = [], 0
        for chosen, p in zip(rows, self.proposals, strict=True):
            flat.append(start + (chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen))
            start += p.proposal_boxes.tensor.shape[0]  # len() would be a constant of a trace
        index = torch.cat(flat)
        logits, second = self.predictions
        return replace(
            self,
            x=self.x[index],
            predictions=(logits[index], second[index]),
            proposals=[p[chosen] for p, chosen in zip(self.proposals, rows, strict=True)],
            earlier=tuple(stage.select(rows) for stage in self.earlier),
            named={name: values[index] for name, values in self.named.items()},
        )

    def losses(self) -> Losses:
        """The predictor's losses over the regions that are in the loss."""
        kept = self.select([p.gt_classes >= 0 for p in self.proposals])
        with get_event_storage().name_scope(self.name) if self.name else nullcontext():
            losses = self.predictor.losses(kept.predictions, kept.proposals)
        return {f"{name}_{self.name}".rstrip("_"): value for name, value in losses.items()}

    def boxes(self) -> Sequence[Tensor]:
        """Of each image (R, 4) or (R, 4 C), not clipped."""
        return self.predictor.predict_boxes(self.predictions, self.proposals)

    def probabilities(self) -> Sequence[Tensor]:
        """Of each image (R, C + 1)."""
        stages = [
            s.predictor.predict_probs(s.predictions, s.proposals) for s in (*self.earlier, self)
        ]
        if not self.earlier:
            return stages[0]
        return [sum(image) * (1.0 / len(stages)) for image in zip(*stages, strict=True)]

    def log_scores(self) -> Tensor:
        """(N, C) log-probabilities of the classes, without the background."""
        if self.earlier:
            mean = torch.cat(list(self.probabilities()))[:, :-1].float()
            return mean.clamp(min=torch.finfo(mean.dtype).tiny).log()  # 0 has no logarithm
        if self.predictor.use_sigmoid_ce:
            return F.logsigmoid(self.logits[:, :-1].float())
        return self.logits.float().log_softmax(dim=1)[:, :-1]

    def after_nms(self) -> tuple[list[Instances], list[Tensor]]:
        """Detections of each image as Detectron2 finds them, and the rows that it counts."""
        predictor = self.predictor
        if not self.earlier:
            return predictor.inference(self.predictions, self.proposals)
        return fast_rcnn_inference(
            self.boxes(),
            self.probabilities(),
            self.image_sizes,
            predictor.test_score_thresh,
            predictor.test_nms_thresh,
            predictor.test_topk_per_image,
        )

    @torch.no_grad()
    def move_proposals(self) -> None:
        """Sets `proposal_boxes` to the predicted boxes of the labelled classes, in place; the mask
        and keypoint branches train on them under `MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES`."""
        boxes = self.predictor.predict_boxes_for_gt_classes(self.predictions, self.proposals)
        for per_image, corners in zip(self.proposals, boxes, strict=True):
            per_image.proposal_boxes = Boxes(corners)


def classify(x: Tensor, predictor: nn.Module, proposals: list[Instances]) -> Classified:
    """x (N, D) of the proposals by a predictor."""
    return Classified(x, predictor, predictor(x), proposals)


@dataclass(frozen=True)
class Shapes:
    """What a mechanism is built for.

    Attributes:
        dim: D, channels of x.
        num_logits: C + 1, or C where boxes are given and there is no background.
        maps: of the backbone.
        in_features: names of the maps that regions are pooled from.
        pooled: what a box head gets; None in C4 models, which have none.
    """

    dim: int
    num_logits: int
    maps: dict[str, ShapeSpec]
    in_features: list[str]
    pooled: ShapeSpec | None = None


class ListensToRegions:
    """Which other regions something is told of. Box heads with this base are called with
    (pooled, regions), and in training where some rows only are read, with a third argument: the
    mask (N,) of these rows, which alone they give back.

    Attributes:
        sampling: see `RegionSampling`; None where it looks at single regions only, so that
            Detectron2's own sample is enough.
        gt_as_keys: whether ground-truth boxes that are appended in training may answer.
        between_stages: whether a box head of Cascade R-CNN relates boxes to those of the stage
            before, see `MODEL.RELATION.BETWEEN_STAGES`.
    """

    sampling: str | None = None
    gt_as_keys: bool = True
    between_stages: bool = False


class Mechanism(ListensToRegions, nn.Module):
    """Stands between the base predictor and the end of the head. This one adds nothing: a head that
    holds it is Detectron2's, bit for bit."""

    key = ""  # its node of the config: MODEL.<key>
    # Classifications, the base one among them, that train x. x gets the mean of their gradients,
    # not the sum, so that box head and backbone train as fast as under the stock head. With a
    # `box_head` of its own a mechanism shares the pooled features instead, and they get the mean.
    num_classifications = 1
    map_names: tuple[str, ...] = ()  # of the backbone's maps, which `forward` reads

    def shared(self, x: Tensor) -> Tensor:
        """x, which gets the mean of the gradients of all classifications that train it, as what the
        stages of Detectron2's Cascade R-CNN share."""
        n = self.num_classifications
        return _ScaleGradient.apply(x, 1.0 / n) if self.training and n > 1 else x

    @classmethod
    def is_on(cls, cfg: CfgNode) -> bool:
        """Whether there is anything to build."""
        return False

    @classmethod
    def build(cls, cfg: CfgNode, shapes: Shapes) -> Mechanism:
        """The mechanism of a config; `Mechanism()` itself where it is switched off."""
        return Mechanism()

    @classmethod
    def problems(cls, cfg: CfgNode, *, is_c4: bool = False) -> Iterator[Problem]:
        """What is wrong with the keys that `build` reads."""
        yield from ()

    def forward(
        self, base: Classified, maps: Maps, embed: Embed, targets: list[Instances] | None = None
    ) -> tuple[Classified, Losses]:
        """
        Args:
            base: the base classification.
            maps: of the backbone.
            embed: gives x (N, D) of other proposals; its argument `box_head` exchanges the head.
            targets: in training, the objects of each image.

        Returns:
            what is detected in the end, and in training the losses of everything so far.
        """
        return base, base.losses() if self.training else {}

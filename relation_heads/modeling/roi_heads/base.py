"""What every relational ROI head needs: regions from proposals, and which of them train.

Detectron2's heads see one pooled region at a time. A relational head sees all regions of an image
at once, so three things change: it must know the boxes and where an image ends (`regions_of`),
proposals that are not in the loss should still be there to relate to (`RegionSampling`), and rows
without a label leave before the loss (`labelled`).

Detectron2's convention: `gt_classes` is in [0, K) for objects, K for background, -1 for regions
outside the loss.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from detectron2.modeling.roi_heads import (
    Res5ROIHeads,
    StandardROIHeads,
    select_foreground_proposals,
)
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn

from ...layers import Regions
from .context import ContextRes5
from .detections import EndOfHead, Predictions

Sampling = Literal["loss", "regions", "off"]
SAMPLINGS: tuple[str, ...] = get_args(Sampling)
MIN_FOREGROUND = 1e-6
EVERYTHING = 10**9  # a sample of so many regions is all of them


def regions_of(proposals: list[Instances]) -> Regions:
    """The `Regions` of a batch of proposals, with their field `is_key` where they have one."""
    return Regions.from_boxes(
        [p.proposal_boxes.tensor for p in proposals],
        [p.image_size for p in proposals],
        [p.is_key for p in proposals] if proposals[0].has("is_key") else None,
    )


def foreground_probability(probabilities: Tensor) -> Tensor:
    """1 - p(background), (N,), with a floor so that it has a logarithm.

    Args:
        probabilities: (N, C + 1), background last.
    """
    return (1 - probabilities[:, -1]).clamp(min=MIN_FOREGROUND)


def labelled(features: Tensor, proposals: list[Instances]) -> tuple[Tensor, list[Instances]]:
    """The rows (N, ...) and proposals that are in the loss (`gt_classes` is not -1)."""
    keep = [p.gt_classes >= 0 for p in proposals]
    return features[torch.cat(keep)], [p[k] for p, k in zip(proposals, keep, strict=True)]


def labelled_losses(
    predictor: nn.Module, predictions: Predictions, proposals: list[Instances]
) -> dict[str, Tensor]:
    """The losses of `FastRCNNOutputLayers` over the rows that are in the loss (see `labelled`)."""
    logits, second = predictions
    kept_logits, kept = labelled(logits, proposals)
    return predictor.losses((kept_logits, labelled(second, proposals)[0]), kept)


@torch.no_grad()
def move_to_predictions(
    predictor: nn.Module, predictions: Predictions, proposals: list[Instances]
) -> None:
    """Sets `proposal_boxes` to the predicted boxes of the labelled classes, in place; the mask and
    keypoint branches train on them under `MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES`."""
    boxes = predictor.predict_boxes_for_gt_classes(predictions, proposals)
    for per_image, boxes_per_image in zip(proposals, boxes, strict=True):
        per_image.proposal_boxes = Boxes(boxes_per_image)


def _with_is_key(instances: list[Instances], value: bool) -> list[Instances]:
    """Shallow copies with a field `is_key`."""
    marked = []
    for per_image in instances:
        copy = Instances(per_image.image_size, **per_image.get_fields())
        boxes = copy.proposal_boxes if copy.has("proposal_boxes") else copy.gt_boxes
        copy.is_key = torch.full((len(copy),), value, dtype=torch.bool, device=boxes.device)
        marked.append(copy)
    return marked


class RegionSampling:
    """Mix-in for `ROIHeads`: which regions are keys, and which are in the loss.

    `sampling` "regions" is Detectron2's: the head sees a random sample, in random order. With
    "loss" and "off" it sees every proposal, in order; rows outside the loss are labelled -1, which
    the mask and keypoint branches already pass over.
    """

    sampling: Sampling
    gt_as_keys: bool

    def _init_sampling(self, sampling: Sampling, gt_as_keys: bool) -> None:
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}, got {sampling!r}.")
        self.sampling = sampling
        self.gt_as_keys = gt_as_keys
        if sampling == "off":
            self.batch_size_per_image, self.positive_fraction = EVERYTHING, 1.0

    def _sample_proposals(
        self, matched_idxs: Tensor, matched_labels: Tensor, gt_classes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `ROIHeads._sample_proposals`; here all regions, labelled -1 outside the sample."""
        sampled, classes = super()._sample_proposals(matched_idxs, matched_labels, gt_classes)
        if self.sampling == "regions":
            return sampled, classes
        labels = torch.full_like(matched_idxs, -1)
        labels[sampled] = classes
        return torch.arange(len(labels), device=labels.device), labels

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """See `ROIHeads`; adds a field `is_key`, unless ground truth may answer as well."""
        if self.proposal_append_gt and not self.gt_as_keys:
            proposals, targets = _with_is_key(proposals, True), _with_is_key(targets, False)
        with EventStorage():  # the inherited counts would take -1 for foreground
            proposals = super().label_and_sample_proposals(proposals, targets)
        classes = torch.cat([p.gt_classes for p in proposals])
        background = int((classes == self.num_classes).sum())
        foreground = int((classes >= 0).sum()) - background
        storage = get_event_storage()
        storage.put_scalar("roi_head/num_fg_samples", foreground / len(proposals))
        storage.put_scalar("roi_head/num_bg_samples", background / len(proposals))
        return proposals


class PlainBoxes(EndOfHead):
    """Mix-in: boxes by the base predictor alone."""

    is_stock = True

    def _box_losses(
        self,
        x: Tensor,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
    ) -> tuple[dict[str, Tensor], Predictions]:
        """See `RegionsROIHeads`."""
        predictor = self.box_predictor
        predictions = predictor(x)
        losses = labelled_losses(predictor, predictions, proposals)
        losses.update(self._duplicate_losses(predictor, x, predictions, proposals, targets))
        return losses, predictions

    def _box_detections(
        self, x: Tensor, features: dict[str, Tensor], proposals: list[Instances]
    ) -> list[Instances]:
        """See `RegionsROIHeads`."""
        return self._detections(self.box_predictor, x, self.box_predictor(x), proposals)


class RegionsROIHeads(PlainBoxes, StandardROIHeads):
    """`StandardROIHeads` whose boxes are classified by a mix-in that stands before it:

    - `is_stock`: True where the mechanism is switched off; the stock forward is used then, unless
      something else than NMS ends the head;
    - `_box_losses(x, features, proposals, targets)`: losses, with those of `_duplicate_losses`, and
      the base predictions;
    - `_box_detections(x, features, proposals)`: detections of each image, by `_detections`.

    x: (N, D) box features of all proposals, which are labelled -1 outside the loss; features: of
    the backbone; targets: the objects of each image.
    """

    def _embed(self, features: dict[str, Tensor], proposals: list[Instances]) -> Tensor:
        return self.box_head(self._pool(features, proposals))  # (N, D)

    def _pool(self, features: dict[str, Tensor], proposals: list[Instances]) -> Tensor:
        """(N, C, h, w) features of the proposals."""
        maps = [features[f] for f in self.box_in_features]
        return self.box_pooler(maps, [p.proposal_boxes for p in proposals])

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """See `StandardROIHeads.forward`; new is that the box branch sees the targets."""
        if self.is_stock and self.ends_as_stock:
            return super().forward(images, features, proposals, targets)
        if self.training:
            proposals = self.label_and_sample_proposals(proposals, targets)
        x = self._embed(features, proposals)
        if not self.training:
            found = self._box_detections(x, features, proposals)
            return self.forward_with_given_boxes(features, found), {}

        losses, base = self._box_losses(x, features, proposals, targets)
        if self.removal.freeze:
            return [], {"loss_duplicates": losses["loss_duplicates"]}
        if self.train_on_pred_boxes:
            move_to_predictions(self.box_predictor, base, proposals)
        losses.update(self._forward_mask(features, proposals))
        losses.update(self._forward_keypoint(features, proposals))
        return proposals, losses


class Res5RegionsROIHeads(PlainBoxes, ContextRes5, Res5ROIHeads):
    """The same for `Res5ROIHeads` (C4); x is the mean of res5."""

    def _embed(self, features: dict[str, Tensor], proposals: list[Instances]) -> Tensor:
        return self._res5(features, proposals).mean(dim=[2, 3])  # (N, D)

    def _res5(self, features: dict[str, Tensor], proposals: list[Instances]) -> Tensor:
        """(N, D, h, w) features of the proposals, which boxes and masks share."""
        maps = [features[f] for f in self.in_features]
        return self._shared_roi_transform(maps, [p.proposal_boxes for p in proposals])

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """See `Res5ROIHeads.forward`."""
        if self.is_stock and self.ends_as_stock:
            return super().forward(images, features, proposals, targets)
        if self.training:
            proposals = self.label_and_sample_proposals(proposals, targets)
        maps = self._res5(features, proposals)  # (N, D, h, w)
        x = maps.mean(dim=[2, 3])  # (N, D)
        if not self.training:
            found = self._box_detections(x, features, proposals)
            return self.forward_with_given_boxes(features, found), {}

        losses, _ = self._box_losses(x, features, proposals, targets)
        if self.removal.freeze:
            return [], {"loss_duplicates": losses["loss_duplicates"]}
        if self.mask_on:
            proposals, foreground = select_foreground_proposals(proposals, self.num_classes)
            losses.update(self.mask_head(maps[torch.cat(foreground)], proposals))
        return [], losses

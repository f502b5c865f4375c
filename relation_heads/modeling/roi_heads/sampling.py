"""Which regions a head sees in training, and which of them are in the loss.

Detectron2's heads see one pooled region at a time. A relational head sees all regions of an image
at once, so proposals that are not in the loss should still be there to relate to.

Detectron2's convention: `gt_classes` is in [0, C) for objects, C for background, -1 for regions
outside the loss.
"""

from __future__ import annotations

from typing import get_args

import torch
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor

from ...config.defaults import Sampling
from ...layers.arguments import one_of, require

EVERYTHING = 10**9  # a sample of so many regions is all of them


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

    sampling: str
    gt_as_keys: bool

    def _init_sampling(self, sampling: str, gt_as_keys: bool) -> None:
        require(one_of("sampling", sampling, get_args(Sampling)))
        self.sampling, self.gt_as_keys = sampling, gt_as_keys
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

"""ROI heads, counted on an image of random boxes.

They run on real zeros, since what they do depends on values (sampling, non-maximum suppression),
but their convolutions and products of matrices are not calculated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_roi_heads
from detectron2.structures import Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor

from .counting import Count, kept_bytes, multiply_adds

OBJECTS = 20  # in the image
OBJECT_SIDE = 32  # at least, in pixels
BACKGROUND_SIDE = 16  # so small that the IoU with an object is at most 1/4


@dataclass(frozen=True)
class RegionCounts:
    """How many regions of an image the ROI heads see.

    Args:
        training: proposals in a training step, before it samples.
        test: proposals at test time.
        detections: boxes in the mask and keypoint branches at test time; also the given boxes of a
            region classifier.
    """

    training: int
    test: int
    detections: int

    @classmethod
    def of(cls, cfg: CfgNode) -> RegionCounts:
        """The most that a config allows."""
        rpn = cfg.MODEL.RPN
        return cls(rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST, cfg.TEST.DETECTIONS_PER_IMAGE)


class _Image:
    """Random objects and regions in an image of (height, width) `size`."""

    def __init__(self, cfg: CfgNode, size: tuple[int, int], device: str) -> None:
        self.size, self.device = size, device
        self.generator = torch.Generator().manual_seed(0)
        boxes, self.targets = self._objects(OBJECTS), Instances(size)
        self.targets.gt_boxes = boxes
        self.targets.gt_classes = torch.arange(OBJECTS) % cfg.MODEL.ROI_HEADS.NUM_CLASSES
        if cfg.MODEL.MASK_ON:
            corners = boxes.tensor[:, [0, 1, 2, 1, 2, 3, 0, 3]].tolist()
            self.targets.gt_masks = PolygonMasks([[polygon] for polygon in corners])
        if cfg.MODEL.KEYPOINT_ON:
            points = boxes.get_centers()[:, None].repeat(
                1, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, 1
            )
            visible = torch.full_like(points[..., :1], 2)
            self.targets.gt_keypoints = Keypoints(torch.cat([points, visible], dim=2))
        self.targets = self.targets.to(device)

    def _points(self, count: int, each: int, margin: int) -> Tensor:
        """(count, each, 2) random (x, y), `margin` pixels away from the right and lower edge."""
        room = torch.tensor([self.size[1], self.size[0]]) - margin
        return torch.rand(count, each, 2, generator=self.generator) * room

    def _objects(self, count: int) -> Boxes:
        points = self._points(count, 2, OBJECT_SIDE)
        return Boxes(torch.cat([points.amin(1), points.amax(1) + OBJECT_SIDE], dim=1))

    def proposals(self, count: int) -> Instances:
        """One quarter are objects, enough for the share of foreground in any sample."""
        objects = self.targets.gt_boxes.tensor.cpu()
        chosen = objects[torch.arange(count // 4) % OBJECTS]
        corners = self._points(count - len(chosen), 1, BACKGROUND_SIDE)[:, 0]
        background = torch.cat([corners, corners + BACKGROUND_SIDE], dim=1)
        proposals = Instances(self.size)
        proposals.proposal_boxes = Boxes(torch.cat([chosen, background]))
        proposals.objectness_logits = torch.zeros(count)
        return proposals.to(self.device)

    def detections(self, count: int) -> Instances:
        detections = Instances(self.size)
        detections.pred_boxes = self._objects(count)
        detections.scores = torch.ones(count)
        detections.pred_classes = torch.zeros(count, dtype=torch.int64)
        return detections.to(self.device)

    def given(self, count: int) -> Instances:
        """The objects of a region classifier."""
        given = self.proposals(count)
        given.gt_classes = torch.zeros(count, dtype=torch.int64, device=given.proposal_boxes.device)
        given.region_ids = torch.arange(count, device=given.proposal_boxes.device)
        return given


def count_roi_heads(
    cfg: CfgNode,
    shapes: dict[str, ShapeSpec],
    maps: Mapping[str, Tensor],
    image_size: tuple[int, int],
    regions: RegionCounts,
    device: str,
    new: Collection[str],
) -> tuple[Count, Count]:
    """Multiply-adds at test time and bytes kept in training; watched are the `new` modules.

    Args:
        cfg: of the model.
        shapes: of the backbone's output.
        maps: like its feature maps, (1, C, H, W), with a gradient or without; never read.
        image_size: height and width in pixels.
        regions: in the image.
        device: where it runs.
        new: names of modules in the ROI heads.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 1.0  # no detections but the given number
    if cfg.MODEL.DUPLICATE_REMOVAL.TEST_METHOD == "learned":
        # Which boxes its network sees depends on scores, which are not calculated: it sees the
        # most that it may, and of its detections none is kept.
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
        cfg.MODEL.DUPLICATE_REMOVAL.SCORE_THRESH_TRAIN = 0.0
        cfg.TEST.DETECTIONS_PER_IMAGE = 0
    heads = build_roi_heads(cfg, shapes).to(device)
    watched = [module for name, module in heads.named_modules() if name in new]
    image = _Image(cfg, image_size, device)
    is_given = getattr(heads, "classifies_given_boxes", False)

    def seen(count: int) -> list[Instances]:
        return [image.given(regions.detections) if is_given else image.proposals(count)]

    def zeros(training: bool) -> dict[str, Tensor]:
        return {
            name: torch.zeros(x.shape, device=device, requires_grad=training and x.requires_grad)
            for name, x in maps.items()
        }

    def test() -> None:
        features = zeros(training=False)
        heads.eval()(None, features, seen(regions.test))
        if cfg.MODEL.MASK_ON or cfg.MODEL.KEYPOINT_ON:
            heads.forward_with_given_boxes(features, [image.detections(regions.detections)])

    def train() -> Any:
        features = zeros(training=True)
        with EventStorage():
            return heads.train()(None, features, seen(regions.training), [image.targets])

    with torch.no_grad():
        _, products = multiply_adds(test, watched, compute=False)
    own = [*heads.parameters(), *heads.buffers()]
    return products, kept_bytes(train, watched, own, compute=False)[1]

"""Images with given boxes for region classification, in training and in testing.

Chen, Li, Fei-Fei, Gupta, "Iterative Visual Reasoning Beyond Convolutions" (CVPR 2018), section 4:
the boxes of the ground truth are the input, their classes are asked, and every box counts.
Detectron2's mapper forgets the annotations of a test image and drops boxes without an area; this
one drops nothing, and numbers the regions so that the evaluator can find each one again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

from .mapper import is_mirrored, mirror_classes


class RegionClassificationMapper:
    """Turns a record of a data set into the input of a model that classifies given boxes.

    The output is the record without `annotations` and with

        image      (C, H, W) uint8, transformed
        proposals  `Instances` of the size of that image: proposal_boxes, objectness_logits (R,)
                   of zeros, region_ids (R,) int64; gt_classes (R,) int64 in training
        instances  in training: gt_boxes, gt_classes, region_ids of the same R regions
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        mirror: Mapping[int, int],
        keep_crowd: bool = False,
    ) -> None:
        """
        Args:
            is_train: whether the classes are given to the model.
            augmentations: for image and boxes; none that may move a box out of the image.
            image_format: a format of `detection_utils.read_image`, for example "BGR".
            mirror: class index -> class index after a horizontal flip; others keep theirs.
            keep_crowd: whether crowd annotations are regions; the evaluator must agree.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.mirror = dict(mirror)
        self.keep_crowd = keep_crowd

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Arguments from a config; `mirror` comes from the metadata of `DATASETS.TRAIN`.

        Raises:
            ValueError: `INPUT.CROP.ENABLED`.
        """
        if cfg.INPUT.CROP.ENABLED:
            raise ValueError(
                "INPUT.CROP.ENABLED must be False for region classification: nothing would be left "
                "to see of a region outside the crop."
            )
        return {
            "is_train": is_train,
            "augmentations": detection_utils.build_augmentation(cfg, is_train),
            "image_format": cfg.INPUT.FORMAT,
            "mirror": mirror_classes(cfg.DATASETS.TRAIN),
        }

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """
        Args:
            record: an image in Detectron2's data set format; it is left as it is.

        Returns:
            see the class.

        Raises:
            ValueError: a box is not finite; names the image and the region.
        """
        data = {key: value for key, value in record.items() if key != "annotations"}
        image = detection_utils.read_image(data["file_name"], format=self.image_format)
        detection_utils.check_image_size(data, image)
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        image = augmented.image
        data["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        size = image.shape[:2]  # height, width

        ids = region_ids(record, keep_crowd=self.keep_crowd)
        boxes = _given_boxes(record, ids)
        boxes = clip_boxes(transforms.apply_box(boxes), *size)

        proposals = Instances(size)
        proposals.proposal_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32))
        proposals.objectness_logits = torch.zeros(len(ids))
        proposals.region_ids = torch.tensor(ids, dtype=torch.int64)
        if self.is_train:
            classes = [record["annotations"][i]["category_id"] for i in ids]
            if is_mirrored(transforms):
                classes = [self.mirror.get(c, c) for c in classes]
            proposals.gt_classes = torch.tensor(classes, dtype=torch.int64)
            data["instances"] = Instances(
                size,
                gt_boxes=proposals.proposal_boxes.clone(),
                gt_classes=proposals.gt_classes.clone(),
                region_ids=proposals.region_ids.clone(),
            )
        data["proposals"] = proposals
        return data


def region_ids(record: Mapping[str, Any], *, keep_crowd: bool = False) -> list[int]:
    """Which annotations of an image are regions, in order; mapper and evaluator both ask here.

    The id of a region is the position of its annotation in `record["annotations"]`, from 0 and with
    crowds counted. It is unique in its image for every data set that Detectron2 can load, whereas
    annotation ids are not kept by `load_coco_json` and are repeated in some files (COCO 2014
    minival).

    Args:
        record: an image in Detectron2's data set format.
        keep_crowd: whether crowd annotations are regions.
    """
    annotations = record.get("annotations", ())
    return [i for i, a in enumerate(annotations) if keep_crowd or not a.get("iscrowd", 0)]


def clip_boxes(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes inside the image and at least 1 pixel wide and high, so that each can be pooled.

    Args:
        boxes: (R, 4) xyxy in pixels.
        height: of the image, in pixels, at least 1.
        width: likewise.

    Returns:
        (R, 4) xyxy. A box below 1 pixel grows around its centre, and is moved if it would cross
        the border; one outside the image becomes a pixel at the border.
    """
    size = np.array([width, height])
    clipped = boxes.clip(0, np.tile(size, 2))
    low, high = clipped[:, :2], clipped[:, 2:]
    start = np.clip((low + high - 1) / 2, 0, size - 1)
    small = high - low < 1
    return np.concatenate([np.where(small, start, low), np.where(small, start + 1, high)], axis=1)


def _given_boxes(record: Mapping[str, Any], ids: Sequence[int]) -> np.ndarray:
    """(R, 4) xyxy boxes of the regions in pixels of the file."""
    boxes = np.empty((len(ids), 4))
    for row, i in enumerate(ids):
        boxes[row] = detection_utils.get_bbox(record["annotations"][i])
        if not np.isfinite(boxes[row]).all():
            raise ValueError(
                f"Region {i} of image {record.get('image_id', record['file_name'])!r} has the box "
                f"{record['annotations'][i]['bbox']}, which must be four finite numbers."
            )
    return boxes

"""The labelled objects of a data set, and which boxes show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..data.box_iou import box_iou

MIN_IOU = 0.5  # of a box and the object that it shows


@dataclass(frozen=True)
class Objects:
    """Of one image: boxes (M, 4) xyxy in pixels, classes (M,) in 0..K-1."""

    boxes: np.ndarray
    classes: np.ndarray


def objects_shown(boxes: np.ndarray, objects: Objects) -> np.ndarray:
    """(R,) the object with the largest IoU with each box (R, 4), -1 below `MIN_IOU`."""
    if not len(objects.boxes) or not len(boxes):
        return np.full(len(boxes), -1)
    iou = box_iou(boxes[:, None], objects.boxes[None])  # (R, M)
    return np.where(iou.max(1) >= MIN_IOU, iou.argmax(1), -1)


def require_registered(name: str) -> None:
    """
    Raises:
        ValueError: there is no data set of this name.
    """
    if name not in DatasetCatalog:
        raise ValueError(
            f"The data set {name!r} is not registered: see datasets/README.md, or "
            "RELATION_HEADS_DATASETS for a set of your own."
        )


def check_data(name: str, class_names: Sequence[str]) -> None:
    """
    Raises:
        ValueError: a data set is not registered, or has other classes.
    """
    require_registered(name)
    if MetadataCatalog.get(name).get("thing_classes", None) != list(class_names):
        raise ValueError(f"The data set {name} has other classes than the detector.")


def objects_of(name: str) -> dict[str, Objects]:
    """Of every image of a registered data set, by file name; crowds left out.

    Raises:
        KeyError: the data set is not registered.
    """
    found = {}
    for record in DatasetCatalog.get(name):
        kept = [a for a in record["annotations"] if not a.get("iscrowd")]
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in kept]
        found[record["file_name"]] = Objects(
            np.array(boxes, dtype=np.float64).reshape(-1, 4),
            np.array([a["category_id"] for a in kept], dtype=np.int64),
        )
    return found

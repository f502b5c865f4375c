"""The evaluator of a data set, by its metadata `evaluator_type` as in Detectron2's train_net.py.

Five things differ. Region classification (ROI heads that classify given boxes) has an evaluator of
its own for any data set, and data sets of images with classes have one. Data sets whose metadata
has `class_groups` also get results by group. `TEST.DETECTIONS_PER_IMAGE` above COCO's limit of 100
(LVIS: 300) is given to the evaluator, which would drop the detections beyond its limit silently.
And boxes and masks of more than MANY_CLASSES classes are evaluated without the (class, image) pairs
that are empty.
"""

from __future__ import annotations

import os
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)

from ..data.image_classes import EVALUATOR_TYPE as IMAGE_CLASSES
from ..modeling.registered import classifies_given_boxes
from .cityscapes import provide_cityscapes_scripts
from .grouped_coco import GroupedCOCOEvaluator
from .image_classes import ImageClassEvaluator
from .region_classification import RegionClassificationEvaluator
from .sparse_coco import MAX_DETS
from .sparse_evaluator import SparseCOCOEvaluator, training_counts

# Beyond it results by class flood the log, and the memory of COCO's own evaluation grows.
MANY_CLASSES = 300

EVALUATOR_TYPES = (
    "coco",
    "coco_panoptic_seg",
    "sem_seg",
    "lvis",
    "pascal_voc",
    "cityscapes_instance",
    "cityscapes_sem_seg",
    IMAGE_CLASSES,
)


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluator:
    """The evaluator of a data set.

    Args:
        cfg: for `TEST.DETECTIONS_PER_IMAGE`, `TEST.KEYPOINT_OKS_SIGMAS` and `OUTPUT_DIR`.
        dataset_name: a registered data set.
        output_folder: for predictions; `OUTPUT_DIR/inference` by default.

    Raises:
        NotImplementedError: the metadata has no `evaluator_type` or an unknown one.
        ModuleNotFoundError: Cityscapes' scripts are not installed.
    """
    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    if classifies_given_boxes(cfg):
        return RegionClassificationEvaluator(dataset_name, folder)
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in EVALUATOR_TYPES:
        raise NotImplementedError(
            f"The data set {dataset_name} has evaluator_type {kind!r} in its metadata; "
            f"there are evaluators for {', '.join(EVALUATOR_TYPES)}."
        )
    if kind == IMAGE_CLASSES:
        return ImageClassEvaluator()
    if kind == "lvis":
        return LVISEvaluator(dataset_name, output_dir=folder, max_dets_per_image=_limit(cfg, 300))
    if kind == "pascal_voc":
        return PascalVOCDetectionEvaluator(dataset_name)
    if kind.startswith("cityscapes"):
        provide_cityscapes_scripts()
    if kind == "cityscapes_instance":
        return CityscapesInstanceEvaluator(dataset_name)
    if kind == "cityscapes_sem_seg":
        return CityscapesSemSegEvaluator(dataset_name)
    evaluators: list[DatasetEvaluator] = []
    if kind in ("sem_seg", "coco_panoptic_seg"):
        evaluators.append(SemSegEvaluator(dataset_name, output_dir=folder))
    if kind in ("coco", "coco_panoptic_seg"):
        evaluators.append(_coco_evaluator(cfg, dataset_name, folder))
    if kind == "coco_panoptic_seg":
        evaluators.append(COCOPanopticEvaluator(dataset_name, folder))
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def _coco_evaluator(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    metadata, limit = MetadataCatalog.get(dataset_name), _limit(cfg, MAX_DETS[-1])
    options: dict[str, Any] = {
        "output_dir": folder,
        "max_dets_per_image": limit,
        "kpt_oks_sigmas": cfg.TEST.KEYPOINT_OKS_SIGMAS,
    }
    if metadata.get("class_groups"):
        return GroupedCOCOEvaluator(dataset_name, **options)
    many = len(metadata.get("thing_classes", ())) > MANY_CLASSES
    if many and not cfg.MODEL.KEYPOINT_ON:
        return SparseCOCOEvaluator(
            dataset_name,
            folder,
            max_dets_per_image=limit or MAX_DETS[-1],
            counts=training_counts(cfg.DATASETS.TRAIN),
            masks=cfg.MODEL.MASK_ON,
        )
    # Above 100, Detectron2 counts with `COCOevalMaxDets`, which is pycocotools' slow evaluation.
    return COCOEvaluator(dataset_name, **options)


def _limit(cfg: CfgNode, default: int) -> int | None:
    """The limit for an evaluator that counts `default` detections per image, None to leave that."""
    detections = cfg.TEST.DETECTIONS_PER_IMAGE
    return detections if detections > default else None

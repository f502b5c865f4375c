"""Ground truth and results files in COCO format, as arrays for `sparse_coco` and back.

A results file is a list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"}, for
masks with "segmentation": {"size": [height, width], "counts"}, COCO's run lengths as text. A large
one is read without ever holding its detections as Python objects, and written in pieces.
"""

from __future__ import annotations

import json
import logging
import math
import os
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TextIO

import numpy as np
from pycocotools import mask as mask_util

from ..data.checks.annotations import image_sizes
from ..data.checks.format import is_box, is_number, type_findings
from ..data.checks.masks import inspect_mask
from ..data.files import read_json
from .sparse_matching import Detections, Objects

logger = logging.getLogger(__name__)

_ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
_DETECTION_KEYS = ("image_id", "category_id", "bbox", "score")
_PIECE = 1000  # detections that are written together


@dataclass(frozen=True)
class GroundTruth:
    """A data set in COCO format. Index i of an image or class stands for its id, in sorted order.

    `objects` is None if the file has no annotations at all, as those of test sets without answers.
    """

    source: str  # the name of the file, for messages
    image_ids: list[Any]  # I
    image_sizes: np.ndarray  # (I, 2) float64, width and height; NaN if they are not known
    category_ids: list[Any]  # K
    names: list[str]  # K
    objects: Objects | None


def ground_truth(dataset: Mapping[str, Any], source: str, masks: bool = False) -> GroundTruth:
    """The content of a JSON file in COCO format as arrays.

    As in pycocotools, annotations of images or categories that are not in the file do not count; a
    warning tells how many.

    Args:
        dataset: what the file says; its category ids are unique.
        source: the name of the file.
        masks: whether `objects` gets the masks, which every annotation must have.

    Raises:
        ValueError: ids are of several types, an image or an annotation lacks a key, an annotation
            has a number that is not finite, a broken mask, or the id of another one; names the file
            and the annotation.
    """
    for finding in type_findings(dataset):
        raise ValueError(f"{source}: {finding}")
    categories = sorted(dataset["categories"], key=lambda category: category["id"])
    for image in dataset["images"]:
        _require(image, ("id",), f"{source}: an image")
    images = sorted({image["id"]: image for image in dataset["images"]}.items())
    truth = GroundTruth(
        source,
        [image_id for image_id, _ in images],
        image_sizes([image for _, image in images]),
        [category["id"] for category in categories],
        [category["name"] for category in categories],
        None,
    )
    if "annotations" not in dataset:
        return truth
    return replace(truth, objects=_objects(dataset["annotations"], truth, masks))


def read_results(
    path: str | os.PathLike[str], truth: GroundTruth, masks: bool = False
) -> Detections:
    """Reads a results file. Of entries with more keys it takes what is asked for.

    Args:
        path: the file.
        truth: the data set of the results; images without a detection are allowed.
        masks: whether to read the masks, which every entry must have.

    Raises:
        ValueError: it is not a results file, or one of another data set; names the first offenders.
    """
    images, classes = positions(truth.image_ids), positions(truth.category_ids)
    table, numbers = array("q"), array("d")  # two and five columns
    found: list[Any] = []  # masks
    unknown: dict[str, list[Any]] = {"image_id": [], "category_id": []}

    def collect(item: dict[str, Any]) -> dict[str, Any] | None:
        if "image_id" not in item:
            return item  # an encoded mask, or no detection at all
        where = f"{path}: detection {len(table) // 2 + 1}"
        _require(item, _DETECTION_KEYS, where)
        for key, known in (("image_id", images), ("category_id", classes)):
            position = -1 if isinstance(item[key], list | dict) else known.get(item[key], -1)
            if position < 0:
                unknown[key].append(item[key])
            table.append(position)
        numbers.extend(_box_and(item, "score", where))
        image = table[-2]
        known_image = masks and image >= 0
        found.append(_found_mask(item, truth.image_sizes[image], where) if known_image else None)
        return None  # so that nothing of it stays in memory

    entries = read_json(path, collect)
    read = len(table) // 2  # a null in the file is no detection
    if not isinstance(entries, list) or entries != [None] * read:
        raise ValueError(f"{path} must be a list of detections with {', '.join(_DETECTION_KEYS)}.")
    for key, ids in unknown.items():
        if ids:
            first = ", ".join(list(dict.fromkeys(map(repr, ids)))[:3])
            raise ValueError(
                f"{path} is not of this data set: {len(ids)} of {len(entries)} detections have an "
                f"unknown {key}, which {truth.source} does not list, among the first {first}."
            )
    indices, values = np.array(table).reshape(-1, 2), np.array(numbers).reshape(-1, 5)
    masked = np.array(found, dtype=object)
    return Detections(indices[:, 0], indices[:, 1], values[:, :4], values[:, 4], masked)


def write_results(file: TextIO, detections: Detections, truth: GroundTruth) -> None:
    """Writes a results file, character by character the one that Detectron2 writes."""
    file.write("[")
    for start in range(0, len(detections.scores), _PIECE):
        piece = (field[start : start + _PIECE].tolist() for field in detections)
        rows = [
            {
                "image_id": truth.image_ids[image],
                "category_id": truth.category_ids[k],
                "bbox": box,
                "score": score,
                **({} if mask is None else {"segmentation": mask}),
            }
            for image, k, box, score, mask in zip(*piece, strict=True)
        ]
        file.write((", " if start else "") + json.dumps(rows)[1:-1])
    file.write("]")


def positions(ids: Sequence[Any]) -> dict[Any, int]:
    """Id -> index."""
    return {i: position for position, i in enumerate(ids)}


def _objects(annotations: Sequence[Mapping[str, Any]], truth: GroundTruth, masks: bool) -> Objects:
    images, classes = positions(truth.image_ids), positions(truth.category_ids)
    indices, numbers, crowds, ids = array("q"), array("d"), [], []
    found: list[Any] = []  # masks
    for annotation in annotations:
        where = f"{truth.source}: the annotation with id {annotation.get('id')!r}"
        _require(annotation, _ANNOTATION_KEYS, where)
        image, k = images.get(annotation["image_id"]), classes.get(annotation["category_id"])
        if image is None or k is None:
            continue
        indices.extend((image, k))
        numbers.extend(_box_and(annotation, "area", where))
        crowds.append(bool(annotation["iscrowd"]))
        ids.append(annotation["id"])
        found.append(_object_mask(annotation, truth.image_sizes[image], where) if masks else None)
    _check_ids(ids, len(annotations), truth.source)
    table, values = np.array(indices).reshape(-1, 2), np.array(numbers).reshape(-1, 5)
    zero_ids = np.array([i == 0 for i in ids], dtype=bool)
    boxes, areas = values[:, :4], values[:, 4]
    crowd, masked = np.array(crowds, dtype=bool), np.array(found, dtype=object)
    return Objects(table[:, 0], table[:, 1], boxes, areas, crowd, zero_ids, masked)


def _check_ids(ids: Sequence[Any], num_annotations: int, source: str) -> None:
    if len(ids) < num_annotations:
        logger.warning(
            f"{source}: {num_annotations - len(ids)} of {num_annotations} annotations have an "
            "image_id or a category_id that the file does not list; they do not count."
        )
    if len(set(ids)) < len(ids):
        twice = next(i for i, count in Counter(ids).items() if count > 1)
        raise ValueError(f"{source}: two annotations have the id {twice!r}.")
    if 0 in ids:
        logger.warning(
            f"{source}: the annotation with id 0 cannot be found, because COCO's evaluation reads "
            "0 as 'not matched'; number annotations from 1."
        )


def _require(item: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in item:
            raise ValueError(f"{where} has no '{key}'.")


def _box_and(item: Mapping[str, Any], key: str, where: str) -> list[float]:
    """[x, y, width, height, value of `key`], all finite."""
    if not (is_box(item["bbox"]) and is_number(item[key])):
        raise ValueError(
            f"{where} must have a bbox of four finite numbers and a finite {key}, but has "
            f"{item['bbox']!r} and {item[key]!r}."
        )
    return [*map(float, item["bbox"]), float(item[key])]


def _object_mask(item: Mapping[str, Any], image_size: np.ndarray, where: str) -> Any:
    """Run lengths of the "segmentation", as pycocotools' `annToRLE` makes them of polygons."""
    _require(item, ("segmentation",), where)
    mask, (width, height) = item["segmentation"], image_size.tolist()
    kind, _ = inspect_mask(mask, width, height)
    try:
        if math.isnan(width + height) or kind in ("bad", "size", "broken"):
            raise ValueError(kind)
        if isinstance(mask, Mapping) and isinstance(mask["counts"], str):
            return mask
        runs = mask_util.frPyObjects(mask, int(height), int(width))
        return mask_util.merge(runs) if isinstance(mask, list) else runs
    except Exception as error:  # what `frPyObjects` raises for polygons of less than three points
        raise ValueError(
            f"{where} must have a segmentation of polygons, or of run lengths {{'size', 'counts'}} "
            f"that fill the image of {width:g} x {height:g} pixels."
        ) from error


def _found_mask(item: Mapping[str, Any], image_size: np.ndarray, where: str) -> Any:
    """The "segmentation" of a detection. With runs that do not fill the image, `iou` of pycocotools
    would go on forever."""
    _require(item, ("segmentation",), where)
    mask, (width, height) = item["segmentation"], image_size.tolist()
    kind, _ = inspect_mask(mask, width, height)
    if kind not in ("rle", "nothing") or not isinstance(mask["counts"], str):
        raise ValueError(
            f"{where} must have a segmentation {{'size': [{height:g}, {width:g}], 'counts': text}} "
            "that fills the image."
        )
    return mask

"""Ground truth and results files in COCO format, as arrays for `sparse_coco` and back.

A results file is a list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"}. A
large one is read without ever holding its detections as Python objects, and written in pieces.
"""

from __future__ import annotations

import json
import logging
import math
import os
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from ..data.checks.format import type_findings
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
    category_ids: list[Any]  # K
    names: list[str]  # K
    objects: Objects | None


def ground_truth(dataset: Mapping[str, Any], source: str) -> GroundTruth:
    """The content of a JSON file in COCO format as arrays.

    As in pycocotools, annotations of images or categories that are not in the file do not count; a
    warning tells how many.

    Args:
        dataset: what the file says; its category ids are unique.
        source: the name of the file.

    Raises:
        ValueError: ids are of several types, an image or an annotation lacks a key, an annotation
            has a number that is not finite, or has the id of another one; names the file and the
            annotation.
    """
    for finding in type_findings(dataset):
        raise ValueError(f"{source}: {finding}")
    categories = sorted(dataset["categories"], key=lambda category: category["id"])
    for image in dataset["images"]:
        _require(image, ("id",), f"{source}: an image")
    image_ids = sorted({image["id"] for image in dataset["images"]})
    category_ids = [category["id"] for category in categories]
    objects = None
    if "annotations" in dataset:
        images, classes = positions(image_ids), positions(category_ids)
        objects = _objects(dataset["annotations"], images, classes, source)
    return GroundTruth(source, image_ids, category_ids, [c["name"] for c in categories], objects)


def read_results(path: str | os.PathLike[str], truth: GroundTruth) -> Detections:
    """Reads a results file. Of entries with more keys, such as masks, it takes the box only.

    Args:
        path: the file.
        truth: the data set of the results; images without a detection are allowed.

    Raises:
        ValueError: it is not a results file, or one of another data set; names the first offenders.
    """
    images, classes = positions(truth.image_ids), positions(truth.category_ids)
    table, numbers = array("q"), array("d")  # two and five columns
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
        return None  # so that nothing of it stays in memory

    entries = read_json(path, collect)
    if not isinstance(entries, list) or any(entry is not None for entry in entries):
        raise ValueError(f"{path} must be a list of detections with {', '.join(_DETECTION_KEYS)}.")
    for key, ids in unknown.items():
        if ids:
            first = ", ".join(list(dict.fromkeys(map(repr, ids)))[:3])
            raise ValueError(
                f"{path} is not of this data set: {len(ids)} of {len(entries)} detections have an "
                f"unknown {key}, which {truth.source} does not list, among the first {first}."
            )
    indices, values = np.array(table).reshape(-1, 2), np.array(numbers).reshape(-1, 5)
    return Detections(indices[:, 0], indices[:, 1], values[:, :4], values[:, 4])


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
            }
            for image, k, box, score in zip(*piece, strict=True)
        ]
        file.write((", " if start else "") + json.dumps(rows)[1:-1])
    file.write("]")


def positions(ids: Sequence[Any]) -> dict[Any, int]:
    """Id -> index."""
    return {i: position for position, i in enumerate(ids)}


def _objects(
    annotations: Sequence[Mapping[str, Any]],
    images: Mapping[Any, int],
    classes: Mapping[Any, int],
    source: str,
) -> Objects:
    indices, numbers, crowds, ids = array("q"), array("d"), [], []
    for annotation in annotations:
        where = f"{source}: the annotation with id {annotation.get('id')!r}"
        _require(annotation, _ANNOTATION_KEYS, where)
        image, k = images.get(annotation["image_id"]), classes.get(annotation["category_id"])
        if image is None or k is None:
            continue
        indices.extend((image, k))
        numbers.extend(_box_and(annotation, "area", where))
        crowds.append(bool(annotation["iscrowd"]))
        ids.append(annotation["id"])
    _check_ids(ids, len(annotations), source)
    table, values = np.array(indices).reshape(-1, 2), np.array(numbers).reshape(-1, 5)
    zero_ids = np.array([i == 0 for i in ids], dtype=bool)
    boxes, areas = values[:, :4], values[:, 4]
    return Objects(table[:, 0], table[:, 1], boxes, areas, np.array(crowds, dtype=bool), zero_ids)


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
    try:
        x, y, width, height = map(float, item["bbox"])
        numbers = [x, y, width, height, float(item[key])]
    except (TypeError, ValueError):
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(
            f"{where} must have a bbox of four finite numbers and a finite {key}, but has "
            f"{item['bbox']!r} and {item[key]!r}."
        )
    return numbers

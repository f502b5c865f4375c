"""The annotations of a data set in COCO format as arrays, and what is odd in their masks."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from .findings import Finding, found

_SLACK = 1.0  # pixels: rounding
# What can be remarkable about a mask: level, what, advice.
_MASK_KINDS = {
    "bad": (
        "problem",
        "that is neither a list of polygons nor run lengths {{'size', 'counts'}}",
        "loading or training fails: correct them, or remove 'segmentation'",
    ),
    "size": (
        "problem",
        "in run lengths of another size than [height, width] of the image",
        "they cover other pixels than meant, or training fails",
    ),
    "empty": (
        "warning",
        "without a polygon of three points or more",
        "training leaves them out, the evaluation does not: correct them, or remove 'segmentation'",
    ),
    "outside": (
        "warning",
        "that has points more than 1 pixel outside the image",
        "they are cut off",
    ),
    "rle": (
        "fact",
        "in run lengths",
        "models with masks need INPUT.MASK_FORMAT bitmask for them",
    ),
}


@dataclass(frozen=True)
class Table:
    """The annotations of known images and categories with a box of four finite numbers."""

    at: np.ndarray  # (N,) int64, place among all annotations
    image: np.ndarray  # (N,) int64, place among the images
    category: np.ndarray  # (N,) int64, class as Detectron2 numbers them
    boxes: np.ndarray  # (N, 4) float64
    area: np.ndarray  # (N,) float64, NaN where it is not a number
    crowd: np.ndarray  # (N,) bool
    masked: np.ndarray  # (N,) bool, whether there is a segmentation


def read_table(dataset: Mapping[str, Any]) -> Table:
    """The annotations as arrays; left out is what `dataset_format` names.

    Args:
        dataset: the content of the JSON file, without `type_findings`.
    """
    image_at = {image.get("id"): k for k, image in enumerate(dataset["images"])}
    ids = sorted(category["id"] for category in dataset["categories"])
    class_at = {category_id: k for k, category_id in enumerate(ids)}
    values = array("d")
    for k, annotation in enumerate(dataset.get("annotations", [])):
        try:
            x, y, width, height = annotation["bbox"]
            places = image_at[annotation["image_id"]], class_at[annotation["category_id"]]
            row = (k, *places, float(x), float(y), float(width), float(height))
        except (KeyError, TypeError, ValueError):
            continue
        area = annotation.get("area")
        values.extend(row)
        values.append(area if isinstance(area, int | float) else math.nan)
        values.append(annotation.get("iscrowd", 0) != 0)
        values.append(bool(annotation.get("segmentation")))
    columns = np.frombuffer(values).reshape(-1, 10)
    columns = columns[np.isfinite(columns[:, 3:7]).all(axis=1)]
    at, image, category = columns[:, :3].T.astype(np.int64)
    crowd, masked = columns[:, 8:].T.astype(bool)
    return Table(at, image, category, columns[:, 3:7], columns[:, 7], crowd, masked)


def image_sizes(images: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(M, 2) float64, width and height, NaN where they are not numbers."""
    values = [image.get(key) for image in images for key in ("width", "height")]
    numbers = [value if isinstance(value, int | float) else math.nan for value in values]
    return np.array(numbers, dtype=np.float64).reshape(-1, 2)


def row_label(dataset: Mapping[str, Any], table: Table) -> Callable[[int], str]:
    """How a row of the table of a data set is called: by id, box and file."""

    def label(row: int) -> str:
        annotation = dataset["annotations"][table.at[row]]
        image = dataset["images"][table.image[row]]
        box = ", ".join(f"{value:g}" for value in table.boxes[row])
        where = image.get("file_name", image.get("id"))
        return f"annotation {annotation.get('id')} [{box}] in {where}"

    return label


def mask_findings(dataset: Mapping[str, Any], table: Table) -> Iterator[Finding]:
    """What is wrong or odd in masks.

    Args:
        dataset: the content of the JSON file, without `type_findings`.
        table: its annotations.
    """
    masked = np.flatnonzero(table.masked)
    if not len(masked):
        return
    annotations, extents = dataset["annotations"], image_sizes(dataset["images"])
    label = row_label(dataset, table)
    rows: dict[str | None, list[int]] = {}
    for row in masked.tolist():
        kind = _mask_kind(annotations[table.at[row]]["segmentation"], extents[table.image[row]])
        if not (kind == "rle" and table.crowd[row]):  # crowds are not trained on
            rows.setdefault(kind, []).append(row)
    for kind, (level, what, advice) in _MASK_KINDS.items():
        what = f"annotation{{s}} with a mask {what}"
        yield from found(level, rows.get(kind, []), what, advice, label)
    yield from found(
        "warning",
        np.flatnonzero(~table.masked & ~table.crowd),
        "annotation{s} without 'segmentation', while others have one",
        "models with masks cannot be trained on these images",
        label,
    )


def _mask_kind(mask: Any, extent: np.ndarray) -> str | None:
    """A key of _MASK_KINDS, for a mask in an image of this width and height."""
    if isinstance(mask, Mapping):
        if not {"size", "counts"} <= mask.keys():
            return "bad"
        return "rle" if list(mask["size"]) == [extent[1], extent[0]] else "size"
    if not isinstance(mask, list) or not all(isinstance(polygon, list) for polygon in mask):
        return "bad"
    polygons = [polygon for polygon in mask if len(polygon) % 2 == 0 and len(polygon) >= 6]
    if not polygons:
        return "empty"
    if not set(map(type, chain.from_iterable(polygons))) <= {int, float}:
        return "bad"
    for axis in (0, 1):
        values = [value for polygon in polygons for value in polygon[axis::2]]
        if min(values) < -_SLACK or max(values) > extent[axis] + _SLACK:
            return "outside"
    return None

"""What is wrong or odd in the annotations of a data set in COCO format, beyond `coco_problems`."""

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

# Detectron2 sorts and compares the ids, and the evaluation puts those of annotations into arrays.
_NUMBERS = frozenset((int, float))
_NUMBERS_OR_TEXTS = (_NUMBERS, frozenset((str,)))
_TYPES = (
    ("categories", "id", _NUMBERS_OR_TEXTS),
    ("categories", "name", (frozenset((str,)),)),
    ("images", "id", _NUMBERS_OR_TEXTS),
    ("images", "file_name", (frozenset((str,)),)),
    ("annotations", "id", (_NUMBERS,)),
    ("annotations", "image_id", _NUMBERS_OR_TEXTS),
    ("annotations", "category_id", _NUMBERS_OR_TEXTS),
)


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


def type_problems(dataset: Mapping[str, Any]) -> list[str]:
    """One sentence per kind of id or name that Detectron2 cannot work with.

    Args:
        dataset: the content of the JSON file, which passed `read_coco`.
    """
    problems = []
    for key, field, allowed in _TYPES:
        types = {type(item[field]) for item in dataset.get(key, []) if field in item}
        if not any(types <= kinds for kinds in allowed):
            wanted = " or all ".join("texts" if str in kinds else "numbers" for kinds in allowed)
            kinds = ", ".join(sorted(kind.__name__ for kind in types))
            problems.append(f"'{field}' in '{key}' must be all {wanted}, found {kinds}.")
    return problems


def read_table(dataset: Mapping[str, Any]) -> Table:
    """The annotations as arrays; left out is what `coco_problems` names.

    Args:
        dataset: the content of the JSON file, without `type_problems`.
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


def annotation_findings(dataset: Mapping[str, Any], table: Table, name: str) -> list[Finding]:
    """What is wrong or odd in areas, flags and masks.

    Args:
        dataset: the content of the JSON file, without `type_problems`.
        table: its annotations.
        name: of the data set.
    """
    annotations = dataset.get("annotations", [])
    return [*_value_findings(annotations, name), *_mask_findings(dataset, table, name)]


def _value_findings(annotations: Sequence[Mapping[str, Any]], name: str) -> Iterator[Finding]:
    yield from found(
        "problem",
        name,
        [a for a in annotations if "area" in a and not _is_area(a["area"])],
        "annotation{s} with an 'area' that is not a number >= 0",
        "the evaluation sorts objects by it: give width * height, or the area of the mask",
        _annotation_id,
    )
    yield from found(
        "problem",
        name,
        [a for a in annotations if a.get("ignore", 0) != 0],
        "annotation{s} with 'ignore' set",
        "Detectron2 refuses to load them: take them out, or set 'iscrowd'",
        _annotation_id,
    )
    yield from found(
        "warning",
        name,
        [a for a in annotations if a.get("iscrowd", 0) not in (0, 1)],
        "annotation{s} with an 'iscrowd' that is neither 0 nor 1",
        "all but 0 count as crowds, which are not trained on and not counted as missed",
        _annotation_id,
    )


def _annotation_id(annotation: Mapping[str, Any]) -> str:
    return f"annotation {annotation.get('id')}"


def _is_area(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


def _mask_findings(dataset: Mapping[str, Any], table: Table, name: str) -> Iterator[Finding]:
    masked = np.flatnonzero(table.masked)
    if not len(masked):
        return
    annotations, extents = dataset["annotations"], image_sizes(dataset["images"])
    label = row_label(dataset, table)
    kinds: dict[str, list[int]] = {"bad": [], "empty": [], "size": [], "outside": [], "rle": []}
    for row in masked:
        kind = _mask_kind(annotations[table.at[row]]["segmentation"], extents[table.image[row]])
        if kind and not (kind == "rle" and table.crowd[row]):  # crowds are not trained on
            kinds[kind].append(int(row))

    def report(level: str, kind: str, what: str, advice: str) -> list[Finding]:
        return found(level, name, kinds[kind], f"annotation{{s}} with a mask {what}", advice, label)

    yield from report(
        "problem",
        "bad",
        "that is neither a list of polygons nor run lengths {{'size', 'counts'}}",
        "loading or training fails: correct them, or remove 'segmentation'",
    )
    yield from report(
        "problem",
        "size",
        "in run lengths of another size than [height, width] of the image",
        "they cover other pixels than meant, or training fails",
    )
    yield from report(
        "warning",
        "empty",
        "without a polygon of three points or more",
        "training leaves them out, the evaluation does not: correct them, or remove 'segmentation'",
    )
    yield from report(
        "warning",
        "outside",
        "that has points more than 1 pixel outside the image",
        "they are cut off",
    )
    yield from report(
        "fact", "rle", "in run lengths", "models with masks need INPUT.MASK_FORMAT bitmask for them"
    )
    yield from found(
        "warning",
        name,
        np.flatnonzero(~table.masked & ~table.crowd),
        "annotation{s} without 'segmentation', while others have one",
        "models with masks cannot be trained on these images",
        label,
    )


def _mask_kind(mask: Any, extent: np.ndarray) -> str | None:
    """What is remarkable about a mask in an image of this width and height."""
    if isinstance(mask, Mapping):
        if not {"size", "counts"} <= mask.keys():
            return "bad"
        return "rle" if list(mask["size"]) == [extent[1], extent[0]] else "size"
    if not isinstance(mask, list) or not all(isinstance(polygon, list) for polygon in mask):
        return "bad"
    polygons = [polygon for polygon in mask if len(polygon) % 2 == 0 and len(polygon) >= 6]
    if not polygons:
        return "empty"
    if not all(isinstance(value, int | float) for value in chain.from_iterable(polygons)):
        return "bad"
    for axis in (0, 1):
        values = [value for polygon in polygons for value in polygon[axis::2]]
        if min(values) < -_SLACK or max(values) > extent[axis] + _SLACK:
            return "outside"
    return None

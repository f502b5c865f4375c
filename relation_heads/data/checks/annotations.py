"""The annotations of a data set in COCO format as arrays."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SLACK = 1.0  # pixels: rounding


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

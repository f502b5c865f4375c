"""Numbers that describe a data set in COCO format: classes, boxes per image, sizes, company."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .checks.annotations import read_table
from .coco_format import class_names

SHOWN = 20  # classes with most boxes, of which it is told what they occur with


@dataclass(frozen=True)
class Statistics:
    """Of all annotations that are no crowds; classes by number of boxes, most first, then by name.

    names, class_boxes: (K,). image_boxes: (M,) boxes of every image. sides: (N,) sqrt(width *
    height) of every box, in pixels. together: (S, S) for the first S classes, the share of the
    images with the class of the row that also have the class of the column; NaN without an image.
    """

    names: list[str]
    class_boxes: np.ndarray
    image_boxes: np.ndarray
    sides: np.ndarray
    together: np.ndarray


def statistics(dataset: Mapping[str, Any]) -> Statistics:
    """See `Statistics`.

    Args:
        dataset: the content of a JSON file, which passed `read_coco`.
    """
    table, names = read_table(dataset), class_names(dataset)
    kept = ~table.crowd
    category, image = table.category[kept], table.image[kept]
    counts = np.bincount(category, minlength=len(names))
    order = sorted(range(len(names)), key=lambda k: (-counts[k], names[k]))
    shown = order[:SHOWN]
    has = np.zeros((len(dataset["images"]), len(names)), dtype=bool)
    has[image, category] = True
    both = has[:, shown].T.astype(np.float64) @ has[:, shown]
    with np.errstate(invalid="ignore"):  # 0 / 0 of a class without an image
        together = both / both.diagonal()[:, None]
    return Statistics(
        [names[k] for k in order],
        counts[order],
        np.bincount(image, minlength=len(dataset["images"])),
        np.sqrt(np.prod(np.maximum(table.boxes[kept, 2:], 0), axis=1)),
        together,
    )

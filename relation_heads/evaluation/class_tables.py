"""Results class by class in a file, and by how often a class was seen in training.

Seen is counted in training images, as LVIS does (Gupta, Dollar, Girshick, 2019): a class is rare
with 1-10 images, common with 11-100, frequent with more. An image counts for a class if it has at
least one annotation of it that is not a crowd; an instance is such an annotation. A class of which
the training set lists no such annotation is unseen and belongs to none of the three.
"""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.files import read_json
from .coco_arrays import GroundTruth

BUCKETS = ("unseen", "rare", "common", "frequent")
_LIMITS = (0, 10, 100)  # a bucket has more training images than its limit
METRICS = ("AP", "AP50", "AR")
COLUMNS = (
    *("category_id", "name", "bucket"),
    *("train_images", "train_instances", "test_images", "test_instances"),
    *METRICS,
)


@dataclass(frozen=True)
class ClassCounts:
    """How often the classes of a training set occur in it, see the module."""

    names: dict[Any, str]  # category id -> name
    images: dict[Any, int]  # category id -> training images
    instances: dict[Any, int]  # category id -> training instances

    def of(self, truth: GroundTruth) -> np.ndarray:
        """(K, 2) int64, images and instances of the classes of a test set.

        Raises:
            ValueError: a class of the test set is none, or another one, in the training set.
        """
        for category_id, name in zip(truth.category_ids, truth.names, strict=True):
            if self.names.get(category_id) != name:
                raise ValueError(
                    f"The training counts are of other classes than {truth.source}: category "
                    f"{category_id!r} is {name!r} there and {self.names.get(category_id)!r} in "
                    "the training set."
                )
        return np.array(
            [(self.images[i], self.instances[i]) for i in truth.category_ids], dtype=np.int64
        )


def count_classes(json_files: Sequence[str | os.PathLike[str]]) -> ClassCounts:
    """Counts the classes of the training sets, which must have the same categories.

    No annotation is held in memory: Visual Genome has millions.

    Args:
        json_files: in COCO format, at least one.

    Raises:
        ValueError: a file is not in COCO format, or two files have different categories.
    """
    if not json_files:
        raise ValueError("There is no training set to count classes in.")
    names: dict[Any, str] = {}
    totals: dict[str, dict[Any, int]] = {"images": {}, "instances": {}}
    for path in json_files:
        categories, images, instances = _count_file(path)
        if names and categories != names:
            raise ValueError(f"{path} and {json_files[0]} have different categories.")
        names = categories
        for total, counts in zip(totals.values(), (images, instances), strict=True):
            for category_id in names:
                total[category_id] = total.get(category_id, 0) + counts.get(category_id, 0)
    return ClassCounts(names, **totals)


def _count_file(
    path: str | os.PathLike[str],
) -> tuple[dict[Any, str], dict[Any, int], dict[Any, int]]:
    """Category id -> name, images and instances."""
    images: dict[Any, int] = {}  # id -> number, in order of appearance
    classes: dict[Any, int] = {}
    pairs = array("q")  # class, image

    def count(item: dict[str, Any]) -> dict[str, Any] | None:
        if not {"image_id", "category_id"} <= item.keys():
            return item  # a category, an image, or something in an annotation
        if not item.get("iscrowd"):
            pairs.append(classes.setdefault(item["category_id"], len(classes)))
            pairs.append(images.setdefault(item["image_id"], len(images)))
        return None

    dataset = read_json(path, count)
    if not isinstance(dataset, dict) or not {"categories", "annotations"} <= dataset.keys():
        raise ValueError(f"{path} is not in COCO format with 'categories' and 'annotations'.")
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    per_image = np.unique(table[:, 0] * max(1, len(images)) + table[:, 1]) // max(1, len(images))
    counts = (np.bincount(x, minlength=len(classes)).tolist() for x in (per_image, table[:, 0]))
    by_id = [dict(zip(classes, values, strict=True)) for values in counts]
    return {c["id"]: c["name"] for c in dataset["categories"]}, by_id[0], by_id[1]


def buckets(images: np.ndarray) -> np.ndarray:
    """(K,) index into `BUCKETS` of classes with (K,) training images."""
    return np.searchsorted(_LIMITS, images, side="left")


def bucket_means(ap: np.ndarray, images: np.ndarray) -> dict[str, float]:
    """APr, APc and APf, the mean AP of the tested classes of a bucket; NaN if there is none.

    Args:
        ap: (K,), NaN for classes that are not tested.
        images: (K,) training images.
    """
    means = {}
    for index, name in enumerate(BUCKETS[1:], start=1):
        tested = ap[(buckets(images) == index) & ~np.isnan(ap)]
        means[f"AP{name[0]}"] = float(tested.mean()) if len(tested) else float("nan")
    return means


def group_row(group: str, scores: np.ndarray) -> tuple[Any, ...]:
    """(group, how many classes, *METRICS) from the `(K', 3)` scores of the classes of a group."""
    tested = scores[~np.isnan(scores[:, 0])]
    mean = tested.mean(axis=0) if len(tested) else np.full(len(METRICS), np.nan)
    count = f"{len(tested)}" if len(tested) == len(scores) else f"{len(tested)} of {len(scores)}"
    return (group, count, *map(float, mean))


def write_class_table(
    path: str, truth: GroundTruth, scores: np.ndarray, train: np.ndarray | None
) -> None:
    """Writes a CSV file with one row per class; AP, AP50 and AR are empty for one not tested.

    Args:
        path: the file.
        truth: the test set, with objects. Crowds do not count as test images or instances.
        scores: (K, 3) percentages.
        train: (K, 2) images and instances; None leaves these cells and the bucket empty.
    """
    test = _test_counts(truth)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for k, (category_id, name) in enumerate(zip(truth.category_ids, truth.names, strict=True)):
            seen = ("", "", "")
            if train is not None:
                seen = (BUCKETS[buckets(train[k, 0])], *train[k])
            values = ["" if np.isnan(s) else f"{s:.4f}" for s in scores[k]]
            writer.writerow((category_id, name, *seen, *test[k], *values))


def _test_counts(truth: GroundTruth) -> np.ndarray:
    """(K, 2) int64, images and instances."""
    objects = truth.objects
    assert objects is not None
    num_images, num_classes = len(truth.image_ids), len(truth.category_ids)
    kept = ~objects.crowds
    classes = objects.classes[kept]
    pairs = np.unique(classes * num_images + objects.images[kept])
    return np.stack(
        [np.bincount(x, minlength=num_classes) for x in (pairs // num_images, classes)], axis=1
    )

"""What is wrong or odd in the keypoints of a data set in COCO format.

An object has `keypoints`, [x1, y1, v1, x2, ...], for K names of its category: v is 0 for a point
that is not labelled, 1 for one that is hidden, 2 for one that can be seen. `num_keypoints` is the
number of v > 0. Places are in pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from .annotations import SLACK, image_sizes
from .findings import Finding, found


def keypoint_findings(dataset: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong or odd in keypoints; nothing if there are none.

    Args:
        dataset: the content of the JSON file, without `type_findings`.
    """
    annotations, categories = dataset.get("annotations", []), dataset["categories"]
    owners = [item for item in annotations if item.get("keypoints")]
    named = [category for category in categories if category.get("keypoints")]
    if not owners and not named:
        return
    yield from _of_categories(named)

    sizes = {c["id"]: len(c["keypoints"]) for c in named if isinstance(c["keypoints"], list)}
    lengths = Counter(len(a["keypoints"]) // 3 for a in owners if isinstance(a["keypoints"], list))
    usual = lengths.most_common(1)[0][0] if lengths else 0
    wanted = [sizes.get(item.get("category_id"), usual) for item in owners]
    fits = [_fits(a["keypoints"], size) for a, size in zip(owners, wanted, strict=True)]
    yield from found(
        "problem",
        [pair for pair, fit in zip(zip(owners, wanted, strict=True), fits, strict=True) if not fit],
        "annotation{s} whose 'keypoints' are not three finite numbers for each of its category",
        "loading or training fails",
        lambda pair: f"{_label(pair[0])}: {_count(pair[0])} numbers instead of {3 * pair[1]}",
    )
    yield from found(
        "warning",
        [a for a in annotations if not a.get("keypoints") and not a.get("iscrowd")],
        "annotation{s} without 'keypoints', while others or their names are there",
        "models with keypoints cannot be trained on images that have both kinds",
        _label,
    )
    yield from _of_points(dataset, [a for a, fit in zip(owners, fits, strict=True) if fit])


def _of_categories(named: list[Mapping[str, Any]]) -> Iterator[Finding]:
    """Of names and lines between them."""
    yield from found(
        "warning",
        [category for category in named if not is_list_of_names(category["keypoints"])],
        "class{es} whose 'keypoints' are not a list of different names",
        "pictures and the mirror need the names",
        lambda category: f"{category['name']!r}",
    )
    good = [category for category in named if is_list_of_names(category["keypoints"])]
    yield from found(
        "warning",
        [c for c in good if not is_skeleton(c.get("skeleton", []), len(c["keypoints"]))],
        "class{es} whose 'skeleton' is not a list of pairs of numbers from 1 to that of keypoints",
        "its lines cannot be drawn",
        lambda category: f"{category['name']!r}",
    )
    if len({len(category["keypoints"]) for category in good}) > 1:
        yield from found(
            "problem",
            good,
            "class{es} that differ in their number of keypoints",
            "Detectron2 has one number for all, MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS",
            lambda category: f"{category['name']!r} {len(category['keypoints'])}",
        )


def _of_points(dataset: Mapping[str, Any], owners: list[Mapping[str, Any]]) -> Iterator[Finding]:
    """Of places and visibility.

    Args:
        dataset: as above.
        owners: annotations with three finite numbers for each keypoint.
    """
    if not owners:
        return
    flat = chain.from_iterable(a["keypoints"] for a in owners)
    points = np.fromiter(flat, np.float64).reshape(-1, 3)
    of = np.repeat(np.arange(len(owners)), [len(a["keypoints"]) // 3 for a in owners])
    extent_of = dict(
        zip((i.get("id") for i in dataset["images"]), image_sizes(dataset["images"]), strict=True)
    )
    nowhere = np.full(2, math.nan)  # neither inside nor outside
    extents = np.array([extent_of.get(a.get("image_id"), nowhere) for a in owners])[of]
    place, visible = points[:, :2], points[:, 2]

    def label(row: int) -> str:
        number = row - int(np.searchsorted(of, of[row])) + 1
        x, y, v = points[row]
        return f"{_label(owners[of[row]])}, keypoint {number} [{x:g}, {y:g}, {v:g}]"

    yield from found(
        "warning",
        np.flatnonzero(~np.isin(visible, (0, 1, 2))),
        "keypoint{s} with a visibility that is none of 0, 1, 2",
        "all above 0 count as labelled, the others as not labelled",
        label,
    )
    outside = ((place < -SLACK) | (place > extents + SLACK)).any(axis=1)
    yield from found(
        "warning",
        np.flatnonzero((visible > 0) & outside),
        "labelled keypoint{s} more than 1 pixel outside the image",
        "training leaves them out, the evaluation does not",
        label,
    )
    yield from found(
        "fact",
        np.flatnonzero((visible == 0) & place.any(axis=1)),
        "keypoint{s} of visibility 0 with a place",
        "the place is not used",
        label,
    )
    labelled = np.bincount(of, visible > 0, len(owners)).astype(int)
    yield from _of_counts(owners, labelled.tolist())


def _of_counts(owners: list[Mapping[str, Any]], labelled: list[int]) -> Iterator[Finding]:
    pairs = list(zip(owners, labelled, strict=True))
    yield from found(
        "problem",
        [owner for owner in owners if "num_keypoints" not in owner],
        "annotation{s} with 'keypoints' and without 'num_keypoints'",
        "the evaluation of keypoints stops with KeyError 'num_keypoints'",
        _label,
    )
    wrong = [(a, n) for a, n in pairs if a.get("num_keypoints", n) != n]
    for level, differs, advice in (
        ("problem", True, "the evaluation of keypoints leaves out the objects of which it is 0"),
        ("warning", False, "count the keypoints of visibility > 0"),
    ):
        yield from found(
            level,
            [(a, n) for a, n in wrong if (not a["num_keypoints"] or not n) == differs],
            "annotation{s} with a 'num_keypoints' that is not the number of labelled keypoints",
            advice,
            lambda pair: f"{_label(pair[0])}: {pair[0]['num_keypoints']!r} instead of {pair[1]}",
        )


def _label(annotation: Mapping[str, Any]) -> str:
    return f"annotation {annotation.get('id')} of image {annotation.get('image_id')}"


def _count(annotation: Mapping[str, Any]) -> int | str:
    keypoints = annotation["keypoints"]
    return len(keypoints) if isinstance(keypoints, list) else "no"


def _fits(keypoints: Any, size: int) -> bool:
    if not isinstance(keypoints, list) or len(keypoints) != 3 * size:
        return False
    return all(type(value) in (int, float) and math.isfinite(value) for value in keypoints)


def is_list_of_names(names: Any) -> bool:
    """Whether all are texts, and different."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return False
    return len(set(names)) == len(names)


def is_skeleton(lines: Any, size: int) -> bool:
    """Whether these are pairs of numbers from 1 to `size`."""
    return isinstance(lines, list) and all(
        isinstance(line, list)
        and len(line) == 2
        and all(type(end) is int and 1 <= end <= size for end in line)
        for line in lines
    )

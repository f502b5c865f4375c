"""The one list of what is wrong or odd in a JSON file in COCO format; no image is read.

The check of a run and `tools/check_dataset.py` both ask `coco_findings`. A finding of level
"problem" makes loading or the evaluation fail, or its results wrong. What public data sets have a
few of, such as boxes without an area, is a "warning". The format is in `coco_format`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from .annotations import image_sizes, read_table, row_label
from .boxes import box_findings
from .findings import Finding, found
from .keypoints import keypoint_findings
from .masks import mask_findings
from .names import can_be_a_file

# Detectron2 sorts and compares the ids, and the evaluation puts those of annotations into arrays.
_NUMBERS = frozenset((int, float))
_LARGEST = 2**63  # ids are below it
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
_Items = Sequence[Mapping[str, Any]]


class _Rule(NamedTuple):
    """A value that must not be in an item of a list."""

    key: str
    default: Any  # where the key is missing
    is_bad: Callable[[Any], bool]
    level: str
    what: str  # behind "2 annotations"
    advice: str


# fmt: off
_IMAGE_RULES = tuple(
    _Rule(key, 1, lambda value: not is_number(value) or value <= 0, "problem",
          f"with a {key} that is not > 0", "Detectron2 refuses the image")
    for key in ("width", "height")
) + (
    _Rule("file_name", "", lambda value: not can_be_a_file(value), "problem",
          "with a 'file_name' that no file can have", "loading fails"),
)
_ANNOTATION_RULES = (
    _Rule("id", 1, lambda value: value == 0, "problem", "with id 0",
          "COCO's evaluation reads 0 as 'not matched', so perfect detections score less than AP "
          "100; number annotations from 1"),
    _Rule("bbox", None, lambda value: not is_box(value), "problem",
          "without a 'bbox' of four finite numbers [x, y, width, height]",
          "loading or training fails"),
    _Rule("bbox", None, lambda value: is_box(value) and min(value[2:]) <= 0, "warning",
          "with a box of width or height <= 0",
          "training leaves it out, and in the evaluation it is an object that cannot be found"),
    _Rule("area", 0, lambda value: not is_number(value) or value < 0, "problem",
          "with an 'area' that is not a number >= 0",
          "the evaluation sorts objects by it: give width * height, or the area of the mask"),
    _Rule("ignore", 0, lambda value: value != 0, "problem", "with 'ignore' set",
          "Detectron2 refuses to load them: take them out, or set 'iscrowd'"),
    _Rule("iscrowd", 0, lambda value: value not in (0, 1), "warning",
          "with an 'iscrowd' that is neither 0 nor 1",
          "all but 0 count as crowds, which are not trained on and not counted as missed"),
)
# fmt: on


def coco_findings(dataset: Mapping[str, Any]) -> list[Finding]:
    """What is wrong or odd in the content of a JSON file.

    Returns:
        one finding per kind; if the file cannot be read at all, only why.
    """
    structure = structure_problem(dataset)
    if structure:
        return [Finding("problem", structure)]
    unusable = type_findings(dataset)
    if unusable:
        return unusable
    table = read_table(dataset)
    sizes, label = image_sizes(dataset["images"]), row_label(dataset, table)
    names = [c["name"] for c in sorted(dataset["categories"], key=lambda c: c["id"])]
    return [
        *_category_findings(dataset["categories"]),
        *_item_findings(dataset),
        *mask_findings(dataset, table),
        *box_findings(table, sizes, label, names),
        *keypoint_findings(dataset),
    ]


def class_findings(
    dataset: Mapping[str, Any], json_file: str, classes: Sequence[str] | None
) -> list[Finding]:
    """Whether the categories of a JSON file are the classes of the registered data set.

    Args:
        dataset: the content of the file, which passed `read_coco`.
        json_file: the name of the file.
        classes: as registered; None if they are not known.
    """
    categories = sorted(dataset["categories"], key=lambda category: category["id"])
    if classes is None or list(classes) == [category["name"] for category in categories]:
        return []
    what = f"the categories in {json_file} are not the classes of the data set"
    advice = "take the JSON file that belongs to the data set, or make it again"
    return [Finding("problem", what, advice=advice)]


def structure_problem(dataset: Any) -> str | None:
    """Why `dataset` cannot be read as COCO format at all, or None."""
    if not isinstance(dataset, Mapping) or not {"images", "categories"} <= dataset.keys():
        return "This is not in COCO format: it must be an object with 'images' and 'categories'."
    for key in ("images", "categories", "annotations"):
        items = dataset.get(key, [])
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            return f"This is not in COCO format: '{key}' must be a list of objects."
    categories = dataset["categories"]
    if not categories:
        return "There are no categories, so there is nothing to detect."
    incomplete = [c for c in categories if not {"id", "name"} <= c.keys()]
    if incomplete:
        return f"Every category must have 'id' and 'name', but {incomplete[0]} has not."
    for finding in type_findings({"categories": categories}):
        return str(finding)
    repeated = _repeated(c["id"] for c in categories)
    if repeated:
        return f"Two categories have the id {repeated[0]!r}: one would silently replace the other."
    return None


def type_findings(dataset: Mapping[str, Any]) -> list[Finding]:
    """Ids and names that Detectron2 cannot work with, and neither can the other findings.

    Args:
        dataset: the content of the JSON file, which passed `read_coco`.
    """
    findings = []
    for key, field, allowed in _TYPES:
        values = [item[field] for item in dataset.get(key, []) if field in item]
        types = set(map(type, values))
        wanted = " or all ".join("texts" if str in kinds else "numbers" for kinds in allowed)
        other = ""
        if not any(types <= kinds for kinds in allowed):
            other = ", ".join(sorted(kind.__name__ for kind in types))
        elif float in types and not all(map(math.isfinite, values)):
            other = "one that is not finite"
        elif types <= _NUMBERS and max(map(abs, values), default=0) >= _LARGEST:
            other = "one above 64 bits"
        if other:
            what = f"'{field}' in '{key}' must be all {wanted}, found {other}"
            findings.append(Finding("problem", what))
    return findings


def _category_findings(categories: _Items) -> Iterator[Finding]:
    for name, count in Counter(category["name"] for category in categories).items():
        if count > 1:
            what = f"{count} categories are called {name!r}"
            advice = "their results are reported under one name, the last one's"
            yield Finding("problem", what, advice=advice)
    ids = [category["id"] for category in categories]
    if ids != list(range(1, len(ids) + 1)):
        what = f"the category ids are not 1 to {len(ids)} in this order"
        advice = "Detectron2 numbers the classes 0, 1, ... by ascending id"
        yield Finding("fact", what, advice=advice)


def _item_findings(dataset: Mapping[str, Any]) -> Iterator[Finding]:
    """Of images and annotations: keys that are missing, ids given twice, values."""
    images, annotations = dataset["images"], dataset.get("annotations", [])
    for key in ("id", "file_name", "width", "height"):
        yield from _missing("image", images, key, "loading fails")
    for key in ("id", "area", "iscrowd"):
        yield from _missing(
            "annotation", annotations, key, f"evaluation stops with KeyError '{key}'"
        )
    yield from _given_twice("image", images, "the later image silently replaces the earlier one")
    yield from _given_twice("annotation", annotations, "loading fails")
    known = {of: {item.get("id") for item in dataset[of]} for of in ("categories", "images")}
    pointers = (
        _Rule("category_id", None, lambda value: value not in known["categories"], "problem",
              "with a category_id that is not in 'categories'", "loading fails"),
        _Rule("image_id", None, lambda value: value not in known["images"], "problem",
              "with an image_id that is not in 'images'", "silently left out"),
    )  # fmt: skip
    for noun, items, rules in (
        ("image", images, _IMAGE_RULES),
        ("annotation", annotations, _ANNOTATION_RULES + pointers),
    ):
        for rule in rules:
            bad = [item for item in items if rule.is_bad(item.get(rule.key, rule.default))]
            label = partial(_label, key=rule.key)
            yield from found(rule.level, bad, f"{noun}{{s}} {rule.what}", rule.advice, label)


def _missing(noun: str, items: _Items, key: str, advice: str) -> list[Finding]:
    bad = [item for item in items if key not in item]
    return found("problem", bad, f"{noun}{{s}} without '{key}'", advice, _label)


def _given_twice(noun: str, items: _Items, advice: str) -> list[Finding]:
    ids = _repeated(item.get("id") for item in items)
    return found("problem", ids, f"{noun} id{{s}} given twice", advice, "id {!r}".format)


def _label(item: Mapping[str, Any], key: str = "id") -> str:
    value = f" with {key} {item[key]!r}" if key != "id" and key in item else ""
    return f"id {item.get('id')!r}{value}"


def _repeated(values: Iterable[Any]) -> list[Any]:
    """The values that occur more than once."""
    return [value for value, count in Counter(values).items() if count > 1 and value is not None]


def is_number(value: Any) -> bool:
    """Whether it is a number, and finite."""
    return isinstance(value, int | float) and math.isfinite(value)


def is_box(box: Any) -> bool:
    """Whether it is a list of four finite numbers."""
    return isinstance(box, list | tuple) and len(box) == 4 and all(map(is_number, box))

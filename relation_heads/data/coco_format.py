"""Any folder in COCO format as a data set, and the traps of the format that nobody names.

    RELATION_HEADS_DATASETS="birds_train=birds/train.json,birds/images;birds_val=..."

registers data sets when `relation_heads` is imported, hence in spawned worker processes as well.
Class names are read at once, images and annotations when Detectron2 asks for them. The format
(https://cocodataset.org/#format-data), lengths in pixels:

    {"images": [{id, file_name, width, height}], "categories": [{id, name}],
     "annotations": [{id, image_id, category_id, bbox: [x, y, width, height], area, iscrowd}]}
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

ENV_VARIABLE = "RELATION_HEADS_DATASETS"
_SIZE = ("width", "height")


def coco_problems(dataset: Mapping[str, Any]) -> list[str]:
    """What is wrong with a data set in COCO format.

    Args:
        dataset: the content of the JSON file.

    Returns:
        one sentence per kind of problem, with how many there are and the id of the first: the
        severe ones, then those about boxes without an area.
    """
    severe = severe_coco_problems(dataset)
    return severe if _structure_problem(dataset) else [*severe, *empty_box_problems(dataset)]


def severe_coco_problems(dataset: Mapping[str, Any]) -> list[str]:
    """The part of `coco_problems` that spoils an evaluation."""
    structure = _structure_problem(dataset)
    if structure:
        return [structure]
    images, annotations = dataset["images"], dataset.get("annotations", [])
    category_ids = {category["id"] for category in dataset["categories"]}
    return [
        *_category_problems(dataset["categories"]),
        *_image_problems(images),
        *_annotation_problems(annotations, {image.get("id") for image in images}, category_ids),
        *_box_problems(annotations),
    ]


def empty_box_problems(dataset: Mapping[str, Any]) -> list[str]:
    """The part of `coco_problems` that is about boxes without an area; public data sets have a few.

    Args:
        dataset: the content of the JSON file.
    """
    return _sentence(
        [
            annotation.get("id")
            for annotation in dataset.get("annotations", [])
            if _is_box(annotation.get("bbox")) and min(annotation["bbox"][2:]) <= 0
        ],
        "annotation{s} with a box of width or height <= 0",
        "training leaves it out, and in the evaluation it is an object that cannot be found",
    )


def datasets_root() -> str:
    """The root of all data sets: `$DETECTRON2_DATASETS`, else `datasets` where the program runs."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def read_coco(json_file: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a JSON file in COCO format.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON or not in COCO format; names the file and says what is missing.
    """
    with open(json_file, encoding="utf-8") as file:
        try:
            dataset = json.load(file)
        except ValueError as error:  # also what is not UTF-8
            raise ValueError(f"{json_file} is not a JSON file: {error}.") from None
    problem = _structure_problem(dataset)
    if problem:
        raise ValueError(f"{json_file}: {problem}")
    return dataset


def class_names(dataset: Mapping[str, Any]) -> list[str]:
    """Class names in the order of the category ids, as Detectron2 numbers them from 0."""
    return [c["name"] for c in sorted(dataset["categories"], key=lambda c: c["id"])]


def register_coco_folder(name: str, json_file: str, image_root: str) -> None:
    """Registers a data set in COCO format; does nothing if it is registered already.

    Args:
        name: for `DATASETS.TRAIN` and `DATASETS.TEST`.
        json_file: annotations.
        image_root: folder that `file_name` of the images is relative to. In both paths `~` is
            expanded; a relative one is looked up where the program runs, then in `datasets_root()`.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: the file is not in COCO format, or `name` stands for other files already.
    """
    json_file = find_path(json_file, os.path.isfile)
    image_root = find_path(image_root, os.path.isdir)
    metadata = MetadataCatalog.get(name)
    if name in DatasetCatalog:
        _check_same(metadata.as_dict(), json_file, image_root)
        return
    dataset = read_coco(json_file)
    ids = sorted(category["id"] for category in dataset["categories"])
    metadata.set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        # `load_coco_json` sets these two again, and asserts that they are equal.
        thing_classes=class_names(dataset),
        thing_dataset_id_to_contiguous_id={category_id: k for k, category_id in enumerate(ids)},
    )
    DatasetCatalog.register(name, partial(load_coco_json, json_file, image_root, name))


def register_from_env() -> list[str]:
    """Registers the entries `name=annotations.json,image_folder` of `RELATION_HEADS_DATASETS`.

    Entries are separated by `;`.

    Returns:
        their names.

    Raises:
        ValueError: an entry is malformed or cannot be registered; names the variable and the entry.
    """
    names = []
    for entry in filter(None, (e.strip() for e in os.getenv(ENV_VARIABLE, "").split(";"))):
        name, _, paths = entry.partition("=")
        parts = [part.strip() for part in (name, *paths.split(","))]
        if len(parts) != 3 or not all(parts):
            raise ValueError(
                f"{ENV_VARIABLE}: {entry!r} must have the form name=annotations.json,image_folder."
            )
        try:
            register_coco_folder(*parts)
        except (OSError, ValueError) as error:
            raise ValueError(f"{ENV_VARIABLE}: {entry!r} cannot be registered: {error}") from error
        names.append(parts[0])
    return names


def find_path(path: str, exists: Callable[[str], bool]) -> str:
    """The absolute form of `path`, see `register_coco_folder`."""
    path = os.path.expanduser(path)
    candidates = [os.path.abspath(os.path.join(root, path)) for root in ("", datasets_root())]
    for candidate in candidates:
        if exists(candidate):
            return candidate
    kind = "file" if exists is os.path.isfile else "folder"
    places = " and no ".join(dict.fromkeys(candidates))
    raise FileNotFoundError(f"There is no {kind} {places} (DETECTRON2_DATASETS sets the root).")


def _check_same(metadata: Mapping[str, Any], json_file: str, image_root: str) -> None:
    known = metadata.get("json_file"), metadata.get("image_root")
    if tuple(os.path.abspath(p) if p else p for p in known) != (json_file, image_root):
        raise ValueError(
            f"The data set {metadata['name']!r} is registered already, with {known[0]} and "
            f"{known[1]} instead of {json_file} and {image_root}: choose another name."
        )


def _structure_problem(dataset: Any) -> str | None:
    """Why `dataset` cannot be read as COCO format at all, or None."""
    lists = ("images", "categories", "annotations")
    if not isinstance(dataset, Mapping) or not {"images", "categories"} <= dataset.keys():
        return "This is not in COCO format: it must be an object with 'images' and 'categories'."
    for key in lists:
        items = dataset.get(key, [])
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            return f"This is not in COCO format: '{key}' must be a list of objects."
    categories = dataset["categories"]
    if not categories:
        return "There are no categories, so there is nothing to detect."
    incomplete = [c for c in categories if not {"id", "name"} <= c.keys()]
    if incomplete:
        return f"Every category must have 'id' and 'name', but {incomplete[0]} has not."
    repeated = _repeated([c["id"] for c in categories])
    if repeated:
        return f"Two categories have the id {repeated[0]!r}: one would silently replace the other."
    return None


def _sentence(found: Sequence[Any], what: str, consequence: str) -> list[str]:
    """E.g. "2 annotations without 'area', the first with id 7: ..."; `{s}` is for the plural."""
    if not found:
        return []
    counted = what.format(s="" if len(found) == 1 else "s")
    return [f"{len(found)} {counted}, the first with id {found[0]!r}: {consequence}."]


def _repeated(values: Sequence[Any]) -> list[Any]:
    """The values that occur more than once."""
    return [value for value, count in Counter(values).items() if count > 1 and value is not None]


def _without(items: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    return [item.get("id") for item in items if key not in item]


def _category_problems(categories: Sequence[Mapping[str, Any]]) -> list[str]:
    names = _repeated([category["name"] for category in categories])
    return [
        f"{sum(c['name'] == name for c in categories)} categories are called {name!r}: "
        "their results are reported under one name, the last one's."
        for name in names
    ]


def _image_problems(images: Sequence[Mapping[str, Any]]) -> list[str]:
    problems = _sentence(
        _repeated([image.get("id") for image in images]),
        "image id{s} given twice",
        "the later image silently replaces the earlier one",
    )
    for key in ("id", "file_name", "width", "height"):
        problems += _sentence(_without(images, key), f"image{{s}} without '{key}'", "loading fails")
    sizes = [
        image.get("id")
        for image in images
        if not all(_is_number(image.get(key, 1)) and image.get(key, 1) > 0 for key in _SIZE)
    ]
    return problems + _sentence(
        sizes, "image{s} with a width or height that is not > 0", "Detectron2 refuses the image"
    )


def _annotation_problems(
    annotations: Sequence[Mapping[str, Any]], image_ids: set[Any], category_ids: set[Any]
) -> list[str]:
    ids = [annotation.get("id") for annotation in annotations]
    problems = _sentence(
        [i for i in ids if i == 0],
        "annotation{s} with id 0",
        "COCO's evaluation reads 0 as 'not matched', so perfect detections score less than AP 100; "
        "number annotations from 1",
    )
    problems += _sentence(_repeated(ids), "annotation id{s} given twice", "loading fails")
    for key in ("id", "area", "iscrowd"):
        what = f"annotation{{s}} without '{key}'"
        problems += _sentence(
            _without(annotations, key), what, f"evaluation stops with KeyError '{key}'"
        )
    unknown = [a for a in annotations if a.get("category_id") not in category_ids]
    problems += _sentence(
        [a.get("id") for a in unknown],
        "annotation{s} with a category_id that is not in 'categories'",
        f"loading fails (category_id {unknown[0].get('category_id')!r})" if unknown else "",
    )
    lost = [a for a in annotations if a.get("image_id") not in image_ids]
    return problems + _sentence(
        [a.get("id") for a in lost],
        "annotation{s} with an image_id that is not in 'images'",
        f"silently left out (image_id {lost[0].get('image_id')!r})" if lost else "",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_box(box: Any) -> bool:
    return isinstance(box, list | tuple) and len(box) == 4 and all(map(_is_number, box))


def _box_problems(annotations: Sequence[Mapping[str, Any]]) -> list[str]:
    return _sentence(
        [a.get("id") for a in annotations if not _is_box(a.get("bbox"))],
        "annotation{s} without a 'bbox' of four finite numbers [x, y, width, height]",
        "loading or training fails",
    )

"""Any folder in COCO format as a data set.

    RELATION_HEADS_DATASETS="birds_train=birds/train.json,birds/images;birds_val=..."

registers data sets when `relation_heads` is imported, hence in spawned worker processes as well.
Class names are read at once, images and annotations when Detectron2 asks for them. The format
(https://cocodataset.org/#format-data), lengths in pixels:

    {"images": [{id, file_name, width, height}], "categories": [{id, name, keypoints, skeleton}],
     "annotations": [{id, image_id, category_id, bbox: [x, y, width, height], area, iscrowd}]}
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from .checks.format import coco_findings, is_box, structure_problem
from .checks.keypoints import is_list_of_names, is_skeleton
from .files import read_json

logger = logging.getLogger(__name__)

ENV_VARIABLE = "RELATION_HEADS_DATASETS"
_LINE_COLOUR = (255, 128, 0)  # RGB, of lines between keypoints in pictures


def datasets_root() -> str:
    """The root of all data sets: `$DETECTRON2_DATASETS`, else `datasets` where the program runs."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def read_coco(json_file: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a JSON file in COCO format.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON or not in COCO format; names the file and says what is missing.
    """
    dataset = read_json(json_file)
    problem = structure_problem(dataset)
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
        **keypoint_metadata(dataset),
    )
    DatasetCatalog.register(name, partial(load_coco, json_file, image_root, name))


def load_coco(json_file: str, image_root: str, name: str) -> list[dict[str, Any]]:
    """`load_coco_json` of Detectron2.

    Raises:
        ValueError: it fails, or loads boxes that are none; says what is wrong with the file, by the
            rules of `coco_findings`.
    """
    try:
        records = load_coco_json(json_file, image_root, name)
        if not all(is_box(o["bbox"]) for record in records for o in record["annotations"]):
            raise ValueError(f"{json_file}: a 'bbox' must have four finite numbers.")
        return records
    except Exception as error:  # pycocotools and Detectron2 stumble over anything
        for finding in coco_findings(read_coco(json_file)):
            if finding.level == "problem":
                raise ValueError(f"{json_file}: {finding}") from error
        raise


def keypoint_metadata(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What Detectron2 must know of keypoints, from `keypoints` and `skeleton` of the categories.

    A mirrored image has `right_eye` where `left_eye` was: the names in `keypoint_flip_map` differ
    in these words alone.

    Args:
        dataset: the content of a JSON file, which passed `read_coco`.

    Returns:
        keypoint_names, keypoint_flip_map and keypoint_connection_rules; nothing without keypoints,
        if two categories have other ones, or if they are no list of different names.
    """
    named = [category for category in dataset["categories"] if category.get("keypoints")]
    if not named or any(c["keypoints"] != named[0]["keypoints"] for c in named):
        return {}
    names, skeleton = named[0]["keypoints"], named[0].get("skeleton", [])
    if not is_list_of_names(names):
        return {}
    mirrored = ((name, name.replace("left", "right")) for name in names)
    lines = skeleton if is_skeleton(skeleton, len(names)) else []
    return {
        "keypoint_names": names,
        "keypoint_flip_map": [(a, b) for a, b in mirrored if a != b and b in names],
        "keypoint_connection_rules": [(names[a - 1], names[b - 1], _LINE_COLOUR) for a, b in lines],
    }


def register_from_env() -> list[str]:
    """Registers the entries `name=annotations.json,image_folder` of `RELATION_HEADS_DATASETS`.

    Entries are separated by `;`. It runs when the package is imported, so an entry that is
    malformed or cannot be registered ends nothing: a warning names it, and who uses its data set is
    told that it is not registered.

    Returns:
        the names of the others.
    """
    names = []
    for entry in filter(None, (e.strip() for e in os.getenv(ENV_VARIABLE, "").split(";"))):
        name, _, paths = entry.partition("=")
        parts = [part.strip() for part in (name, *paths.split(","))]
        try:
            if len(parts) != 3 or not all(parts):
                raise ValueError("it must have the form name=annotations.json,image_folder.")
            register_coco_folder(*parts)
        except (OSError, ValueError) as error:
            logger.warning(f"{ENV_VARIABLE}: {entry!r} is not registered: {error}")
        else:
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

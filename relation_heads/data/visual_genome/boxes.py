"""The objects of Visual Genome as boxes with one synset each, and COCO files made of them.

`objects.json` is a list of `{"image_id", "objects": [{"object_id", "x", "y", "w", "h", "names",
"synsets", "merged_object_ids"}]}`. An object is kept if it has exactly one synset, which is its
label (Jiang et al., "Hybrid Knowledge Routed Modules", NeurIPS 2018), and if at least one pixel of
its box is in the image of W x H pixels:

    x1 = max(x, 0), x2 = min(x + w, W);  y1, y2 likewise;  the box is (x1, y1, x2 - x1, y2 - y1)

The box is clipped before it is measured: with x alone set to 0 a box would grow to the right. A
name can be the label instead (`label="names"`): half of the objects have no synset.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..files import replacing
from ..json_records import read_records
from .images import Photo, Tally, Watch, image_id_of

Box = tuple[float, float, float, float]  # x, y, width, height
Parts: TypeAlias = Callable[[Any], list[Any]]

# Why an image is left out.
NO_RECORD = "no record in objects.json"
NO_OBJECTS = "record in objects.json without a list 'objects'"
# Why an object is left out; of the first three all objects of a record are.
NO_IMAGE = "its image is not in image_data.json"
OF_LEFT_OUT = "its image is left out"
REPEATED_RECORD = "its image had an earlier record in objects.json"
NOT_AN_OBJECT = "not a JSON object"
NO_SYNSET, NO_NAME = "no synset", "no name"
SEVERAL_SYNSETS, SEVERAL_NAMES = "several synsets", "several names"
BAD_LABEL = "synset or name with a line break or half a character"
NO_BOX = "x, y, w, h are not four numbers"
EMPTY = "w or h is not > 0"
OUTSIDE = "box is outside the image"
THIN = "less than a pixel of the box is in the image"
REPEATED_ID = "object_id of an earlier box of the image"
REPEATED_BOX = "box and synset of an earlier box of the image"
# What is mended.
CLIPPED = "box clipped to the image"
NO_OBJECT_ID = "no object_id, so only its box tells whether it is repeated"

_REASONS = {"synsets": (NO_SYNSET, SEVERAL_SYNSETS), "names": (NO_NAME, SEVERAL_NAMES)}
_NOT_A_LINE = re.compile("[\n-\r\x1c-\x1e\x85\u2028\u2029\ud800-\udfff]")
_FARTHEST = 1e9  # pixels; also excludes NaN
_ROWS = 1 << 14  # turned into text at once


@dataclass(frozen=True)
class Boxes:
    """All objects that are kept, n of them, in the order of the file.

    image_ids: (n,) int64. labels: (n,) int32, the index in `synsets`. boxes: (n, 4) float64,
    x, y, width, height in pixels. synsets: or names, see `read_boxes`. num_objects: read from the
    file, kept or not.
    """

    image_ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    synsets: list[str]
    num_objects: int


class _Collector:
    """Boxes in 44 bytes each; as Python objects 3.8 million would need gigabytes."""

    def __init__(self, left_out: Tally, mended: Tally, label: str, parts: Parts | None) -> None:
        self.left_out, self.mended, self.label, self.parts = left_out, mended, label, parts
        self.image_ids, self.labels, self.boxes = array("q"), array("i"), array("d")
        self.index: dict[str, int] = {}  # of a synset
        self.num_objects = 0

    def add_image(self, photo: Photo, objects: Iterable[Any]) -> None:
        seen: set[Any] = set()  # ids and (synset, box)
        for position, item in enumerate(objects):
            parts = self.parts(item) if self.parts else [item]
            self.num_objects += len(parts) - 1
            for number, part in enumerate(parts):
                self._add(photo, position, part, seen, is_first=number == 0)

    def _add(
        self, photo: Photo, position: int, item: Any, seen: set[Any], *, is_first: bool
    ) -> None:
        parsed = parse_object(item, photo.width, photo.height, self.label)
        if not isinstance(parsed, str):
            object_id = item.get("object_id") if is_first else None  # the others have the same
            parsed = self._without_repeated(parsed, object_id, seen)
        if isinstance(parsed, str):
            self.left_out.add(parsed, _where(photo, position, item))
            return
        synset, box = parsed
        if box != (item["x"], item["y"], item["w"], item["h"]):
            self.mended.add(CLIPPED, _where(photo, position, item))
        if type(item.get("object_id")) is not int:
            self.mended.add(NO_OBJECT_ID, _where(photo, position, item))
        self.image_ids.append(photo.image_id)
        self.labels.append(self.index.setdefault(synset, len(self.index)))
        self.boxes.extend(box)

    @staticmethod
    def _without_repeated(
        parsed: tuple[str, Box], object_id: Any, seen: set[Any]
    ) -> tuple[str, Box] | str:
        key = object_id if type(object_id) is int else None
        if key in seen:
            return REPEATED_ID
        if parsed in seen:
            return REPEATED_BOX
        seen.update((parsed,) if key is None else (parsed, key))
        return parsed

    def result(self) -> Boxes:
        return Boxes(
            np.frombuffer(self.image_ids, np.int64) if self.image_ids else np.empty(0, np.int64),
            np.frombuffer(self.labels, np.intc) if self.labels else np.empty(0, np.intc),
            (np.frombuffer(self.boxes) if self.boxes else np.empty(0)).reshape(-1, 4),
            list(self.index),
            self.num_objects,
        )


def parse_object(
    item: Any, width: int, height: int, label: str = "synsets"
) -> tuple[str, Box] | str:
    """Synset and clipped box of an object, or why it has none.

    Args:
        item: an item of `objects`.
        width: of the image, in pixels.
        height: likewise.
        label: the key of the label, "synsets" or "names"; the list there must have one item.
    """
    if not isinstance(item, Mapping):
        return NOT_AN_OBJECT
    labels = item.get(label)
    none, several = _REASONS[label]
    if not isinstance(labels, list) or not labels:
        return none
    if len(labels) > 1:
        return several
    if not isinstance(labels[0], str) or not labels[0]:
        return none
    if _NOT_A_LINE.search(labels[0]):  # classes are written a line each, in UTF-8
        return BAD_LABEL
    raw: Any = (item.get("x"), item.get("y"), item.get("w"), item.get("h"))
    if not all(type(v) in (int, float) and -_FARTHEST <= v <= _FARTHEST for v in raw):
        return NO_BOX
    x, y, w, h = raw
    if w <= 0 or h <= 0:
        return EMPTY
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if x2 <= x1 or y2 <= y1:
        return OUTSIDE
    if x2 - x1 < 1 or y2 - y1 < 1:
        return THIN
    inside = x1 == x and y1 == y and x2 == x + w and y2 == y + h
    return labels[0], (raw if inside else (x1, y1, x2 - x1, y2 - y1))


def _where(photo: Photo, position: int, item: Any) -> str:
    """E.g. `image 1, object 1058549 (trees)`; the key is `names` or `name`."""
    item = item if isinstance(item, Mapping) else {}
    names = item.get("names") or item.get("name") or "?"
    name = str(names[0] if isinstance(names, list) else names)[:40]
    return (
        f"image {photo.image_id}, object {item.get('object_id', f'at index {position}')} ({name})"
    )


def read_boxes(
    path: Path,
    photos: Mapping[int, Photo],
    left_out: Tally,
    mended: Tally,
    watch: Watch = iter,
    *,
    label: str = "synsets",
    parts: Parts | None = None,
) -> Boxes:
    """The objects of `objects.json` that have a box and one synset.

    Args:
        path: the file, read as a stream.
        photos: by id; those for which it has no objects are marked as left out.
        left_out: gets the objects that are not kept.
        mended: gets those that are kept though something was wrong.
        watch: is passed the records.
        label: see `parse_object`.
        parts: an object -> objects with one label each, which count as objects.

    Raises:
        OSError, ValueError: it cannot be read, or a record has no image id; names both.
    """
    collector = _Collector(left_out, mended, label, parts)
    without_record = set(photos)
    for number, record in enumerate(watch(read_records(path))):
        image_id = image_id_of(record, path, number)
        photo, objects = photos.get(image_id), record.get("objects")
        count = len(objects) if isinstance(objects, list) else 0
        collector.num_objects += count
        where = f"image {image_id}, record {number}, {count} objects"
        if photo is None:
            left_out.add(NO_IMAGE, where, count)
        elif image_id not in without_record:
            left_out.add(REPEATED_RECORD, where, count)
        elif photo.left_out:
            left_out.add(OF_LEFT_OUT, where, count)
        elif not isinstance(objects, list):
            photo.left_out = NO_OBJECTS
        else:
            collector.add_image(photo, objects)
        without_record.discard(image_id)
    for image_id in without_record:
        photos[image_id].left_out = photos[image_id].left_out or NO_RECORD
    return collector.result()


def count_synsets(boxes: Boxes, image_ids: Collection[int]) -> dict[str, int]:
    """How many boxes every synset has in these images, most frequent first and then by name."""
    inside = np.isin(boxes.image_ids, np.fromiter(image_ids, np.int64))
    counts = np.bincount(boxes.labels[inside], minlength=len(boxes.synsets)).tolist()
    pairs = zip(boxes.synsets, counts, strict=True)
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def select(boxes: Boxes, classes: Sequence[str], image_ids: Collection[int]) -> Boxes:
    """The boxes of these classes and images, by image id and else in the order of the file.

    Args:
        boxes: all of them.
        classes: K names; labels of the result are 0 .. K-1.
        image_ids: of a split.
    """
    index = {name: k for k, name in enumerate(classes)}
    labels = np.array([index.get(name, -1) for name in boxes.synsets], np.int32)[boxes.labels]
    inside = np.isin(boxes.image_ids, np.fromiter(image_ids, np.int64)) & (labels >= 0)
    rows = np.flatnonzero(inside)
    rows = rows[np.argsort(boxes.image_ids[rows], kind="stable")]
    ids = boxes.image_ids[rows]
    return Boxes(ids, labels[rows], boxes.boxes[rows], list(classes), len(rows))


def write_coco(path: Path, info: Mapping[str, Any], photos: Iterable[Photo], boxes: Boxes) -> None:
    """Writes a data set in COCO format, an image or annotation per line and as a stream.

    Args:
        path: the file; it appears when it is complete.
        info: of the data set.
        photos: its images.
        boxes: their boxes, see `select`; the label k becomes the category id k + 1.
    """
    categories = [{"id": k, "name": name} for k, name in enumerate(boxes.synsets, start=1)]
    with replacing(path) as file:
        file.write(f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)},\n')
        file.write('"images": [\n')
        file.writelines(_separated(map(_image_line, photos)))
        file.write('\n],\n"annotations": [\n')
        file.writelines(_separated(_annotation_lines(boxes)))
        file.write("\n]}\n")


def _separated(lines: Iterable[str]) -> Iterator[str]:
    separator = ""
    for line in lines:
        yield separator + line
        separator = ",\n"


def _image_line(photo: Photo) -> str:
    image = {"id": photo.image_id, "file_name": photo.file_name}
    size = {"width": photo.width, "height": photo.height}
    coco = {"coco_id": photo.coco_id} if photo.coco_id is not None and photo.coco_id >= 0 else {}
    return json.dumps({**image, **size, **coco})


def _annotation_lines(boxes: Boxes) -> Iterator[str]:
    for start in range(0, len(boxes.boxes), _ROWS):
        rows = slice(start, start + _ROWS)
        columns = (boxes.image_ids[rows], boxes.labels[rows] + 1, boxes.boxes[rows])
        items = zip(*(column.tolist() for column in columns), strict=True)
        for annotation_id, (image_id, category_id, (x, y, w, h)) in enumerate(items, start + 1):
            box = f"{_number(x)}, {_number(y)}, {_number(w)}, {_number(h)}"
            yield (
                f'{{"id": {annotation_id}, "image_id": {image_id}, "category_id": {category_id}, '
                f'"bbox": [{box}], "area": {_number(w * h)}, "iscrowd": 0}}'
            )


def _number(value: float) -> int | float:
    return int(value) if value.is_integer() else value

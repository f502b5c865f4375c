"""Three small sets of photographs with boxes, from public repositories.

- VOC-animals: 3,682 images of VOC2012 that show animals, with all boxes of the 20 classes.
- CamVid regions: 701 frames of street scenes; the connected regions of their masks, 11 classes.
- VG-500: 500 images of Visual Genome; the 150 most frequent names of objects.

`datasets/prepare_photos.py` makes them. datasets/README.md says where the images come from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..layers.arguments import first_few
from .files import read_text
from .visual_genome.boxes import count_synsets, read_boxes, select
from .visual_genome.images import Photo, Tally, decoded_size

VOC_GROUPS = {  # of the VOC challenge
    "person": ("person",),
    "animal": ("bird", "cat", "cow", "dog", "horse", "sheep"),
    "vehicle": ("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"),
    "indoor": ("bottle", "chair", "diningtable", "pottedplant", "sofa", "tvmonitor"),
}
VOC_CLASSES = tuple(sorted(name for names in VOC_GROUPS.values() for name in names))
CAMVID_CLASSES = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car",
    "Pedestrian", "Bicyclist",
)  # fmt: skip
MIN_REGION = 100  # pixels of a region of CamVid
VG_CLASSES = 150
VOC_NAMES = Path(__file__).parent / "vocabularies" / "voc_animals.txt"
# Images and boxes of every split.
COUNTS = {
    "voc_animals_train": (2467, 5283),
    "voc_animals_val": (1215, 2563),
    "camvid_train": (367, 10329),
    "camvid_val": (101, 2775),
    "camvid_test": (233, 7025),
    "vg500_train": (334, 6009),
    "vg500_val": (166, 2895),
}
# Classes and metadata of a set, by the start of its names. Those of VG-500 are counted.
METADATA: dict[str, dict[str, Any]] = {
    "voc_animals": {
        "thing_classes": list(VOC_CLASSES),
        "class_groups": {name: group for group, names in VOC_GROUPS.items() for name in names},
    },
    "camvid": {"thing_classes": list(CAMVID_CLASSES)},
    "vg500": {},
}

Object = tuple[int, Sequence[float]]  # class, and x1, y1, x2, y2


def prepare(args: argparse.Namespace) -> None:
    """What `datasets/prepare_photos.py` does with its arguments.

    Raises:
        FileNotFoundError: images, boxes or masks are missing.
        ValueError: the objects of Visual Genome cannot be read, or too few have a name.
    """
    found = {}
    if args.voc:
        found["voc_animals"] = ("voc", _voc(args.voc, args.voc_boxes), list(VOC_CLASSES))
    if args.camvid:
        found["camvid"] = ("camvid", _camvid(args.camvid), list(CAMVID_CLASSES))
    if args.vg:
        found["vg500"] = ("vg500", *_vg500(args.vg))
    for name, (folder, photos, classes) in found.items():
        for photo in photos:
            _place(photo["source"], args.output / folder / photo["file_name"], copy=args.copy)
        for split, coco in _coco(photos, classes).items():
            file = args.output / "annotations" / f"{name}_{split}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(coco, separators=(",", ":")), encoding="utf-8")
            images, boxes = counts = len(coco["images"]), len(coco["annotations"])
            expected = COUNTS[f"{name}_{split}"]
            verdict = "as it must be" if counts == expected else "NOT {} and {}".format(*expected)
            print(f"{file}: {images} images, {boxes} boxes, {verdict}")
        if "thing_classes" not in METADATA[name]:
            text = "".join(f"{label}\n" for label in classes)
            (args.output / f"{name}_classes.txt").write_text(text, encoding="utf-8")


def voc_split(file_name: str) -> str:
    """The split of a photograph of VOC: a third, by a hash of the name, is val."""
    return "train" if int(hashlib.md5(file_name.encode()).hexdigest(), 16) % 3 else "val"


def _voc(folders: Sequence[Path], boxes: Path) -> list[dict[str, Any]]:
    names = [f"{name}.jpg" for name in VOC_NAMES.read_text(encoding="utf-8").split()]
    sources = {name: _first(folders, name) for name in names}
    _require_all(sources, "photographs of VOC-animals", folders)
    objects = dict(read_voc_boxes(boxes))
    _require_all({name: objects.get(name) for name in names}, "lists of boxes", [boxes])
    return [
        {
            "id": int(Path(name).stem.replace("_", "")),
            "file_name": name,
            "split": voc_split(name),
            "source": source,
            "objects": objects[name],
        }
        for name, source in sources.items()
    ]


def read_voc_boxes(file: Path) -> Iterator[tuple[str, list[Object]]]:
    """Photographs and their objects, from a line `2007_000027.jpg 174 101 349 351 14` each: corners
    that count from 1, and the class, as often as there are objects."""
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        name, *words = line.split() or [""]
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        if not values or len(values) % 5:
            raise ValueError(
                f"{file}, line {number} must be the name of a photograph and five numbers for each "
                f"object, but it is {line!r}."
            )
        yield (
            name,
            [
                (int(values[k + 4]), (values[k] - 1, values[k + 1] - 1, *values[k + 2 : k + 4]))
                for k in range(0, len(values), 5)
            ],
        )


def _camvid(root: Path) -> list[dict[str, Any]]:
    photos: list[dict[str, Any]] = []
    for split in ("train", "val", "test"):
        masks = sorted((root / f"{split}annot").glob("*.png"))
        expected = COUNTS[f"camvid_{split}"][0]
        if len(masks) != expected:
            raise FileNotFoundError(
                f"{root / f'{split}annot'} must have the {expected} masks of CamVid's {split} "
                f"split, and has {len(masks)}: see datasets/README.md."
            )
        sources = {mask.name: _first([root / split], mask.name) for mask in masks}
        _require_all(sources, f"frames of CamVid's {split} split", [root / split])
        for mask in masks:
            photos.append(
                {
                    "id": len(photos) + 1,
                    "file_name": f"{split}/{mask.name}",
                    "split": split,
                    "source": sources[mask.name],
                    "objects": regions_of(np.asarray(Image.open(mask))),
                }
            )
    return photos


def regions_of(mask: np.ndarray) -> list[Object]:
    """The regions of a mask: pixels of one class that touch, also by a corner.

    Args:
        mask: (H, W) classes; those that are not of `CAMVID_CLASSES` are left out.
    """
    import cv2  # comes with Detectron2's own needs

    found: list[Object] = []
    for label in range(len(CAMVID_CLASSES)):
        of_class = (mask == label).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(of_class, connectivity=8)
        for x, y, width, height, area in stats[1:].tolist():  # the first one is the rest
            if area >= MIN_REGION:
                found.append((label, (x, y, x + width, y + height)))
    return found


def _vg500(root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The photographs and the classes, most frequent first and then by name."""
    files = [file for file in (root / "VG_500").glob("*.jpg") if file.stem.isdecimal()]
    files.sort(key=lambda file: int(file.stem))
    expected = COUNTS["vg500_train"][0] + COUNTS["vg500_val"][0]
    if len(files) != expected:
        raise FileNotFoundError(
            f"{root / 'VG_500'} must have the {expected} images of VG-500, and has {len(files)}: "
            "see datasets/README.md."
        )
    photos = {}
    for file in files:
        size = decoded_size(file)
        if isinstance(size, str):
            raise ValueError(f"{file}: {size}.")
        photos[int(file.stem)] = Photo(int(file.stem), file.name, *size, coco_id=None)
    boxes = read_boxes(root / "objects.json", photos, Tally(), Tally(), label="names")
    records = {p.file_name: None if p.left_out else p for p in photos.values()}
    _require_all(records, "lists of objects", [root / "objects.json"])
    split = {k: "val" if place % 3 == 2 else "train" for place, k in enumerate(photos)}
    counts = count_synsets(boxes, [k for k in photos if split[k] == "train"])
    classes = [name for name, count in counts.items() if count][:VG_CLASSES]
    if len(classes) < VG_CLASSES:
        raise ValueError(
            f"{root / 'objects.json'}: the training split has {len(classes)} names of objects, "
            f"fewer than the {VG_CLASSES} classes of VG-500."
        )
    chosen = select(boxes, classes, photos)
    objects: dict[int, list[Object]] = {k: [] for k in photos}
    columns = chosen.image_ids.tolist(), chosen.labels.tolist(), chosen.boxes.tolist()
    for k, label, (x, y, w, h) in zip(*columns, strict=True):
        objects[k].append((label, (x, y, x + w, y + h)))
    return [
        {
            "id": k,
            "file_name": photo.file_name,
            "split": split[k],
            "source": root / "VG_500" / photo.file_name,
            "objects": objects[k],
        }
        for k, photo in photos.items()
    ], classes


def _coco(photos: Sequence[dict[str, Any]], classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Split -> what its file has. Ids of boxes count over all splits."""
    categories = [{"id": k, "name": name} for k, name in enumerate(classes, 1)]
    splits: dict[str, dict[str, Any]] = {}
    number = 0
    for photo in photos:
        coco = splits.setdefault(
            photo["split"], {"images": [], "annotations": [], "categories": categories}
        )
        with Image.open(photo["source"]) as image:
            width, height = image.size
        coco["images"].append(
            {
                "id": photo["id"],
                "file_name": photo["file_name"],
                "width": width,
                "height": height,
            }
        )
        for label, (x1, y1, x2, y2) in photo["objects"]:
            number += 1
            coco["annotations"].append(
                {
                    "id": number,
                    "image_id": photo["id"],
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    return splits


def _first(folders: Sequence[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _require_all(found: dict[str, Any], what: str, places: Sequence[Path]) -> None:
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(found)} {what} are not in {', '.join(map(str, places))}: "
            f"{first_few(missing)}. datasets/README.md says where they come from."
        )


def _place(source: Path, target: Path, *, copy: bool) -> None:
    """A link at `target`, or a copy; what is there already is replaced."""
    if source.resolve() == Path(os.path.abspath(target)):
        return  # the user put it there
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if copy:
        shutil.copyfile(source, target)
    else:
        target.symlink_to(source.resolve())

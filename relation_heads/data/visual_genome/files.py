"""Visual Genome as files in COCO format: what `datasets/prepare_vg.py` writes."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..files import Kept, read_json, write_whole
from . import boxes as vg_boxes
from . import images as vg
from .boxes import Boxes
from .images import Photo, Tally
from .vocabularies import (
    VOCABULARIES,
    class_of_names,
    parts_of,
    published,
    read_aliases,
    read_classes,
)

SPLIT_NOTE = "The papers' random split is not published: results are not comparable image by image."
KEPT = "vg_image_sizes.jsonl"  # sizes of decoded images, below the output
NO_BOX_LEFT = "no box of a class"
NO_SPLIT = "in no split"
SOURCE = "https://homes.cs.washington.edu/~ranjay/visualgenome"
_STEM_ENDS = re.compile(r"(_v[\d_.]+)?\.json(\.\w+)?$")


def find_file(root: Path, name: str) -> Path:
    """`root/name`; a ValueError says so if it is still packed or has another name."""
    path = root / name
    if path.is_file():
        return path
    stem = path.stem  # of objects.json.zip, objects_v1_2.json.zip, objects.json.gz
    others = sorted(
        other for other in root.glob(f"{stem}*") if _STEM_ENDS.match(other.name, len(stem))
    )
    if others:
        packed = others[0].suffix != ".json"
        what = "unpack it first" if packed else f"call it {name}"
        raise ValueError(f"{path} is not there, but {others[0]} is: {what}.")
    return path


def read_coco_ids(path: Path) -> set[int]:
    """The ids of the images of a file in COCO format; ValueError if it is none."""
    try:
        return {image["id"] for image in read_json(path)["images"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not in COCO format: {error!r}.") from None


def write_splits(
    args: argparse.Namespace, photos: Mapping[int, Photo], chosen: Mapping[str, Boxes]
) -> dict[str, dict[str, int]]:
    """Writes the annotations; returns the numbers per split.

    Args:
        args: of the command line.
        photos: by id.
        chosen: the boxes of each split.
    """
    report, note = {}, VOCABULARIES[args.vocabulary].note
    for split, boxes in chosen.items():
        images = [photos[image_id] for image_id in np.unique(boxes.image_ids).tolist()]
        file = args.output / "annotations" / f"{args.vocabulary}_{split}.json"
        text = f"Visual Genome (annotations CC BY 4.0). {note} {SPLIT_NOTE}"
        vg_boxes.write_coco(file, {"description": text, "url": SOURCE}, images, boxes)
        report[split] = {
            "images": len(images),
            "of_coco": sum(image.coco_id not in (None, vg.UNKNOWN) for image in images),
            "annotations": len(boxes.boxes),
            "classes": len(np.unique(boxes.labels)),
        }
        print(f"{file}: {', '.join(f'{key} {value}' for key, value in report[split].items())}")
    return report


def images_left_out(
    photos: Mapping[int, Photo], splits: Mapping[str, set[int]], chosen: Mapping[str, Boxes]
) -> Tally:
    """All images that are not written, by reason."""
    tally = Tally()
    drawn = set().union(*splits.values())
    written = {k for boxes in chosen.values() for k in np.unique(boxes.image_ids).tolist()}
    for photo in photos.values():
        if photo.image_id not in written:
            where = f"image {photo.image_id}, {photo.file_name or 'no file'}"
            reason = NO_BOX_LEFT if photo.image_id in drawn else NO_SPLIT
            tally.add(photo.left_out or reason, where)
    return tally


def prepare(args: argparse.Namespace) -> None:
    """Reads Visual Genome, writes all files and says what is in them."""
    files = [find_file(args.vg_root, name) for name in ("image_data.json", "objects.json")]
    coco_val = read_coco_ids(args.coco_val) if args.coco_val else None
    vocabulary = VOCABULARIES[args.vocabulary]
    classes, known = published(args.vocabulary) or (None, {})
    if args.classes:
        classes = read_classes(args.classes)
    aliases, published_aliases = read_aliases(args.aliases) if args.aliases else ({}, None)
    parts = parts_of(vocabulary, class_of_names(known, aliases))
    repeated, left_out, mended = Tally(), Tally(), Tally()
    photos = vg.read_photos(files[0], repeated, mended)
    if args.split_lists:
        splits = vg.read_split_lists(args.split_lists, photos)
    else:
        test, val = args.held_out
        splits = vg.split_images(photos, args.split, test, args.seed, coco_val, val)
    watch = partial(tqdm, total=len(photos), unit="image", disable=None)
    if args.check_images:
        checking, kept = partial(watch, desc="images decoded"), Kept(args.output / KEPT)
        vg.check_files(photos, args.check_images, args.workers, mended, checking, kept)
    reading = partial(watch, desc="objects.json")
    boxes = vg_boxes.read_boxes(
        files[1], photos, left_out, mended, reading, label=vocabulary.label, parts=parts
    )

    trained = vg_boxes.count_synsets(boxes, splits["train"])
    if classes is None:
        frequent = [name for name, count in trained.items() if count >= vocabulary.min_count]
        classes = frequent[: vocabulary.at_most]
    chosen = {split: vg_boxes.select(boxes, classes, ids) for split, ids in splits.items()}
    empty = [split for split, of_split in chosen.items() if not len(of_split.boxes)]
    failed = f"The split {empty[0]} has no box of {args.vocabulary}." if empty else ""
    known = set(classes)
    counted = vg_boxes.count_synsets(boxes, photos)
    other = {name: count for name, count in counted.items() if name not in known}
    report = {
        "vocabulary": args.vocabulary,
        "note": vocabulary.note,
        "num_classes": len(classes),
        "classes_from": args.classes and args.classes.name,
        "published_aliases": published_aliases,
        "split": {"rule": "lists" if args.split_lists else args.split, "held_out": args.held_out,
                  "seed": args.seed, "coco_val": args.coco_val and args.coco_val.name,
                  "note": SPLIT_NOTE},
        "images_checked": args.check_images is not None,
        "images": len(photos) + repeated.counts.total(),
        "images_left_out": {**images_left_out(photos, splits, chosen).report(),
                            **repeated.report()},
        "objects": boxes.num_objects,
        "objects_left_out": left_out.report(),
        "objects_of_other_synsets": sum(other.values()),
        "mended": mended.report(),
        "drawn": {split: len(ids) for split, ids in splits.items()},
        "splits": {} if failed else write_splits(args, photos, chosen),
        "class_counts": {name: trained.get(name, 0) for name in classes},
        "other_synsets": other,
    }  # fmt: skip
    if failed:
        write_report(args, {"failed": failed, **report})
        raise ValueError(failed)
    write_report(args, report)
    write_whole(args.output / f"{args.vocabulary}_classes.txt", "".join(f"{c}\n" for c in classes))
    print(f"{len(classes)} classes (MODEL.ROI_HEADS.NUM_CLASSES). {vocabulary.note}")


def write_report(args: argparse.Namespace, report: Mapping[str, Any]) -> None:
    text = json.dumps(report, indent=1) + "\n"
    write_whole(args.output / f"{args.vocabulary}_report.json", text)
    for key in ("images_left_out", "objects_left_out", "mended"):
        for reason, found in report[key].items():
            first = "; ".join(found["first"][:2])
            print(f"{key.replace('_', ' ')}: {found['count']} ({reason}), first {first}")
    print(f"objects of other synsets: {report['objects_of_other_synsets']}")

#!/usr/bin/env python
"""Visual Genome as a detection data set in COCO format, with 3000 or 1000 classes.

TOOL="python datasets/prepare_vg.py --vg-root DIR --output DIR"
$TOOL                                    # VG3000, evaluated on images that COCO does not have
$TOOL --vocabulary vg1000
$TOOL --coco-val instances_val2017.json  # val: the images that COCO evaluates on
$TOOL --split random --seed 0
$TOOL --check-images DIR                 # decodes all images and takes the sizes they have

Reads objects.json and image_data.json of Visual Genome (1.2 or later) in --vg-root. An object is
kept if it has exactly one synset, which is a class, and a pixel of its box is in the image; an
image, if it has such an object. Vocabularies:

- vg3000: the 3000 synsets that are published with HKRM and used by SGRN, in their order.
- vg1000: the 1000 synsets with most boxes in the training images at hand, most frequent first and
  then by name. The papers' list is not published; it counts all images, so it may differ.

Splits: --held-out images each for test and val, the others for train. `leak-free`: the last images
that are not of COCO, and the last ones before them. `random`: by --seed. Both are drawn from
all images that image_data.json lists, and so are the same for both vocabularies; images that turn
out to have no box are then left out.

Writes under --output, with the same bytes each time:

  annotations/VOCABULARY_SPLIT.json  train, val and test; categories from 1; `file_name` from the
                                     folder that has VG_100K and VG_100K_2
  VOCABULARY_classes.txt             a class per line in that order
  VOCABULARY_report.json             what was counted, mended and left out, by reason
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

if importlib.util.find_spec("relation_heads") is None:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from relation_heads.data import visual_genome as vg
from relation_heads.data import visual_genome_boxes as vg_boxes
from relation_heads.data.command_line import run_or_explain
from relation_heads.data.visual_genome import Photo, Tally
from relation_heads.data.visual_genome_boxes import Boxes

NOTES = {
    "vg3000": "The 3000 synsets published with HKRM, in their order.",
    "vg1000": "The synsets with most boxes in the training images. The papers' list is not "
    "published and counts all images, so it may differ.",
}
SPLIT_NOTE = "The papers' random split is not published: results are not comparable image by image."
NO_BOX_LEFT = "no box of a class"
SOURCE = "https://homes.cs.washington.edu/~ranjay/visualgenome"
T = TypeVar("T")


def find_file(root: Path, name: str) -> Path:
    """`root/name`; a ValueError says so if it is still packed."""
    path, packed = root / name, root / f"{name}.zip"
    if packed.is_file() and not path.is_file():
        raise ValueError(f"{path} is not there, but {packed} is: unpack it first.")
    return path


def with_progress(items: Iterable[T], what: str, total: int, every: int) -> Iterator[T]:
    """The items, with a line now and then."""
    start = time.perf_counter()
    for number, item in enumerate(items, start=1):
        yield item
        if number % every == 0 or number == total:
            seconds = time.perf_counter() - start
            print(f"{what}: {number} of {total} images, {seconds:.0f} s", flush=True)


def read_coco_ids(path: Path) -> set[int]:
    """The ids of the images of a file in COCO format; ValueError if it is none."""
    try:
        return {image["id"] for image in json.loads(path.read_bytes())["images"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not in COCO format: {error!r}.") from None


def write_splits(
    args: argparse.Namespace, photos: Mapping[int, Photo], chosen: Mapping[str, Boxes]
) -> dict[str, dict[str, int]]:
    """Writes the annotations; returns the numbers per split.

    Args:
        args: of the command line.
        photos: by id.
        chosen: the boxes of each split.

    Raises:
        ValueError: a split has no box, before anything is written.
    """
    for split, boxes in chosen.items():
        if not len(boxes.boxes):
            raise ValueError(f"The split {split} has no box of {args.vocabulary}.")
    report = {}
    for split, boxes in chosen.items():
        images = [photos[image_id] for image_id in np.unique(boxes.image_ids).tolist()]
        file = args.output / "annotations" / f"{args.vocabulary}_{split}.json"
        text = f"Visual Genome (annotations CC BY 4.0). {NOTES[args.vocabulary]} {SPLIT_NOTE}"
        vg_boxes.write_coco(file, {"description": text, "url": SOURCE}, images, boxes)
        report[split] = {
            "images": len(images),
            "of_coco": sum(image.coco_id not in (None, vg.UNKNOWN) for image in images),
            "annotations": len(boxes.boxes),
            "classes": len(np.unique(boxes.labels)),
        }
        print(f"{file}: {', '.join(f'{key} {value}' for key, value in report[split].items())}")
    return report


def images_left_out(photos: Mapping[int, Photo], chosen: Mapping[str, Boxes]) -> Tally:
    """All images that are in no split, by reason."""
    tally = Tally()
    written = {k for boxes in chosen.values() for k in np.unique(boxes.image_ids).tolist()}
    for photo in photos.values():
        if photo.image_id not in written:
            where = f"image {photo.image_id}, {photo.file_name or 'no file'}"
            tally.add(photo.left_out or NO_BOX_LEFT, where)
    return tally


def run(args: argparse.Namespace) -> None:
    """Reads Visual Genome, writes all files and says what is in them."""
    files = [find_file(args.vg_root, name) for name in ("image_data.json", "objects.json")]
    coco_val = read_coco_ids(args.coco_val) if args.coco_val else None
    published = vg.published_classes() if args.vocabulary == "vg3000" else None
    repeated, left_out, mended = Tally(), Tally(), Tally()
    photos = vg.read_photos(files[0], repeated, mended)
    splits = vg.split_images(photos, args.split, args.held_out, args.seed, coco_val)
    watch = partial(with_progress, total=len(photos), every=10_000)
    if args.check_images:
        checking = partial(watch, what="images decoded")
        vg.check_files(photos, args.check_images, args.workers, mended, checking)
    reading = partial(watch, what="objects.json")
    boxes = vg_boxes.read_boxes(files[1], photos, left_out, mended, reading)

    trained = vg_boxes.count_synsets(boxes, splits["train"])
    classes = published or [name for name, count in trained.items() if count][:1000]
    chosen = {split: vg_boxes.select(boxes, classes, ids) for split, ids in splits.items()}
    split_reports = write_splits(args, photos, chosen)
    known = set(classes)
    counted = vg_boxes.count_synsets(boxes, photos)
    other = {name: count for name, count in counted.items() if name not in known}
    report = {
        "vocabulary": args.vocabulary,
        "note": NOTES[args.vocabulary],
        "num_classes": len(classes),
        "split": {"rule": args.split, "held_out": args.held_out, "seed": args.seed,
                  "coco_val": args.coco_val and args.coco_val.name, "note": SPLIT_NOTE},
        "images_checked": args.check_images is not None,
        "images": len(photos) + repeated.counts.total(),
        "images_left_out": {**images_left_out(photos, chosen).report(), **repeated.report()},
        "objects": boxes.num_objects,
        "objects_left_out": left_out.report(),
        "objects_of_other_synsets": sum(other.values()),
        "mended": mended.report(),
        "drawn": {split: len(ids) for split, ids in splits.items()},
        "splits": split_reports,
        "class_counts": {name: trained.get(name, 0) for name in classes},
        "other_synsets": other,
    }  # fmt: skip
    write_report(args, report)


def write_report(args: argparse.Namespace, report: Mapping[str, Any]) -> None:
    text = json.dumps(report, indent=1) + "\n"
    (args.output / f"{args.vocabulary}_report.json").write_text(text, encoding="utf-8")
    names = "".join(f"{name}\n" for name in report["class_counts"])
    (args.output / f"{args.vocabulary}_classes.txt").write_text(names, encoding="utf-8")
    print(f"{report['num_classes']} classes (MODEL.ROI_HEADS.NUM_CLASSES). {report['note']}")
    for key in ("images_left_out", "objects_left_out", "mended"):
        for reason, found in report[key].items():
            first = "; ".join(found["first"][:2])
            print(f"{key.replace('_', ' ')}: {found['count']} ({reason}), first {first}")
    print(f"objects of other synsets: {report['objects_of_other_synsets']}")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--vg-root", type=Path, required=True, help="folder of objects.json and image_data.json")
    add("--output", type=Path, required=True, help="folder to write")
    add("--vocabulary", choices=sorted(NOTES, reverse=True), default="vg3000", help="%(default)s")
    add("--split", choices=vg.SPLIT_RULES, default=vg.SPLIT_RULES[0], help="%(default)s")
    add("--seed", type=int, help="of --split random (default: 0)")
    add("--held-out", type=int, default=5000, help="images of test, and of val (%(default)s)")
    add("--coco-val", type=Path, metavar="JSON",
        help="COCO's annotations of val2017: its images become val (leak-free)")  # fmt: skip
    add("--check-images", type=Path, metavar="DIR", help="folder of VG_100K and VG_100K_2")
    add("--workers", type=int, default=4, help="threads that decode images (%(default)s)")
    args = parser.parse_args(argv)
    if min(args.held_out, args.workers) < 1:
        parser.error("--held-out and --workers must be at least 1")
    if args.split == "random" and args.coco_val:
        parser.error("--coco-val is for --split leak-free")
    if args.split != "random" and args.seed is not None:
        parser.error("--seed is for --split random")
    if args.split == "random" and args.seed is None:
        args.seed = 0
    return args


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    run_or_explain(run, parse_args(argv))


if __name__ == "__main__":
    main()

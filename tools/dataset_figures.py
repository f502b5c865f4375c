#!/usr/bin/env python
"""Data sets in pictures: classes, boxes per image, sizes, and which classes come together.

    tools/dataset_figures.py relational_scenes_train --output scenes.png
    tools/dataset_figures.py birds/train.json birds/val.json --output birds.svg

A row of four pictures for each data set. Crowds are left out. The last picture has the 20 classes
with most boxes: its number is the share of the images with the class of the row that also have the
class of the column.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def run(args: argparse.Namespace) -> None:
    """Reads the data sets and writes the pictures."""
    from relation_heads.data.checks.report import registered_source
    from relation_heads.data.coco_format import read_coco
    from relation_heads.data.statistics import statistics
    from relation_heads.visualization.dataset_figures import dataset_figures

    sets = []
    for name in args.datasets:
        is_file = name.endswith(".json")
        file = name if is_file else registered_source(name).json_file
        sets.append((Path(name).stem if is_file else name, statistics(read_coco(file))))
    dataset_figures(sets).savefig(args.output, dpi=args.dpi)
    print(f"wrote {args.output}")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from relation_heads.command_line import new_parser
    from relation_heads.commands.model import at_least_1

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("datasets", nargs="+", metavar="NAME|FILE.json",
        help="a registered data set, or a file in COCO format")  # fmt: skip
    add("--output", type=Path, required=True, metavar="FILE.png", help="or .svg, .pdf")
    add("--dpi", type=at_least_1, default=80, help="pixels per inch (%(default)s)")
    args = parser.parse_args(argv)
    if args.output.suffix not in (".png", ".svg", ".pdf"):
        parser.error(f"--output must end in .png, .svg or .pdf, got {args.output}")
    if not args.output.resolve().parent.is_dir():
        parser.error(f"--output {args.output}: there is no folder {args.output.parent}")
    return args


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

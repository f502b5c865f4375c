#!/usr/bin/env python
"""Do objects listen to the classes that they are seen with? Prints correlations.

    tools/compare_co_occurrence.py scenes-relation-signed
    tools/compare_co_occurrence.py output/model_final.pth --dataset my_val --train my_train \\
        --output output/co_occurrence.json

For every relation module and every SGRN graph: Pearson's r of how much objects of class a listen to
objects of class b with how often a and b are seen together in the training images. Beside it the
same for weights that hear every region alike: this much comes from what is in the images, and not
from what was learned.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("model", help="a checkpoint of tools/train_net.py, or a name of the model zoo")
    add("--dataset", metavar="NAME", help="whose images are looked at (DATASETS.TEST)")
    add("--train", metavar="NAME", help="where classes are seen together (DATASETS.TRAIN)")
    add("--device", metavar="NAME", help="such as cpu or cuda")
    add("--output", type=Path, metavar="FILE", help="JSON with the correlations and the pairs of "
        "classes that listen most")  # fmt: skip
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Looks at the images and prints."""
    from relation_heads.analysis.co_occurrence import compare

    compare(args)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

#!/usr/bin/env python
"""Which objects does one detector name right and another one wrong? Counts, and pictures of why.

    tools/compare_detectors.py output/stock/model_final.pth output/relation/model_final.pth \\
        --output output/compared
    tools/compare_detectors.py output/stock/model_final.pth scenes-relation-signed \\
        --dataset relational_scenes_val --num 8

Prints for each class how many objects both detectors name right, how many the second one puts right
or wrong, and how many both name wrong. --output gets the counts as JSON, and pictures: of objects
that the second one puts right, and of as many that it puts wrong, the surest first. A picture shows
what the first one calls the object, and what the second one listened to.
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
    add("first", help="a checkpoint of tools/train_net.py, or a name of the model zoo")
    add("second", help="another one")
    add("--dataset", metavar="NAME", help="whose images are looked at (DATASETS.TEST)")
    add("--num", type=at_least_1, default=4, help="pictures of each kind (%(default)s)")
    add("--device", metavar="NAME", help="such as cpu or cuda")
    add("--output", type=Path, metavar="FOLDER", help="of counts and pictures")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Counts, prints and draws."""
    from relation_heads.analysis.put_right import compare

    compare(args)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

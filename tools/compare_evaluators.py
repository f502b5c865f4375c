#!/usr/bin/env python
"""Our evaluator of boxes beside pycocotools, Detectron2, faster-coco-eval and hotcoco.

    tools/compare_evaluators.py --classes 80 3000 --json docs/evaluators.json

Random objects and detections, the same for all. Time is that of the process (all its threads), the
median of rounds in turns, with reading of the files; memory is what a copy of the process grows by.
Numbers that differ are those of COCO's precision and recall arrays, from pycocotools'.
Evaluators that are not installed are left out: pip install faster-coco-eval hotcoco.
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
    add("--classes", type=at_least_1, nargs="+", default=[80, 3000], help="sizes (%(default)s)")
    add("--images", type=at_least_1, default=100, help="of each size (%(default)s)")
    add("--objects", type=at_least_1, default=20, help="in an image (%(default)s)")
    add("--detections", type=at_least_1, default=100, help="in an image (%(default)s)")
    add("--rounds", type=at_least_1, default=3, help="and one to warm up (%(default)s)")
    add("--seed", type=int, default=0)
    add("--json", type=Path, metavar="FILE", help="also write every number there")
    args = parser.parse_args(argv)
    return args


def run(args: argparse.Namespace) -> None:
    """Measures and prints the tables."""
    from benchmarks.evaluators import compare_evaluators

    compare_evaluators(args)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

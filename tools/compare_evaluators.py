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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--classes", type=int, nargs="+", default=[80, 3000], help="sizes (%(default)s)")
    add("--images", type=int, default=100, help="of each size (%(default)s)")
    add("--objects", type=int, default=20, help="in an image (%(default)s)")
    add("--detections", type=int, default=100, help="in an image (%(default)s)")
    add("--rounds", type=int, default=3, help="and one to warm up (%(default)s)")
    add("--seed", type=int, default=0)
    add("--json", type=Path, metavar="FILE", help="also write every number there")
    args = parser.parse_args(argv)
    for name in ("images", "objects", "detections", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}.")
    if min(args.classes) < 1:
        parser.error(f"--classes must be at least 1, got {min(args.classes)}.")
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

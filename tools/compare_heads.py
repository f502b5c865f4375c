#!/usr/bin/env python
"""Time and memory of the ROI heads of several configs, in one run: no data set, no weights.

    tools/compare_heads.py VG3000-Detection/faster_rcnn_R_101_FPN_1x.yaml \\
        VG3000-Detection/faster_rcnn_R_101_FPN_sgrn_1x.yaml --train-regions 512 --test-regions 1000

One image of 800 x 1216 pixels: random feature maps, boxes and objects, the same for all. A training
step is forward and backward of the ROI heads with all their losses, down to the feature maps; peak
memory is of tensors, without parameters and feature maps. Ratios are to the first config.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def run(args: argparse.Namespace) -> None:
    """Measures and prints the table."""
    from benchmarks.roi_heads import compare_heads

    compare_heads(args)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser
    from relation_heads.commands.model import at_least_1

    parser = new_parser(__doc__)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="ratios are to the first")
    parser.add_argument("--train-regions", type=at_least_1, default=512)
    parser.add_argument("--test-regions", type=at_least_1, default=1000)
    parser.add_argument("--rounds", type=at_least_1, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="for all configs"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

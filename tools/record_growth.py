#!/usr/bin/env python
"""Trains a config and records what grows, until it diverges or ends; or draws such recordings.

    tools/record_growth.py --config-file RelationalScenes/faster_rcnn_R_18_FPN_relation.yaml \\
        --output output/relation.json MODEL.DEVICE cpu SOLVER.MAX_ITER 300
    tools/record_growth.py --draw output/relation.json output/stock.json \\
        --output output/relation.svg
    tools/record_growth.py --draw output/relation.json --output output/relation.svg \\
        --lines total_loss "*relation?.0:f" "gradient of *relation?.0:f"

A recording is a JSON file with the losses of every iteration, the sizes (root mean squares) of
maps, layers and mechanisms, and those of their gradients. A training that diverges is no error
here: the file says it, and which tensor grew first. Nothing is evaluated, and no checkpoint is
written.
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
    add("--config-file", metavar="FILE", help="what to train: a path, or a name below configs/ or "
        "Detectron2's own")  # fmt: skip
    add("--dataset", action="append", default=[], nargs=3, metavar=("NAME", "JSON", "IMAGES"),
        help="as of tools/train_net.py")  # fmt: skip
    add("--seed", type=int, default=0, help="of weights and images (%(default)s)")
    add("--draw", type=Path, nargs="+", metavar="JSON", help="draw these recordings, and train "
        "nothing")  # fmt: skip
    add("--lines", nargs="+", default=[], metavar="PATTERN", help="what to draw: names, with * and "
        "?; `gradient of NAME` for gradients (the loss and what grew first)")  # fmt: skip
    add("--output", type=Path, required=True, metavar="FILE", help="JSON of a recording, SVG of a "
        "drawing")  # fmt: skip
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args(argv)
    if bool(args.draw) == bool(args.config_file):
        parser.error("give either --config-file, to train, or --draw")
    args.eval_only = args.resume = False
    args.schedule = ""
    return args


def run(args: argparse.Namespace) -> None:
    """Trains and writes, or draws."""
    from relation_heads.analysis.growth import record_or_draw

    record_or_draw(args)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

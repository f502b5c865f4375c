#!/usr/bin/env python
"""Parameters, multiply-adds and memory of a config beside its stock twin: no data set, no weights.

    tools/analyze_model.py COCO-Detection/faster_rcnn_R_50_FPN_gc_1x.yaml
    tools/analyze_model.py RelationalScenes/faster_rcnn_R_18_FPN_nl.yaml --size 320 480
    tools/analyze_model.py COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml \\
        MODEL.BACKBONE.NAME build_context_resnet_fpn_backbone \\
        MODEL.CONTEXT_BLOCKS.PLUGINS "[{'name': 'GC', 'stages': ['res4', 'res5']}]"
    tools/analyze_model.py --paper-table

What papers print as FLOPs are multiply-adds, and so are these numbers: of all convolutions and
products of matrices, as the layers compute them, which can be fewer than in the published order of
the products (GloRe: about half). Memory is what one training step saves for its backward pass.
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
    add("config", nargs="?", help="a path, or a name below configs/ of this project or Detectron2")
    add("overrides", nargs="*", metavar="KEY VALUE", help="changes of the config and of its twin")
    add("--twin", metavar="CONFIG", help="compare with this one (default: the stock config of the "
        "same name; of a stock config with overrides, the same without them)")  # fmt: skip
    add("--size", type=int, nargs=2, default=(800, 1333), metavar=("HEIGHT", "WIDTH"),
        help="of the image in pixels (default: 800 1333)")  # fmt: skip
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where the ROI heads run "
        "(%(default)s); the numbers do not depend on it")  # fmt: skip
    add("--paper-table", action="store_true", help="counts beside published ones, and no config")
    args = parser.parse_intermixed_args(argv)
    if (args.config is None) != args.paper_table:
        parser.error("give either a config or --paper-table")
    return args


def run(args: argparse.Namespace) -> None:
    """Prints what is asked for."""
    if args.paper_table:
        from relation_heads.analysis.paper_tables import paper_tables

        print(paper_tables())
    else:
        from relation_heads.analysis.report import report

        print(report(args.config, args.overrides, args.twin, tuple(args.size), args.device))


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

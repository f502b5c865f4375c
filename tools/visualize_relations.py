#!/usr/bin/env python
"""Draw what a trained relational detector listened to: for a detection, the strongest regions in
its relation weights, or in the learned graph of SGRN.

    tools/visualize_relations.py --output pictures \\
        --config-file RelationalScenes/faster_rcnn_shallow_relation_signed.yaml \\
        MODEL.WEIGHTS output/relational_scenes/relation_signed/model_final.pth

It is `relation-heads explain` on the first images of DATASETS.TEST, or those given by --image.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser
    from relation_heads.commands.explain import add_drawing

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--config-file", required=True, dest="model", metavar="FILE", help="or a checkpoint that "
        "has its config inside")  # fmt: skip
    add("--image", action="append", default=[], dest="images", metavar="FILE", help="repeatable")
    add("--num", type=int, default=8, help="images at most (%(default)s)")
    add_drawing(parser)
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")
    parser.set_defaults(device=None, half=False)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain
    from relation_heads.commands.explain import run

    run_or_explain(run, args, Path(__file__).name)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

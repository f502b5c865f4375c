#!/usr/bin/env python
"""Draw what a trained relational detector listened to: for a detection, the strongest regions in
its relation weights, or in the learned graph of SGRN.

    tools/visualize_relations.py --output pictures \\
        --config-file RelationalScenes/faster_rcnn_shallow_relation_signed.yaml \\
        MODEL.WEIGHTS output/relational_scenes/relation_signed/model_final.pth

One picture per image: the detections on the left; on the right one of them (the surest, or the
surest of --class) and lines to what it listened to, thicker for more weight. Images are the first
of DATASETS.TEST, or those given by --image. For SGRN also kernels_layer1.png, kernels_layer2.png:
where each spatial kernel of a graph layer looks, the region that asks in the middle of its disc.
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
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="repeatable")
    parser.add_argument("--num", type=int, default=8, help="images at most")
    parser.add_argument(
        "--class",
        dest="class_name",
        help="ask a detection of this class; images without are left out",
    )
    parser.add_argument(
        "--module", help="name of the relation module or graph; default: the last of the model"
    )
    parser.add_argument(
        "--head", type=int, help="one head of a relation module; default: their mean"
    )
    parser.add_argument("--top", type=int, default=5, help="objects to draw lines to")
    parser.add_argument("--min-score", type=float, default=0.5, help="of the detections drawn")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides"
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Writes the pictures."""
    from relation_heads.engine.pictures import write_pictures

    write_pictures(args)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

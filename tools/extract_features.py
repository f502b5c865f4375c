#!/usr/bin/env python
"""Write box features, classes, scores and boxes of any R-CNN to .npz files.

    tools/extract_features.py --output features \\
        --config-file COCO-Detection/faster_rcnn_R_50_FPN_relation_1x.yaml \\
        MODEL.WEIGHTS output/model_final.pth
    tools/extract_features.py --output features.npz --config-file ... --image a.jpg --image b.jpg

A folder gets one file per image, a name that ends in .npz is one file for all images. Images are
DATASETS.TEST, or those given by --image. Any Faster, Mask or Cascade R-CNN, stock or relational.
Fewer boxes: TEST.DETECTIONS_PER_IMAGE 36; surer ones: MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.2.

Arrays: boxes (D, 4) x1 y1 x2 y2 in pixels of the image, scores (D,), classes (D,), features (D,
channels): what the last box head gave for the region that became the detection; height, width,
image_id, file_name. In one file for all images: counts says how many rows each image has.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser

    parser = new_parser(__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--output", type=Path, required=True, help="a folder, or a file .npz")
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="repeatable")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides"
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Writes the files."""
    from relation_heads.engine.features import extract

    extract(args)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

#!/usr/bin/env python
"""What NMS, Soft-NMS and an oracle would make of a detector's boxes, beside what other runs made.

    tools/train_net.py --eval-only --config-file CONFIG MODEL.WEIGHTS model_final.pth \\
        MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.001 MODEL.ROI_HEADS.NMS_THRESH_TEST 1.0 \\
        TEST.DETECTIONS_PER_IMAGE -1 OUTPUT_DIR output/all
    tools/compare_duplicate_removal.py DATASET output/all/inference/coco_instances_results.json \\
        --results learned output/learned/inference/coco_instances_results.json

The first evaluation keeps every box; the second command needs no model. Beside COCO's AP, AP50 and
AR it prints the largest F1 (IoU 0.5), the false detections per image at the score that has it, and
how many of these are duplicates: boxes of an object that has a better one. By group of classes,
where the data set has groups.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SIGMAS = (0.2, 0.3, 0.5, 0.7, 1.0)


def run(args: argparse.Namespace) -> None:
    """Prints one table per group."""
    from relation_heads.evaluation.duplicate_tables import print_tables

    print_tables(args)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from relation_heads.command_line import new_parser
    from relation_heads.commands.model import above_0, share

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("dataset", help="name of a registered data set, or JSON file in COCO format")
    add("all_boxes", type=Path, help="coco_instances_results.json of an evaluation without NMS")
    add("--results", nargs=2, action="append", default=[], metavar=("NAME", "FILE"),
        help="those of another run as they are, for example of learned removal")  # fmt: skip
    add("--nms", nargs="*", type=share, default=THRESHOLDS, help="thresholds (%(default)s)")
    add("--sigma", nargs="*", type=above_0, default=SIGMAS, help="of Soft-NMS (%(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

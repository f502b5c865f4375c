#!/usr/bin/env python
"""COCO's evaluation of saved boxes and masks: no model, no GPU.

    tools/evaluate_results.py vg3000_test output/inference/coco_instances_results.json
    tools/evaluate_results.py my/val.json results.json --train my/train.json --output tables

The first argument is a registered data set or a file in COCO format, the second what any evaluator
of Detectron2 wrote. With thousands of classes it takes seconds and about a gigabyte. --output gets
a table of all classes; with --train results also come by frequency in the training set (rare 1-10
images, common 11-100, frequent more). --masks evaluates masks as well.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def annotation_file(dataset: str) -> str:
    """The file of a registered data set, or of one that is given as a file."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    return MetadataCatalog.get(dataset).json_file if dataset in DatasetCatalog else dataset


def run(args: argparse.Namespace) -> None:
    """Evaluates, and prints the results as one line of JSON after the table."""
    from detectron2.utils.logger import setup_logger

    from relation_heads.evaluation.class_tables import count_classes
    from relation_heads.evaluation.sparse_evaluator import evaluate_results_file

    setup_logger(name="relation_heads")
    counts = count_classes([annotation_file(name) for name in args.train]) if args.train else None
    results = evaluate_results_file(
        args.dataset,
        args.results,
        args.output,
        max_dets_per_image=args.max_detections,
        counts=counts,
        masks=args.masks,
    )
    print(json.dumps(results))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from relation_heads.command_line import new_parser

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("dataset", help="name of a registered data set, or JSON file in COCO format")
    add("results", type=Path, help="coco_instances_results.json")
    add("--output", type=Path, help="folder for the table of all classes")
    add("--train", nargs="+", default=[], metavar="DATASET", help="training sets, to count classes")
    add("--masks", action="store_true", help="evaluate masks as well as boxes")
    add("--max-detections", type=int, default=100, help="per image and class (%(default)s)")
    args = parser.parse_args(argv)
    if args.max_detections <= 10:
        parser.error(f"--max-detections must be more than 10, got {args.max_detections}")
    return args


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

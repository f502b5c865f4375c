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
from collections.abc import Callable
from functools import partial
from pathlib import Path

try:
    import relation_heads
except ModuleNotFoundError:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import relation_heads

try:
    from detectron2.data import DatasetCatalog, MetadataCatalog
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    sys.exit(relation_heads.DETECTRON2_HELP)

from relation_heads.data.coco_format import read_coco
from relation_heads.data.command_line import run_or_explain
from relation_heads.evaluation.coco_arrays import GroundTruth, ground_truth, read_results
from relation_heads.evaluation.duplicates import Row, compare, decayed, limited, nms, oracle
from relation_heads.evaluation.sparse_matching import Detections

HEADER = "AP | AP50 | AR | F1 | false per image | duplicates | at score"
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SIGMAS = (0.2, 0.3, 0.5, 0.7, 1.0)


def read_truth(dataset: str) -> tuple[GroundTruth, dict[str, list[int]]]:
    """The objects of a registered data set or a file in COCO format, and its groups of classes."""
    groups = {}
    if dataset in DatasetCatalog:
        metadata = MetadataCatalog.get(dataset)
        dataset, groups = metadata.json_file, metadata.get("class_groups", {})
    truth = ground_truth(read_coco(dataset), dataset)
    if truth.objects is None:
        raise ValueError(f"{dataset} has no annotations to compare with.")
    members: dict[str, list[int]] = {}
    for k, name in enumerate(truth.names):
        members.setdefault(groups.get(name, "all classes"), []).append(k)
    return truth, members


def run(args: argparse.Namespace) -> None:
    """Prints one table per group."""
    truth, groups = read_truth(args.dataset)
    boxes = read_results(args.all_boxes, truth)
    removals: dict[str, Callable[[], Detections]] = {
        **{f"NMS {t}": partial(nms, boxes, t) for t in args.nms},
        **{f"Soft-NMS, sigma {s}": partial(decayed, boxes, s) for s in args.sigma},
        "oracle": partial(oracle, boxes, truth.objects),
        "all boxes": partial(limited, boxes),
    }
    for name, path in args.results:
        removals[name] = partial(limited, read_results(path, truth))
    table = compare(removals, truth.objects, len(truth.image_ids), groups, len(truth.names))
    for group in next(iter(table.values())):
        print(f"\n| {group} | {HEADER} |\n|:--|" + "--:|" * (HEADER.count("|") + 1))
        for name, rows in table.items():
            print(f"| {name} | {cells(rows[group])} |")


def cells(row: Row) -> str:
    """A line of the table, percentages but for what is counted per image."""
    percent = [f"{100 * x:.1f}" for x in (row.ap, row.ap50, row.ar, row.point.f1)]
    counts = [row.point.false_positives, row.point.duplicates, row.point.score]
    return " | ".join([*percent, *(f"{x:.2f}" for x in counts)])


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("dataset", help="name of a registered data set, or JSON file in COCO format")
    add("all_boxes", type=Path, help="coco_instances_results.json of an evaluation without NMS")
    add("--results", nargs=2, action="append", default=[], metavar=("NAME", "FILE"),
        help="those of another run as they are, for example of learned removal")  # fmt: skip
    add("--nms", nargs="*", type=float, default=THRESHOLDS, help="thresholds (%(default)s)")
    add("--sigma", nargs="*", type=float, default=SIGMAS, help="of Soft-NMS (%(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    run_or_explain(run, parse_args(argv))


if __name__ == "__main__":
    main()

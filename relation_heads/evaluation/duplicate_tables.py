"""Tables of what NMS, Soft-NMS, an oracle and other runs leave of saved boxes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data.coco_format import read_coco
from .coco_arrays import GroundTruth, ground_truth, read_results
from .duplicates import Row, compare, decayed, limited, nms, oracle
from .sparse_matching import Detections

HEADER = "AP | AP50 | AR | F1 | false per image | duplicates | at score"


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


def print_tables(args: argparse.Namespace) -> None:
    """One table per group; `args` as of `tools/compare_duplicate_removal.py`."""
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

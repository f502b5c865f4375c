"""A report on a data set in COCO format: on each of its splits, and on how they fit together.

    report = check_dataset([registered_source("birds_train"), registered_source("birds_val")])
    print(report.text())

The first split is for training, the others are for tests; one is in memory at a time. All of
`coco_findings` is in the report.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from itertools import combinations
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..coco_format import find_path, read_coco
from .annotations import read_table
from .findings import Finding, as_text, of_dataset
from .format import class_findings, coco_findings, type_findings
from .images import ImageFile, files_below, image_findings, image_paths, read_all
from .splits import (
    Source,
    Split,
    coverage_findings,
    make_split,
    shared_images,
    training_findings,
    unlisted_files,
)


@dataclass
class DatasetReport:
    """What was found, and the splits that could be read."""

    splits: list[Split] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, splits: Sequence[Source | Split], findings: Iterable[Finding]) -> None:
        """Adds what was found in some splits together."""
        self.findings += of_dataset(", ".join(split.name for split in splits), findings)

    @property
    def has_problems(self) -> bool:
        return any(finding.level == "problem" for finding in self.findings)

    def text(self) -> str:
        """For a person: the splits, then what was found, the severe first."""
        lines = []
        for split in self.splits:
            lines += [
                f"{split.name}: {split.source.json_file}, images in {split.source.image_root}",
                f"  {len(split.image_ids)} images, {split.num_annotations} annotations "
                f"({split.num_crowds} crowds), {len(split.classes)} classes",
            ]
        return "\n".join([*lines, "", as_text(self.findings)])

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file; with images and objects of every class."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "splits": [_split_as_dict(split) for split in self.splits],
        }


def _split_as_dict(split: Split) -> dict[str, Any]:
    columns = split.category_ids, split.classes, split.class_images, split.class_objects
    return {
        "name": split.name,
        "json_file": split.source.json_file,
        "image_root": split.source.image_root,
        "images": len(split.image_ids),
        "annotations": split.num_annotations,
        "crowds": split.num_crowds,
        "classes": [
            {"id": category_id, "name": name, "images": int(images), "objects": int(objects)}
            for category_id, name, images, objects in zip(*columns, strict=True)
        ],
    }


def source_of_files(name: str, json_file: str, image_root: str) -> Source:
    """A JSON file and a folder, which are looked up as `register_coco_folder` does.

    Raises:
        FileNotFoundError: a path does not exist.
    """
    return Source(name, find_path(json_file, os.path.isfile), find_path(image_root, os.path.isdir))


def registered_source(name: str) -> Source:
    """Where a registered data set is.

    Raises:
        ValueError: there is none of this name, or it is not in COCO format.
        FileNotFoundError: its JSON file does not exist.
    """
    if name not in DatasetCatalog:
        close = get_close_matches(name, list(DatasetCatalog))
        hint = f"; did you mean {', '.join(close)}?" if close else "."
        raise ValueError(f"The data set {name!r} is not registered{hint}")
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") not in ("coco", "coco_panoptic_seg"):
        raise ValueError(f"The data set {name!r} is registered, but not as one in COCO format.")
    if not os.path.isfile(metadata.json_file):
        raise FileNotFoundError(
            f"The file {metadata.json_file} of the data set {name!r} is missing."
        )
    return Source(name, metadata.json_file, metadata.image_root, metadata.get("thing_classes"))


def check_dataset(
    sources: Sequence[Source],
    *,
    read_images: bool = True,
    workers: int = 8,
) -> DatasetReport:
    """Checks the splits of a data set.

    Args:
        sources: the training split, then any test splits; their JSON files exist.
        read_images: whether to decode the image files, or only to see that they are there.
        workers: threads that read them.
    """
    report = DatasetReport()
    for source in sources:
        _check_split(source, report, read_images, workers)
    splits = report.splits
    if splits and splits[0].source == sources[0]:  # else the training split cannot be read
        report.add(splits[:1], training_findings(splits[0]))
        for test in splits[1:]:
            report.add([splits[0], test], coverage_findings(splits[0], test))
    for a, b in combinations(splits, 2):
        report.add([a, b], shared_images(a, b))
    report.add(splits, unlisted_files(splits))
    return report


def _check_split(source: Source, report: DatasetReport, read_images: bool, workers: int) -> None:
    """Adds what was found in a split, and the split if it can be read."""
    try:
        dataset = read_coco(source.json_file)
    except ValueError as error:
        report.add([source], [Finding("problem", str(error))])
        return
    report.add([source], coco_findings(dataset))
    if type_findings(dataset):  # nothing more can be said
        return
    report.add([source], class_findings(dataset, source.json_file, source.classes))

    images = dataset["images"]
    paths = image_paths(images, source.image_root)
    there = [path for path in dict.fromkeys(paths) if path and os.path.isfile(path)]
    files: dict[str, ImageFile | None] = dict.fromkeys(there)
    if read_images:
        files.update(zip(there, read_all(there, workers, source.name), strict=True))
    below = files_below(source.image_root)
    report.add([source], image_findings(images, paths, files, below, source.image_root))
    report.splits.append(make_split(source, dataset, read_table(dataset), paths, files, below))

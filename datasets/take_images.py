#!/usr/bin/env python
"""Cuts a COCO-format JSON down to a few images, with all categories kept: to see a model memorise
them, or to debug.

    datasets/take_images.py annotations/instances_val2017.json four.json --num 4
    datasets/take_images.py annotations/instances_val2017.json mine.json --ids 139 285
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def take_images(dataset: dict, ids: list[int]) -> dict:
    """The same COCO dictionary with the images of these ids, in their order, and their annotations.

    Raises:
        ValueError: an id is not there, or given twice.
    """
    images = {image["id"]: image for image in dataset["images"]}
    wanted = dict.fromkeys(ids)  # keeps the order
    if len(wanted) < len(ids):
        raise ValueError(f"image ids {[i for i in wanted if ids.count(i) > 1]} are given twice")
    missing = [i for i in ids if i not in images]
    if missing:
        raise ValueError(f"image ids {missing} are not among the {len(images)} images")
    annotations = [a for a in dataset["annotations"] if a["image_id"] in wanted]
    return {**dataset, "images": [images[i] for i in ids], "annotations": annotations}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser
    from relation_heads.commands.model import at_least_1

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("json", type=Path, help="annotations in COCO format")
    add("output", type=Path, help="where the smaller JSON goes")
    add(
        "--num", type=at_least_1, default=4, help="the first so many images that have an annotation"
    )
    add("--ids", type=int, nargs="+", help="these images instead")
    args = parser.parse_args(argv)
    return args


def read_coco(path: Path) -> dict:
    """The content of a file in COCO format; ValueError in a sentence if it is none."""
    try:
        dataset = json.loads(path.read_text(encoding="utf-8-sig"))
        for key, name in (("images", "id"), ("annotations", "image_id")):
            for item in dataset[key]:
                hash(item[name])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file in COCO format: {error!r}.") from None
    return dataset


def run(args: argparse.Namespace) -> None:
    """Reads, cuts and writes."""
    dataset = read_coco(args.json)
    annotated = {a["image_id"] for a in dataset["annotations"]}
    ids = args.ids or [i["id"] for i in dataset["images"] if i["id"] in annotated][: args.num]
    try:
        small = take_images(dataset, ids)
    except ValueError as error:
        raise ValueError(f"{args.json}: {error}.") from None
    args.output.write_text(json.dumps(small))
    print(f"{args.output}: {len(small['images'])} images, {len(small['annotations'])} annotations")


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

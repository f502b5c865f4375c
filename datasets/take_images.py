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
        ValueError: an id is not there.
    """
    images = {image["id"]: image for image in dataset["images"]}
    missing = [i for i in ids if i not in images]
    if missing:
        raise ValueError(f"image ids {missing} are not among the {len(images)} images")
    annotations = [a for a in dataset["annotations"] if a["image_id"] in set(ids)]
    return {**dataset, "images": [images[i] for i in ids], "annotations": annotations}


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path, help="annotations in COCO format")
    parser.add_argument("output", type=Path, help="where the smaller JSON goes")
    parser.add_argument(
        "--num", type=int, default=4, help="the first so many images that have an annotation"
    )
    parser.add_argument("--ids", type=int, nargs="+", help="these images instead")
    args = parser.parse_args(argv)
    dataset = json.loads(args.json.read_text())
    annotated = {a["image_id"] for a in dataset["annotations"]}
    ids = args.ids or [i["id"] for i in dataset["images"] if i["id"] in annotated][: args.num]
    try:
        small = take_images(dataset, ids)
    except ValueError as error:
        sys.exit(f"{args.json}: {error}")
    args.output.write_text(json.dumps(small))
    print(f"{args.output}: {len(small['images'])} images, {len(small['annotations'])} annotations")


if __name__ == "__main__":
    main()

"""Detect in photographs, folders and videos.

    relation-heads predict output/model_final.pth street.jpg
    relation-heads predict output/model_final.pth photos/ "more/*.png" --output found
    relation-heads predict output/model_final.pth clip.mp4 --output found
    relation-heads predict output/model_final.pth 0                    # the first webcam
    relation-heads predict COCO-Detection/faster_rcnn_R_50_FPN_relation_1x.yaml photos/ \\
        MODEL.WEIGHTS output/model_final.pth --json found.json --no-pictures

The model is a checkpoint of `relation-heads train`, which has its config and the names of its
classes inside, or a config. A picture of every image, with its detections, goes to --output; of a
video a video. --json writes all detections in COCO's format, with file_name in the place of
image_id, and class_name.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .model import add_model, at_least_1, share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `relation-heads predict`."""
    add_model(parser)
    add = parser.add_argument
    add("--output", type=Path, default=Path("output/predictions"), metavar="FOLDER",
        help="of the pictures (%(default)s)")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="all detections, in COCO's format")
    add("--no-pictures", action="store_true", help="write nothing but --json")
    add("--min-score", type=share, default=0.5, metavar="SCORE",
        help="of what is drawn and written, 0 to 1 (%(default)s)")  # fmt: skip
    add(
        "--batch-size", type=at_least_1, default=1, metavar="IMAGES", help="at a time (%(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Detects and writes."""
    from ..engine.predict_files import predict_files

    predict_files(args)

"""Draw what detections listened to: one picture per image, and SGRN's kernels.

    relation-heads explain output/model_final.pth street.jpg
    relation-heads explain output/model_final.pth photos/ --class person --output why
    relation-heads explain output/model_final.pth photos/ --module roi_heads.box_head.relation1.0

On the left the detections; on the right one of them and lines to what it listened to, thicker for
more weight. Asked is the surest detection of --class, or else of the class that the pictures before
asked least often, so that many images show many classes. Of an SGRN also kernels_layer1.png, ...:
where each spatial kernel of a graph layer looks, the region that asks in the middle of its disc.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .model import add_model, at_least_1, share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `relation-heads explain`."""
    add_model(parser)
    add_drawing(parser)
    parser.set_defaults(num=None)


def add_drawing(parser: argparse.ArgumentParser) -> None:
    """What is drawn."""
    add = parser.add_argument
    add("--output", type=Path, default=Path("output/relations"), metavar="FOLDER",
        help="of the pictures (%(default)s)")  # fmt: skip
    add("--class", dest="class_name", metavar="NAME", help="ask a detection of this class; images "
        "without are left out")  # fmt: skip
    add("--module", metavar="NAME", help="of the relation module or graph (the last of the model)")
    add("--head", type=int, metavar="H", help="one head of a relation module (their mean)")
    add("--top", type=at_least_1, default=5, help="objects to draw lines to (%(default)s)")
    add("--min-score", type=share, default=0.5, metavar="SCORE",
        help="of the detections drawn, 0 to 1 (%(default)s)")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Writes the pictures."""
    from ..engine.pictures import write_pictures

    write_pictures(args)

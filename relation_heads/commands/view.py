"""Write one page on which hovering over a detection shows what it listened to.

    relation-heads view output/model_final.pth photos/ --output why.html
    relation-heads view output/model_final.pth photos/ --beside stock=output/stock/model_final.pth

The page is one file: it needs no server and no network, and opens in any browser. Every --beside
adds a detector to switch to, on the same images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .model import add_model, at_least_1, share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `relation-heads view`."""
    add_model(parser)
    add = parser.add_argument
    add("--output", type=Path, default=Path("output/relations.html"), metavar="FILE",
        help="the page (%(default)s)")  # fmt: skip
    add("--name", default="", help="of the detector on the page (that of its heads)")
    add("--beside", action="append", default=[], type=named, metavar="NAME=MODEL",
        help="another detector; repeatable")  # fmt: skip
    add("--min-score", type=share, default=0.3, metavar="SCORE",
        help="of the detections on the page, 0 to 1 (%(default)s)")  # fmt: skip
    add("--top", type=at_least_1, default=12, help="objects that a detection listens to "
        "(%(default)s)")  # fmt: skip
    add("--num", type=at_least_1, default=12, help="images at most (%(default)s)")


def named(text: str) -> tuple[str, str]:
    """NAME=MODEL, as the type of an argument."""
    name, _, model = text.partition("=")
    if not (name and model):
        raise argparse.ArgumentTypeError(f"must be NAME=MODEL, got {text}")
    return name, model


def run(args: argparse.Namespace) -> None:
    """Detects and writes."""
    from ..engine.relation_page import write_relation_page

    write_relation_page(args)

"""Write a detector as TorchScript or ONNX, checked against the model at two sizes of image.

    relation-heads export output/model_final.pth --output detector.ts
    relation-heads export output/model_final.pth --output box_branch.onnx

`torch.jit.load("detector.ts")` runs it without this package and without Detectron2's Python code;
torchvision must be imported, whose operators it uses. It holds for other sizes of image. A traced
relation module computes all pairs of regions at once. A name that ends in .onnx gets the box branch
alone: from the pooled features and boxes of regions to their probabilities and boxes, before NMS.
It needs `pip install 'relation_heads[export]'`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .model import CHECKPOINT_OR_CONFIG, at_least_1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `relation-heads export`."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=CHECKPOINT_OR_CONFIG)
    add("--output", type=Path, default=Path("output/detector.ts"), metavar="FILE",
        help="(%(default)s)")  # fmt: skip
    add("--height", type=at_least_1, default=480, help="of the image to trace with (%(default)s)")
    add("--width", type=at_least_1, default=640, help="of the image to trace with (%(default)s)")
    add("--device", help="cpu, cuda, ... (the config's; cpu where there is no GPU)")


def run(args: argparse.Namespace) -> None:
    """Traces, checks and writes."""
    from ..engine.export_model import export

    export(args)

#!/usr/bin/env python
"""Weights of other code for models of Detectron2 with context blocks.

    tools/convert_weights.py mmdet-gcnet mask_rcnn_r16_gcb_c3-c5_r50_fpn_1x.pth gcnet.pkl
    tools/convert_weights.py mmdet-gcnet --theta multiplied mask_rcnn_nl_r50_fpn_1x.pth nl.pkl
    tools/convert_weights.py glore-3d resnet50-lite_3d_8x8_w-glore_2-3_ep-0000.pth glore.pkl

mmdet-gcnet takes a Faster or Mask R-CNN FPN of mmdet or xvjiarui/GCNet, with or without context
blocks, glore-3d the GloRe units of a video network of facebookresearch/GloRe. `relation_heads/
engine/convert.py` has the rules; what they do not know is an error. They follow the names in the
released code, and were tested on checkpoints made with these names, not on the released files.

What is printed is the YAML that a model needs for the weights, to be merged into the config of a
Faster or Mask R-CNN FPN; comments say what was done. Units come without a backbone: load the file
after the weights of the backbone, `DetectionCheckpointer(model).load("glore.pkl")`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def run(args: argparse.Namespace) -> None:
    """Reads, converts, writes, and prints what the model needs."""
    from relation_heads.engine.convert_files import convert_file

    convert_file(args)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from relation_heads.command_line import new_parser

    parser = new_parser(__doc__)
    parser.add_argument("source", choices=("mmdet-gcnet", "glore-3d"), help="what INPUT is")
    parser.add_argument("input", type=Path, metavar="INPUT", help="checkpoint of PyTorch")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="new .pkl or .pth")
    parser.add_argument("--theta", choices=("divided", "multiplied"), help="of non-local blocks of "
        "mmdet 1: whether the code that trained them divided theta^T phi by the root of its "
        "channels (mmdet 1.0 and later) or multiplied it (xvjiarui/GCNet)")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

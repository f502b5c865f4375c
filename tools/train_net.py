#!/usr/bin/env python
"""Train and evaluate any Detectron2 model, stock or relational, from a YAML.

    tools/train_net.py --config-file COCO-Detection/faster_rcnn_R_50_FPN_relation_1x.yaml \\
        --num-gpus 8
    tools/train_net.py --config-file ... --resume
    tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
    tools/train_net.py --config-file ... --dataset my_train my/train.json my/images \\
        --dataset my_val my/val.json my/images \\
        DATASETS.TRAIN "('my_train',)" DATASETS.TEST "('my_val',)" MODEL.ROI_HEADS.NUM_CLASSES 12

The config may be a path, or a name below this project's configs/ or Detectron2's own. Without a GPU
add `MODEL.DEVICE cpu`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Detectron2's arguments, and `--dataset`; see `relation_heads.commands.train`."""
    from relation_heads.command_line import new_parser
    from relation_heads.commands.train import add_arguments

    parser = new_parser(__doc__)
    add_arguments(parser)
    parser.set_defaults(program="train_net.py")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain
    from relation_heads.commands.train import run

    run_or_explain(run, args, args.program)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

"""Evaluate a trained model on its test sets, or on others.

    relation-heads evaluate output/model_final.pth
    relation-heads evaluate output/model_final.pth --dataset my_val my/val.json my/images \\
        DATASETS.TEST "('my_val',)"
    relation-heads evaluate COCO-Detection/faster_rcnn_R_50_FPN_relation_1x.yaml \\
        MODEL.WEIGHTS output/model_final.pth

The model is a checkpoint of `relation-heads train`, which has its config inside, or a config. The
results are printed and written to OUTPUT_DIR, as Detectron2 does it.
"""

from __future__ import annotations

import argparse

from . import train
from .model import CHECKPOINT_OR_CONFIG


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `train`, with the model in the place of the config."""
    parser.add_argument("config_file", metavar="MODEL", help=CHECKPOINT_OR_CONFIG)
    train.add_launch(parser)
    parser.set_defaults(eval_only=True, resume=False, schedule="")


run = train.run

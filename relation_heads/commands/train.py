"""Train and evaluate any Detectron2 model, stock or relational, from a YAML.

    relation-heads train --config-file COCO-Detection/faster_rcnn_R_50_FPN_relation_1x.yaml \\
        --num-gpus 8
    relation-heads train --config-file ... --resume
    torchrun --nproc-per-node 8 -m relation_heads train --config-file ...
    relation-heads train --config-file ... --dataset my_train my/train.json my/images \\
        --dataset my_val my/val.json my/images \\
        DATASETS.TRAIN "('my_train',)" DATASETS.TEST "('my_val',)" MODEL.ROI_HEADS.NUM_CLASSES 12

The config may be a path, or a name that `relation-heads configs` lists. Without a GPU add
`MODEL.DEVICE cpu`. `tools/train_net.py` is the same.
"""

from __future__ import annotations

import argparse
import os
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Detectron2's arguments (`detectron2.engine.default_argument_parser`), and data sets."""
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="a path or a name, see above")
    add("--schedule", default="", metavar="FILE", help="a config that is merged after it: a path "
        "or a name, such as schedules/own_100.yaml")  # fmt: skip
    add("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR, if "
        "there is one")  # fmt: skip
    add("--overwrite", action="store_true", help="start anew in an OUTPUT_DIR that has a training "
        "already: its checkpoints are deleted")  # fmt: skip
    add("--eval-only", action="store_true", help="only evaluate MODEL.WEIGHTS")
    add_launch(parser)
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides")


def add_launch(parser: argparse.ArgumentParser) -> None:
    """Processes and data sets."""
    add = parser.add_argument
    add("--num-gpus", type=int, default=1, help="GPUs per machine (%(default)s)")
    add("--num-machines", type=int, default=1, help="machines in all (%(default)s)")
    add("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    # The same port for all runs of a user: processes that an earlier run left behind are noticed.
    port = 2**15 + 2**14 + hash(os.getuid() if sys.platform != "win32" else 1) % 2**14
    add("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where the processes meet, see "
        "torch.distributed (%(default)s)")  # fmt: skip
    add("--dataset", action="append", default=[], nargs=3, metavar=("NAME", "JSON", "IMAGES"),
        help="register a dataset in COCO format under NAME, for use in DATASETS.TRAIN and "
        "DATASETS.TEST; repeatable. Relative paths are also looked up under "
        "$DETECTRON2_DATASETS")  # fmt: skip
    add("--image-folder", action="append", default=[], nargs=2, metavar=("NAME", "FOLDER"),
        help="register a folder with one folder of images for each class, for a classifier "
        "(docs/classifiers.md); repeatable")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Starts the processes, or joins those of `torchrun` or `srun`."""
    from ..engine.processes import run_everywhere
    from ..engine.train import train_or_evaluate

    run_everywhere(train_or_evaluate, args)

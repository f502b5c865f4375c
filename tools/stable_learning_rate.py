#!/usr/bin/env python
"""The largest learning rate at which a head trains, beside its stock twin's; can be resumed.

    tools/stable_learning_rate.py --config-file RelationalScenes/faster_rcnn_R_18_FPN.yaml \\
        --heads stock relation sgrn --seeds 0 1 2 --start 0.02 --output output/stable_lr
    tools/stable_learning_rate.py --table --output output/stable_lr
    tools/stable_learning_rate.py --config-file RelationalScenes/faster_rcnn_R_18_FPN.yaml \\
        --head wide MODEL.ROI_HEADS.NAME RelationROIHeads MODEL.RELATION.KEY_DIM 64 \\
        --at-most 0 --output output/stable_lr SOLVER.CLIP_GRADIENTS.ENABLED True

A head is a name and overrides of the config: `HEADS` in relation_heads/analysis/stable_lr.py has
stock, relation, relation_signed, relation_published, sgrn, sgrn_published, two_stage,
sgrn_two_stage, reasoning, learned_duplicates and learned_duplicates_published. Overrides of all
heads come last, after an option with one value. Every head and seed is trained at --start, then at
the double if that was stable, else at the half. A training diverged if the trainer said so, or if
its last 50 losses are higher than its first 10. Each training is a process with one thread. It
leaves one JSON in --output, and is not done again if that is there. The exit code is 1 if a
training failed by something else; then the end of its log is shown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser
    from relation_heads.commands.model import above_0, at_least_0, at_least_1

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="the stock config: a path, or a name below configs/")
    add("--heads", nargs="+", metavar="NAME", help="of the table (all; beside --head: stock)")
    add("--head", nargs="+", action="append", default=[], metavar=("NAME", "KEY VALUE"),
        help="a head of your own; repeatable")  # fmt: skip
    add("--seeds", type=int, nargs="+", default=[0], metavar="SEED", help="(%(default)s)")
    add("--start", type=above_0, default=0.02, metavar="RATE", help="SOLVER.BASE_LR (%(default)s)")
    add("--at-most", type=at_least_0, default=1, metavar="STEPS",
        help="doublings or halvings after the start; 0: none (%(default)s)")  # fmt: skip
    add("--iterations", type=at_least_1, default=300, help="of a training (%(default)s)")
    add("--parallel", type=at_least_1, default=1, help="trainings at a time (%(default)s)")
    add("--import", dest="modules", nargs="+", default=[], metavar="MODULE",
        help="modules that register data sets, backbones or heads of yours")  # fmt: skip
    add("--output", type=Path, default=Path("output/stable_lr"), metavar="FOLDER",
        help="one JSON and one log per training (%(default)s)")  # fmt: skip
    add("--table", action="store_true", help="only print the table of what is in --output")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides of all heads")
    args = parser.parse_args(argv)
    if not (args.table or args.config_file):
        parser.error("--config-file is needed, or --table")
    return args


def run(args: argparse.Namespace) -> None:
    """Trains and prints the table; ends with 1 if a training failed."""
    from relation_heads.analysis.stable_lr_files import find_stable_rates

    if find_stable_rates(args):
        sys.exit(1)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

#!/usr/bin/env python
"""Train detectors with several seeds and compare their AP; can be resumed.

    tools/compare_trainings.py --seeds 0 1 2 --results output/compared \\
        --run stock RelationalScenes/faster_rcnn_shallow.yaml \\
        --run sgrn RelationalScenes/faster_rcnn_shallow_sgrn.yaml \\
            MODEL.WEIGHTS output/trainings/stock/seed_{seed}/model_final.pth \\
        --all TEST.EVAL_PERIOD 200
    tools/compare_trainings.py --results output/compared

A run is a name, a config, and config overrides; "{seed}" in a value becomes the seed. A training is
a process with one thread that writes to NAME/seed_N in --output. A command that was interrupted
goes on with the same arguments. Each training leaves a JSON with all its evaluations in --results,
and is not done again if that is there. Without --run only the table of --results is printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--run", nargs="+", action="append", default=[], metavar=("NAME CONFIG", "KEY VALUE"),
        help="a detector; repeatable")  # fmt: skip
    add("--all", dest="opts", nargs="+", default=[], metavar="KEY VALUE",
        help="config overrides of all runs")  # fmt: skip
    add("--seeds", type=int, nargs="+", default=[0], metavar="SEED", help="(%(default)s)")
    add("--results", type=Path, required=True, metavar="FOLDER", help="one JSON per training")
    add("--output", type=Path, default=Path("output/trainings"), metavar="FOLDER",
        help="checkpoints and logs (%(default)s)")  # fmt: skip
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Trains and prints the table."""
    from relation_heads.analysis.trainings_files import compare_trainings

    compare_trainings(args)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

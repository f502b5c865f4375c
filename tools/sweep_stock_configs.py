#!/usr/bin/env python
"""Tries every ROI head of this package on every stock config of Detectron2, on a CPU, shrunk.

    tools/sweep_stock_configs.py
    tools/sweep_stock_configs.py --tenth --seed 1
    tools/sweep_stock_configs.py --configs FPN_1x --heads RelationROIHeads SGRNROIHeads
    tools/sweep_stock_configs.py --import my_package.my_heads --heads MyROIHeads

A cell of the table is one config with one head: "ok" (every stock weight is loaded, it detects and
trains, also on images without objects, and equals the stock model where that is promised),
"refused" (by one sentence of the check, before anything is built) or "FAILED". The exit code is 1
if a cell failed. No data set and no weights are needed.
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
    add("--configs", nargs="+", metavar="PART", help="only configs with one of these in the name")
    add("--heads", nargs="+", metavar="NAME", help="registered names (all of this package)")
    add("--import", dest="modules", nargs="+", default=[], metavar="MODULE",
        help="modules that register heads of yours")  # fmt: skip
    add("--tenth", action="store_true", help="every tenth cell, chosen by the seed")
    add("--seed", type=int, default=0, help="of weights, images and --tenth (%(default)s)")
    add("--output", type=Path, default=Path("output/stock_sweep.json"), metavar="JSON",
        help="all cells, the commit, the command and the machine (%(default)s)")  # fmt: skip
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Prints the table and writes the cells; ends with 1 if one failed."""
    from relation_heads.analysis.sweep_files import sweep_and_write

    if sweep_and_write(args):
        sys.exit(1)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

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
import importlib
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

try:
    import relation_heads
except ModuleNotFoundError:  # a checkout that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import relation_heads

try:
    import detectron2
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    sys.exit(relation_heads.DETECTRON2_HELP)

import torch
from detectron2.config import CfgNode

from relation_heads.analysis.sweep import registered_heads, stock_configs, sweep, table
from relation_heads.engine.checks import check_cfg


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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


def check(cfg: CfgNode, path: str, opts: list[Any]) -> None:
    """What a run with this YAML and these overrides checks."""
    check_cfg(cfg)


def provenance(args: argparse.Namespace) -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    root = Path(__file__).resolve().parents[1]
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "commit": git.stdout.strip() or "unknown",
        "command": shlex.join(["tools/sweep_stock_configs.py", *sys.argv[1:]]),
        "seed": args.seed,
        "machine": f"{platform.platform()}, {os.cpu_count()} cores, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "detectron2": detectron2.__version__,
            "relation_heads": relation_heads.__version__,
        },
    }


def main(args: argparse.Namespace) -> int:
    """The number of cells that failed."""
    logging.disable(logging.WARNING)  # of every model that is built
    warnings.filterwarnings("ignore")
    for module in args.modules:
        importlib.import_module(module)
    heads = args.heads or registered_heads()
    configs = [c for c in stock_configs() if not args.configs or any(p in c for p in args.configs)]
    content, start, cells = provenance(args), time.perf_counter(), []
    for cell in sweep(configs, heads, check, tenth=args.tenth, seed=args.seed):
        cells.append(cell)
        print(f"{cell.config} {cell.head}: {cell.result} {cell.reason}", file=sys.stderr)
    print(table(cells))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    content["seconds"] = round(time.perf_counter() - start, 1)
    content["cells"] = [asdict(cell) for cell in cells]
    args.output.write_text(json.dumps(content, indent=1))
    print(f"\nWritten to {args.output}.")
    return sum(cell.result == "FAILED" for cell in cells)


if __name__ == "__main__":
    sys.exit(1 if main(parse_args()) else 0)

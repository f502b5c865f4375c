"""The sweep over stock configs as a table and a file, with what is needed to repeat it."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
import time
import warnings
from dataclasses import asdict
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import ROI_HEADS_REGISTRY

from ..config.problems import did_you_mean
from ..engine.checks import check_cfg
from ..engine.form_checks import head_names
from .provenance import provenance
from .sweep import registered_heads, stock_configs, sweep, table


def check(cfg: CfgNode, path: str, opts: list[Any]) -> None:
    """What a run with this YAML and these overrides checks."""
    check_cfg(cfg, earlier_heads=head_names(path, opts))


def sweep_and_write(args: argparse.Namespace) -> int:
    """What `tools/sweep_stock_configs.py` does with its arguments.

    Returns:
        the number of cells that failed.
    """
    logging.disable(logging.WARNING)  # of every model that is built
    warnings.filterwarnings("ignore")
    for module in args.modules:
        importlib.import_module(module)
    heads = args.heads or registered_heads()
    configs = [c for c in stock_configs() if not args.configs or any(p in c for p in args.configs)]
    unknown = [head for head in heads if head not in ROI_HEADS_REGISTRY]
    if unknown:
        hint = did_you_mean(unknown[0], registered_heads())
        raise ValueError(f"--heads: {unknown[0]} is not registered{hint}")
    if not configs:
        raise ValueError(f"--configs: no config of Detectron2 has {' or '.join(args.configs)}.")
    content = provenance(args.seed, "tools/sweep_stock_configs.py")
    start, cells = time.perf_counter(), []
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

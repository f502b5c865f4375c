#!/usr/bin/env python
"""What do more GPUs and machines cost? Measured with two processes of a CPU, simulated beyond.

    tools/estimate_scaling.py --dataset my/train.json my/images
    tools/estimate_scaling.py --dataset my/val.json my/images \\
        --inside 50 --between 1.25 --step 0.4 --json here.json

The gradients of the R50-FPN detectors are counted. A small detector trains with one and with two
processes. For up to 64 GPUs the time of a ring all-reduce follows from the bytes and from the links
that are given; docs/distributed.md has the table.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser

    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--dataset", nargs=2, required=True, metavar=("JSON", "IMAGES"), help="COCO format, for "
        "the small detector")  # fmt: skip
    add("--config-file", default="RelationalScenes/faster_rcnn_shallow_relation.yaml",
        metavar="FILE", help="of the small detector (%(default)s)")  # fmt: skip
    add("--steps", type=int, default=20, help="of a measurement (%(default)s)")
    add("--step", type=float, default=0.25, metavar="SECONDS", help="that a GPU computes in an "
        "iteration (%(default)s)")  # fmt: skip
    add("--inside", type=float, default=200, metavar="GB/S", help="between the GPUs of a machine "
        "(%(default)s)")  # fmt: skip
    add("--between", type=float, default=12.5, metavar="GB/S", help="from a machine to the next "
        "(%(default)s)")  # fmt: skip
    add("--json", type=Path, default=ROOT / "docs" / "scaling.json", help="results (%(default)s)")
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides of the small detector")
    args = parser.parse_args(argv)
    for name in ("steps", "step", "inside", "between"):
        if not 0 < getattr(args, name) < float("inf"):
            parser.error(f"--{name} must be above 0, got {getattr(args, name)}.")
    return args


def run(args: argparse.Namespace) -> None:
    """Measures, simulates, prints the tables and writes the numbers."""
    import json

    from relation_heads.analysis.scaling import estimate, table

    results = estimate(args)
    print(table(results))
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()

#!/usr/bin/env python
"""Tries every way to export detectors, whole and their box branch alone, on narrow random models.

    tools/try_exports.py
    tools/try_exports.py --detectors relation SGRN --output output/exports.json

Prints the table of docs/export.md; `tools/write_docs.py` makes the page from docs/export.json. What
an exported file finds is compared with the model at two sizes of image. ONNX needs `pip install
'relation_heads[export]'`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from relation_heads.command_line import new_parser

    parser = new_parser(__doc__)
    parser.add_argument("--detectors", nargs="+", metavar="NAME", help="some of the rows (all)")
    parser.add_argument("--output", type=Path, default=Path("output/exports.json"), metavar="JSON",
                        help="all cells, the commit and the machine (%(default)s)")  # fmt: skip
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Tries and writes."""
    from relation_heads.analysis.export_files import try_and_write

    try_and_write(args)


def main(argv: list[str] | None = None) -> None:
    """Command line; exit code 2 and one sentence if something does not fit."""
    args = parse_args(argv)
    from relation_heads.command_line import run_or_explain

    run_or_explain(run, args)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installation
    main()
